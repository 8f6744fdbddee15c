"""Elections as PostgreSQL sees them: numbers that were claimed, branches that died, old primaries that come back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from matriarch.agent.formerwal import FormerWal
from matriarch.decide.space import Space
from matriarch.errors import Refused
from matriarch.postgres.lsn import parse_lsn
from matriarch.postgres.standbynames import NOBODY, render_names
from matriarch.postgres.timeline import Switch, WalPosition, follows, history_file
from tests.postgres.pgbox import Box, Member, eventually, streaming

pytestmark = pytest.mark.timeout(240)


async def test_promotion_takes_the_number_that_was_claimed(box: Box) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    three = await box.standby(3, one)
    await one.sql("CREATE TABLE t AS SELECT generate_series(1, 100) AS i")
    await two.server.ensure_slots({three.slot: None, one.slot: None})
    one.kill()
    positions = {m: await _promise(m) for m in (two, three)}
    winner = max(positions, key=lambda m: (positions[m], m.number))
    other = two if winner is three else three
    await winner.server.set_standby_names(render_names(1, [other.name]))
    promotion = await winner.server.promote(5)
    assert (promotion.timeline, promotion.parent) == (5, 1)
    assert promotion.switch_lsn >= positions[winner].lsn
    assert promotion.line == (Switch(5, 1, promotion.switch_lsn),)
    assert await winner.server.promote(5) == replace(promotion, lsn=(await winner.server.promote(5)).lsn)  # again
    await winner.server.ensure_slots({other.slot: None})
    await other.server.attach(other.upstream(winner), line=promotion.line)
    lsn = await winner.server.write_record()
    assert await winner.server.confirm_flushed(lsn, [other.name], 1) == [other.name]
    await winner.sql("INSERT INTO t VALUES (101)", synchronous_commit="on")
    for member in (winner, other):
        status = await member.server.status()
        assert status is not None
        assert status.timeline == 5
        assert await member.server.history() == list(promotion.line)
    assert (await other.server.vote_position()) >= WalPosition(5, lsn)
    assert other.identify() == 5


async def test_a_member_with_tombstones_starts_again(box: Box) -> None:
    """The winner keeps those below its number, replicas fetch them; a crash before the promotion leaves none."""
    one = await box.primary()
    two = await box.standby(2, one)
    three = await box.standby(3, one)
    one.kill()
    for member in (two, three):
        await _promise(member)
    # dies between the tombstones and the promotion
    await two.server._reserve(4, 5.0)
    assert _histories(two) == {2, 3}
    two.kill()
    await two.server.start_standby(None)
    assert _histories(two) == set()
    promotion = await two.server.promote(4)
    await two.server.ensure_slots({three.slot: None})
    await three.server.attach(three.upstream(two), line=promotion.line)
    await streaming(two, three)
    await two.server.confirm_flushed(await two.server.write_record(), [three.name], 1)
    assert _histories(two) == {2, 3, 4} == _histories(three)
    two.kill()
    three.kill()
    await two.server.start_primary()
    await three.server.start_standby(three.upstream(two), line=promotion.line)
    await streaming(two, three)
    assert (await three.server.vote_position()).timeline == 4


async def test_a_standby_whose_fetch_of_histories_was_cut_starts_again(box: Box) -> None:
    """It has tombstones and not yet the real one: as its newest they would keep it from ever being consistent."""
    one = await box.primary()
    two = await box.standby(2, one)
    assert await two.server.stop("fast")
    for number in (2, 3):
        (two.paths.pgdata / "pg_wal" / history_file(number)).write_text("# nothing\n")
    await two.server.start_standby(two.upstream(one))
    await streaming(one, two)
    assert _histories(two) == set()


async def test_the_number_of_a_dead_branch_is_passed_over(box: Box) -> None:
    """B claims 2, promotes and dies; C has fetched B's history and nothing else. C then claims 3: its line must be
    1 → 3, where PostgreSQL by itself would write 1 → 2 → 3 with a switch that goes backwards (S8)."""
    one = await box.primary()
    two = await box.standby(2, one)
    three = await box.standby(3, one)
    lsn = await one.server.write_record()
    await one.server.confirm_flushed(lsn, [two.name, three.name], 2)
    behind = await _promise(three)
    await one.sql("CREATE TABLE more AS SELECT generate_series(1, 1000) AS i")  # two has it, three does not
    lsn = await one.server.write_record()
    await one.server.confirm_flushed(lsn, [two.name], 1)
    one.kill()
    await _promise(two)
    dead = await two.server.promote(2)
    assert dead.switch_lsn > behind.lsn
    two.kill()
    text = (two.paths.pgdata / "pg_wal" / history_file(2)).read_text()
    (three.paths.pgdata / "pg_wal" / history_file(2)).write_text(text)
    await three.value("SELECT pg_reload_conf()")  # it looks for the newest timeline whenever it wakes
    await asyncio.sleep(0.5)
    position = await three.server.vote_position()
    assert position == behind
    promotion = await three.server.promote(3)
    assert promotion.line == (Switch(3, 1, promotion.switch_lsn),)
    assert promotion.switch_lsn < dead.switch_lsn
    # the dead branch's own member is diverged from it, and PostgreSQL agrees once it is rewound
    end = WalPosition(2, dead.lsn)
    assert not follows(end, 3, promotion.line)
    await three.server.ensure_slots({two.slot: None})
    result = await two.server.rewind(two.upstream(three))
    assert result.done, result.reason
    await two.server.start_standby(two.upstream(three), line=promotion.line)
    await streaming(three, two)
    assert await two.value("SELECT to_regclass('more')::text") is None


async def test_a_dead_branch_is_left_when_another_timeline_is_followed(box: Box) -> None:
    """C has fetched the history of B's dead branch; A comes back and leads on: C must not insist on the branch."""
    one = await box.primary()
    two = await box.standby(2, one)
    three = await box.standby(3, one)
    await _promise(three)
    await one.sql("CREATE TABLE more (i int)")
    lsn = await one.server.write_record()
    await one.server.confirm_flushed(lsn, [two.name], 1)
    await _promise(two)
    dead = await two.server.promote(2)
    two.kill()
    text = (two.paths.pgdata / "pg_wal" / history_file(2)).read_text()
    (three.paths.pgdata / "pg_wal" / history_file(2)).write_text(text)
    await asyncio.sleep(0.5)
    assert await one.server.stop("fast")
    await one.server.start_standby(None)
    promotion = await one.server.promote(3)
    assert promotion.parent == 1
    assert promotion.switch_lsn >= dead.switch_lsn
    await three.server.attach(three.upstream(one), line=promotion.line)
    await streaming(one, three)
    await one.server.confirm_flushed(await one.server.write_record(), [three.name], 1)
    assert (await three.server.vote_position()).timeline == 3


async def test_an_attached_standby_counts_for_the_old_timeline_until_it_has_more(box: Box) -> None:
    """It knows the new number from the first moment, and would win with it over members that hold more (I4)."""
    one = await box.primary(parameters={"max_connections": "50"})
    two = await box.standby(2, one)
    three = await box.standby(3, one)
    before = await _promise(three)
    await one.sql("CREATE TABLE more AS SELECT generate_series(1, 1000) AS i")
    await one.server.confirm_flushed(await one.server.write_record(), [two.name], 1)
    one.kill()
    await _promise(two)
    promotion = await two.server.promote(2)
    await two.server.ensure_slots({three.slot: None})
    assert before.lsn < promotion.switch_lsn
    await three.server.attach(three.upstream(two), line=promotion.line)
    await streaming(two, three)
    await two.server.confirm_flushed(await two.server.write_record(), [three.name], 1)
    for _ in range(3):
        await _promise(three)
        assert (await three.server.vote_position()).timeline == 2
        three.kill()
        await three.server.start_standby(None)  # from before the fork, through it
    assert (await three.server.vote_position()).timeline == 2 == three.identify()


async def test_a_number_that_is_taken_is_refused(box: Box) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    await _promise(two)
    with pytest.raises(Refused, match="claim a higher one"):
        await two.server.promote(1)
    status = await two.server.status()
    assert status is not None
    assert status.in_recovery


async def test_an_old_primary_that_has_diverged_is_rewound(box: Box) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    await one.sql("CREATE TABLE t AS SELECT 1 AS i")
    await one.server.confirm_flushed(await one.server.write_record(), [two.name], 1)
    await _promise(two)
    await one.sql("INSERT INTO t SELECT generate_series(100, 5000)")  # nobody else has it
    one.kill()
    await two.server.set_standby_names("")
    promotion = await two.server.promote(2)
    await two.sql("INSERT INTO t VALUES (2)")
    await two.server.ensure_slots({one.slot: None})
    # it may stand by and vote with its own WAL until it is known to be dispensable
    await one.server.start_standby(None)
    mine = await one.server.vote_position()
    assert mine.timeline == 1
    assert mine.lsn > promotion.switch_lsn
    assert not follows(mine, 2, promotion.line)
    with pytest.raises(Refused, match="end them"):
        await one.server.rewind(one.upstream(two))
    assert await one.server.stop("fast")
    result = await one.server.rewind(one.upstream(two))
    assert result.done, result.reason
    await one.server.configure(replace(one.settings, standby_names=NOBODY))
    await one.server.start_standby(one.upstream(two), line=promotion.line)
    await streaming(two, one)
    lsn = await two.server.write_record()
    await two.server.confirm_flushed(lsn, [one.name], 1)
    await eventually(lambda: _rows(one, [1, 2]), "the rows of the new line and no others")
    assert await one.value("SHOW synchronous_standby_names") == NOBODY  # not what the source had
    assert (await one.server.vote_position()).timeline == 2


async def test_an_old_primary_killed_where_it_ran_is_rewound(box: Box) -> None:
    """pg_rewind refuses a directory that crashed; it is first brought to a clean end as a standby of nobody."""
    one = await box.primary()
    two = await box.standby(2, one)
    await one.server.confirm_flushed(await one.server.write_record(), [two.name], 1)
    await _promise(two)
    await one.sql("CREATE TABLE lost AS SELECT generate_series(1, 1000) AS i")
    one.kill()
    promotion = await two.server.promote(2)
    await two.server.ensure_slots({one.slot: None})
    result = await one.server.rewind(one.upstream(two))
    assert result.done, result.reason
    await one.server.start_standby(one.upstream(two), line=promotion.line)
    await streaming(two, one)
    assert await one.value("SELECT to_regclass('lost')::text") is None


async def test_an_old_primary_that_ends_at_the_switch_follows_as_it_is(box: Box) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    assert await one.server.stop("fast")
    await two.server.end_client_sessions()
    control = await one.server.control_data()
    assert control is not None
    assert control.clean
    await _promise(two)
    promotion = await two.server.promote(2)
    await two.server.ensure_slots({one.slot: None})
    await one.server.start_standby(None)
    mine = await one.server.vote_position()
    assert follows(mine, 2, promotion.line)
    await one.server.attach(one.upstream(two), line=promotion.line)
    await streaming(two, one)
    await two.server.confirm_flushed(await two.server.write_record(), [one.name], 1)


async def test_a_switchover_promotes_the_heir_while_it_streams(box: Box) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    await one.sql("CREATE TABLE t AS SELECT 1 AS i")
    await one.server.checkpoint()
    assert await one.server.stop("fast")
    control = await one.server.control_data()
    assert control is not None
    position = await two.server.vote_position()
    assert position.lsn >= control.checkpoint  # the shutdown record itself arrived
    promotion = await two.server.promote(2)
    assert await two.value("SELECT i FROM t") == 1
    assert parse_lsn(str(await two.value("SELECT pg_current_wal_lsn()::text"))) >= promotion.switch_lsn


async def _promise(member: Member) -> WalPosition:
    await member.server.cut_stream()
    await member.server.end_client_sessions()
    return await member.server.vote_position()


def _histories(member: Member) -> set[int]:
    return {int(p.name[:8], 16) for p in (member.paths.pgdata / "pg_wal").glob("*.history")}


async def _rows(member: Member, rows: list[int]) -> bool:
    return [r["i"] for r in await member.sql("SELECT i FROM t ORDER BY i")] == rows


async def test_failovers_in_a_row_do_not_fill_a_small_volume(box: Box) -> None:
    """Hardly anything is written, so all of them happen in one segment, and each leaves a copy of it."""
    small = 1 << 30
    one = await box.primary(volume=small)
    for claim in range(2, 10):
        assert await one.server.stop("fast")
        await one.server.start_standby(None)
        await one.server.promote(claim)
    await eventually(lambda: _former(one, 6), "a segment of each timeline")
    instance = SimpleNamespace(
        server=one.server,
        server_role="primary",
        door="open",
        busy="",
        archive=None,
        space=Space(64 * small, 32 * small),
    )
    keeper = FormerWal(cast(Any, instance))
    await keeper.look()
    assert await one.server.former_segments() >= 6, "on a large volume nothing is done for it"
    instance.space = Space(small, small // 2)
    await one.sql("SELECT pg_create_physical_replication_slot('away', true)")
    for name in "abc":
        await one.sql("SELECT pg_switch_wal()")
        await one.sql(f"CREATE TABLE {name} ()")
    before = await one.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
    await keeper.look()
    assert await one.value("SELECT pg_walfile_name(pg_current_wal_lsn())") == before, "a replica that is away needs it"
    await one.sql("SELECT pg_drop_replication_slot('away')")
    instance.archive = {"pending": 9}
    await FormerWal(cast(Any, instance)).look()
    assert await one.value("SELECT pg_walfile_name(pg_current_wal_lsn())") == before, "the archive has not kept up"
    instance.archive = None
    await FormerWal(cast(Any, instance)).look()
    assert await one.server.former_segments() <= 3
    await one.sql("CREATE TABLE t ()")
    assert await one.server.stop("fast")
    await one.server.start_primary()


async def _former(member: Member, least: int) -> bool:
    return await member.server.former_segments() >= least

"""A primary that dies in the middle of a record, at the end of a segment: its standbys go on with what the heir has."""

from __future__ import annotations

import pytest

from matriarch.agent.postgres.facts import Promotion
from matriarch.decide.fork import lacks_beginning
from matriarch.postgres.lsn import SEGMENT_SIZE
from matriarch.postgres.standbynames import render_names
from matriarch.postgres.timeline import WalPosition
from tests.postgres.pgbox import Box, Member, eventually, streaming

pytestmark = pytest.mark.timeout(240)


async def _received(member: Member) -> int:
    return int(str(await member.value("SELECT (pg_last_wal_receive_lsn() - '0/0')::bigint")))


async def _dies_in_the_middle_of_a_record(one: Member, *standbys: Member) -> None:
    """A record that ends in the first page of the next segment. The WAL writer flushes whole pages, so up to the
    segment's end; that arrives, and it is over."""
    here = int(str(await one.value("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")))
    end = (here // SEGMENT_SIZE + 1) * SEGMENT_SIZE
    await one.sql(f"SELECT pg_logical_emit_message(true, 'm', repeat('x', {end - here - 100_000}))")
    here = int(str(await one.value("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")))
    await one.sql(f"SELECT pg_logical_emit_message(false, 'm', repeat('x', {end - here + 2000}))")

    async def all_arrived() -> bool:
        return {await _received(s) for s in standbys} == {end}

    await eventually(all_arrived, "a segment that ends in the middle of a record")
    one.kill()


@pytest.fixture
async def three(box: Box) -> tuple[Member, Member, Member]:
    """A primary that is dead, and two standbys that took part in a vote; both have a part of its last record."""
    one = await box.primary()
    two = await box.standby(2, one)
    three = await box.standby(3, one)
    await one.sql("CREATE TABLE t AS SELECT generate_series(1, 100) AS i")
    await streaming(one, two, three)
    await _dies_in_the_middle_of_a_record(one, two, three)
    for member in (two, three):
        await member.server.cut_stream()
        await member.server.vote_position()
    await two.server.ensure_slots({three.slot: None})
    await two.server.set_standby_names(render_names(1, [three.name]))
    return one, two, three


async def _goes_on(heir: Member, other: Member, promotion: Promotion) -> None:
    """`other` has all that the heir has, and what it says counts."""
    await other.server.attach(other.upstream(heir), line=promotion.line)
    await streaming(heir, other)
    lsn = await heir.server.write_record()
    assert await heir.server.confirm_flushed(lsn, [other.name], 1) == [other.name]
    await heir.sql("INSERT INTO t VALUES (101)")

    async def has_all() -> bool:
        return await other.value("SELECT count(*) FROM t") == 101

    await eventually(has_all, "all rows")
    assert await other.server.half_record() == 0


async def test_a_part_of_a_record_goes_before_the_heir_is_followed(three: tuple[Member, Member, Member]) -> None:
    _, heir, other = three
    half = await other.server.half_record()
    promotion = await heir.server.promote(5)
    (fork,) = promotion.line
    assert half == fork.lsn
    await other.server.cut_half_record(fork, line=promotion.line)
    assert await other.server.vote_position() == WalPosition(1, fork.lsn)
    await _goes_on(heir, other, promotion)


async def test_who_followed_before_the_heir_was_promoted_is_found(three: tuple[Member, Member, Member]) -> None:
    """PostgreSQL asks for the new timeline from behind its beginning, and waits for what only it could acknowledge."""
    _, heir, other = three
    await other.server.attach(other.upstream(heir))
    promotion = await heir.server.promote(5)
    (fork,) = promotion.line

    async def lacks() -> bool:
        status = await other.server.status()
        receiver = status.receiver if status is not None else None
        if status is None or receiver is None:
            return False
        return lacks_beginning(receiver.start, status.replayed_lsn, promotion.line) == fork

    await eventually(lacks, "it asks from behind the fork")
    await other.server.cut_half_record(fork, line=promotion.line)
    await _goes_on(heir, other, promotion)

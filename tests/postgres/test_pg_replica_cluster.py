"""Another site: copied from outside, followed, rewound when its source failed over, promoted where a clean stop was."""

from __future__ import annotations

import shutil
from dataclasses import replace

import asyncpg
import pytest

from matriarch.decide.lease import LeaseState
from matriarch.decide.source import Source, verdict
from matriarch.errors import Unavailable
from matriarch.postgres.conninfo import Upstream
from matriarch.postgres.outside import SOURCE_ROLE
from matriarch.postgres.timeline import WalPosition
from tests.postgres.pgbox import Authority, Box, Member, eventually, streaming

pytestmark = pytest.mark.timeout(300)


def outside(member: Member, source: Member, **more: object) -> Upstream:
    """`source` as `member` reaches it: by a name in its certificate, and the keys of the mounted Secret."""
    made = Upstream(
        "the source", source.address, source.instance, "", f"replica dr/{member.instance}", SOURCE_ROLE,
        member.box.port, outside=True,
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


def mount(member: Member, source_ca: Authority, **files: str) -> None:
    """The Secret that a person copied from the other site."""
    folder = member.box.root / member.instance / "source"
    source_ca.issue(SOURCE_ROLE, folder)
    for name, text in files.items():
        (folder / name).write_text(text)
    member.paths = replace(member.paths, source=folder)
    member.server = member.new_agent()


async def copied(box: Box, number: int, source: Member) -> Member:
    member = box.member(number)
    mount(member, box.ca)
    await member.server.clone(outside(member, source))
    await member.server.start_standby(outside(member, source))
    await eventually(lambda: _streams(member), f"{member.instance} streams from the source")
    return member


async def cascading(box: Box, number: int, source: Member) -> Member:
    """Another instance of the replica cluster, made from the designated primary."""
    member = box.member(number)
    await source.server.ensure_slots({member.slot: None})
    upstream = replace(member.upstream(source), copies_slots=False)
    await member.server.clone(upstream)
    await member.server.start_standby(upstream)
    await streaming(source, member)
    return member


async def promoted(member: Member, claim: int) -> None:
    """As its agent would, with nobody to wait for."""
    await member.server.cut_stream()
    await member.server.set_standby_names("")
    await member.server.promote(claim)


async def _streams(member: Member) -> bool:
    status = await member.server.status()
    return status is not None and status.receiver is not None and status.receiver.status == "streaming"


async def _says(member: Member, query: str, answer: object) -> bool:
    try:
        return await member.value(query) == answer
    except (asyncpg.PostgresError, OSError):
        return False  # it has just started, or replays that very statement


async def test_a_copy_follows_by_the_certificate_of_the_secret_and_others_cascade(box: Box) -> None:
    one = await box.primary()
    two = await copied(box, 2, one)
    three = await cascading(box, 3, two)
    await one.sql("CREATE TABLE t AS SELECT 1 AS i")
    for member in (two, three):
        await eventually(lambda m=member: _says(m, "SELECT i FROM t", 1), f"the row at {member.instance}")
        with pytest.raises(Exception, match="read-only transaction"):
            await member.sql("INSERT INTO t VALUES (2)")
    (sender,) = await one.server.replication()
    assert (sender.role, sender.application_name) == (SOURCE_ROLE, "replica dr/orders-2")
    assert await one.server.terminate_foreign_walsenders({"orders-2-aaaa": two.address}) == []
    assert await two.value("SHOW sync_replication_slots") == "off"
    assert await three.value("SHOW sync_replication_slots") == "off"


async def test_a_promise_takes_the_key_of_the_source_too(box: Box) -> None:
    one = await box.primary()
    two = await copied(box, 2, one)
    await two.server.cut_stream()
    assert two.children("walreceiver") == []
    assert not (two.paths.stream / "pg_service.conf").exists()
    await two.server.attach(outside(two, one))
    await eventually(lambda: _streams(two), "it streams again")


async def test_the_source_says_who_it_is_and_why_not(box: Box) -> None:
    one = await box.primary()
    two = box.member(2)
    mount(two, box.ca)
    says = await two.server.identify(outside(two, one))
    control = await one.server.status()
    assert control is not None
    assert says == Source(control.system_identifier, 1)
    with pytest.raises(Unavailable, match="rejects replication connection"):
        await two.server.identify(outside(two, one, role="nobody"))
    mount(two, Authority())  # of another cluster
    with pytest.raises(Unavailable, match="SSL error"):
        await two.server.identify(outside(two, one))
    await one.server.stop("fast")
    with pytest.raises(Unavailable, match="does not answer"):
        await two.server.identify(outside(two, one))


async def test_a_password_opens_a_server_that_is_nobodys(box: Box) -> None:
    """Any PostgreSQL: a role of its owner's and a password, without certificates of its own."""
    one = await box.primary()
    await one.sql("CREATE ROLE copier LOGIN REPLICATION PASSWORD 'a:b\\c'")
    hba = one.paths.pgdata / "pg_hba.conf"
    hba.write_text("hostssl replication copier all scram-sha-256\n" + hba.read_text())
    await one.server.reload()
    two = box.member(2)
    folder = box.root / "password"
    folder.mkdir()
    (folder / "password").write_text("a:b\\c\n")
    shutil.copy(one.paths.secret / "ca.crt", folder)
    two.paths = replace(two.paths, source=folder)
    two.server = two.new_agent()
    upstream = outside(two, one, role="copier")
    await eventually(lambda: _identifies(two, upstream), "the password is taken")
    await two.server.clone(upstream)
    await two.server.start_standby(upstream)
    await eventually(lambda: _streams(two), "it streams")
    (folder / "password").write_text("wrong")
    with pytest.raises(Unavailable, match="password authentication failed"):
        await two.server.identify(upstream)


async def _identifies(member: Member, upstream: Upstream) -> bool:
    try:
        await member.server.identify(upstream)
    except Unavailable:
        return False
    return True


async def test_a_failover_of_the_source_is_followed(box: Box) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    three = await copied(box, 3, one)
    four = await cascading(box, 4, three)
    lsn = await one.server.write_record()
    await one.server.confirm_flushed(lsn, [two.name], 1)
    await eventually(lambda: _replayed(three, lsn), "all is at the other site")
    one.kill()
    await promoted(two, 5)
    says = await three.server.identify(outside(three, two))
    assert says.timeline == 5
    position = await three.server.vote_position()
    assert verdict(position, _lease(), says, says.system_identifier).kind == "attach"
    await three.server.attach(outside(three, two), line=says.line)
    await two.sql("CREATE TABLE t AS SELECT 1 AS i")
    for member in (three, four):
        await eventually(lambda m=member: _says(m, "SELECT i FROM t", 1), f"the row at {member.instance}")
    assert four.server.postmaster() is not None


async def test_what_the_source_lost_in_a_failover_is_rewound_at_both(box: Box) -> None:
    """The primary sent its WAL here before its own voter had it; the voter was elected."""
    one = await box.primary()
    two = await box.standby(2, one)
    three = await copied(box, 3, one)
    four = await cascading(box, 4, three)
    await two.server.cut_stream()
    await one.sql("CREATE TABLE lost AS SELECT generate_series(1, 1000) AS i")
    lsn = await one.server.write_record()
    for member in (three, four):
        await eventually(lambda m=member: _replayed(m, lsn), "what nobody else has is here")
    one.kill()
    await promoted(two, 4)
    await two.sql("CREATE TABLE kept AS SELECT 1 AS i")
    says = await three.server.identify(outside(three, two))
    found = verdict(await three.server.vote_position(), _lease(), says, says.system_identifier)
    assert found.kind == "rewind"

    assert await three.server.stop("fast")
    assert (await three.server.rewind(outside(three, two))).done
    await three.server.start_standby(outside(three, two), line=says.line)
    await eventually(lambda: _says(three, "SELECT i FROM kept", 1), "the designated primary follows")
    assert not await three.value("SELECT to_regclass('lost') IS NOT NULL")

    # The other one from a standby, which is all that this site has.
    upstream = replace(four.upstream(three), copies_slots=False)
    assert await four.server.stop("fast")
    await three.server.ensure_slots({four.slot: None})
    assert (await four.server.rewind(upstream)).done
    await four.server.start_standby(upstream, line=says.line)
    await eventually(lambda: _says(four, "SELECT i FROM kept", 1), "and the other one")
    assert not await four.value("SELECT to_regclass('lost') IS NOT NULL")


async def test_a_clean_stop_is_all_at_the_other_site_and_the_old_primary_follows_without_a_rewind(box: Box) -> None:
    """Demotion, promotion by what the token says, and the way back."""
    one = await box.primary()
    mount_of_one = box.ca
    two = await copied(box, 2, one)
    await one.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
    await one.server.checkpoint()
    assert await one.server.stop("fast")
    control = await one.server.control_data()
    assert control is not None
    assert control.state == "shut down"
    await eventually(lambda: _replayed(two, control.checkpoint + 1), "the shutdown's checkpoint is replayed")
    await two.server.cut_stream()
    position = await two.server.vote_position()
    assert position.timeline == control.timeline
    assert position.lsn > control.checkpoint

    mount(one, mount_of_one)
    await one.server.settle()
    await one.server.start_standby(None)
    assert await one.server.vote_position() == position  # nothing was written at this start
    with pytest.raises(Exception, match="read-only"):
        await one.sql("INSERT INTO t VALUES (0)")

    await promoted(two, 3)
    await two.sql("INSERT INTO t VALUES (2000)")
    says = await one.server.identify(outside(one, two))
    assert verdict(await one.server.vote_position(), _lease(), says, says.system_identifier).kind == "attach"
    await one.server.attach(outside(one, two), line=says.line)
    await eventually(lambda: _says(one, "SELECT max(i) FROM t", 2000), "the old primary follows")
    assert await one.value("SELECT count(*) FROM t") == 1001


async def test_an_older_server_is_not_followed_backwards(box: Box) -> None:
    one = await box.primary()
    two = await copied(box, 2, one)
    await promoted(two, 2)
    says = await two.server.identify(outside(two, one))
    found = verdict(WalPosition(2, 1 << 30), _lease(), says, says.system_identifier)
    assert found.kind == "wait"
    assert "older server" in found.why


def _lease() -> LeaseState:
    return LeaseState(epoch=1, holder=None, bootstrap="orders-2", mode="follow")


async def _replayed(member: Member, lsn: int) -> bool:
    status = await member.server.status()
    return status is not None and status.replayed_lsn >= lsn

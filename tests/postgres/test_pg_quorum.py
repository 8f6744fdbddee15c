"""Commits wait for whom the rule names, and a new rule is proved to be in force."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress

import asyncpg
import pytest

from matriarch.agent.postgres.facts import WalSender
from matriarch.errors import Refused, Unavailable
from matriarch.postgres.standbynames import NOBODY, render_names
from tests.postgres.pgbox import Box, Member, eventually, streaming

LOCAL = "127.0.0.1"  # from where the kernel lets connections to any loopback address come

pytestmark = pytest.mark.timeout(240)


async def test_names_are_in_force_for_every_new_session(box: Box) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    rule = render_names(1, [two.name])
    await one.server.set_standby_names(rule)
    assert await one.value("SHOW synchronous_standby_names") == rule
    await one.restart_agent()
    await one.server.set_standby_names(NOBODY)
    assert await one.value("SHOW synchronous_standby_names") == NOBODY
    assert await _commit_waits(one)
    assert await one.server.stop("fast")
    await one.server.start_primary()  # the rule of the last set is what it begins with
    assert await one.value("SHOW synchronous_standby_names") == NOBODY


@pytest.mark.parametrize("k", [1, 2])
async def test_the_barrier_passes_with_k_voters(box: Box, k: int) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    three = await box.standby(3, one)
    voters = [two.name, three.name]
    await one.server.set_standby_names(render_names(k, voters))
    await one.server.barrier(voters, k)
    await one.sql("CREATE TABLE t (i int)", synchronous_commit="on")
    assert {s.application_name for s in await one.server.replication()} == set(voters)


async def test_the_barrier_fails_without_enough_voters(box: Box) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    await one.server.set_standby_names(render_names(2, [two.name, "orders-3-aaaa"]))
    with pytest.raises(Unavailable):
        await one.server.barrier([two.name, "orders-3-aaaa"], 2, timeout=1.0)
    with pytest.raises(Refused):
        await one.server.barrier([two.name], 2)


async def test_the_barrier_ends_a_sender_that_did_not_read_the_new_rule(box: Box) -> None:
    """From k=1 to k=2: a sender with the old rule in mind would release commits that one voter has (S6)."""
    one = await box.primary()
    members = [await box.standby(n, one) for n in (2, 3, 4)]
    names = [m.name for m in members]
    await one.server.set_standby_names(render_names(1, names))
    await one.server.barrier(names, 1)
    stuck = _sender(await one.server.replication(), names[2])
    os.kill(stuck, signal.SIGSTOP)
    await one.server.set_standby_names(render_names(2, names))
    with pytest.raises(Unavailable, match="not in force"):
        await one.server.barrier(names, 2, timeout=1.0)  # it is told to end, and cannot
    os.kill(stuck, signal.SIGCONT)
    await one.server.barrier(names, 2)
    assert stuck not in {s.pid for s in await one.server.replication()}
    await streaming(one, *members)  # it came back as a sender that has the rule


async def test_a_barrier_over_a_removed_voter_ends_its_stream(box: Box) -> None:
    one = await box.primary()
    two, three = [await box.standby(n, one) for n in (2, 3)]
    await one.server.set_standby_names(render_names(1, [two.name, three.name]))
    (receiver,) = three.children("walreceiver")
    os.kill(receiver, signal.SIGSTOP)  # silent, as a lost node is before the time-outs
    await one.server.set_standby_names(render_names(1, [two.name]))
    await one.server.barrier([two.name], 1, also=[two.name, three.name])
    assert {s.application_name for s in await one.server.replication()} == {two.name}
    os.kill(receiver, signal.SIGCONT)


async def test_the_probe_sees_what_show_does_not(box: Box) -> None:
    """With the checkpointer stopped, sessions show the new rule and acknowledge by the old (S5)."""
    one = await box.primary()
    assert not await one.server.probe_sync_rep(timeout=0.3)
    (checkpointer,) = one.children("checkpointer")
    os.kill(checkpointer, signal.SIGSTOP)
    await one.server.set_standby_names(NOBODY)
    assert await one.value("SHOW synchronous_standby_names") == NOBODY
    assert not await _commit_waits(one)
    assert not await one.server.probe_sync_rep(timeout=0.5)
    os.kill(checkpointer, signal.SIGCONT)
    assert await one.server.probe_sync_rep()
    assert await _commit_waits(one)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'matriarch'"
    assert await one.value(waiting) == 0


async def test_the_rule_holds_from_the_first_moment_of_a_start(box: Box) -> None:
    one = await box.primary(names=NOBODY)
    assert await _commit_waits(one)
    one.kill()
    await one.server.start_primary()
    assert await _commit_waits(one)


async def test_own_work_never_waits_for_voters(box: Box) -> None:
    one = box.member(1, standby_names=NOBODY)
    await one.server.initdb()
    await one.server.start_primary()
    async with asyncio.timeout(30):
        await one.server.bootstrap_sql("app", "app", "secret", "super")
        await one.server.ensure_slots({"matriarch_2": None})
        await one.server.write_record()
        await one.server.checkpoint()
    assert await one.server.canary(2.0)


async def test_the_canary_tells_a_hung_server_from_a_full_one(box: Box) -> None:
    one = await box.primary(parameters={"max_connections": "12", "superuser_reserved_connections": "1"})
    assert await one.server.canary(2.0)
    sessions: list[asyncpg.Connection[asyncpg.Record]] = []
    with suppress(asyncpg.TooManyConnectionsError):
        while len(sessions) < 20:
            sessions.append(await one.connect())
    assert len(sessions) < 20
    assert await one.server.canary(2.0)
    for session in sessions:
        await session.close()
    pid = one.server.postmaster()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert not await one.server.canary(0.5)
    os.kill(pid, signal.SIGCONT)
    await eventually(lambda: one.server.canary(2.0), "it answers again")


async def test_a_second_stream_of_a_voters_name_is_ended(box: Box) -> None:
    """Two connections of one name would count as two voters (S7)."""
    one = await box.primary()
    two = await box.standby(2, one)
    tls = two.paths.tls
    forged = (
        f"host=orders-1 hostaddr={one.address} port={box.port} user=matriarch_clone application_name={two.name} "
        f"sslmode=verify-full sslrootcert={tls}/ca.crt sslcert={tls}/tls.crt sslkey={tls}/tls.key"
    )
    folder = box.root / "received"
    folder.mkdir()
    other = await asyncio.create_subprocess_exec(
        str(box.bin / "pg_receivewal"), "-D", str(folder), "-d", forged, "--synchronous", "--no-loop"
    )
    await eventually(lambda: _senders(one, two.name, 2), "two streams of one name")
    ended = await one.server.terminate_foreign_walsenders({two.name: LOCAL})
    assert [s.role for s in ended] == ["matriarch_clone"]
    assert await other.wait() != 0
    await eventually(lambda: _senders(one, two.name, 1), "one stream is left")
    assert await one.server.terminate_foreign_walsenders({two.name: LOCAL}) == []
    moved = await one.server.terminate_foreign_walsenders({two.name: "10.9.9.9"})  # not where that pod is
    assert [s.application_name for s in moved] == [two.name]


async def test_slots_follow_their_members(box: Box) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    await one.server.ensure_slots({two.slot: None, "matriarch_3": None})
    await two.server.ensure_slots({"matriarch_1": None, "matriarch_3": None})  # standbys keep them too
    await one.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
    lsn = await one.server.write_record()
    await one.server.confirm_flushed(lsn, [two.name], 1)
    before = {s.name: s.restart_lsn for s in await two.server.slots()}
    await eventually(lambda: _advanced(two, lsn), "the standby's slot moves")
    assert all((before[n] or 0) < lsn for n in before)
    await one.server.ensure_slots({two.slot: 1, "matriarch_3": lsn})  # never backwards, and one in use moves by itself
    slots = {s.name: s for s in await one.server.slots()}
    assert slots[two.slot].active
    assert slots["matriarch_3"].restart_lsn == lsn
    await one.server.ensure_slots({})
    assert [s.name for s in await one.server.slots()] == [two.slot]  # in use: not taken away


async def _advanced(member: Member, lsn: int) -> bool:
    await member.server.ensure_slots({"matriarch_1": None, "matriarch_3": lsn})
    return {s.name: s.restart_lsn for s in await member.server.slots()}["matriarch_3"] == lsn


async def _commit_waits(member: Member) -> bool:
    """Whether a client's commit is still not acknowledged after half a second."""
    session = await member.connect()
    try:
        async with asyncio.timeout(0.5):
            await session.execute("CREATE TABLE IF NOT EXISTS w (i int); INSERT INTO w VALUES (1)")
    except TimeoutError:
        return True
    else:
        return False
    finally:
        session.terminate()


async def _senders(member: Member, name: str, number: int) -> bool:
    return [s.application_name for s in await member.server.replication()].count(name) == number


def _sender(senders: list[WalSender], name: str) -> int:
    return next(s.pid for s in senders if s.application_name == name)

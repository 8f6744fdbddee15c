"""Who follows whom: clones stream, follow a new upstream, and stop when they promised to."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from dataclasses import replace

import pytest

from matriarch.agent.postgres import processes
from matriarch.errors import Unavailable
from matriarch.postgres.timeline import WalPosition
from tests.postgres.pgbox import Box, Member, eventually, streaming

pytestmark = pytest.mark.timeout(240)


async def test_a_clone_streams_and_says_so(box: Box) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    await one.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
    lsn = await one.server.write_record()
    assert await one.server.confirm_flushed(lsn, [two.name], 1) == [two.name]
    status = await two.server.status()
    assert status is not None
    assert status.receiver is not None
    assert (status.in_recovery, status.timeline, status.receiver.status) == (True, 1, "streaming")
    assert status.position >= WalPosition(1, lsn)
    (sender,) = await one.server.replication()
    assert (sender.role, sender.slot, sender.application_name) == ("matriarch_stream", two.slot, two.name)
    await eventually(lambda: _count(two, 1000), "the rows on the standby")


async def test_the_cut_ends_the_stream_at_once_and_for_good(box: Box) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    await two.server.cut_stream()
    assert two.children("walreceiver") == []
    assert not (two.paths.stream / "pg_service.conf").exists()
    assert not (two.paths.stream / "tls.key").exists()
    await eventually(lambda: _senders(one, 0), "the primary sees it")
    before = await two.server.vote_position()
    await one.sql("CREATE TABLE late (i int)")
    await asyncio.sleep(0.5)
    assert await two.server.vote_position() == before
    assert two.children("walreceiver") == []


async def test_the_cut_works_while_a_reader_blocks_replay(box: Box) -> None:
    """The startup process does not read its settings then, and the receiver would acknowledge on (S4)."""
    one = await box.primary(names='ANY 1 ("orders-2-aaaa")')
    two = await box.standby(2, one)
    await one.sql("CREATE TABLE t (i int)")
    await eventually(lambda: _exists(two, "t"), "the table on the standby")
    reader = await two.connect()
    await reader.execute("BEGIN; SELECT count(*) FROM t")
    await one.sql("DROP TABLE t")  # acknowledged, and its replay waits for the reader
    await eventually(lambda: _startup_waits(two), "replay waits for the reader")
    await two.server.cut_stream()
    assert two.children("walreceiver") == []
    lsn = await one.server.write_record()
    with pytest.raises(Unavailable):
        await one.server.confirm_flushed(lsn, [two.name], 1, timeout=1.0)
    # what was received counts, though it is not replayed; no restart was needed to tell
    position = await two.server.vote_position(timeout=1.0)
    assert position.lsn < lsn
    status = await two.server.status()
    assert status is not None
    assert status.received_lsn == position.lsn > status.replayed_lsn
    assert await two.server.end_client_sessions() == 1
    await eventually(lambda: _replayed(two, position.lsn), "replay goes on")
    reader.terminate()


async def test_the_cut_ends_a_receiver_that_is_still_connecting(box: Box) -> None:
    """It has read key and service file, and no view shows it (S4)."""
    one = await box.primary()
    two = await box.standby(2, one)
    with socket.socket() as silent:
        silent.bind(("127.0.0.9", box.port))
        silent.listen(8)  # connections are made, and nobody ever answers
        nobody = replace(two.upstream(one), address="127.0.0.9", instance="orders-9", hostname="orders-9")
        await two.server.attach(nobody)
        await eventually(lambda: two.children("walreceiver"), "a receiver that connects")
        assert await two.value("SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'") == 0
        (startup,) = two.children("startup")
        os.kill(startup, signal.SIGSTOP)  # it would end the receiver when it reads its settings; it may take its time
        await two.server.cut_stream()
        assert two.children("walreceiver") == []
        os.kill(startup, signal.SIGCONT)
        await asyncio.sleep(0.5)
        assert two.children("walreceiver") == []


async def test_the_cut_says_so_when_a_receiver_cannot_be_ended(box: Box) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    (receiver,) = two.children("walreceiver")
    os.kill(receiver, signal.SIGSTOP)
    with pytest.raises(Unavailable, match="may still acknowledge"):
        await two.server.cut_stream(timeout=0.5)
    os.kill(receiver, signal.SIGCONT)
    await two.server.cut_stream()
    assert two.children("walreceiver") == []


async def test_the_cut_lasts_over_a_restart_and_a_new_agent(box: Box) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    await two.restart_agent()
    assert two.server.postmaster() is not None
    await two.server.cut_stream()
    assert two.children("walreceiver") == []
    assert await two.server.stop("immediate")
    await two.server.start_standby(None)
    await asyncio.sleep(0.5)
    assert two.children("walreceiver") == []
    await two.server.attach(two.upstream(one))
    await streaming(one, two)


async def test_attach_follows_another_upstream_live(box: Box) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    three = await box.standby(3, one)
    await two.server.ensure_slots({three.slot: None})
    postmaster = three.server.postmaster()
    await three.server.attach(three.upstream(two))  # cascading, to have an upstream that is no primary
    await streaming(two, three)
    lsn = await one.server.write_record()
    await two.server.confirm_flushed(lsn, [three.name], 1)
    assert three.server.postmaster() == postmaster
    assert await _senders(one, 1)


async def test_position_after_a_restart_without_upstream(box: Box) -> None:
    """Then nothing counts as received, and what replay has reached at first is too little (L10)."""
    one = await box.primary()
    two = await box.standby(2, one)
    await one.sql("CREATE TABLE t AS SELECT generate_series(1, 100000) AS i")
    lsn = await one.server.write_record()
    await one.server.confirm_flushed(lsn, [two.name], 1)
    two.kill()
    await two.server.start_standby(None)
    assert await two.value("SELECT pg_last_wal_receive_lsn()") is None
    assert await two.server.vote_position() >= WalPosition(1, lsn)
    assert (await two.server.vote_position()).timeline == two.identify()


async def test_a_certificate_of_somebody_else_streams_nothing(box: Box) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    folder = box.root / "outsider"
    box.ca.issue("matriarch_backup", folder)  # of the same authority, but no instance
    target = f"host=orders-1 hostaddr={one.address} port={box.port} sslmode=verify-full sslrootcert={folder}/ca.crt"
    keys = f"sslcert={folder}/tls.crt sslkey={folder}/tls.key"
    for user in ("matriarch_stream", "matriarch_clone", "matriarch_backup"):
        with pytest.raises(Exception, match="returned non-zero"):
            two.psql("-c", "IDENTIFY_SYSTEM", connection=f"{target} {keys} user={user} replication=true")
    for user in ("postgres", "matriarch_rewind", "app"):
        with pytest.raises(Exception, match="returned non-zero"):
            two.psql("-c", "SELECT 1", connection=f"{target} {keys} user={user} dbname=postgres")
    assert two.psql("-c", "SELECT 1", connection=f"{target} {keys} user=matriarch_backup dbname=app") == "1"
    assert two.psql("-c", "SELECT 1", connection=f"{target} user=app password=secret dbname=app") == "1"
    with pytest.raises(Exception, match="returned non-zero"):
        two.psql("-c", "SELECT 1", connection=f"{target} user=app password=wrong dbname=app".replace("\n", ""))
    plain = f"host={one.address} port={box.port} sslmode=disable user=app password=secret dbname=app"
    with pytest.raises(Exception, match="returned non-zero"):
        two.psql("-c", "SELECT 1", connection=plain)


async def test_a_renewed_certificate_is_taken_up_without_a_restart(box: Box) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    before = (one.paths.tls / "tls.crt").read_bytes()
    for member in (one, two):
        box.ca.issue(member.instance, member.paths.secret)
        assert await member.server.reload_tls()
        assert not await member.server.reload_tls()
    assert (one.paths.tls / "tls.crt").read_bytes() != before
    assert (two.paths.stream / "tls.crt").read_bytes() == (two.paths.secret / "tls.crt").read_bytes()
    await two.server.cut_stream()
    await two.server.reload_tls()
    assert not (two.paths.stream / "tls.key").exists()
    await two.server.attach(two.upstream(one))
    await streaming(one, two)


async def _count(member: Member, rows: int) -> bool:
    return await _exists(member, "t") and await member.value("SELECT count(*) FROM t") == rows


async def _exists(member: Member, table: str) -> bool:
    return await member.value("SELECT to_regclass($1)::text", table) is not None


async def _senders(member: Member, number: int) -> bool:
    return len(await member.server.replication()) == number


async def _startup_waits(member: Member) -> bool:
    return any("waiting" in processes.title(pid) for pid in member.children("startup"))


async def _replayed(member: Member, lsn: int) -> bool:
    status = await member.server.status()
    return status is not None and status.replayed_lsn >= lsn

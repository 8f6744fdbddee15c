"""Members as the agent runs them, archiving to nobody who takes it: nothing of the protocol may wait for that."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import replace

import pytest

from matriarch.postgres.timeline import Switch
from tests.postgres.pgbox import Box, Member, eventually, streaming

pytestmark = pytest.mark.timeout(240)

STOP = 3.0  # seconds; a push that is not answered would take 60


def ready(member: Member) -> set[str]:
    folder = member.paths.pgdata / "pg_wal" / "archive_status"
    return {f.name.removesuffix(".ready") for f in folder.glob("*.ready")}


async def switch(member: Member, times: int) -> None:
    for n in range(times):
        await member.sql(f"CREATE TABLE t{n}_{time.monotonic_ns()} (i int)")
        await member.sql("SELECT pg_switch_wal()")


async def test_a_switchover_and_a_failover_without_any_archiver(box: Box) -> None:
    one = await box.primary(archive=True)
    two = await box.standby(2, one, archive=True)
    older = ready(one)
    await switch(one, 3)
    assert await one.value("SHOW archive_mode") == "always"
    finished = {n for n in ready(one) - older if len(n) == 24}
    assert len(finished) >= 2
    await eventually(lambda: finished <= ready(two), "the replica holds them back too")

    began = time.monotonic()
    assert await one.server.stop("fast")
    assert time.monotonic() - began < STOP
    began = time.monotonic()
    promotion = await two.server.promote(5)
    assert time.monotonic() - began < STOP
    assert promotion.line == (Switch(5, 1, promotion.switch_lsn),)
    assert finished <= ready(two)  # the new primary will store what the old one did not
    assert "00000005.history" in ready(two)
    await two.server.ensure_slots({one.slot: None})
    await one.server.start_standby(one.upstream(two), line=promotion.line)
    await streaming(two, one)

    await two.server.set_standby_names("")
    await switch(two, 2)
    await eventually(lambda: {n for n in ready(two) if n.startswith("00000005000")} <= ready(one), "as before")
    two.kill()
    began = time.monotonic()
    again = await one.server.promote(6)
    assert time.monotonic() - began < STOP
    assert [s.timeline for s in again.line] == [5, 6]
    assert finished <= ready(one)


async def test_switching_it_off_lets_the_wal_go_before_the_restart(box: Box) -> None:
    one = await box.primary(archive=True)
    await switch(one, 3)
    assert len(ready(one)) >= 3
    await one.server.configure(replace(one.settings, archive=False))
    status = await one.server.status()
    assert status is not None
    assert "archive_mode" in status.pending_restart
    await switch(one, 1)  # wakes PostgreSQL's archiver up
    await eventually(lambda: not ready(one), "nothing is held back any more", within=90)
    assert await one.server.stop("fast")
    one.settings = replace(one.settings, archive=False)
    await one.server.start_primary()
    assert await one.value("SHOW archive_mode") == "off"


async def test_the_time_limit_switches_what_was_written_and_nothing_else(box: Box) -> None:
    """RPO: what is written on a quiet database is finished within the limit; a database that is idle makes no WAL."""
    one = await box.primary(archive=True)
    assert await one.value("SHOW archive_timeout") == "45s"
    pid = one.server.postmaster()
    assert pid is not None
    os.kill(pid, signal.SIGHUP)  # as the agent does after each start, see agent/archiving.py
    await one.sql("CREATE TABLE t (i int)")
    before = await one.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
    async with asyncio.timeout(60):
        while await one.value("SELECT pg_walfile_name(pg_current_wal_lsn())") == before:  # noqa: ASYNC110 - a server
            await asyncio.sleep(0.5)
    count = len(ready(one))
    assert count >= 1
    await asyncio.sleep(50)
    assert len(ready(one)) <= count + 1  # the checkpoint's own records at most

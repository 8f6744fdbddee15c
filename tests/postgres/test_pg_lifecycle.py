"""A server is made, configured, started, stopped and looked at."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import replace

import asyncpg
import pytest

from matriarch.agent.postgres import processes
from matriarch.agent.postgres.facts import PendingRestart
from matriarch.errors import Refused, Unavailable
from matriarch.postgres.standbynames import NOBODY
from tests.postgres.pgbox import Box, Member, eventually, streaming

pytestmark = pytest.mark.timeout(240)

PASSWORD = "pä s'\\w№"  # not ASCII, quoted, and changed by SASLprep


async def test_initdb_makes_a_database_and_bootstrap_can_be_repeated(box: Box) -> None:
    one = box.member(1)
    identifier = await one.server.initdb()
    await one.server.start_primary()
    stored = []
    for _ in range(2):
        await one.server.bootstrap_sql("app", "owner", PASSWORD, "root")
        stored.append(await one.value("SELECT array_agg(rolpassword ORDER BY rolname) FROM pg_authid"))
    assert stored[0] == stored[1]  # nothing is written when nothing changed
    status = await one.server.status()
    assert status is not None
    assert (status.in_recovery, status.timeline, status.system_identifier) == (False, 1, identifier)
    assert status.standby_names == NOBODY
    assert _login(one, "owner", PASSWORD, "app") == "owner"
    assert await one.value("SHOW data_checksums") == "on"
    locale = "SELECT datlocprovider::text || datlocale FROM pg_database WHERE datname = 'app'"
    assert await one.value(locale) == "bC.UTF-8"  # the builtin provider's
    assert await one.value("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'app'") == "owner"
    superusers = await one.sql("SELECT rolname FROM pg_roles WHERE rolsuper")
    assert [r["rolname"] for r in superusers] == ["postgres"]
    rights = "SELECT has_table_privilege('matriarch_backup', 'pg_authid', 'SELECT')"
    assert await one.value(rights) is True
    with pytest.raises(subprocess.CalledProcessError):
        _login(one, "postgres", "root", "app")  # nobody asked for superuser access
    assert await one.server.configure(replace(one.settings, superuser_access=True))
    await eventually(lambda: _can_login(one, "postgres", "root"), "the superuser's password counts")
    await one.server.bootstrap_sql("app", "owner", "new", None)
    assert _login(one, "owner", "new", "app") == "owner"
    with pytest.raises(subprocess.CalledProcessError):
        _login(one, "postgres", "root", "app")


async def test_nothing_on_the_disk_weakens_the_rule_for_commits(box: Box) -> None:
    one = await box.primary(names=NOBODY)
    with pytest.raises(asyncpg.PostgresError):
        await one.sql("ALTER SYSTEM SET synchronous_standby_names = ''")
    assert await one.server.stop("fast")
    (one.paths.pgdata / "postgresql.auto.conf").write_text("synchronous_standby_names = ''\nfsync = off\n")
    (one.paths.pgdata / "matriarch.stream.conf").write_text("synchronous_standby_names = ''\n")
    await one.server.start_primary()
    assert await one.value("SHOW synchronous_standby_names") == NOBODY
    assert await one.value("SHOW fsync") == "on"


async def test_settings_are_reloaded_or_wait_for_a_restart(box: Box) -> None:
    one = await box.primary()
    wanted = replace(one.settings, parameters={**one.settings.parameters, "work_mem": "5MB", "max_connections": "60"})
    assert await one.server.configure(wanted)
    assert not await one.server.configure(wanted)
    await eventually(lambda: _shows(one, "work_mem", "5MB"), "the new value")

    async def waits() -> bool:
        status = await one.server.status()
        return status is not None and dict(status.pending_restart) == {"max_connections": PendingRestart("100", "60")}

    await eventually(waits, "one setting waits for a restart")
    assert await one.server.stop("fast")
    await one.server.start_primary()
    status = await one.server.status()
    assert status is not None
    assert status.pending_restart == {}
    assert await one.value("SHOW max_connections") == "60"


async def test_a_standby_keeps_what_its_primary_has_until_that_has_less(box: Box) -> None:
    """With less than the primary, replay pauses (L12): raised on standbys first, lowered on the primary first."""
    one = await box.primary(parameters={"max_connections": "50"})
    two = await box.standby(2, one, parameters={"max_connections": "20"})
    assert await two.value("SHOW max_connections") == "50"
    raised = replace(two.settings, parameters={"max_connections": "70"})
    assert await two.server.configure(raised)
    await eventually(lambda: _pending(two, "70"), "the raised value waits for a restart")
    assert await two.server.stop("fast")
    await two.server.start_standby(two.upstream(one))
    await streaming(one, two)
    assert await two.value("SHOW max_connections") == "70"
    lowered = {"max_connections": "30"}
    await two.server.configure(replace(two.settings, parameters=lowered))
    await eventually(lambda: _pending(two, "50"), "as low as the primary allows")
    assert two.server.held_up  # so the agent writes it again, until the primary has less
    await one.server.configure(replace(one.settings, parameters=lowered))
    assert await one.server.stop("fast")
    await one.server.start_primary()
    await streaming(one, two)
    lsn = await one.server.write_record()
    await one.server.confirm_flushed(lsn, [two.name], 1)
    await eventually(lambda: _replayed(two, lsn), "replay goes on")
    await two.server.configure(replace(two.settings, parameters=lowered))
    await eventually(lambda: _pending(two, "30"), "the primary has less now")
    assert not two.server.held_up


async def test_a_hung_server_has_no_status_and_gets_it_back(box: Box) -> None:
    one = await box.primary()
    pid = one.server.postmaster()
    assert pid is not None
    stopped = [pid, *(p.pid for p in processes.children(pid))]
    for process in stopped:
        os.kill(process, signal.SIGSTOP)
    async with asyncio.timeout(5):
        assert await one.server.status(timeout=0.3) is None
        with pytest.raises(Unavailable):
            await one.server.replication(timeout=0.3)
        assert not await one.server.stop("fast", 0.3)
    for process in stopped:
        os.kill(process, signal.SIGCONT)
    await eventually(lambda: one.server.postmaster() is None, "the stop that was asked for")
    assert await one.server.status() is None


async def test_a_new_agent_finds_the_server_that_runs(box: Box) -> None:
    one = await box.primary()
    pid = one.server.postmaster()
    await one.restart_agent()
    assert one.server.postmaster() == pid
    assert await one.server.status() is not None
    with pytest.raises(Refused, match="still work"):
        await one.server.start_primary()
    one.kill()
    assert one.server.postmaster() is None
    await one.restart_agent()
    assert one.server.postmaster() is None
    await one.server.start_primary()


async def test_what_outlives_a_killed_postmaster_keeps_others_out(box: Box) -> None:
    one = await box.primary()
    busy = await one.connect()
    pid = busy.get_server_pid()
    os.kill(pid, signal.SIGSTOP)  # as in the middle of a long computation
    postmaster = one.server.postmaster()
    assert postmaster is not None
    os.kill(postmaster, signal.SIGKILL)
    assert one.spawner.child is not None
    one.spawner.child.wait()
    await eventually(lambda: processes.working_in(one.paths.pgdata) == [pid], "one backend is left")
    with pytest.raises(Refused, match="still work"):
        await one.server.start_primary()
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not processes.working_in(one.paths.pgdata), "nothing is left")
    # in a container the pid in the lock files may be anybody's by now, also a thread's
    lock = one.paths.pgdata / "postmaster.pid"
    socket = next(one.paths.socket_dir.glob(".s.PGSQL.*.lock"))  # outlives a container in its Pod, too
    # PostgreSQL takes its parent's number for stale, and nobody else's.
    with subprocess.Popen(["sleep", "60"]) as anybody:  # noqa: ASYNC220 - it begins at once
        for left in (lock, socket):
            left.write_text("\n".join([str(anybody.pid), *left.read_text().splitlines()[1:]]) + "\n")
        await one.server.start_primary()
        anybody.kill()
    assert await one.value("SELECT 1") == 1
    busy.terminate()


async def test_a_release_that_may_lose_writes_is_refused(box: Box) -> None:
    one = await box.primary()
    assert await one.server.stop("fast")
    await one.restart_agent()
    (box.bin / "postgres").write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 17.4 (Debian 17.4-1)'\n")
    with pytest.raises(Refused, match=r"17\.5 or newer"):
        await one.server.start_primary()


async def test_clients_sessions_are_ended_and_the_agents_are_not(box: Box) -> None:
    one = await box.primary()
    clients = [await one.connect() for _ in range(3)]
    await one.server.status()
    assert await one.server.end_client_sessions() == 3
    for client in clients:
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)):
            await client.fetch("SELECT 1")
        client.terminate()
    assert await one.server.status() is not None


async def test_a_configured_server_is_needed_before_a_start(box: Box) -> None:
    one = box.member(1)
    with pytest.raises(Refused, match="no database"):
        await one.server.start_primary()
    one.server._settings = None
    with pytest.raises(Refused, match="configure"):
        await one.server.start_primary()


def _login(member: Member, user: str, password: str, database: str) -> str:
    secret = "'" + password.replace("\\", "\\\\").replace("'", "\\'") + "'"
    target = f"host={member.instance} hostaddr={member.address} port={member.box.port} user={user} dbname={database}"
    tls = f"sslmode=verify-full sslrootcert={member.paths.tls}/ca.crt"
    return member.psql("-c", "SELECT current_user", connection=f"{target} {tls} password={secret}")


def _can_login(member: Member, user: str, password: str) -> bool:
    with suppress(subprocess.CalledProcessError):
        return _login(member, user, password, "app") == user
    return False


async def _shows(member: Member, name: str, value: str) -> bool:
    return await member.value("SELECT current_setting($1)", name) == value


async def _pending(member: Member, wanted: str) -> bool:
    status = await member.server.status()
    waiting = status.pending_restart.get("max_connections") if status is not None else None
    return waiting is not None and waiting.wanted == wanted


async def _replayed(member: Member, lsn: int) -> bool:
    status = await member.server.status()
    return status is not None and status.replayed_lsn >= lsn


async def test_clients_that_come_during_a_stop_and_say_nothing_do_not_hold_it_up(box: Box) -> None:
    one = await box.primary()
    (checkpointer,) = one.children("checkpointer")
    os.kill(checkpointer, signal.SIGSTOP)  # the stop waits for it, and PostgreSQL answers whoever comes
    stop = asyncio.create_task(one.server.stop("fast", timeout=30))
    late: list[asyncio.StreamWriter] = []
    try:
        await eventually(lambda: one.children("walwriter") == [], "the stop is under way")
        late += [(await asyncio.open_connection(one.address, one.settings.port))[1] for _ in range(3)]
        await asyncio.sleep(0.2)  # each has a process that waits for its first word, for a minute
        assert not stop.done()
    finally:
        os.kill(checkpointer, signal.SIGCONT)
    try:
        assert await stop
    finally:
        for writer in late:
            writer.close()
    control = await one.server.control_data()
    assert control is not None
    assert control.state == "shut down"

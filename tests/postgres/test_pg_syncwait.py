"""A cancelled wait for replication is a lost connection: the client must not take it for a success."""

from __future__ import annotations

import asyncio
import subprocess

import asyncpg
import pytest

from matriarch.postgres.preload import SYNC_WAIT
from matriarch.postgres.standbynames import NOBODY, render_names
from tests.postgres.pgbox import Box, Member, eventually, streaming

pytestmark = pytest.mark.timeout(240)

LIBRARIES = (SYNC_WAIT, "pg_stat_statements")
WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
# what asyncpg raises for a connection that ended in the middle of a query
LOST = (asyncpg.ConnectionDoesNotExistError, ConnectionError)


@pytest.fixture
async def one(box: Box) -> Member:
    """A primary whose commits wait for a standby that is not there yet."""
    member = await box.primary(preload=LIBRARIES)
    await member.sql("CREATE TABLE t (i int PRIMARY KEY, j text)", synchronous_commit="local")
    await member.server.set_standby_names(NOBODY)
    assert await member.server.probe_sync_rep()
    return member


async def _rows(member: Member) -> list[int]:
    return [r["i"] for r in await member.sql("SELECT i FROM t ORDER BY i")]


async def _waiting_pid(member: Member) -> int:
    await eventually(lambda: _waits(member), "a commit waits")
    return int((await member.sql(WAITING))[0]["pid"])


async def _waits(member: Member) -> bool:
    return bool(await member.sql(WAITING))


async def _gone(member: Member, pid: int) -> None:
    async def look() -> bool:
        return not await member.sql("SELECT 1 FROM pg_stat_activity WHERE pid = $1", pid)

    await eventually(look, f"session {pid} ended")


async def _cancel_in_the_wait(member: Member, session: asyncpg.Connection[asyncpg.Record], sql: str) -> None:
    """Runs `sql` and cancels it while it waits: the connection must be lost, and the session gone."""
    work = asyncio.create_task(session.fetch(sql) if "RETURNING" in sql else session.execute(sql))
    pid = await _waiting_pid(member)
    await member.sql("SELECT pg_cancel_backend($1)", pid)
    with pytest.raises(LOST):
        await work
    assert session.is_closed()
    await _gone(member, pid)


async def test_a_cancel_in_the_wait_loses_the_connection(one: Member) -> None:
    await _cancel_in_the_wait(one, await one.connect(), "INSERT INTO t VALUES (1)")
    session = await one.connect()
    await session.execute("BEGIN")
    await session.execute("INSERT INTO t VALUES (2)")
    await _cancel_in_the_wait(one, session, "COMMIT")
    assert await _rows(one) == [1, 2]  # committed here all the same: the outcome was unknown, and is told as that


async def test_statement_timeout_in_the_wait_loses_the_connection(one: Member) -> None:
    """PostgreSQL stops that clock before a client's own commit; it runs on where a block commits by itself."""
    session = await one.connect(statement_timeout="300ms")
    with pytest.raises(LOST):
        await session.execute("DO $$ BEGIN INSERT INTO t VALUES (1); COMMIT; END $$")
    assert await _rows(one) == [1]


async def test_answers_that_wait_in_the_buffer_reveal_nothing(one: Member) -> None:
    """The extended protocol, and earlier answers to the same message."""
    returning = "INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 200) g RETURNING *"
    await _cancel_in_the_wait(one, await one.connect(), returning)
    await _cancel_in_the_wait(one, await one.connect(), "SELECT 1; BEGIN; INSERT INTO t VALUES (900); COMMIT; SELECT 1")
    assert len(await _rows(one)) == 201


def _psql(member: Member, *commands: str) -> subprocess.CompletedProcess[str]:
    words = [w for c in commands for w in ("-c", c)]
    target = f"host={member.paths.socket_dir} port={member.box.port} user=postgres dbname=app"
    return subprocess.run(
        [member.paths.bin / "psql", "-XAt", target, *words], capture_output=True, text=True, timeout=30, check=False
    )


async def _psql_cancelled(member: Member) -> subprocess.CompletedProcess[str]:
    work = asyncio.create_task(asyncio.to_thread(_psql, member, "INSERT INTO t VALUES (1)"))
    await member.sql("SELECT pg_cancel_backend($1)", await _waiting_pid(member))
    return await work


async def test_psql_sees_a_lost_connection(one: Member) -> None:
    done = await _psql_cancelled(one)
    assert done.returncode == 2  # psql's word for a connection that went bad
    assert "INSERT" not in done.stdout
    assert "closed the connection unexpectedly" in done.stderr
    assert "canceling wait" not in done.stderr
    assert "canceling wait for synchronous replication" in one.log.read_text()
    assert "so that the client takes the outcome as unknown" in one.log.read_text()


async def test_two_phase_commits_wait_and_are_lost_too(box: Box) -> None:
    one = await box.primary(
        preload=LIBRARIES,
        parameters={"shared_buffers": "16MB", "max_prepared_transactions": "5"},
    )
    await one.sql("CREATE TABLE t (i int PRIMARY KEY)", synchronous_commit="local")
    await one.server.set_standby_names(NOBODY)
    assert await one.server.probe_sync_rep()
    prepare = "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'x'"
    await _cancel_in_the_wait(one, await one.connect(), prepare)
    assert await one.value("SELECT gid FROM pg_prepared_xacts") == "x"
    session = await one.connect(statement_timeout="300ms")
    with pytest.raises(LOST):
        await session.execute("COMMIT PREPARED 'x'")
    assert await _rows(one) == [1]


async def test_the_row_is_there_when_the_standby_comes(box: Box, one: Member) -> None:
    await _cancel_in_the_wait(one, await one.connect(), "INSERT INTO t VALUES (7)")
    two = await box.standby(2, one, preload=LIBRARIES)
    await one.server.set_standby_names(render_names(1, [two.name]))
    await streaming(one, two)
    await one.sql("INSERT INTO t VALUES (8)", synchronous_commit="remote_apply")
    assert await _rows(two) == [7, 8]


async def test_ordinary_cancels_and_commits_are_as_ever(one: Member) -> None:
    session = await one.connect(statement_timeout="100ms")
    with pytest.raises(asyncpg.QueryCanceledError):
        await session.execute("SELECT pg_sleep(10)")
    with pytest.raises(asyncpg.RaiseError):
        await session.execute("DO $$ BEGIN RAISE WARNING 'mine'; RAISE EXCEPTION 'mine too'; END $$")
    assert await session.fetchval("SELECT 1") == 1
    assert await session.execute("SET synchronous_commit = local; INSERT INTO t VALUES (1)") == "INSERT 0 1"
    await session.close()


async def test_a_terminated_session_in_the_wait_ends_as_postgresql_ends_it(one: Member) -> None:
    session = await one.connect()
    commit = asyncio.create_task(session.execute("INSERT INTO t VALUES (1)"))
    await one.sql("SELECT pg_terminate_backend($1)", await _waiting_pid(one))
    with pytest.raises((*LOST, asyncpg.AdminShutdownError)):
        await commit


async def test_nobody_can_hide_the_warning(one: Member) -> None:
    """The superuser included: what is not logged would not be seen."""
    session = await one.connect()
    for level in ("error", "log", "fatal", "panic"):
        with pytest.raises(asyncpg.InvalidParameterValueError):
            await session.execute(f"SET log_min_messages = {level}")
    for level in ("debug1", "warning"):
        await session.execute(f"SET log_min_messages = {level}")
    await session.close()


async def test_a_start_with_hidden_warnings_overrides_them(box: Box) -> None:
    one = await box.primary(preload=LIBRARIES, parameters={"shared_buffers": "16MB", "log_min_messages": "fatal"})
    assert await one.value("SHOW log_min_messages") == "warning"


async def test_without_the_library_the_answer_is_a_success_with_a_warning(box: Box) -> None:
    """What it is there for; and the proof that the tests above can fail."""
    one = await box.primary()
    await one.sql("CREATE TABLE t (i int PRIMARY KEY)", synchronous_commit="local")
    await one.server.set_standby_names(NOBODY)
    assert await one.server.probe_sync_rep()
    done = await _psql_cancelled(one)
    assert (done.returncode, "INSERT 0 1" in done.stdout) == (0, True)
    assert "canceling wait for synchronous replication" in done.stderr

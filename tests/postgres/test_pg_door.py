"""A closed door: clients that come meanwhile wait and get in, and nobody reads before it opens."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import replace

import asyncpg
import pytest

from matriarch.postgres.preload import CLOSED, DOOR
from tests.postgres.pgbox import Box, Member, eventually, streaming

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def one(box: Box) -> Member:
    member = await box.primary(preload=(DOOR,))
    await member.server.set_door("waits")
    return member


async def _log_in(member: Member, **more: object) -> asyncpg.Connection[asyncpg.Record]:
    words = {"user": "app", "password": "secret", "database": "app", "ssl": "require"} | more
    return await asyncpg.connect(host=member.address, port=member.box.port, **words)


async def test_who_comes_to_a_closed_door_waits_and_gets_in(one: Member) -> None:
    clients = [asyncio.create_task(_log_in(one)) for _ in range(4)]
    await eventually(lambda: len(one.children("authentication")) == 4, "all wait")
    await asyncio.sleep(0.3)
    assert not any(c.done() for c in clients)
    assert await one.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'") == 0
    await one.server.set_door("open")
    for client in await asyncio.gather(*clients):
        assert await client.fetchval("SELECT current_user") == "app"
        await client.close()


async def test_no_signal_is_needed_for_the_door(one: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    async def reload() -> None:
        pytest.fail("a reload signals every process of the server")

    monkeypatch.setattr(one.server, "reload", reload)
    await one.server.set_door("open")
    await (await _log_in(one)).close()
    await one.server.set_door("waits")
    with pytest.raises(TimeoutError):
        await _log_in(one, timeout=0.5)


async def test_a_wrong_password_is_refused_at_once(one: Member) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await _log_in(one, password="wrong", timeout=3)


async def test_the_wait_has_an_end_that_says_why(one: Member) -> None:
    with pytest.raises(asyncpg.CannotConnectNowError, match="not open for clients yet"):
        await _log_in(one, timeout=30)


async def test_a_door_that_refuses_does_so_at_once_and_also_those_who_wait(one: Member) -> None:
    waiting = asyncio.create_task(_log_in(one))
    await eventually(lambda: one.children("authentication"), "it waits")
    await one.server.set_door("refuses")
    for client in (waiting, _log_in(one, timeout=2)):
        with pytest.raises(asyncpg.CannotConnectNowError, match="takes no clients yet"):
            await client
    with pytest.raises(asyncpg.InvalidPasswordError):
        await _log_in(one, password="wrong", timeout=3)
    await one.server.set_door("waits")
    with pytest.raises(TimeoutError):
        await _log_in(one, timeout=0.5)
    await one.server.set_door("open")
    await (await _log_in(one)).close()


async def test_while_a_restore_replaces_the_data_nobody_is_let_in_and_who_is_in_goes(one: Member) -> None:
    await one.server.set_door("open")
    inside = await _log_in(one)
    await inside.execute("BEGIN")
    await one.server.set_door("closed")
    await one.server.send_clients_away()
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await inside.execute("COMMIT")
    with pytest.raises(asyncpg.CannotConnectNowError, match="a restore replaces the data"):
        await _log_in(one, timeout=2)
    assert await one.value("SELECT 1") == 1, "the agent works on"
    await one.server.send_clients_away()
    await one.server.set_door("open")
    await (await _log_in(one)).close()


async def test_who_gives_up_leaves_nothing_behind(one: Member) -> None:
    client = subprocess.Popen(  # noqa: ASYNC220 - ended below
        [one.paths.bin / "psql", f"host={one.address} port={one.box.port} user=app dbname=app password=secret"],
        stdin=subprocess.DEVNULL,
    )
    await eventually(lambda: one.children("authentication"), "it waits")
    await asyncio.sleep(0.2)
    client.kill()
    client.wait()
    await eventually(lambda: not one.children("authentication"), "the backend ended", within=2)


async def test_those_who_wait_leave_room_for_the_agent(box: Box) -> None:
    one = await box.primary(preload=(DOOR,), parameters={"shared_buffers": "16MB", "max_connections": "20"})
    await one.server.set_door("waits")
    clients = [asyncio.create_task(_log_in(one, timeout=20)) for _ in range(20)]
    await eventually(lambda: any(c.done() for c in clients), "some are refused", within=4)
    assert await one.value("SELECT 1") == 1
    await one.server.set_door("open")
    let_in = [c for c in await asyncio.gather(*clients, return_exceptions=True) if isinstance(c, asyncpg.Connection)]
    assert len(let_in) >= 5, "the agent's room is a few connections, not most of them"
    for client in let_in:
        client.terminate()


async def test_it_stands_closed_from_the_first_moment_of_a_start(one: Member) -> None:
    await one.server.stop("fast")
    (one.paths.pgdata / CLOSED).unlink()
    await one.server.start_primary()
    with pytest.raises(TimeoutError):
        await _log_in(one, timeout=0.5)


async def test_members_of_the_cluster_are_not_kept(box: Box, one: Member) -> None:
    two = await box.standby(2, one, preload=(DOOR,))
    await streaming(one, two)
    assert not (two.paths.pgdata / CLOSED).exists()  # the copy's own door is open
    await (await _log_in(two)).close()


async def test_who_waits_through_a_promotion_may_write(box: Box) -> None:
    one = await box.primary(preload=(DOOR,))
    two = await box.standby(2, one, preload=(DOOR,), standby_names="")
    await two.server.set_door("waits")
    client = asyncio.create_task(_log_in(two))
    await eventually(lambda: two.children("authentication"), "it waits")
    one.kill()
    await two.server.cut_stream()
    await two.server.promote(2)
    await two.server.set_door("open")
    session = await client
    await session.execute("CREATE TABLE written (i int)")
    await session.close()


async def test_without_the_library_clients_are_refused(box: Box) -> None:
    one = await box.primary()
    await one.server.set_door("waits")

    async def refused() -> bool:
        try:
            await (await _log_in(one)).close()
        except asyncpg.InvalidAuthorizationSpecificationError:
            return True
        return False

    await eventually(refused, "pg_hba.conf refuses")
    # Settings that name the library do not put it into a server that runs.
    await one.server.configure(replace(one.settings, preload=(DOOR,), door="waits"))
    assert await refused()


async def test_a_new_agent_knows_what_the_server_has(one: Member) -> None:
    await one.restart_agent()
    await one.server.configure(replace(one.settings, door="waits"))
    with pytest.raises(TimeoutError):
        await _log_in(one, timeout=0.5)
    await one.server.configure(replace(one.settings, door="open"))
    await (await _log_in(one)).close()

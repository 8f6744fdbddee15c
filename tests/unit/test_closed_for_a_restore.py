"""What an agent makes of a configuration that wants clients out: it says so only once nobody is left."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from matriarch.agent import settings
from matriarch.agent.config import ClusterConfig
from matriarch.agent.settings import apply_config
from matriarch.agent.space import Space
from matriarch.errors import Unavailable
from matriarch.postgres.preload import Door

DOCUMENT: dict[str, Any] = {
    "generation": 3,
    "instances": ["orders-1"],
    "sync": {"mode": "sync", "number": 1, "durability": "required"},
    "database": "app",
    "owner": "app",
}


class Server:
    """Somebody stays for as many looks as `stays` says."""

    held_up = False

    def __init__(self, stays: int = 0) -> None:
        self.door: Door = "waits"
        self.did: list[str] = []
        self.stays = stays

    async def set_door(self, door: Door) -> None:
        self.door = door
        self.did.append(door)

    async def configure(self, door: Door) -> None:
        await self.set_door(door)

    async def send_clients_away(self) -> None:
        self.did.append("send away")
        if self.stays:
            self.stays -= 1
            raise Unavailable("a client's session did not end")


@pytest.fixture(autouse=True)
def _only_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "server_settings", lambda _instance, _names, *, door: door)


def instance(server: Server, closed_by: str = "") -> Any:
    return SimpleNamespace(
        config=ClusterConfig.parse({**DOCUMENT, **({"closed_by": closed_by} if closed_by else {})}),
        server=server,
        applied=None,
        applying=asyncio.Lock(),
        space=Space(),
        summarizes=True,
        closed_by="",
        server_role="primary",
    )


async def test_it_is_said_only_once_nobody_is_left() -> None:
    server = Server(stays=1)
    one = instance(server, "r1")
    with pytest.raises(Unavailable):
        await apply_config(one, "", door="open")
    assert (server.door, one.closed_by) == ("closed", "")
    await apply_config(one, "", door="open")
    assert one.closed_by == "r1"
    server.did.clear()
    await apply_config(one, "", door="open")
    assert server.did == [], "nothing changed"


async def test_a_standby_goes_on_while_a_reader_does_not_end() -> None:
    one = instance(Server(stays=1), "r1")
    one.server_role = "standby"
    await apply_config(one, "", door="open")
    assert one.closed_by == "r1"


async def test_what_failed_is_done_again() -> None:
    server = Server(stays=1)
    one = instance(server)
    await apply_config(one, "", door="open")
    one.config = instance(server, "r1").config
    with pytest.raises(Unavailable):
        await apply_config(one, "", door="open")
    one.config = instance(server).config
    await apply_config(one, "", door="open")
    assert (server.did[-1], one.closed_by) == ("open", ""), "it is taken for open although it was closed"


async def test_a_door_that_is_shut_anyhow_stays_as_it_is() -> None:
    server = Server()
    one = instance(server, "r1")
    await apply_config(one, "", door="waits")
    assert (server.did, one.closed_by) == (["waits"], "")
    await apply_config(one, "", door="open")
    assert (server.did, one.closed_by) == (["waits", "closed", "send away"], "r1")


async def test_it_opens_when_the_restore_is_over() -> None:
    server = Server()
    one = instance(server, "r1")
    await apply_config(one, "", door="open")
    one.config = instance(server).config
    await apply_config(one, "", door="open")
    assert (server.did[-1], one.closed_by) == ("open", "")

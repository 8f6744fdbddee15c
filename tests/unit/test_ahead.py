"""Clients are sent ahead of a switchover only to an heir that keeps them, and never for long."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from matriarch.agent import ahead
from matriarch.agent.clock import boottime
from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
from matriarch.errors import Refused, Unavailable

A, B = Member("orders-1", "1" * 12), Member("orders-2", "2" * 12)
LEASE = LeaseState(epoch=5, holder=A, bootstrap="orders-1", mode="quorum", voters=(B,), k=1, opened=True)


class _Side:
    """What of an instance is used here; `says` is the heir's answer."""

    def __init__(self, says: dict[str, Any] | Exception, *, waits: bool = True, role: str = "standby") -> None:
        self.lease, self.is_holder, self.server_role = LEASE, role == "primary", role
        self.addresses = {B.instance: "192.0.2.2"}
        self.env = SimpleNamespace(instance=B.instance)
        self.clients_expected_until, self.applied, self.follows_line = 0, (1,), True
        self.kube = SimpleNamespace(away_at=0)
        self.server = SimpleNamespace(clients_wait=lambda: waits)
        self.written: list[dict[str, Any]] = []
        self.peers = self.routing = self
        self._says = says

    async def post(self, instance: str, path: str, body: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        assert (instance, path, body) == (B.instance, "/v1/expect", {"epoch": 5})
        if isinstance(self._says, Exception):
            raise self._says
        return self._says

    def led_here(self, now: int) -> int:
        return 0

    async def write(self, epoch: int, slices: dict[str, Any]) -> None:
        assert epoch == 5
        self.written.append(slices)


@pytest.mark.parametrize(
    ("says", "sent"),
    [
        ({"waits": True}, True),
        ({"waits": False}, False),
        (Refused("an older agent", reason="NotFound"), False),
        (Unavailable("no answer"), False),
    ],
)
async def test_the_service_moves_only_to_who_keeps_clients(says: Any, sent: bool) -> None:
    holder = _Side(says, role="primary")
    await ahead.send_clients(holder, B)  # type: ignore[arg-type]
    assert [s["rw"][0]["addresses"] for s in holder.written] == ([["192.0.2.2"]] if sent else [])


async def test_an_heir_closes_its_door_first_and_opens_it_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heir = _Side({})
    applied: list[str] = []

    async def apply(instance: Any, names: str, *, door: str) -> None:
        applied.append(door)

    monkeypatch.setattr(ahead, "apply_config", apply)
    assert await ahead.expect_clients(heir, 5) == {"waits": True}  # type: ignore[arg-type]
    assert applied == ["waits"]
    assert ahead.door_of_standby(heir) == "waits"  # type: ignore[arg-type]
    monkeypatch.setattr(ahead, "boottime", lambda: boottime() + ahead.EXPECTED)
    assert ahead.door_of_standby(heir) == "open"  # type: ignore[arg-type]


async def test_where_clients_do_not_wait_the_door_stays_open() -> None:
    heir = _Side({}, waits=False)
    assert await ahead.expect_clients(heir, 5) == {"waits": False}  # type: ignore[arg-type]
    assert ahead.door_of_standby(heir) == "open"  # type: ignore[arg-type]


@pytest.mark.parametrize(("epoch", "role"), [(4, "standby"), (6, "standby"), (5, "primary"), (5, "stopped")])
async def test_who_is_no_standby_of_that_epoch_refuses(epoch: int, role: str) -> None:
    with pytest.raises(Refused):
        await ahead.expect_clients(_Side({}, role=role), epoch)  # type: ignore[arg-type]

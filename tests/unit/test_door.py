"""When a new primary lets clients in: by what is newer than its promotion, and before anything else that can wait."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from matriarch.agent import lead
from matriarch.agent.lead import Leadership
from matriarch.decide.lease import LeaseState, Promotion
from matriarch.decide.member import Member

A, B, C = (Member(f"orders-{i}", f"{i}" * 12) for i in (1, 2, 3))
CLAIM = 7
LEASE = LeaseState(
    epoch=9, holder=A, bootstrap="orders-1", mode="quorum", voters=(B, C), k=1, opened=True,
    promoting=Promotion(CLAIM, 6, 100),
)  # fmt: skip


@dataclass
class World:
    """PostgreSQL runs on `runs`; what the agent saw of it last is `seen`."""

    runs: int
    seen: int
    did: list[str] = field(default_factory=list)

    def leadership(self) -> Leadership:
        return Leadership(self.instance(), record=500)

    def instance(self) -> Any:
        async def flushed_by(lsn: int, names: list[str], *, fork: int) -> list[str]:
            return names[:1]

        async def look() -> Any:
            self.made.status = SimpleNamespace(timeline=self.runs)
            return self.made.status

        async def arm() -> None:
            self.did.append("arm")

        async def lead_here(epoch: int) -> None:
            self.did.append("rw")

        async def replication() -> list[Any]:
            self.did.append("round")
            return []

        self.made: Any = SimpleNamespace(
            lease=LEASE, config=SimpleNamespace(number=2, required=False, wish=None), is_holder=True, confirmed=(),
            door="closed", door_reason="", clock_jumped=False, status=SimpleNamespace(timeline=self.seen), guarded=True,
            server=SimpleNamespace(flushed_by=flushed_by, replication=replication), look=look, arm=arm, warnings={},
            routing=SimpleNamespace(lead_here=lead_here, leads_to=lambda *_: True), vouching=None, state="", reason="",
            env=SimpleNamespace(instance="orders-1", pod_ip="10.0.0.1"), addresses={},
        )  # fmt: skip
        return self.made


@pytest.fixture(autouse=True)
def _configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    async def apply_config(*_: object, **__: object) -> None: ...

    monkeypatch.setattr(lead, "apply_config", apply_config)
    monkeypatch.setattr(lead, "standby_names", lambda *_: "")


async def test_what_was_seen_before_the_promotion_does_not_keep_the_door_shut() -> None:
    world = World(runs=CLAIM, seen=CLAIM - 1)
    await world.leadership().door()
    assert world.made.door == "open"


async def test_it_stays_shut_on_another_timeline_than_was_claimed() -> None:
    world = World(runs=CLAIM + 1, seen=CLAIM - 1)
    await world.leadership().door()
    assert (world.made.door, world.made.door_reason) == ("closed", "timeline 8 runs, 7 was claimed")


async def test_with_the_door_the_write_service_is_led_here_and_the_rest_waits_for_the_clients() -> None:
    world = World(runs=CLAIM, seen=CLAIM)
    leadership = world.leadership()
    await leadership.door()
    assert world.did == ["arm", "rw"]
    pause = await leadership.tick()
    assert 0 < pause <= lead.CLIENTS_FIRST / lead.SECOND
    assert world.did == ["arm", "rw"]

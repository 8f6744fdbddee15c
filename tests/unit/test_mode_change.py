"""The mode changes on a holder that leads: with its writes lost, late or unanswered, and broken off after any step.

The Lease, the heartbeat's rules and the holder's duties are the real ones; PostgreSQL and the API server are stand-ins.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from matriarch.agent import deadline as deadlines
from matriarch.agent import lead
from matriarch.agent.beat import HeartbeatState, HeartbeatView
from matriarch.agent.clock import MILLISECOND, boottime
from matriarch.agent.config import ClusterConfig
from matriarch.agent.instance import Instance
from matriarch.agent.lead import Leadership
from matriarch.agent.leases import Leases
from matriarch.agent.postgres.facts import WalSender
from matriarch.agent.pulse import Pulse
from matriarch.decide import leasetext
from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
from matriarch.errors import MatriarchError, Unavailable
from matriarch.kube.errors import Conflict
from matriarch.postgres.conninfo import STREAM_ROLE
from matriarch.postgres.timeline import WalPosition

A, B, C = (Member(f"orders-{i}", f"{i}" * 12) for i in (1, 2, 3))
NAMES = (A.instance, B.instance, C.instance)
START = datetime(2026, 1, 1, tzinfo=UTC)
QUORUM = LeaseState(epoch=5, holder=A, bootstrap="orders-1", mode="quorum", voters=(B, C), k=1, opened=True)
ASYNC = replace(QUORUM, mode="async", k=0)
ALONE = replace(QUORUM, mode="alone", voters=(), k=0)


class Api:
    """One Lease. `fail`: what becomes of the next writes, one word each: lost, late, unanswered."""

    def __init__(self, state: LeaseState) -> None:
        self.version = 10
        self.fail: list[str] = []
        self.late: list[dict[str, Any]] = []
        self.down = False
        self.history: list[LeaseState] = []
        self._store(leasetext.to_manifest(
            state, cluster="orders", namespace="prod", renew_time="t0", labels={}, resource_version=""
        ))  # fmt: skip

    def _store(self, obj: dict[str, Any]) -> None:
        self.version += 1
        self.object = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}
        self.history.append(self.state)

    @property
    def state(self) -> LeaseState:
        return leasetext.from_manifest(self.object).state

    async def get(self, *_: object, **__: object) -> dict[str, Any]:
        if self.down:
            raise Unavailable("no API server")
        return self.object

    async def replace(self, obj: dict[str, Any], **_: object) -> dict[str, Any]:
        if self.down:
            raise Unavailable("no API server")
        fate = self.fail.pop(0) if self.fail else ""
        if fate == "late":
            self.late.append(obj)
        if fate in ("late", "lost"):
            raise Unavailable(fate)
        self.land(obj)
        if fate == "unanswered":
            raise Unavailable(fate)
        return self.object

    def land(self, obj: dict[str, Any]) -> None:
        if obj["metadata"].get("resourceVersion") != self.object["metadata"]["resourceVersion"]:
            raise Conflict("changed", status=409, reason="Conflict")
        self._store(obj)


class Beats:
    """The heartbeat process's rules, without sockets: nobody answers, so only renewals keep the fence away."""

    def __init__(self) -> None:
        self.pulse = Pulse(b"12345678", boottime())
        self.last: HeartbeatState | None = None

    async def send(self, state: HeartbeatState) -> None:
        self.last = state
        self.pulse.apply(state, boottime())

    @property
    def view(self) -> HeartbeatView:
        return self.pulse.view(self.last.sequence if self.last else 0)

    async def in_force(self, sequence: int, within: float) -> bool:
        return self.last is not None and self.last.sequence >= sequence

    async def next_view(self, timeout: float) -> None:
        await asyncio.sleep(0.01)


class Postgres:
    """Remembers what it was told; `fail`: the call that does not answer."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.fail = ""

    async def set_standby_names(self, value: str, **_: object) -> None:
        self._maybe("set_standby_names")
        self.names.append(value)

    async def probe_sync_rep(self, **_: object) -> bool:
        self._maybe("probe_sync_rep")
        return True

    async def barrier(self, *_: object, **__: object) -> None:
        self._maybe("barrier")

    def _maybe(self, call: str) -> None:
        if call == self.fail:
            raise Unavailable(call)


class Guardian:
    armed = False

    async def arm(self) -> None:
        self.armed = True

    async def disarm(self) -> None:
        self.armed = False


class Stage:
    """A holder that leads in `state` and should come to what `asynchronous` says."""

    def __init__(self, state: LeaseState, *, asynchronous: bool, instances: int = 3) -> None:
        self.api, self.beats, self.postgres, self.guardian = Api(state), Beats(), Postgres(), Guardian()
        names = NAMES[:instances]
        config = ClusterConfig(
            1, names, 0 if asynchronous or instances == 1 else 1, required=not asynchronous, asynchronous=asynchronous
        )
        leases = Leases(self.api, "orders", "prod", {}, keep=lambda _: None)  # type: ignore[arg-type]  # stand-ins
        self.instance = Instance(
            SimpleNamespace(instance="orders-1", cluster="orders", namespace="prod"),  # type: ignore[arg-type]
            SimpleNamespace(),  # type: ignore[arg-type]
            self.api,  # type: ignore[arg-type]
            leases,
            self.guardian,  # type: ignore[arg-type]
            self.beats,  # type: ignore[arg-type]
            self.postgres,  # type: ignore[arg-type]
            SimpleNamespace(),  # type: ignore[arg-type]
            SimpleNamespace(),  # type: ignore[arg-type]
            config=config,
            me=A,
            server_role="primary",
            door="open",
        )
        self.instance.status = SimpleNamespace(flushed_lsn=100, position=WalPosition(1, 100))  # type: ignore[assignment]

    async def begin(self) -> None:
        leases = self.instance.leases
        await leases.read()
        await leases.renew(no_voters=False)
        self.leadership = Leadership(self.instance, 1)
        self.leadership._consumers = None
        lease = self.instance.lease
        assert lease is not None
        if lease.mode != "alone":
            await self.instance.arm()

    def senders(self) -> list[WalSender]:
        return [
            WalSender(n, STREAM_ROLE, str(m), "10.0.0.1", "streaming", 100, 100, 100, None, START)
            for n, m in enumerate((B, C))
            if self.instance.config is not None and m.instance in self.instance.config.instances
        ]

    async def tick(self) -> None:
        self.leadership._quorum_again = 0
        with contextlib.suppress(MatriarchError):
            await self.leadership._voters(self.senders())
        self.check()

    def check(self) -> None:
        """Whatever the Lease says, or may say when a late write lands, keeps to the fence that it stands for."""
        for state in (self.api.state, *(leasetext.from_manifest(o).state for o in self.live())):
            sent = self.beats.last
            if state.mode != "async" or state.epoch != 5:
                continue
            assert self.guardian.armed, "a Lease of async while nothing ends the holder"
            assert sent is not None
            assert sent.fence
            assert sent.by_lease, "a Lease of async while the fence counts by something else"

    def live(self) -> list[dict[str, Any]]:
        """Late writes that can still land."""
        now = self.api.object["metadata"]["resourceVersion"]
        return [o for o in self.api.late if o["metadata"].get("resourceVersion") == now]

    async def until(self, mode: str, ticks: int = 60) -> None:
        for _ in range(ticks):
            if self.api.state.mode == mode and self.instance.lease == self.api.state and self.settled():
                return
            await self.tick()
            await asyncio.sleep(0.02)
        raise AssertionError(f"still {self.api.state.mode}")

    def settled(self) -> bool:
        return self.instance.vouching is None


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second rule that is longer than the first by as much as a test can wait for."""
    monkeypatch.setattr(deadlines, "T_FENCE", 500 * MILLISECOND)
    monkeypatch.setattr(deadlines, "ASYNC_FENCE", 900 * MILLISECOND)
    monkeypatch.setattr(lead, "T_FENCE", 0)


BEGIN = [pytest.param(ALONE, id="alone"), pytest.param(QUORUM, id="quorum")]


@pytest.mark.parametrize("begin", BEGIN)
@pytest.mark.parametrize("fate", ["", "lost", "late", "unanswered"])
async def test_to_async(begin: LeaseState, fate: str) -> None:
    stage = Stage(begin, asynchronous=True)
    await stage.begin()
    stage.api.fail = ["", fate, fate] if fate else []
    await stage.until("async")
    await stage.tick()
    assert stage.postgres.names[-1] == ""
    assert stage.api.state.wal == WalPosition(1, 100)
    assert stage.beats.last is not None
    assert (stage.beats.last.k, stage.beats.last.by_lease) == (0, True)


@pytest.mark.parametrize("step", ["", "set_standby_names", "probe_sync_rep", "barrier"])
async def test_to_quorum_and_broken_off_after_any_step(step: str) -> None:
    stage = Stage(ASYNC, asynchronous=False)
    await stage.begin()
    stage.postgres.fail = step
    for _ in range(8):
        await stage.tick()
        await asyncio.sleep(0.05)
    if step:
        assert stage.api.state.mode == "async", "nothing is counted before it is sure"
        stage.postgres.fail = ""
    await stage.until("quorum")
    await stage.tick()
    assert stage.postgres.names[-1].startswith("ANY 1 (")
    assert "nobody" not in stage.postgres.names[-1]
    assert stage.beats.last is not None
    assert (stage.beats.last.k, stage.beats.last.by_lease) == (1, False)
    assert stage.guardian.armed


async def test_a_wish_taken_back_in_the_middle_leaves_no_write_behind() -> None:
    """The write of async is late; the wish goes; a newer one makes it void before the fence is taken off."""
    stage = Stage(ALONE, asynchronous=True)
    await stage.begin()
    stage.api.fail = ["", "late", "late", "late", "late", "late", "late", "late"]
    await stage.tick()
    assert stage.live(), "it may land at any time"
    stage.api.fail = []
    stage.leadership.names = ""  # nothing else is to be written
    config = stage.instance.config
    assert config is not None
    stage.instance.config = replace(config, asynchronous=False, instances=NAMES[:1])
    for _ in range(5):
        await stage.tick()
    assert stage.live() == []
    assert stage.api.state.mode == "alone"
    assert not stage.guardian.armed


async def test_with_the_api_away_in_the_middle_the_fence_stays() -> None:
    stage = Stage(ALONE, asynchronous=True)
    await stage.begin()
    stage.api.fail = ["", "late"]
    original = stage.api.replace

    async def then_away(obj: dict[str, Any], **more: object) -> dict[str, Any]:
        try:
            return await original(obj, **more)
        finally:
            stage.api.down = bool(stage.api.late)

    stage.api.replace = then_away  # type: ignore[method-assign]
    await stage.tick()
    assert stage.live()
    await stage.tick()
    assert stage.guardian.armed, "whoever sees the late write land counts on it"


async def test_async_to_a_single_instance_takes_the_fence_off_after_the_lease() -> None:
    stage = Stage(ASYNC, asynchronous=False, instances=1)
    await stage.begin()
    await stage.until("alone")
    assert not stage.guardian.armed

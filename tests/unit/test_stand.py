"""Elections from suspicion to swap, among members that talk to each other directly and share a Lease and a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from matriarch.agent import ballots, candidate, instance, leases, voting
from matriarch.agent.beat import HeartbeatState, HeartbeatView, PeerView
from matriarch.agent.candidate import NotNow, stand, suspicion, taken_from_peer
from matriarch.agent.clock import SECOND
from matriarch.agent.config import ClusterConfig
from matriarch.agent.instance import Instance
from matriarch.agent.leases import Leases
from matriarch.decide import leasetext
from matriarch.decide.election import ASYNC_LEASE, MOST_BEHIND
from matriarch.decide.lease import CleanStop, LeaseState, Loss
from matriarch.decide.member import Member
from matriarch.errors import Refused, Unavailable
from matriarch.kube.errors import Conflict
from matriarch.postgres.timeline import WalPosition

A, B, C = (Member(f"orders-{i}", f"{i}" * 12) for i in (1, 2, 3))
WAL = 100 << 20
QUORUM = LeaseState(epoch=5, holder=A, bootstrap="orders-1", mode="quorum", voters=(B, C), k=1, opened=True)
ASYNC = replace(QUORUM, mode="async", k=0, wal=WalPosition(1, WAL))


class Api:
    """One Lease; `before` runs ahead of the next write."""

    def __init__(self, state: LeaseState) -> None:
        self.version, self.before, self.down = 10, lambda: None, False
        self.write(state, "t0")

    def write(self, state: LeaseState, renewed: str) -> None:
        self.version += 1
        self.object = leasetext.to_manifest(
            state, cluster="orders", namespace="prod", renew_time=renewed, labels={}, resource_version=str(self.version)
        )

    @property
    def state(self) -> LeaseState:
        return leasetext.from_manifest(self.object).state

    async def get(self, *_: object, **__: object) -> dict[str, Any]:
        if self.down:
            raise Unavailable("no API server")
        return self.object

    async def replace(self, obj: dict[str, Any], **_: object) -> dict[str, Any]:
        before, self.before = self.before, lambda: None
        before()
        if obj["metadata"]["resourceVersion"] != self.object["metadata"]["resourceVersion"]:
            raise Conflict("changed", status=409, reason="Conflict")
        self.version += 1
        self.object = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}
        return self.object


class Beats:
    """What this member hears of the others."""

    def __init__(self) -> None:
        self.view = HeartbeatView(1, started=1)

    async def send(self, state: HeartbeatState) -> None:
        self.view = replace(self.view, sequence=state.sequence)

    async def in_force(self, sequence: int, within: float) -> bool:
        return True

    def hear(self, **of: PeerView) -> None:
        self.view = replace(self.view, peers=tuple(of.values()))


class Postgres:
    """A standby whose WAL ends at `lsn`."""

    leads = False

    def __init__(self, lsn: int) -> None:
        self.lsn, self.cut = lsn, False

    async def status(self, **_: object) -> Any:
        return SimpleNamespace(position=WalPosition(1, self.lsn), in_recovery=True, system_identifier="7")

    async def vote_position(self) -> WalPosition:
        return WalPosition(1, self.lsn)

    async def cut_stream(self) -> None:
        self.cut = True

    async def end_client_sessions(self) -> None: ...


class Herd:
    """B and C; A is gone. `now` is the clock of both."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, state: LeaseState, **lsn: int) -> None:
        self.now, self.api = 1000 * SECOND, Api(state)
        for module in (ballots, candidate, instance, leases, voting):
            monkeypatch.setattr(module, "boottime", lambda: self.now)
        self.members = {m.instance: self._member(m, lsn.get(name, WAL)) for name, m in (("b", B), ("c", C))}
        self.silent: set[str] = set()

    def _member(self, me: Member, lsn: int) -> Instance:
        made = Instance(
            SimpleNamespace(instance=me.instance, cluster="orders", namespace="prod"),  # type: ignore[arg-type]
            SimpleNamespace(write_promise=lambda _: None),  # type: ignore[arg-type]
            self.api,  # type: ignore[arg-type]
            Leases(self.api, "orders", "prod", {}, keep=lambda _: None),  # type: ignore[arg-type]
            SimpleNamespace(),  # type: ignore[arg-type]
            Beats(),  # type: ignore[arg-type]
            Postgres(lsn),  # type: ignore[arg-type]
            SimpleNamespace(),  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            config=ClusterConfig(1, ("orders-1", "orders-2", "orders-3"), 0, required=False, asynchronous=True),
            me=me,
            server_role="standby",
            quiet_since=1,
        )
        made.leases.seen(self.api.object)
        return made

    async def post(self, to: str, path: str, body: Mapping[str, Any], *, timeout: float = 1.0) -> dict[str, Any]:
        if to not in self.members or to in self.silent:
            raise Unavailable(f"{to} does not answer")
        other = self.members[to]
        match path:
            case "/v1/prevote":
                return await voting.prevote(other, body["epoch"])
            case "/v1/promise":
                return await voting.promise(other, body["epoch"], to_another=True)
            case "/v1/lead":
                await taken_from_peer(other, dict(body))
        return {}

    @property
    def b(self) -> Instance:
        return self.members["orders-2"]

    @property
    def c(self) -> Instance:
        return self.members["orders-3"]


async def test_in_mode_async_nobody_stands_before_the_lease_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    herd = Herd(monkeypatch, ASYNC)
    herd.now += ASYNC_LEASE - 1
    assert not suspicion(herd.b).yes
    herd.now += 1
    assert suspicion(herd.b).yes
    won = await stand(herd.b)
    assert won is not None
    assert won.door_not_before == herd.now
    assert herd.api.state.holder == B
    assert herd.api.state.voters == (A, C)
    assert herd.api.state.loss == Loss(6, A, WalPosition(1, WAL), WalPosition(1, WAL))


async def test_after_an_outage_of_the_api_server_the_holder_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended itself and has all its writes: whoever is elected may lack some."""
    herd = Herd(monkeypatch, ASYNC)
    herd.api.down = True
    for _ in range(6):
        herd.now += 5 * SECOND
        with pytest.raises(Unavailable):
            await herd.b.leases.read()
    herd.api.down = False
    with pytest.raises(NotNow, match="the Lease was renewed a moment ago"):
        await stand(herd.b)
    herd.now += ASYNC_LEASE
    assert await stand(herd.b) is not None


async def test_one_read_that_failed_is_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    herd = Herd(monkeypatch, ASYNC)
    herd.now += ASYNC_LEASE
    herd.api.down = True
    with pytest.raises(Unavailable):
        await herd.b.leases.read()
    herd.api.down = False
    assert await stand(herd.b) is not None


async def test_a_renewal_that_was_not_seen_is_found_by_the_read(monkeypatch: pytest.MonkeyPatch) -> None:
    herd = Herd(monkeypatch, ASYNC)
    herd.now += ASYNC_LEASE
    herd.api.write(replace(ASYNC, wal=WalPosition(1, WAL + 8)), "t1")  # its watch hangs
    with pytest.raises(NotNow):
        await stand(herd.b)
    assert herd.api.state.holder == A


async def test_a_renewal_right_before_the_swap_makes_it_void(monkeypatch: pytest.MonkeyPatch) -> None:
    herd = Herd(monkeypatch, ASYNC)
    herd.now += ASYNC_LEASE
    herd.api.before = lambda: herd.api.write(ASYNC, "t1")
    with pytest.raises(NotNow):
        await stand(herd.b)
    assert herd.api.state.holder == A


async def test_who_holds_more_wins_although_another_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    herd = Herd(monkeypatch, ASYNC, b=WAL - 4096, c=WAL)
    herd.now += ASYNC_LEASE
    with pytest.raises(NotNow, match="orders-3 was asked to stand"):
        await stand(herd.b)
    assert await stand(herd.c) is not None
    assert herd.api.state.holder == C


async def test_who_saw_the_last_renewal_a_little_later_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    herd = Herd(monkeypatch, ASYNC, b=WAL - 4096, c=WAL)
    herd.now += ASYNC_LEASE
    herd.c.leases.renewal_seen += SECOND // 100
    with pytest.raises(NotNow, match="orders-3 holds more") as why:
        await stand(herd.b)
    assert why.value.wait == pytest.approx(0.01)


async def test_who_lacks_too_much_is_not_elected_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    herd = Herd(monkeypatch, ASYNC, b=WAL - MOST_BEHIND - 1)
    herd.silent = {"orders-3"}
    herd.b.heartbeat.hear(c=PeerView("orders-3", heard=herd.now))  # type: ignore[attr-defined]
    herd.now += ASYNC_LEASE
    with pytest.raises(NotNow) as why:
        await stand(herd.b)
    assert str(why.value) == (
        "no quorum: 0 of 1 voters would promise; orders-2: it lacks 16 MiB of WAL; orders-3 last seen 15 s ago"
    )
    assert herd.api.state.holder == A


async def test_a_hand_over_is_checked_by_who_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    herd = Herd(monkeypatch, ASYNC)
    herd.now += ASYNC_LEASE
    herd.c.leases.renewal_seen = herd.now
    await voting.keep_promise(herd.c, 6)
    body = {"epoch": 6, "state": leasetext.encode(ASYNC), "others": 1, "sign_ages": []}
    with pytest.raises(Refused, match="renewed a moment ago"):
        await taken_from_peer(herd.c, body)
    assert herd.api.state.holder == A


async def test_in_mode_quorum_one_that_is_silent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    herd = Herd(monkeypatch, replace(QUORUM, voters=(B, C), k=1))
    herd.silent = {"orders-3"}
    herd.b.heartbeat.hear(c=PeerView("orders-3", heard=herd.now - 10 * SECOND))  # type: ignore[attr-defined]
    herd.now += 2 * SECOND
    with pytest.raises(NotNow) as why:
        await stand(herd.b)
    assert str(why.value) == "no quorum: 1 of 2 voters answered; orders-3 last seen 12 s ago"


async def test_a_lease_of_which_a_voter_knows_a_newer_one_elects_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    herd = Herd(monkeypatch, QUORUM)
    herd.c.leases.state = replace(QUORUM, epoch=9, holder=C, voters=(A, B), claimed=4)
    herd.now += 10 * SECOND
    with pytest.raises(NotNow, match="epoch 9 is known elsewhere"):
        await stand(herd.b)
    assert herd.b.promised == 0, "half an election costs a good standby"
    assert herd.api.state.holder == A


async def test_in_mode_quorum_two_win_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    herd = Herd(monkeypatch, QUORUM)
    herd.now += 10 * SECOND
    assert await stand(herd.b) is not None
    assert herd.api.state.holder == B
    assert herd.c.promised == herd.b.promised == 6
    assert herd.api.state.loss is None
    assert herd.api.state.revision == 1


def reads(herd: Herd, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the API server from here on, reads alone."""
    asked: list[str] = []
    real = herd.api.get

    async def get(*args: object, **options: object) -> dict[str, Any]:
        asked.append("get")
        return await real(*args, **options)

    monkeypatch.setattr(herd.api, "get", get)
    return asked


def posts(herd: Herd, monkeypatch: pytest.MonkeyPatch, order: list[str]) -> None:
    """What is asked of peers from here on."""
    post = herd.post

    async def noted(to: str, path: str, body: Mapping[str, Any], *, timeout: float = 1.0) -> dict[str, Any]:
        order.append(path)
        return await post(to, path, body, timeout=timeout)

    monkeypatch.setattr(herd, "post", noted)


async def test_after_a_holder_that_said_it_is_fenced_the_voters_are_asked_while_the_lease_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    herd = Herd(monkeypatch, QUORUM)
    for member in herd.members.values():
        member.heartbeat.hear(a=PeerView("orders-1", heard=herd.now, fenced=5))  # type: ignore[attr-defined]
    order = reads(herd, monkeypatch)
    posts(herd, monkeypatch, order)
    real = herd.api.get

    async def slow(*args: object, **options: object) -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return await real(*args, **options)

    monkeypatch.setattr(herd.api, "get", slow)
    assert await stand(herd.b) is not None
    assert (herd.api.state.holder, order) == (B, ["/v1/prevote", "get", "/v1/promise"])


async def test_an_heir_that_no_watch_told_of_yet_is_left_to_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a switchover "fenced" may be heard before the Lease that names the heir."""
    herd = Herd(monkeypatch, QUORUM)
    for member in herd.members.values():
        member.heartbeat.hear(a=PeerView("orders-1", heard=herd.now, fenced=5))  # type: ignore[attr-defined]
    named = replace(QUORUM, heir=C, clean_stop=CleanStop(1, WAL - 100))
    herd.api.write(named, "t1")
    with pytest.raises(NotNow, match="another by now"):
        await stand(herd.b)
    assert (herd.b.promised, herd.c.promised, herd.api.state) == (
        0,
        0,
        replace(named, revision=herd.api.state.revision),
    )


async def test_a_lease_that_is_another_by_then_is_not_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    herd = Herd(monkeypatch, QUORUM)
    for member in herd.members.values():
        member.heartbeat.hear(a=PeerView("orders-1", heard=herd.now, fenced=5))  # type: ignore[attr-defined]
    herd.api.write(replace(QUORUM, leaving=("orders-3",)), "t1")  # and no watch told of it yet
    with pytest.raises(NotNow, match="another by now"):
        await stand(herd.b)
    assert (herd.api.state.holder, herd.b.promised, herd.c.promised) == (A, 0, 0)
    assert await stand(herd.b) is not None


async def test_who_hears_of_the_fence_a_little_later_is_asked_again_when_the_lease_was_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    herd = Herd(monkeypatch, replace(QUORUM, voters=(B, C), k=1))
    fenced = PeerView("orders-1", heard=herd.now, fenced=5)
    herd.b.heartbeat.hear(a=fenced)  # type: ignore[attr-defined]
    herd.c.heartbeat.view = replace(  # type: ignore[misc]
        herd.c.heartbeat.view, granted_until=herd.now + SECOND, granted_epoch=5
    )
    real = herd.api.get

    async def slow(*args: object, **options: object) -> dict[str, Any]:
        await asyncio.sleep(0.02)
        herd.c.heartbeat.hear(a=fenced)  # type: ignore[attr-defined]
        return await real(*args, **options)

    monkeypatch.setattr(herd.api, "get", slow)
    assert await stand(herd.b) is not None


async def test_who_still_hears_a_holder_that_is_final_is_asked_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    herd = Herd(monkeypatch, QUORUM)
    herd.b.heartbeat.hear(a=PeerView("orders-1", heard=herd.now, fenced=5))  # type: ignore[attr-defined]
    herd.c.heartbeat.view = replace(  # type: ignore[misc]
        herd.c.heartbeat.view, granted_until=herd.now + SECOND, granted_epoch=5
    )
    with pytest.raises(NotNow, match="orders-3: the holder was heard a moment ago") as why:
        await stand(herd.b)
    assert why.value.wait <= candidate.SOON


@pytest.mark.parametrize("state", [QUORUM, ASYNC])
async def test_after_a_holder_that_is_only_silent_it_is_read(
    monkeypatch: pytest.MonkeyPatch, state: LeaseState
) -> None:
    herd = Herd(monkeypatch, state)
    herd.now += 10 * SECOND + ASYNC_LEASE
    order = reads(herd, monkeypatch)
    posts(herd, monkeypatch, order)
    assert await stand(herd.b) is not None
    assert order[:2] == ["get", "/v1/prevote"]

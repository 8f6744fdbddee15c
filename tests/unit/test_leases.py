"""Swaps of the Lease: what is void, what is settled by reading, and that nothing old replaces anything newer.

The API server here is a dictionary with its compare-and-swap and its ways to fail; against a real one the same code
runs in the end-to-end tests.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from matriarch.agent.leases import Leases, Lost
from matriarch.decide import lease as transitions
from matriarch.decide import leasetext
from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
from matriarch.errors import Unavailable
from matriarch.kube.errors import Conflict
from matriarch.postgres.timeline import WalPosition

A, B = Member("orders-1", "aa"), Member("orders-2", "bb")
STATE = LeaseState(epoch=5, holder=A, bootstrap="orders-1", mode="quorum", voters=(B,), k=1, system_identifier="7")


class Server:
    """One Lease. `before` runs ahead of each write, `lose` makes its answer be lost after it landed."""

    def __init__(self, state: LeaseState) -> None:
        self.version = 10
        self.before: list[Callable[[], None]] = []
        self.lose = 0
        self.write(state)

    def write(self, state: LeaseState, renewed: str = "t0") -> None:
        self.version += 1
        self.object = leasetext.to_manifest(
            state, cluster="orders", namespace="prod", renew_time=renewed, labels={}, resource_version=str(self.version)
        )

    @property
    def state(self) -> LeaseState:
        return leasetext.from_manifest(self.object).state

    async def get(self, *_: object, **__: object) -> dict[str, Any]:
        return copy.deepcopy(self.object)

    async def replace(self, obj: dict[str, Any], **_: object) -> dict[str, Any]:
        if self.before:
            self.before.pop(0)()
        if obj["metadata"]["resourceVersion"] != self.object["metadata"]["resourceVersion"]:
            raise Conflict("changed", status=409, reason="Conflict")
        self.version += 1
        self.object = copy.deepcopy(obj)
        self.object["metadata"]["resourceVersion"] = str(self.version)
        if self.lose:
            self.lose -= 1
            raise Unavailable("the answer was lost")
        return copy.deepcopy(self.object)


def leases(server: Server) -> Leases:
    return Leases(server, "orders", "prod", {}, keep=lambda _: None)  # type: ignore[arg-type]  # the stand-in above


async def test_a_swap_goes_through_a_renewal_that_came_in_between() -> None:
    server = Server(STATE)
    mine = leases(server)
    base = await mine.read()
    server.before = [lambda: server.write(replace(STATE, no_voters=True), "t1")]
    won = await mine.swap(base, transitions.reclaimed(base.state, [7], "n"))
    assert won.epoch == server.state.epoch == 8
    assert mine.authority == 8


async def test_a_swap_is_void_when_the_voters_changed_in_between() -> None:
    server = Server(STATE)
    mine = leases(server)
    base = await mine.read()
    server.before = [lambda: server.write(transitions.voters_set(STATE, "alone", (), 0))]
    with pytest.raises(Lost):
        await mine.swap(base, transitions.reclaimed(base.state, [], "n"))
    assert server.state.epoch == 5
    assert mine.authority == 0


async def test_a_lost_answer_is_settled_by_reading() -> None:
    server = Server(STATE)
    mine = leases(server)
    base = await mine.read()
    server.lose = 1
    await mine.swap(base, transitions.reclaimed(base.state, [], "n"))
    assert mine.authority == server.state.epoch == 6


async def test_a_rival_with_the_same_epoch_is_told_by_its_nonce() -> None:
    server = Server(STATE)
    mine = leases(server)
    base = await mine.read()
    server.before = [lambda: server.write(transitions.reclaimed(STATE, [], "rival"))]
    with pytest.raises(Lost):
        await mine.swap(base, transitions.reclaimed(base.state, [], "mine"))
    assert mine.authority == 0


ASYNC = replace(STATE, mode="async", k=0)


async def test_a_renewal_of_unknown_outcome_is_none_until_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Lease says the same before and after: only its time proves that others saw it renewed."""
    server = Server(ASYNC)
    mine = leases(server)
    await mine.read()

    async def lost(obj: dict[str, Any], **_: object) -> dict[str, Any]:
        raise Unavailable("nothing of it arrived")

    with monkeypatch.context() as away:
        away.setattr(server, "replace", lost)
        with pytest.raises(Unavailable):
            await mine.renew(no_voters=False)
    assert mine.renewed is None
    server.lose = 1
    await mine.renew(no_voters=False, wal=WalPosition(2, 9))
    assert mine.renewed is not None
    assert server.state.wal == WalPosition(2, 9)


async def test_in_mode_async_a_renewal_makes_a_takeover_void() -> None:
    server = Server(ASYNC)
    mine = leases(server)
    base = await mine.read()
    server.before = [lambda: server.write(ASYNC, "t1")]
    with pytest.raises(Lost):
        await mine.swap(base, transitions.taken_over(ASYNC, B, 6, WalPosition(1, 5), "n"), through_renewals=False)
    assert server.state.holder == A


async def test_a_change_and_a_renewal_side_by_side_both_land() -> None:
    server = Server(ASYNC)
    mine = leases(server)
    base = await mine.read()
    server.lose = 1
    server.before = [lambda: server.write(replace(ASYNC, wal=WalPosition(1, 77)), "t1")]
    changed = await mine.swap(base, transitions.opened_set(base.state))
    assert changed.opened
    assert server.state.opened


async def test_a_late_watch_never_brings_an_older_set_of_voters_back() -> None:
    server = Server(STATE)
    mine = leases(server)
    late = await server.get()
    await mine.read()
    await mine.change(lambda s: transitions.voters_set(s, "alone", (), 0))
    assert mine.seen(late).mode == "alone"


async def test_a_lease_that_was_rolled_back_is_void() -> None:
    server = Server(STATE)
    mine = leases(server)
    await mine.read()
    server.write(replace(STATE, epoch=3, holder=B, voters=(A,)))
    with pytest.raises(Lost, match="rolled back"):
        await mine.read()
    assert mine.state is not None
    assert mine.state.epoch == 5


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(replace(STATE, revision=19, voters=(A, B)), id="an older set of voters of the same epoch"),
        pytest.param(replace(STATE, epoch=9, revision=19), id="somebody wrote on from an older copy"),
        pytest.param(replace(STATE, epoch=9, claimed=1, revision=0), id="from one that knows less timelines"),
    ],
)
async def test_what_comes_from_an_older_copy_is_void(found: LeaseState) -> None:
    known = replace(STATE, claimed=2, revision=20)
    server = Server(known)
    mine = leases(server)
    await mine.read()
    server.write(found)
    with pytest.raises(Lost, match="rolled back"):
        await mine.read()
    assert mine.state == known
    assert mine.seen(await server.get()) == known


async def test_one_written_above_it_is_taken_although_versions_went_back() -> None:
    server = Server(replace(STATE, revision=20))
    server.version = 2000
    server.write(server.state)
    mine = leases(server)
    await mine.read()
    server.version = 1500  # a store that was restored counts on from there
    server.write(replace(STATE, epoch=6, revision=21))
    assert (await mine.read()).state.epoch == 6
    await mine.renew(no_voters=False)
    assert mine.state is not None
    assert mine.state.epoch == 6


async def test_every_change_is_counted_and_no_renewal_is() -> None:
    server = Server(ASYNC)
    kept: list[LeaseState] = []
    mine = leases(server)
    mine.keep = kept.append
    await mine.read()
    await mine.renew(no_voters=False, wal=WalPosition(1, 9))
    assert server.state.revision == 0
    assert len(kept) == 1, "a renewal touches no disk"
    await mine.change(transitions.opened_set)
    assert server.state.revision == 1
    assert kept[-1].opened


async def test_what_others_put_onto_the_object_stays() -> None:
    server = Server(STATE)
    server.object["metadata"]["annotations"]["example.org/mine"] = "x"
    server.object["metadata"]["finalizers"] = ["example.org/hold"]
    mine = leases(server)
    await mine.renew(no_voters=False)
    assert server.object["metadata"]["annotations"]["example.org/mine"] == "x"
    assert server.object["metadata"]["finalizers"] == ["example.org/hold"]
    assert server.object["spec"]["renewTime"] != "t0"


async def test_a_change_of_what_is_known_needs_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(STATE)
    mine = leases(server)
    await mine.read()

    async def get(*_: object, **__: object) -> dict[str, Any]:
        pytest.fail("nothing has to be read")

    monkeypatch.setattr(server, "get", get)
    await mine.change(lambda s: replace(s, leaving=("orders-3",)))
    assert server.state.leaving == ("orders-3",)


async def test_a_change_of_what_is_known_no_more_is_derived_anew() -> None:
    server = Server(STATE)
    mine = leases(server)
    await mine.read()
    server.write(replace(STATE, voters=(B, A), k=2))  # and the watch is late
    await mine.change(lambda s: replace(s, leaving=("orders-3",)))
    assert (server.state.leaving, server.state.voters, server.state.k) == (("orders-3",), (B, A), 2)


async def test_a_change_that_what_is_known_forbids_asks_what_is() -> None:
    server = Server(STATE)
    mine = leases(server)
    await mine.read()
    server.write(replace(STATE, epoch=6))

    def only_at_6(state: LeaseState) -> LeaseState:
        if state.epoch != 6:
            raise Lost("another epoch")
        return replace(state, leaving=("orders-3",))

    await mine.change(only_at_6)
    assert (server.state.epoch, server.state.leaving) == (6, ("orders-3",))


async def test_a_claim_is_under_way_until_its_answer_and_a_renewal_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(STATE)
    mine = leases(server)
    base = await mine.read()
    seen: list[bool] = []
    server.before = [lambda: seen.append(mine.claiming), lambda: seen.append(mine.claiming)]
    await mine.renew(no_voters=False)
    await mine.swap(base, transitions.reclaimed(base.state, [0], "n"))
    assert seen == [False, True]
    server.before = [lambda: server.write(replace(STATE, epoch=9, holder=B))]
    with pytest.raises(Lost):
        await mine.swap(mine.known or base, transitions.reclaimed(server.state, [0], "m"))
    assert not mine.claiming


async def test_the_time_of_an_epoch_is_when_it_was_first_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(STATE)
    mine = leases(server)
    monkeypatch.setattr("matriarch.agent.leases.boottime", lambda: 7)
    await mine.read()
    monkeypatch.setattr("matriarch.agent.leases.boottime", lambda: 9)
    await mine.renew(no_voters=False)
    assert mine.epoch_seen == 7
    await mine.change(lambda s: transitions.reclaimed(s, [0], "n"))
    assert mine.epoch_seen == 9

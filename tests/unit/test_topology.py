"""What a cluster needs next: creation, loss, scaling, deletion's traces, and every interruption in between."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matriarch.decide.actions import (
    Announce,
    BeginSwitchover,
    CreateClaim,
    CreateLease,
    CreatePod,
    DeleteClaim,
    DeletePod,
    FinishErasure,
    ForgetErasure,
    GrowClaim,
    RestartPostgres,
    Resume,
    SetLeaving,
)
from matriarch.decide.facts import Claim, Memory
from matriarch.decide.lease import filled, initial, resumed, suspended
from matriarch.decide.topology import decide
from matriarch.decide.verdict import Standing

sys.path.insert(0, str(Path(__file__).parent))

from cluster_world import SIZE, START, World, names, world


def ready(count: int = 3, **wish: object) -> World:
    w = world(count, **wish)
    plan = w.settle()
    assert plan.verdict.standing is Standing.READY, plan.verdict
    w.log.clear()
    return w


def test_everything_is_made_in_one_round_and_the_lease_before_any_volume() -> None:
    w = world(3)
    actions = list(decide(w.facts(), START).actions)
    assert actions[0] == CreateLease("orders-1")
    assert actions[1:4] == [CreateClaim(n) for n in names(3)]
    assert actions[4:] == [CreatePod(n) for n in names(3)]


def test_while_a_restore_brings_the_data_there_is_a_volume_and_no_instance() -> None:
    w = world(3, restore="r1", restore_name="back")
    plan = w.reconcile()
    assert [a for a in plan.actions if isinstance(a, CreateLease | CreateClaim | CreatePod)] == [
        CreateLease("orders-1", restore="r1"),
        CreateClaim("orders-1"),
    ]
    assert (plan.verdict.standing, plan.verdict.reason) == (Standing.WORKING, "Restoring")
    assert w.reconcile().actions == ()
    gone = decide(replace(w.facts(), restore_problem="Restore back, which was to bring the data, failed."), START)
    assert (gone.verdict.standing, gone.verdict.reason, gone.actions) == (Standing.STALLED, "RestoreFailed", ())
    w.wish = replace(w.wish, restore="", restore_name="")  # the annotation counts for the Lease's making only
    assert w.reconcile().actions == ()
    assert w.lease is not None
    w.lease = filled(w.lease, "r1")
    assert [a for a in w.reconcile().actions if isinstance(a, CreatePod)] == [CreatePod(n) for n in names(3)]


def test_a_restore_in_place_ends_the_primary_first_and_starts_nobody() -> None:
    w = ready(3)
    assert w.lease is not None
    before = w.lease
    w.lease = suspended(w.lease, "r1")
    w.wish = replace(w.wish, instances=names(4), storage=2 * SIZE)
    plan = w.reconcile()
    assert [a.instance for a in plan.actions if isinstance(a, DeletePod)] == ["orders-1"]
    assert {type(a) for a in plan.actions} == {DeletePod}, "nothing else is begun"
    assert (plan.verdict.standing, plan.verdict.reason) == (Standing.WORKING, "Restoring")
    w.tick()
    assert {a.instance for a in w.reconcile().actions if isinstance(a, DeletePod)} == {"orders-2", "orders-3"}
    w.tick()
    assert not w.pods
    assert w.reconcile().actions == ()
    given_up = decide(replace(w.facts(), restore_problem="Restore back is over (Failed)."), START)
    assert [a for a in given_up.actions if not isinstance(a, Announce)] == [Resume("r1")]
    assert "data that it had" in given_up.verdict.message
    w.lease = resumed(w.lease, "r1")
    assert w.settle().verdict.standing is Standing.READY
    assert w.lease is not None
    assert (w.lease.epoch, w.lease.system_identifier) == (before.epoch, before.system_identifier)


@pytest.mark.parametrize("stop", range(6))
def test_what_a_restore_in_place_brought_takes_the_place_of_everybody_s(stop: int) -> None:
    w = ready(3)
    assert w.lease is not None
    w.lease = suspended(w.lease, "r1")
    for _ in range(4):
        w.reconcile(stop)
        w.tick()
    while w.pods:
        w.reconcile()
        w.tick()
    w.lease = filled(w.lease, "r1")
    assert {type(a) for a in decide(w.facts(), w.now).actions} == {CreatePod}
    w.reconcile(stop)
    assert w.settle().verdict.standing is Standing.READY
    assert w.lease is not None
    assert w.lease.replaced == ("sysid",)
    assert len(w.lease.voters) == 2
    assert not any(isinstance(a, DeleteClaim) for a in w.log)


def test_restored_data_that_is_lost_before_anybody_ran_on_it_is_said_and_no_empty_volume_made() -> None:
    w = ready(3)
    assert w.lease is not None
    w.lease = filled(suspended(w.lease, "r1"), "r1")
    w.pods.clear()
    kept = w.claims.pop("orders-1")
    plan = decide(w.facts(), w.now)
    assert not any(isinstance(a, CreateClaim | CreatePod) for a in plan.actions)
    assert (plan.verdict.standing, plan.verdict.reason) == (Standing.STALLED, "RestoredDataMissing")
    w.claims["orders-1"] = kept
    plan = decide(w.facts(), w.now)
    assert (plan.verdict.standing, plan.verdict.reason) == (Standing.WORKING, "StartingRestored")
    assert "elect" not in plan.verdict.message


def test_a_hold_is_taken_back_and_pods_end_also_under_a_spec_that_is_refused() -> None:
    w = ready(3)
    assert w.lease is not None
    w.lease = suspended(w.lease, "r1")
    refused = replace(w.facts(), refusals=("spec.version: unknown",))
    assert [type(a) for a in decide(refused, START).actions] == [DeletePod]
    over = replace(refused, restore_problem="Restore back is over (Failed).")
    assert Resume("r1") in decide(over, START).actions


def test_scale_down_waits_for_replaced_data_that_nobody_said_is_superfluous() -> None:
    w = ready(3)
    assert w.lease is not None
    w.lease, w.kept = replace(w.lease, replaced=("6",)), {"orders-3"}
    w.wish = replace(w.wish, instances=names(2))
    for _ in range(20):
        plan = w.reconcile()
        w.tick()
    assert "orders-3" in w.claims
    assert w.lease is not None
    assert not w.lease.names_instance("orders-3")
    assert (plan.verdict.reason, "forget-replaced" in plan.verdict.message) == ("Scaling", True)
    silent = replace(w.facts(), instances=tuple(replace(i, agent=None) for i in w.facts().instances))
    assert not any(isinstance(a, DeletePod | DeleteClaim) for a in decide(silent, w.now).actions), "it may have some"
    w.kept = set()  # somebody said so, and its agent removed it
    assert w.settle().verdict.standing is Standing.READY
    assert "orders-3" not in w.claims


def test_a_delayed_replica_neither_initialises_nor_stays_primary() -> None:
    w = world(3, delayed=("orders-1",))
    assert CreateLease("orders-2") in decide(w.facts(), START).actions
    w = ready(3)
    assert w.holder == "orders-1"
    w.wish = replace(w.wish, delayed=("orders-1",))
    assert any(isinstance(a, BeginSwitchover) for a in decide(w.facts(), START).actions)


def test_the_wanted_primary_is_the_one_that_initialises() -> None:
    w = world(3, primary="orders-3")
    assert CreateLease("orders-3") in decide(w.facts(), START).actions
    w.settle()
    assert w.holder == "orders-3"
    assert not any(isinstance(a, BeginSwitchover) for a in w.log)


def test_a_settled_cluster_needs_nothing() -> None:
    w = ready(3)
    plan = w.reconcile()
    assert plan.actions == ()
    assert plan.requeue == w.wish.health_interval


def test_an_invalid_spec_changes_nothing() -> None:
    facts = replace(ready(3).facts(), refusals=("spec.version: unknown",))
    plan = decide(facts, START)
    assert plan.actions == ()
    assert (plan.verdict.standing, plan.verdict.reason) == (Standing.STALLED, "InvalidSpec")
    assert "spec.version: unknown" in plan.verdict.message


@pytest.mark.parametrize("trace", ["claim", "status"])
def test_nothing_is_initialised_while_anything_shows_that_data_existed(trace: str) -> None:
    w = world(3)
    if trace == "claim":
        w.claims["orders-2"] = Claim("u", SIZE)
    else:
        w.memory = Memory(system_identifier="7711")
    plan = decide(w.facts(), START)
    assert plan.actions == ((CreatePod("orders-2"),) if trace == "claim" else ()), "its copy of the Lease may be there"
    assert plan.verdict.reason == "LeaseLost"
    later = decide(replace(w.facts(), memory=replace(w.memory, not_ready_since=START)), START + timedelta(minutes=2))
    assert (later.verdict.standing, later.verdict.reason) == (Standing.STALLED, "LeaseLost")


def test_a_lease_that_cannot_be_read_stops_everything() -> None:
    w = ready(3)
    w.copies.clear()
    plan = decide(replace(w.facts(), lease=None, lease_problem="no annotation"), START)
    assert (plan.actions, plan.verdict.reason) == ((), "LeaseUnreadable")


def test_a_lease_whose_members_lost_all_volumes_stops_everything() -> None:
    w = ready(3)
    w.pods.clear()
    w.claims.clear()
    plan = decide(w.facts(), w.now)
    assert (plan.actions, plan.verdict.reason) == ((), "DataMissing")


def test_one_lost_volume_is_made_anew() -> None:
    w = ready(3)
    del w.pods["orders-3"], w.claims["orders-3"], w.members["orders-3"]
    actions = decide(w.facts(), w.now).actions
    assert CreateClaim("orders-3") in actions
    assert CreatePod("orders-3") in actions
    assert w.settle().verdict.standing is Standing.READY


def test_no_pod_on_a_volume_that_somebody_deletes() -> None:
    w = ready(3)
    w.claims["orders-3"] = replace(w.claims["orders-3"], terminating=True)
    del w.pods["orders-3"]
    assert not any(isinstance(a, CreatePod | CreateClaim) for a in decide(w.facts(), w.now).actions)


def test_a_finished_pod_is_replaced() -> None:
    w = ready(3)
    w.pods["orders-2"] = replace(w.pods["orders-2"], finished=True, ready=False, running=False)
    uid = w.pods["orders-2"].uid
    assert any(isinstance(a, DeletePod) and a.uid == uid for a in decide(w.facts(), w.now).actions)
    assert w.settle().verdict.standing is Standing.READY


def test_volumes_grow() -> None:
    w = ready(3)
    w.wish = replace(w.wish, storage=2 * SIZE)
    assert [a for a in decide(w.facts(), w.now).actions if isinstance(a, GrowClaim)] == [GrowClaim(n) for n in names(3)]


def test_scale_down_marks_first_and_deletes_only_what_the_lease_forgot() -> None:
    w = ready(5)
    w.wish = replace(w.wish, instances=names(3), number=1)
    first = w.reconcile().actions
    assert first == (SetLeaving(("orders-4", "orders-5")),)
    w.settle()
    assert sorted(w.claims) == list(names(3))
    order = [type(a).__name__ for a in w.log if getattr(a, "instance", None) == "orders-5"]
    assert order == ["DeletePod", "DeleteClaim"]
    assert w.lease is not None
    assert w.lease.leaving == ()


def test_scale_down_hands_over_before_the_primary_leaves() -> None:
    w = ready(3)
    w.hand_over("orders-3")
    w.settle()
    w.log.clear()
    w.wish = replace(w.wish, instances=names(1), number=0)
    plan = w.settle()
    assert plan.verdict.standing is Standing.READY
    assert w.holder == "orders-1"
    begun = next(i for i, a in enumerate(w.log) if isinstance(a, BeginSwitchover))
    deleted = next(
        i for i, a in enumerate(w.log) if isinstance(a, DeletePod | DeleteClaim) and a.instance == "orders-3"
    )
    assert begun < deleted


def test_scale_down_keeps_a_primary_that_nobody_can_follow() -> None:
    w = ready(2)
    w.hand_over("orders-2")
    w.settle()
    w.unready.add("orders-1")
    w.tick()
    w.wish = replace(w.wish, instances=names(1), number=0)
    for _ in range(30):
        w.reconcile()
        w.tick()
    assert "orders-2" in w.claims
    assert w.pods["orders-2"].running


def test_wanted_again_is_not_leaving_any_more() -> None:
    w = ready(3)
    w.wish = replace(w.wish, instances=names(2))
    w.reconcile()
    w.wish = replace(w.wish, instances=names(3))
    assert SetLeaving(()) in decide(w.facts(), w.now).actions
    assert w.settle().verdict.standing is Standing.READY


def test_an_instance_that_is_left_over_runs_until_it_handed_over() -> None:
    """Kept data of three instances, adopted by a resource that wants one."""
    w = ready(3)
    w.hand_over("orders-3")
    w.settle()
    w.pods.clear()
    w.wish = replace(w.wish, instances=names(1), number=0)
    assert CreatePod("orders-3") in decide(w.facts(), w.now).actions
    assert w.settle().verdict.standing is Standing.READY
    assert w.holder == "orders-1"


class TestErasure:
    """A deletion with its data had begun when the resource came back."""

    def test_volumes_that_are_still_there_are_adopted(self) -> None:
        plan = decide(replace(ready(3).facts(), erasing=True), START)
        assert plan.actions == (ForgetErasure(),)

    def test_volumes_that_go_are_waited_for(self) -> None:
        w = ready(3)
        w.claims = {n: replace(c, terminating=True) for n, c in w.claims.items()}
        assert decide(replace(w.facts(), erasing=True), START).actions == ()

    def test_then_the_lease_goes_and_a_new_cluster_begins(self) -> None:
        w = ready(3)
        w.pods, w.claims = {}, {}
        plan = decide(replace(w.facts(), erasing=True), START)
        assert plan.actions == (FinishErasure(),)
        assert plan.memory.system_identifier == ""


def test_a_failover_is_told_once() -> None:
    w = ready(3)
    del w.pods["orders-1"]
    w.tick()
    told = []
    for _ in range(10):
        told += [a for a in w.reconcile().actions if isinstance(a, Announce)]
        w.tick()
    assert [a.reason for a in told] == ["FailedOver"]
    assert w.memory.failed_over is not None


# --- interruptions ---------------------------------------------------------------------------------------------------

_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("reconcile"), st.integers(0, 12)),
        st.tuples(st.just("tick"), st.integers(1, 4)),
        st.tuples(st.just("scale"), st.integers(1, 5)),
        st.tuples(st.just("image"), st.sampled_from(["v1", "v2", "v3"])),
        st.tuples(st.just("restart"), st.sampled_from(["a", "b"])),
        st.tuples(st.just("lose-pod"), st.integers(1, 5)),
        st.tuples(st.just("lose-volume"), st.integers(1, 5)),
        st.tuples(st.just("primary"), st.integers(1, 5)),
        st.tuples(st.just("annotate"), st.integers(1, 5)),
        st.tuples(st.just("parameter"), st.sampled_from(["raise", "lower"])),
    ),
    max_size=25,
)


def _happen(w: World, what: str, value: object) -> None:
    match what, value:
        case "reconcile", int(n):
            _checked(w, n)
        case "tick", int(n):
            for _ in range(n):
                w.tick()
        case "scale", int(n):
            w.wish = replace(w.wish, instances=names(n), number=max(1, n // 2) if n > 1 else 0)
        case "image", str(image):
            w.image = image
        case "restart", str(text):
            w.wish = replace(w.wish, restart=text)
        case "lose-pod", int(n):
            w.pods.pop(f"orders-{n}", None)
        case "lose-volume", int(n):
            name = f"orders-{n}"
            others = [v for v in w.streaming() if v.instance != name]
            if name != w.holder and w.lease is not None and w.lease.opened and len(others) >= max(1, w.lease.k):
                for kept in (w.pods, w.claims, w.members):
                    kept.pop(name, None)
        case "primary", int(n):
            w.wish = replace(w.wish, primary=f"orders-{n}")
        case "annotate", int(n):
            w.wish = replace(w.wish, request=f"orders-{n}@{w.serial}")
        case "parameter", str(direction):
            new = "200" if direction == "raise" else "50"
            w.pending = {n: {"max_connections": ("100", new)} for n in w.pods if w.up(n)}


def _checked(w: World, stop_after: int | None) -> None:
    """A round that may be cut short; no plan may take away more than one working instance."""
    before = w.facts()
    serving, streaming = before.serving, before.streaming_voters
    plan = decide(before, w.now)
    taken = []
    for a in plan.actions:
        deletes = isinstance(a, DeletePod) and a.instance in w.wish.instances and w.pods[a.instance].ready
        if deletes or isinstance(a, BeginSwitchover | RestartPostgres):
            taken.append(a)
    assert len(taken) <= 1, taken
    for a in taken:
        if isinstance(a, DeletePod | RestartPostgres) and len(w.wish.instances) > 2 and serving:
            instance = a.instance
            assert before.lease is not None
            if instance != before.holder:
                assert len(streaming - {instance}) >= before.lease.k, f"{a} leaves fewer than k"
            else:
                assert isinstance(a, RestartPostgres), f"{a} deletes the primary of several"
    w.reconcile(stop_after)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 5), _STEPS)
def test_whatever_is_interrupted_it_ends_as_wished(count: int, steps: list[tuple[str, object]]) -> None:
    w = world(count)
    for what, value in steps:
        _happen(w, what, value)
    if w.wish.primary is not None and w.wish.primary not in w.wish.instances:
        w.wish = replace(w.wish, primary=None)  # the schema refuses it
    for _ in range(500):
        _checked(w, None)
        w.tick()
        plan = decide(w.facts(), w.now)
        if plan.verdict.standing is Standing.READY and not plan.actions:
            break
    assert plan.verdict.standing is Standing.READY, (plan, w.lease)
    assert sorted(w.pods) == list(w.wish.instances)
    assert sorted(w.claims) == list(w.wish.instances)
    assert {p.hash for p in w.pods.values()} == {w.image}
    assert w.wish.restart is None or {p.restart for p in w.pods.values()} == {w.wish.restart}
    assert not w.pending
    assert w.lease is not None
    assert w.lease.leaving == ()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 15))
def test_creation_may_stop_after_any_step(stop: int) -> None:
    w = world(3)
    w.reconcile(stop)
    assert w.settle().verdict.standing is Standing.READY
    assert w.holder == "orders-1"


def test_a_wish_for_a_primary_that_failed_over_does_not_flap() -> None:
    w = ready(3, primary="orders-1")
    del w.pods["orders-1"]
    w.tick()
    w.settle()
    assert w.holder != "orders-1"
    w.log.clear()
    for _ in range(200):
        w.reconcile()
        w.tick()
    assert not any(isinstance(a, BeginSwitchover) for a in w.log)


def test_a_failed_switchover_pauses() -> None:
    w = ready(3)
    w.wish = replace(w.wish, primary="orders-2")
    plan = decide(w.facts(), w.now)
    assert BeginSwitchover("orders-1", "orders-2", "spec.primary") in plan.actions
    aborted = replace(plan.memory.switchover, state="aborted", finished=w.now) if plan.memory.switchover else None
    w.memory = replace(plan.memory, switchover=aborted)
    assert decide(w.facts(), w.now + timedelta(seconds=29)).actions == ()
    later = decide(w.facts(), w.now + timedelta(seconds=31)).actions
    assert BeginSwitchover("orders-1", "orders-2", "spec.primary") in later


def test_epoch_zero_bootstrap_is_not_deleted_while_it_may_initialise() -> None:
    w = world(3)
    w.lease = replace(initial("orders-3"), leaving=("orders-3",))
    w.claims = {n: Claim(w.uid(), SIZE) for n in names(3)}
    w.wish = replace(w.wish, instances=names(1), number=0)
    assert not any(isinstance(a, DeletePod | DeleteClaim) for a in decide(w.facts(), START).actions)

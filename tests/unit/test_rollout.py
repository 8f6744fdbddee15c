"""Whose turn it is in a rolling update, and when it is nobody's."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from matriarch.decide import rollout
from matriarch.decide.actions import BeginSwitchover, DeletePod, RestartPostgres
from matriarch.decide.topology import decide
from matriarch.decide.verdict import Standing

sys.path.insert(0, str(Path(__file__).parent))

from cluster_world import World, names, world


def ready(count: int = 3, **wish: object) -> World:
    w = world(count, **wish)
    assert w.settle().verdict.standing is Standing.READY
    w.log.clear()
    return w


def taken(w: World) -> list[str]:
    """What the rollout did, in order."""
    short = {DeletePod: "pod", RestartPostgres: "restart", BeginSwitchover: "to"}
    return [
        f"{short[type(a)]} {a.to if isinstance(a, BeginSwitchover) else a.instance}"
        for a in w.log
        if isinstance(a, DeletePod | RestartPostgres | BeginSwitchover)
    ]


def test_replicas_then_switchover_then_the_former_primary() -> None:
    w = ready(3)
    w.image = "v2"
    w.settle()
    assert taken(w) == ["pod orders-2", "pod orders-3", "to orders-2", "pod orders-1"]


def test_the_least_wanted_first_and_the_most_wanted_takes_over() -> None:
    w = ready(3, priorities={"orders-3": 200})
    w.image = "v2"
    w.settle()
    assert taken(w) == ["pod orders-2", "pod orders-3", "to orders-3", "pod orders-1"]


def test_a_single_instance_is_restarted_where_it_is() -> None:
    w = ready(1)
    w.image = "v2"
    w.settle()
    assert taken(w) == ["pod orders-1"]


def test_two_instances_accept_the_pause() -> None:
    w = ready(2)
    w.image = "v2"
    w.settle()
    assert taken(w) == ["pod orders-2", "to orders-2", "pod orders-1"]


def test_raised_values_go_to_the_replicas_first() -> None:
    w = ready(3)
    w.pending = {n: {"max_connections": ("100", "200")} for n in names(3)}
    w.settle()
    assert taken(w) == ["restart orders-2", "restart orders-3", "to orders-2"]


def test_lowered_values_go_to_the_primary_first() -> None:
    w = ready(3)
    w.pending = {n: {"max_connections": ("200", "100")} for n in names(3)}
    w.settle()
    assert taken(w) == ["restart orders-1", "restart orders-2", "restart orders-3"]


def test_a_lowered_value_that_standbys_do_not_compare_is_no_reason_to_begin_with_the_primary() -> None:
    w = ready(3)
    w.pending = {n: {"shared_buffers": ("200", "100")} for n in names(3)}
    w.settle()
    assert taken(w) == ["restart orders-2", "restart orders-3", "to orders-2"]


def test_nobody_goes_while_one_that_was_updated_is_not_ready() -> None:
    w = ready(3)
    w.image = "v2"
    w.reconcile()
    w.unready.add("orders-2")
    for _ in range(20):
        w.reconcile()
        w.tick()
    assert taken(w) == ["pod orders-2"]
    w.unready.clear()
    w.settle()
    assert taken(w) == ["pod orders-2", "pod orders-3", "to orders-2", "pod orders-1"]


def test_nobody_goes_while_too_few_others_stream() -> None:
    w = ready(3)
    w.image = "v2"
    facts = w.facts()
    quiet = tuple(
        replace(i, agent=replace(i.agent, streams=i.agent.streams[:1])) if i.agent is not None else i
        for i in facts.instances
    )
    steps, verdict = rollout.step(replace(facts, instances=quiet))
    assert steps == ()
    assert verdict is not None
    assert "waiting until enough other replicas stream" in verdict.message


def test_an_image_that_cannot_start_is_cured_by_the_next_one() -> None:
    w = ready(3)
    w.stuck.add("bad")
    w.image = "bad"
    for _ in range(10):
        w.reconcile()
        w.tick()
    assert taken(w) == ["pod orders-2"], "one instance is lost to a bad image, not all"
    w.image = "good"
    assert w.settle().verdict.standing is Standing.READY
    assert {p.hash for p in w.pods.values()} == {"good"}


def test_one_that_runs_without_ever_being_ready_is_replaced_after_a_while() -> None:
    w = ready(1)
    w.unready.add("orders-1")
    w.tick()
    w.image = "v2"
    assert not any(isinstance(a, DeletePod) for a in decide(w.facts(), w.now).actions)
    later = w.now + rollout.GIVEN_UP_AFTER + timedelta(seconds=1)
    assert any(isinstance(a, DeletePod) for a in decide(w.facts(), later).actions)


def test_the_restart_annotation_restarts_each_once() -> None:
    w = ready(3)
    w.wish = replace(w.wish, restart="now")
    w.settle()
    assert taken(w) == ["pod orders-2", "pod orders-3", "to orders-2", "pod orders-1"]
    w.log.clear()
    w.wish = replace(w.wish, restart=None)  # taking it back restarts nobody
    w.settle()
    assert taken(w) == []

"""Before data is replaced in place the application stops and the door is closed, and both come back."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from matriarch.decide.backups import JobState, Phase
from matriarch.decide.restore import plan_restore
from matriarch.decide.restore_application import keeps_out
from matriarch.decide.restore_facts import STEPS, Door, Mode, RestoreFacts, SafetyFacts, Step, StepState
from tests.unit.restorebed import CLOSED, LEADS, NOW, OPEN, SHOP, STOPPED, TARGET, acts, before, facts, work

IN_PLACE = (Mode.IN_PLACE, Mode.REPLACE)
LATE = NOW - timedelta(minutes=16)
ALL_OPEN = dict.fromkeys(("orders-1", "orders-2", "orders-3"), OPEN)
ALL_CLOSED = dict.fromkeys(ALL_OPEN, CLOSED)
TOLD = Door(told="r1")


@pytest.mark.parametrize("mode", IN_PLACE)
def test_the_application_is_scaled_to_nothing_and_waited_for(mode: Mode) -> None:
    assert plan_restore(facts(mode, Step.STOP_APPLICATION)).step is Step.CLOSE, "nothing is named"
    runs = plan_restore(facts(mode, Step.STOP_APPLICATION, workloads=(SHOP, replace(SHOP, name="jobs", replicas=0))))
    assert (runs.step, runs.scale) == (Step.STOP_APPLICATION, (SHOP,)), "what does not run is left alone"
    ends = plan_restore(facts(mode, Step.STOP_APPLICATION, workloads=(replace(STOPPED, there=1),)))
    assert (ends.step, acts(ends)) == (Step.STOP_APPLICATION, False)
    assert "Deployment shop" in ends.verdict.message
    assert plan_restore(facts(mode, Step.STOP_APPLICATION, workloads=(STOPPED,))).step is Step.CLOSE
    again = plan_restore(facts(mode, Step.STOP_APPLICATION, workloads=(replace(STOPPED, replicas=2),)))
    assert again.scale, "somebody started it meanwhile"


@pytest.mark.parametrize("mode", IN_PLACE)
def test_nothing_goes_on_before_every_instance_that_answers_refuses_clients(mode: Mode) -> None:
    for doors in (
        ALL_OPEN,
        {},
        {**ALL_CLOSED, "orders-3": OPEN},
        {**ALL_CLOSED, "orders-2": Door(told="r0", closed_by="r0")},
        {**ALL_CLOSED, "orders-2": TOLD},
        {"orders-1": CLOSED},
    ):
        plan = plan_restore(facts(mode, Step.CLOSE, hold=LEADS, doors=doors))
        assert (plan.step, plan.verdict.reason, acts(plan)) == (Step.CLOSE, "ClosingDoor", False), doors
    for doors in (ALL_CLOSED, {"orders-2": CLOSED}, {"orders-1": TOLD, "orders-2": CLOSED}):
        plan = plan_restore(facts(mode, Step.CLOSE, hold=LEADS, doors=doors))
        assert plan.step is Step.SAFETY, "a replica that is being copied has no door to close"
    old = plan_restore(facts(mode, Step.CLOSE, hold=LEADS, doors=ALL_CLOSED, unaware=("orders-3",)))
    assert (old.step, old.verdict.reason) == (Step.CLOSE, "AgentsNotReady")


def test_what_cannot_be_backed_up_is_not_asked_to_close_its_door() -> None:
    assert plan_restore(facts(Mode.REPLACE, Step.CLOSE, skip_safety=True)).step is Step.SAFETY


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (facts(Mode.IN_PLACE, Step.STOP_APPLICATION, workloads=(SHOP,), step_started=LATE), "ApplicationDoesNotStop"),
        (facts(Mode.IN_PLACE, Step.CLOSE, hold=LEADS, doors=ALL_OPEN, step_started=LATE), "DoorDoesNotClose"),
        (
            facts(Mode.REPLACE, Step.CLOSE, hold=LEADS, unaware=("orders-1",), step_started=LATE),
            "AgentsNotReady",
        ),
        (facts(Mode.IN_PLACE, Step.CLOSE, hold=LEADS, target=replace(TARGET, uid="t2")), "TargetDeleted"),
        (
            facts(
                Mode.IN_PLACE,
                Step.SAFETY,
                safety=SafetyFacts(phase=Phase.PENDING, waiting="Its Pod has no node."),
                step_started=LATE,
            ),
            "SafetyBackupFailed",
        ),
        (
            facts(
                Mode.IN_PLACE,
                Step.RESTORE,
                work=work(JobState.ACTIVE, job={"waiting": "no node"}),
                step_started=LATE,
            ),
            "PodWaiting",
        ),
        (facts(Mode.IN_PLACE, created=LATE - timedelta(hours=3), unaware=("orders-1",)), "AgentsNotReady"),
        (facts(Mode.IN_PLACE, created=LATE - timedelta(hours=3), selects="app=shop"), "MissingApplication"),
    ],
)
def test_whoever_does_not_stop_ends_the_restore_and_nothing_was_changed(given: RestoreFacts, reason: str) -> None:
    plan = plan_restore(given)
    assert (plan.phase, plan.verdict.reason, acts(plan)) == (Phase.FAILED, reason, False)
    assert plan.finished
    assert not keeps_out({s: st for s, st in plan.steps.items() if st is not StepState.FAILED}) or plan.phase.over


def test_a_selector_that_matches_nothing_is_said_before_anything_is_done() -> None:
    plan = plan_restore(facts(Mode.IN_PLACE, selects="app=shop"))
    assert (plan.phase, plan.verdict.reason, acts(plan)) == (Phase.PENDING, "MissingApplication", False)
    assert "app=shop" in plan.verdict.message
    assert plan_restore(facts(Mode.IN_PLACE, selects="app=shop", workloads=(SHOP,))).step is Step.VERIFY


@pytest.mark.parametrize("mode", IN_PLACE)
def test_clients_and_the_application_come_back(mode: Mode) -> None:
    for doors in (ALL_CLOSED, {"orders-2": Door()}, {"orders-2": Door(told="r1", lets_in=True)}, {"orders-1": OPEN}):
        waits = plan_restore(facts(mode, Step.OPEN, hold=LEADS, doors=doors))
        assert (waits.step, acts(waits)) == (Step.OPEN, False)
    opened = plan_restore(facts(mode, Step.OPEN, hold=LEADS, doors=ALL_OPEN, workloads=(STOPPED,)))
    assert opened.step is Step.START_APPLICATION
    silent = plan_restore(facts(mode, Step.OPEN, hold=LEADS, step_started=LATE))
    assert silent.step is Step.START_APPLICATION, "the data is there: the application need not wait for an answer"
    assert plan_restore(facts(mode, Step.START_APPLICATION, hold=LEADS, workloads=(STOPPED,))).start
    left = replace(STOPPED, stopped_by="r0")
    done = plan_restore(facts(mode, Step.START_APPLICATION, hold=LEADS, workloads=(left, SHOP)))
    assert done.phase is Phase.COMPLETE


@pytest.mark.parametrize("mode", list(Mode))
def test_clients_are_kept_out_from_before_the_safety_backup_until_the_data_is_replaced(mode: Mode) -> None:
    out = {step for step in STEPS[mode] if keeps_out(before(mode, step))}
    steps = STEPS[mode]
    if mode.in_place:
        assert out == set(steps[steps.index(Step.CLOSE) : steps.index(Step.OPEN)])
        assert Step.SAFETY in out
        assert Step.RESTORE in out
    else:
        assert out == set()
    assert not keeps_out({})

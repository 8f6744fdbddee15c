"""A Restore of a physical backup in place, step by step: nothing is replaced before all of it is there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from matriarch.decide.backups import JobState, Phase
from matriarch.decide.restore import READY_WITHIN, plan_restore
from matriarch.decide.restore_facts import (
    Mode,
    RestoreFacts,
    RestorePlan,
    SafetyFacts,
    Step,
)
from tests.unit.restorebed import (
    COUNTS,
    HOUR,
    LEADS,
    MINUTE,
    NEWER,
    NOW,
    OK,
    SUSPENDED,
    TARGET,
    WRONG_KEY,
    acts,
    facts,
    work,
)


def test_the_steps_of_a_recovery_in_place() -> None:
    def at(step: Step, **given: Any) -> RestorePlan:
        return plan_restore(facts(Mode.REPLACE, step, **{"system": "8", **given}))

    checked = plan_restore(facts(Mode.REPLACE))
    assert (checked.step, checked.note_target) == (Step.VERIFY, "t1")
    assert at(Step.VERIFY, work=work(JobState.SUCCEEDED, result=OK)).step is Step.STOP_APPLICATION
    assert at(Step.SAFETY).create_safety
    assert at(Step.SAFETY, safety=SafetyFacts(phase=Phase.COMPLETE)).step is Step.STOP
    skipped = at(Step.SAFETY, skip_safety=True, target=replace(TARGET, ready=False))
    assert (skipped.step, skipped.create_safety) == (Step.STOP, False)
    assert at(Step.STOP, hold=LEADS, room=10, size=10).suspend
    assert at(Step.STOP, hold=LEADS, room=None, size=10).suspend, "an agent that does not answer is not asked twice"
    old = at(Step.STOP, hold=LEADS, unaware=("orders-3",))
    assert (old.step, old.verdict.reason, acts(old)) == (Step.STOP, "AgentsNotReady", False)
    gone = replace(COUNTS, restore="r0", lost=True, instance="orders-3", volume=True)
    assert at(Step.STOP, hold=gone, skip_safety=True).suspend, "what another Restore brought was lost with its volume"
    stops = at(Step.STOP, hold=SUSPENDED, pods=("orders-1",), step_started=NOW - HOUR, stopping_since=None)
    assert (stops.step, acts(stops)) == (Step.STOP, False)
    assert "orders-1" in stops.verdict.message
    assert at(Step.STOP, hold=SUSPENDED).step is Step.RESTORE
    made = at(Step.RESTORE, hold=SUSPENDED)
    begins = at(Step.RESTORE, hold=SUSPENDED, work=work(JobState.ACTIVE, job={"waiting": "no node"}))
    assert begins.phase is Phase.RUNNING
    assert made.make_job is Step.RESTORE
    assert at(Step.RESTORE, hold=SUSPENDED, work=work(JobState.SUCCEEDED, result=OK)).step is Step.START
    assert at(Step.START, hold=SUSPENDED).lift
    assert not acts(at(Step.START, hold=COUNTS)), "its status may be of before"
    late = at(Step.START, hold=NEWER, target=replace(TARGET, system="7"))
    assert (late.phase, acts(late)) == (Phase.RUNNING, False), "its status is of before"
    assert at(Step.START, hold=NEWER, target=replace(TARGET, system="8")).step is Step.OPEN
    done = at(Step.START_APPLICATION, hold=NEWER, target=replace(TARGET, system="8"))
    assert done.phase is Phase.COMPLETE
    assert "kept on orders-2" in done.verdict.message


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        pytest.param(
            facts(Mode.REPLACE, Step.STOP, hold=LEADS, room=(1 << 30) - 1, size=1 << 30), "NoRoom", id="a full volume"
        ),
        pytest.param(facts(Mode.REPLACE, Step.STOP, hold=replace(LEADS, volume=False)), "NoVolume", id="a lost volume"),
        pytest.param(
            facts(Mode.REPLACE, Step.STOP, hold=replace(LEADS, restore="r2")), "AnotherRestore", id="held by another"
        ),
        pytest.param(
            facts(Mode.REPLACE, Step.STOP, hold=None, step_started=NOW - HOUR),
            "LeaseUnreadable",
            id="no Lease for long",
        ),
        pytest.param(
            facts(Mode.REPLACE, Step.STOP, hold=SUSPENDED, pods=("orders-3",), stopping_since=NOW - HOUR),
            "InstancesDoNotStop",
            id="a node that is away",
        ),
        pytest.param(
            facts(Mode.REPLACE, Step.STOP, hold=LEADS, unaware=("orders-3",), step_started=NOW - HOUR),
            "AgentsNotReady",
            id="an agent of an older version",
        ),
        pytest.param(
            facts(Mode.REPLACE, Step.RESTORE, hold=LEADS, work=work(JobState.ACTIVE)), "HoldLost", id="somebody leads"
        ),
        pytest.param(
            facts(
                Mode.REPLACE,
                Step.RESTORE,
                hold=SUSPENDED,
                step_started=NOW - HOUR,
                work=work(JobState.ACTIVE, job={"waiting": "no node"}),
            ),
            "PodWaiting",
            id="the node of the volume is away",
        ),
        pytest.param(
            facts(Mode.REPLACE, Step.RESTORE, hold=SUSPENDED, work=work(JobState.FAILED, result=WRONG_KEY)),
            "WrongKey",
            id="the Job fails",
        ),
        pytest.param(
            facts(Mode.REPLACE, Step.RESTORE, hold=SUSPENDED, work=work(None, made=3)), "JobVanished", id="it vanishes"
        ),
        pytest.param(
            facts(Mode.REPLACE, Step.START, hold=LEADS, system="8"), "HoldLost", id="a Lease from an older copy"
        ),
    ],
)
def test_a_recovery_in_place_that_fails_has_replaced_nothing(given: RestoreFacts, reason: str) -> None:
    plan = plan_restore(given)
    assert (plan.phase, plan.verdict.reason) == (Phase.FAILED, reason)
    assert "goes on with the data that it had" in plan.verdict.message
    assert not acts(plan)
    assert plan.finished


def test_a_cluster_that_does_not_start_on_what_was_restored_is_told_where_the_rest_is() -> None:
    at = facts(Mode.REPLACE, Step.START, hold=COUNTS, system="8", step_started=NOW - READY_WITHIN - MINUTE)
    plan = plan_restore(at)
    assert (plan.phase, plan.verdict.reason) == (Phase.FAILED, "ClusterNotReady")
    assert "data of before is kept" in plan.verdict.message


def test_a_restore_in_place_is_not_over_while_large_replicas_are_copied() -> None:
    waits = replace(TARGET, system="7", ready=False)
    at = facts(Mode.REPLACE, Step.START, hold=NEWER, system="8", step_started=NOW - 3 * HOUR, target=waits)
    assert plan_restore(at).phase is Phase.RUNNING
    assert plan_restore(replace(at, step_started=NOW - 25 * HOUR)).phase is Phase.FAILED


def test_a_cluster_that_is_deleted_when_its_new_data_counts_is_told_so() -> None:
    for hold in (COUNTS, NEWER):
        plan = plan_restore(facts(Mode.REPLACE, Step.START, hold=hold, system="8", target=None))
        assert (plan.phase, plan.verdict.reason) == (Phase.FAILED, "TargetDeleted")
        assert "goes on with that data" in plan.verdict.message
    before = plan_restore(facts(Mode.REPLACE, Step.START, hold=SUSPENDED, system="8", target=None))
    assert "Nothing of the backup" in before.verdict.message


def test_what_another_restore_is_about_is_not_taken_over() -> None:
    for hold, says in (
        (replace(SUSPENDED, restore="r0"), "holds orders up"),
        (replace(COUNTS, restore="r0"), "starts on"),
    ):
        plan = plan_restore(facts(Mode.REPLACE, Step.STOP, hold=hold))
        assert (plan.phase, plan.verdict.reason, acts(plan)) == (Phase.FAILED, "AnotherRestore", False)
        assert says in plan.verdict.message

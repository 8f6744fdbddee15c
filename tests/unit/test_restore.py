"""One Restore, step by step: what refuses it, what it waits for, and what a failure says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from matriarch.decide.backups import JobState, Phase, Result
from matriarch.decide.restore import READY_WITHIN, plan_restore
from matriarch.decide.restore_facts import (
    Mode,
    RestoreFacts,
    SafetyFacts,
    Step,
    StepState,
)
from matriarch.decide.verdict import Standing, Verdict
from tests.unit.restorebed import (
    BEGAN,
    HELD,
    HOUR,
    KEY,
    LIFTED,
    MADE,
    MINUTE,
    NOW,
    OK,
    TARGET,
    WRONG_KEY,
    acts,
    facts,
    work,
)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        pytest.param(facts(target=TARGET), "TargetExists", id="a cluster of that name runs"),
        pytest.param(facts(target=MADE), "TargetExists", id="even one that seems ours, before a step is noted"),
        pytest.param(facts(leftover="PersistentVolumeClaim orders-1"), "TargetHasData", id="kept volumes"),
        pytest.param(facts(rival="other"), "AnotherRestore", id="two restores into one name"),
        pytest.param(facts(Mode.IN_PLACE, confirmation=None), "NotConfirmed", id="not confirmed"),
        pytest.param(facts(Mode.IN_PLACE, confirmation="order"), "NotConfirmed", id="confirmed another name"),
        pytest.param(facts(Mode.IN_PLACE, confirmation="Orders"), "NotConfirmed", id="confirmed in capitals"),
        pytest.param(facts(Mode.IN_PLACE, rival="other"), "AnotherRestore", id="two restores in place"),
        pytest.param(
            facts(Mode.IN_PLACE, target=replace(TARGET, deleting=True)), "TargetDeleted", id="a cluster being deleted"
        ),
        pytest.param(facts(Mode.REPLACE, confirmation="order"), "NotConfirmed", id="physical, another name"),
        pytest.param(
            facts(Mode.IN_PLACE, skip_safety=True), "SafetyBackupNeeded", id="a logical one without its safety backup"
        ),
        pytest.param(
            facts(source=Verdict(Standing.STALLED, "BackupFailed", "Backup b failed.")), "BackupFailed", id="bad source"
        ),
    ],
)
def test_what_is_refused_is_refused_before_anything_is_done(given: RestoreFacts, reason: str) -> None:
    plan = plan_restore(given)
    assert (plan.phase, plan.verdict.standing, plan.verdict.reason) == (Phase.FAILED, Standing.STALLED, reason)
    assert plan.finished
    assert not acts(plan)
    assert plan.steps == {Step.CHECK: StepState.FAILED}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        pytest.param(
            facts(source=Verdict(Standing.WORKING, "MissingBackup", "There is no Backup b.")),
            "MissingBackup",
            id="source",
        ),
        pytest.param(facts(needs=(replace(KEY, found=None),)), "MissingSecret", id="key"),
        pytest.param(facts(Mode.IN_PLACE, target=None), "MissingCluster", id="no cluster"),
        pytest.param(facts(Mode.IN_PLACE, target=replace(TARGET, ready=False)), "ClusterNotReady", id="no primary"),
        pytest.param(facts(Mode.IN_PLACE, busy="nightly-1"), "BackupInProgress", id="a backup is at work"),
        pytest.param(
            facts(Mode.REPLACE, target=replace(TARGET, ready=False)), "ClusterNotReady", id="physical, no primary"
        ),
        pytest.param(
            facts(Mode.REPLACE, skip_safety=True, target=None), "MissingCluster", id="physical, no cluster at all"
        ),
    ],
)
def test_what_may_come_is_waited_for_but_not_for_ever(given: RestoreFacts, reason: str) -> None:
    plan = plan_restore(given)
    assert (plan.phase, plan.verdict.reason) == (Phase.PENDING, reason)
    assert plan.requeue
    assert not acts(plan)
    late = plan_restore(replace(given, created=NOW - 2 * HOUR))
    assert (late.phase, late.verdict.reason) == (Phase.FAILED, reason)


def test_the_steps_of_a_restore_into_a_new_cluster() -> None:
    assert plan_restore(facts()).steps == {Step.CHECK: StepState.DONE, Step.VERIFY: StepState.RUNNING}
    assert plan_restore(facts(step=Step.VERIFY)).make_job is Step.VERIFY
    verified = plan_restore(facts(step=Step.VERIFY, work=work(JobState.SUCCEEDED, result=OK)))
    assert verified.step is Step.CREATE
    assert plan_restore(facts(step=Step.CREATE)).create_cluster
    made = plan_restore(facts(step=Step.CREATE, target=MADE, target_uid=None))
    assert (made.step, made.note_target) == (Step.READY, "t1")
    assert plan_restore(facts(step=Step.READY)).step is Step.RESTORE
    assert plan_restore(facts(step=Step.RESTORE)).make_job is Step.RESTORE
    done = plan_restore(facts(step=Step.RESTORE, work=work(JobState.SUCCEEDED, result=OK)))
    assert (done.phase, done.verdict.reason, done.finished) == (Phase.COMPLETE, "Complete", True)


def test_the_steps_of_a_restore_in_place() -> None:
    checked = plan_restore(facts(Mode.IN_PLACE))
    assert (checked.step, checked.note_target) == (Step.VERIFY, "t1")
    verified = plan_restore(facts(Mode.IN_PLACE, Step.VERIFY, work=work(JobState.SUCCEEDED, result=OK)))
    assert verified.step is Step.STOP_APPLICATION
    assert plan_restore(facts(Mode.IN_PLACE, Step.SAFETY)).create_safety
    waiting = plan_restore(facts(Mode.IN_PLACE, Step.SAFETY, safety=SafetyFacts(phase=Phase.RUNNING)))
    assert not acts(waiting)
    assert waiting.step is Step.SAFETY
    safe = plan_restore(facts(Mode.IN_PLACE, Step.SAFETY, safety=SafetyFacts(phase=Phase.COMPLETE)))
    assert safe.step is Step.RESTORE


def test_the_steps_of_a_recovery() -> None:
    def at(step: Step | None, **given: Any) -> Any:
        return plan_restore(facts(Mode.RECOVER, step, **given))

    assert at(None).step is Step.VERIFY
    assert at(Step.VERIFY).make_job is Step.VERIFY
    assert at(Step.CREATE).create_cluster
    assert at(Step.CREATE, target=MADE, target_uid=None).step is Step.PREPARE
    assert not acts(at(Step.PREPARE, hold=None))
    assert not acts(at(Step.PREPARE, hold=replace(HELD, volume=False)))
    assert at(Step.PREPARE, hold=HELD).step is Step.RESTORE
    assert at(Step.RESTORE, hold=HELD).make_job is Step.RESTORE
    filled = at(Step.RESTORE, hold=HELD, work=work(JobState.SUCCEEDED, result=OK))
    assert (filled.step, filled.lift) == (Step.START, False), "the result is written before anything starts on it"
    unready = replace(MADE, ready=False)
    assert at(Step.START, hold=HELD, target=unready).lift
    assert not acts(at(Step.START, hold=LIFTED, target=unready))
    served = replace(MADE, system="8")
    assert at(Step.START, hold=BEGAN, target=served, system="8").phase is Phase.COMPLETE
    other = at(Step.START, hold=BEGAN, target=served, system="9")
    assert (other.phase, other.verdict.reason) == (Phase.FAILED, "AnotherDatabase")


@pytest.mark.parametrize(
    ("given", "reason", "says"),
    [
        pytest.param(
            facts(Mode.RECOVER, Step.PREPARE, hold=replace(HELD, restore="other")),
            "TargetHasData",
            "somebody else",
            id="a Lease of somebody else",
        ),
        pytest.param(
            facts(Mode.RECOVER, Step.PREPARE, hold=BEGAN), "TargetHasData", "Nothing was written", id="it began already"
        ),
        pytest.param(
            facts(Mode.RECOVER, Step.PREPARE, step_started=NOW - READY_WITHIN - MINUTE),
            "ClusterNotReady",
            "No instance of orders was started",
            id="no Lease, no volume",
        ),
        pytest.param(
            facts(Mode.RECOVER, Step.RESTORE, hold=HELD, work=work(JobState.FAILED, result=WRONG_KEY)),
            "WrongKey",
            "its volume goes with them",
            id="the Job failed",
        ),
        pytest.param(
            facts(Mode.RECOVER, Step.RESTORE, hold=HELD, work=work(None, made=3)),
            "JobVanished",
            "No instance of orders was started",
            id="the Job vanished three times",
        ),
        pytest.param(
            facts(Mode.RECOVER, Step.RESTORE, hold=HELD, target=replace(TARGET, uid="t2"), work=work(JobState.ACTIVE)),
            "TargetDeleted",
            "Nothing of the backup was restored",
            id="the cluster was deleted and made again",
        ),
        pytest.param(
            facts(
                Mode.RECOVER,
                Step.START,
                hold=LIFTED,
                target=replace(MADE, ready=False),
                step_started=NOW - READY_WITHIN - MINUTE,
            ),
            "ClusterNotReady",
            "The data is restored",
            id="it never takes writes",
        ),
    ],
)
def test_a_recovery_that_fails_starts_nothing(given: RestoreFacts, reason: str, says: str) -> None:
    plan = plan_restore(given)
    assert (plan.phase, plan.verdict.reason) == (Phase.FAILED, reason)
    assert says in plan.verdict.message
    assert not acts(plan)


def test_a_recovery_s_job_that_vanished_is_made_again() -> None:
    again = plan_restore(facts(Mode.RECOVER, Step.RESTORE, hold=HELD, work=work(None)))
    assert (again.phase, again.jobs_made) == (Phase.RUNNING, 2)


def test_a_job_that_changes_data_is_noted_before_it_is_let_go() -> None:
    at = {"mode": Mode.IN_PLACE, "step": Step.RESTORE}
    made = plan_restore(facts(**at))
    assert made.make_job is Step.RESTORE
    assert not made.job_noted
    seen = plan_restore(facts(**at, work=work(JobState.ACTIVE, noted=False, suspended=True)))
    assert seen.job_noted
    assert not acts(seen)
    noted = plan_restore(facts(**at, work=work(JobState.ACTIVE, suspended=True)))
    assert noted.resume_job
    assert not acts(plan_restore(facts(**at, work=work(JobState.ACTIVE))))


@pytest.mark.parametrize(
    ("given", "reason", "says"),
    [
        pytest.param(
            facts(Mode.IN_PLACE, Step.VERIFY, work=work(JobState.FAILED, result=WRONG_KEY)),
            "WrongKey",
            "Nothing was changed",
            id="wrong key",
        ),
        pytest.param(
            facts(
                Mode.IN_PLACE, Step.SAFETY, safety=SafetyFacts(phase=Phase.FAILED, reason="StoreFull", message="Full.")
            ),
            "SafetyBackupFailed",
            "Nothing was changed",
            id="no safety backup, no restore",
        ),
        pytest.param(
            facts(Mode.IN_PLACE, Step.SAFETY, target=replace(TARGET, uid="t2")),
            "TargetDeleted",
            "Nothing",
            id="a stranger",
        ),
        pytest.param(
            facts(step=Step.RESTORE, source=Verdict(Standing.WORKING, "MissingBackup", "There is no Backup b.")),
            "MissingBackup",
            "without the restored data",
            id="source deleted meanwhile",
        ),
        pytest.param(
            facts(step=Step.CREATE, refused="spec.storage is too small."), "Refused", "too small", id="refused"
        ),
        pytest.param(facts(step=Step.RESTORE, target=None), "TargetDeleted", "Nothing", id="target deleted meanwhile"),
        pytest.param(
            facts(step=Step.CREATE, target=TARGET), "TargetExists", "was not touched", id="somebody was faster"
        ),
        pytest.param(
            facts(step=Step.READY, target=replace(MADE, ready=False), step_started=NOW - READY_WITHIN - MINUTE),
            "ClusterNotReady",
            "It is empty",
            id="never ready",
        ),
        pytest.param(
            facts(
                Mode.IN_PLACE, Step.RESTORE, work=work(JobState.FAILED, result=Result(ok=False, reason="RestoreFailed"))
            ),
            "RestoreFailed",
            "Backup back-before holds it too",
            id="failed with a word",
        ),
        pytest.param(
            facts(Mode.IN_PLACE, Step.RESTORE, work=work(JobState.FAILED, job={"reason": "DeadlineExceeded"})),
            "DeadlineExceeded",
            "either all of the backup or none",
            id="failed without a word",
        ),
        pytest.param(
            facts(Mode.IN_PLACE, Step.RESTORE, work=work(None)),
            "JobVanished",
            "The restore is not repeated",
            id="vanished",
        ),
    ],
)
def test_a_failure_says_what_is_where(given: RestoreFacts, reason: str, says: str) -> None:
    plan = plan_restore(given)
    assert (plan.phase, plan.verdict.reason) == (Phase.FAILED, reason)
    assert says in plan.verdict.message
    assert not acts(plan)


def test_a_check_that_vanished_is_made_again_a_few_times() -> None:
    again = plan_restore(facts(step=Step.VERIFY, work=work(None)))
    assert (again.phase, again.jobs_made, again.job_noted) == (Phase.RUNNING, 2, False)
    assert plan_restore(facts(step=Step.VERIFY, work=work(None, made=3))).verdict.reason == "JobVanished"


def test_what_is_over_is_never_decided_again() -> None:
    for phase in (Phase.COMPLETE, Phase.FAILED):
        with pytest.raises(ValueError, match="never repeated"):
            plan_restore(replace(facts(step=Step.RESTORE), phase=phase))

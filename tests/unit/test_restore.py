"""One Restore, step by step: what refuses it, what it waits for, and that nothing makes it run twice."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matriarch.decide.backups import JobFacts, JobState, Need, Phase, Result
from matriarch.decide.restore import READY_WITHIN, plan_restore
from matriarch.decide.restore_facts import (
    NO_JOB,
    STEPS,
    HoldFacts,
    Mode,
    RestoreFacts,
    RestorePlan,
    SafetyFacts,
    Step,
    StepJob,
    StepState,
    TargetFacts,
)
from matriarch.decide.verdict import Standing, Verdict

NOW = datetime(2026, 3, 1, 2, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
TARGET = TargetFacts(uid="t1", deleting=False, ready=True, made_by=None)
MADE = TargetFacts(uid="t1", deleting=False, ready=True, made_by="r1")
HELD = HoldFacts(restore="r1", lifted=False, volume=True)
LIFTED = replace(HELD, lifted=True)
BEGAN = HoldFacts(restore=None, lifted=False, volume=True)
LEADS = HoldFacts(restore=None, lifted=False, volume=True, instance="orders-2", system="7", begins="orders-2")
SUSPENDED = replace(LEADS, restore="r1")
COUNTS = replace(SUSPENDED, lifted=True)
NEWER = replace(LEADS, system="8")
KEY = Need(kind="Secret", name="key", holds="the key of the backup", keys=("key",), found=frozenset({"key"}))


WITH_TARGET = (Step.READY, Step.RESTORE, Step.PREPARE, Step.START)


def before(mode: Mode, step: Step) -> dict[Step, StepState]:
    """All steps before `step` are done and it is at work."""
    steps = STEPS[mode]
    return dict.fromkeys(steps[: steps.index(step)], StepState.DONE) | {step: StepState.RUNNING}


def facts(mode: Mode = Mode.NEW, step: Step | None = None, **given: Any) -> RestoreFacts:
    base: dict[str, Any] = {
        "name": "back",
        "uid": "r1",
        "now": NOW,
        "created": NOW,
        "mode": mode,
        "confirmation": "orders" if mode.in_place else None,
        "target_name": "orders",
        "phase": Phase.RUNNING if step else None,
        "steps": before(mode, step) if step else {},
        "step_started": NOW if step else None,
        "source": None,
        "needs": (KEY,),
        "target": TARGET if mode.in_place else MADE if step in WITH_TARGET else None,
        "target_uid": "t1" if step not in (None, Step.CHECK) else None,
        "leftover": None,
        "rival": None,
        "busy": None,
        "safety_name": "back-before",
        "safety": None,
        "work": NO_JOB,
    }
    return RestoreFacts(**{**base, **given})


def work(state: JobState | None, *, noted: bool = True, suspended: bool = False, **given: Any) -> StepJob:
    job = JobFacts(name="job-1", state=state, **given.pop("job", {})) if state else None
    return StepJob(**{"made": 1, "noted": noted, "job": job, "suspended": suspended, "result": None, **given})


OK = Result(ok=True)
WRONG_KEY = Result(ok=False, reason="WrongKey", message="The backup is encrypted with key ab, key cd was given.")


def acts(plan: Any) -> bool:
    return bool(
        plan.create_cluster or plan.create_safety or plan.make_job or plan.resume_job or plan.suspend or plan.lift
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
    assert verified.step is Step.SAFETY
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


def test_the_steps_of_a_recovery_in_place() -> None:
    def at(step: Step, **given: Any) -> RestorePlan:
        return plan_restore(facts(Mode.REPLACE, step, **{"system": "8", **given}))

    checked = plan_restore(facts(Mode.REPLACE))
    assert (checked.step, checked.note_target) == (Step.VERIFY, "t1")
    assert at(Step.VERIFY, work=work(JobState.SUCCEEDED, result=OK)).step is Step.SAFETY
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
    done = at(Step.START, hold=NEWER, target=replace(TARGET, system="8"))
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


# Interruptions: a small world in which the controller, Jobs and people stop anything at any time.


@dataclass
class World:
    mode: Mode
    phase: Phase | None = None
    steps: dict[Step, StepState] = field(default_factory=dict)
    target: TargetFacts | None = None
    target_uid: str | None = None
    safety: SafetyFacts | None = None
    made: int = 0
    noted: bool = False
    job_step: Step | None = None
    job: JobState | None = None
    suspended: bool = False
    result: Result | None = None
    loads: int = 0
    """How often the data of the target was replaced."""
    safety_at_load: bool = True
    verified_at_load: bool = True
    hold: HoldFacts | None = None
    filled_at_lift: bool = True
    loads_after_lift: int = 0
    loads_beside_pods: int = 0
    system: str | None = None
    pods: tuple[str, ...] = ("orders-1", "orders-2")

    def current(self) -> Step | None:
        return next((s for s in STEPS[self.mode] if self.steps.get(s) is not StepState.DONE), None)

    def facts(self) -> RestoreFacts:
        here = self.job_step is self.current()
        job = JobFacts(name="job", state=self.job) if self.job and here else None
        return facts(
            self.mode,
            phase=self.phase,
            steps=dict(self.steps),
            step_started=NOW,
            target=self.target,
            target_uid=self.target_uid,
            safety=self.safety,
            hold=self.hold,
            system=self.system,
            pods=self.pods,
            work=StepJob(
                made=self.made,
                noted=self.noted,
                job=job,
                suspended=self.suspended,
                result=self.result if job and here else None,
            ),
        )

    def controller(self, *, dies_after_status: bool) -> None:
        if self.phase is not None and self.phase.over:
            return
        plan = plan_restore(self.facts())
        moved = plan.step is not self.current()
        self.phase, self.steps, self.target_uid = plan.phase, dict(plan.steps), plan.note_target or self.target_uid
        self.made, self.noted = (0, False) if moved else (plan.jobs_made, plan.job_noted)
        if dies_after_status:
            return
        if plan.make_job and (self.job is None or self.job_step is not plan.make_job):
            self.job, self.job_step, self.result = JobState.ACTIVE, plan.make_job, None
            self.suspended = plan.make_job is Step.RESTORE and self.mode not in REPEATED
        if plan.resume_job:
            self.suspended = False
        if plan.suspend:
            assert self.hold == LEADS
            self.hold = SUSPENDED
        if plan.lift and self.hold is not None:
            self.filled_at_lift &= self.loads > 0 and self.steps.get(Step.RESTORE) is StepState.DONE
            self.hold = replace(self.hold, lifted=True)
        if plan.create_cluster and self.target is None:
            self.target = replace(MADE, ready=False)
        if plan.create_safety and self.safety is None:
            self.safety = SafetyFacts(phase=Phase.RUNNING)

    def happens(self, event: str) -> None:
        if event == "job ends" and self.job is JobState.ACTIVE and not self.suspended:
            if self.job_step is Step.RESTORE:
                self.loads += 1
                self.loads_after_lift += self.hold is not None and self.hold.lifted
                self.loads_beside_pods += self.mode is Mode.REPLACE and (self.hold != SUSPENDED or bool(self.pods))
                self.system = "8"
                self.verified_at_load &= self.steps.get(Step.VERIFY) is StepState.DONE
                if self.mode.in_place:
                    self.safety_at_load &= self.safety == SafetyFacts(phase=Phase.COMPLETE)
            self.job, self.result = JobState.SUCCEEDED, OK
        elif event == "job fails" and self.job is JobState.ACTIVE and not self.suspended:
            self.job, self.result = JobState.FAILED, WRONG_KEY
        elif event == "job deleted":
            self.job, self.result = None, None
        elif event == "cluster ready" and self.mode is Mode.REPLACE:
            if self.hold == SUSPENDED:
                self.pods = self.pods[1:]
            elif self.hold == COUNTS:
                assert self.target is not None
                self.hold, self.target = NEWER, replace(self.target, ready=True, system="8")
        elif event == "cluster ready" and self.target is not None and self.mode is Mode.RECOVER:
            if self.hold is None:
                self.hold = HELD
            elif self.hold.lifted:
                self.target = replace(self.target, ready=True, system="8")
        elif event == "cluster ready" and self.target is not None:
            self.target = replace(self.target, ready=True)
        elif event == "safety done" and self.safety is not None and self.safety.phase is Phase.RUNNING:
            self.safety = SafetyFacts(phase=Phase.COMPLETE)
        elif event == "safety fails" and self.safety is not None and self.safety.phase is Phase.RUNNING:
            self.safety = SafetyFacts(phase=Phase.FAILED, reason="StoreFull", message="Full.")


REPEATED = (Mode.RECOVER, Mode.REPLACE)
BAD = ["job fails", "job deleted", "safety fails"]
GOOD = ["nothing", "job ends", "cluster ready", "safety done"]
LOOKS = st.lists(st.booleans(), max_size=3)
"""How often the controller looks after an event, and whether it dies before it acts."""


@settings(max_examples=500)
@given(
    st.sampled_from(list(Mode)),
    st.integers(0, 12),
    st.lists(st.tuples(st.sampled_from(GOOD + BAD), LOOKS), max_size=8),
)
def test_from_any_interruption_it_ends_and_data_is_replaced_at_most_once(
    mode: Mode, smooth: int, events: list[tuple[str, list[bool]]]
) -> None:
    """It goes smoothly for a while, so that every step is reached; then anything happens; then all is well again."""
    world = World(mode, target=TARGET if mode.in_place else None, hold=LEADS if mode is Mode.REPLACE else None)
    for _ in range(smooth):
        world.controller(dies_after_status=False)
        for event in ("job ends", "cluster ready", "safety done"):
            world.happens(event)
    for event, looks in events:
        world.happens(event)
        for dies in looks:
            world.controller(dies_after_status=dies)
        assert world.loads <= 1 or mode in REPEATED, "the data was replaced twice"
    for _ in range(40):
        world.controller(dies_after_status=False)
        for event in ("job ends", "cluster ready", "safety done"):
            world.happens(event)
        assert world.loads <= 1 or mode in REPEATED, "the data was replaced twice"
    assert world.loads_after_lift == 0, "written below a server that runs"
    assert world.loads_beside_pods == 0, "the volume was written to while an instance could run"
    assert world.filled_at_lift, "started on nothing"
    assert world.phase is not None
    assert world.phase.over, "it never ended"
    assert world.verified_at_load, "loaded before the backup was checked"
    assert world.safety_at_load, "replaced without a safety backup"
    if world.phase is Phase.COMPLETE:
        assert world.loads == 1 or (mode in REPEATED and world.loads)
    if not {event for event, _ in events} & set(BAD):
        assert world.phase is Phase.COMPLETE, "nothing went wrong, and it did not get through"

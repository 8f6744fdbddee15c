"""How one Restore goes from wished to done, step by step, once and never again.

Three ways. Into a new cluster: the backup is checked, a DatabaseCluster is made, it becomes ready, the backup is loaded
and compared. In place: the backup is checked, the running cluster is backed up, then its data is replaced in one step.
Whatever fails before the last step has changed nothing; the last step is one Job that leaves the old data serving
unless everything was loaded and compared. By recovery, for physical backups: a DatabaseCluster is made of which no
instance starts (the hold in its Lease), a Job fills the first volume, and only then the hold is lifted; the Job may be
run again, for nobody has written meanwhile.

Every step's end is in the status before the next step begins. The Job that changes data is made suspended, noted in
the status, and only then let go: if a noted Job is gone, it may have run, and nobody runs it a second time over what
clients have written since.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from matriarch.decide.backups import (
    LOOK_AGAIN,
    MAX_JOBS,
    START_WITHIN,
    JobState,
    Phase,
    lacking,
    why_failed,
)
from matriarch.decide.restore_facts import STEPS, Mode, RestoreFacts, RestorePlan, Step, StepState
from matriarch.decide.verdict import Standing, Verdict

READY_WITHIN = timedelta(minutes=30)
"""How long a new cluster may take to become ready."""

SOON = timedelta(0)


def plan_restore(facts: RestoreFacts) -> RestorePlan:
    """Decide the next step of one Restore."""
    if facts.phase is not None and facts.phase.over:
        raise ValueError(f"Restore {facts.name} is over: it is never repeated")
    step = next((s for s in STEPS[facts.mode] if facts.steps.get(s) is not StepState.DONE), None)
    if step is not None and facts.refused is not None:
        return _failed(facts, step, "Refused", f"Step {step} was refused: {facts.refused}")
    match step:
        case None:
            return _complete(facts)
        case Step.CHECK:
            return _check(facts)
        case Step.VERIFY:
            return _verify(facts)
        case Step.CREATE:
            return _create(facts)
        case Step.READY:
            return _ready(facts)
        case Step.SAFETY:
            return _safety(facts)
        case Step.RESTORE:
            return _restore(facts)
        case Step.PREPARE:
            return _prepare(facts)
        case Step.START:
            return _start(facts)


def _check(facts: RestoreFacts) -> RestorePlan:
    verdict = _refusal(facts) or _obstacle(facts)
    if verdict is None:
        target = facts.target.uid if facts.mode is Mode.IN_PLACE and facts.target else None
        return _done(facts, Step.CHECK, note_target=target)
    if verdict.standing is Standing.STALLED or facts.now - facts.created > START_WITHIN:
        return _failed(facts, Step.CHECK, verdict.reason, verdict.message)
    return _at_work(facts, Step.CHECK, verdict, phase=Phase.PENDING)


def _refusal(facts: RestoreFacts) -> Verdict | None:
    """What no waiting can mend; nothing was changed."""
    name = facts.target_name
    if facts.rival is not None:
        return _no(
            "AnotherRestore",
            f"Restore {facts.rival} into {name} is not over. Make a new Restore when it is, if it is still wanted.",
        )
    if facts.mode is Mode.IN_PLACE:
        if facts.confirmation != name:
            return _no(
                "NotConfirmed",
                f"inPlace.confirm has to be {name!r}, the cluster whose data is replaced. Nothing was changed; make a "
                "new Restore with it.",
            )
        if facts.target is not None and facts.target.deleting:
            return _no("TargetDeleted", f"DatabaseCluster {name} is being deleted.")
        return None
    if facts.target is not None:
        also = "" if facts.mode is Mode.RECOVER else f", or set inPlace.confirm: {name} to replace its data"
        return _no("TargetExists", f"DatabaseCluster {name} exists already. Restore into a new name{also}.")
    if facts.leftover is not None:
        return _no(
            "TargetHasData",
            f"{facts.leftover} is left of an earlier cluster {name}. Restore into another name, or delete it if that "
            "data is not wanted any more.",
        )
    return None


def _obstacle(facts: RestoreFacts) -> Verdict | None:
    """What may be mended while we wait."""
    if facts.source is not None:
        return facts.source
    for need in facts.needs:
        if (verdict := lacking(need)) is not None:
            return verdict
    if facts.mode is Mode.IN_PLACE:
        if facts.target is None:
            return _wait(
                "MissingCluster", f"There is no DatabaseCluster {facts.target_name}: leave inPlace out to make one."
            )
        if not facts.target.ready:
            return _wait(
                "ClusterNotReady", f"DatabaseCluster {facts.target_name} takes no writes, which a restore needs."
            )
        if facts.busy is not None:
            return _wait("BackupInProgress", f"Waits for Backup {facts.busy} of this cluster, which is at work.")
    return None


def _verify(facts: RestoreFacts) -> RestorePlan:
    nothing = "Nothing was changed."
    return _through_job(facts, Step.VERIFY, "check of the backup", after=nothing, repeatable=True)


def _create(facts: RestoreFacts) -> RestorePlan:
    if facts.target is None:
        verdict = Verdict(Standing.WORKING, "CreatingCluster", f"DatabaseCluster {facts.target_name} is being made.")
        return _at_work(facts, Step.CREATE, verdict, create_cluster=True, again=timedelta(seconds=2))
    if facts.target.made_by != facts.uid:
        return _failed(
            facts,
            Step.CREATE,
            "TargetExists",
            f"DatabaseCluster {facts.target_name} was made by somebody else meanwhile. It was not touched; make a new "
            "Restore into another name.",
        )
    return _done(facts, Step.CREATE, note_target=facts.target.uid)


def _ready(facts: RestoreFacts) -> RestorePlan:
    if (lost := _target_lost(facts, Step.READY)) is not None:
        return lost
    assert facts.target is not None
    if facts.target.ready:
        return _done(facts, Step.READY)
    if facts.step_started is not None and facts.now - facts.step_started > READY_WITHIN:
        return _failed(
            facts,
            Step.READY,
            "ClusterNotReady",
            f"DatabaseCluster {facts.target_name} was made and did not become ready within "
            f"{READY_WITHIN // timedelta(minutes=1)} minutes; see `kubectl describe dbc {facts.target_name}`. It is "
            "empty: delete it and make a new Restore.",
        )
    verdict = Verdict(Standing.WORKING, "WaitingForCluster", f"DatabaseCluster {facts.target_name} is starting.")
    return _at_work(facts, Step.READY, verdict, again=timedelta(seconds=5))


def _safety(facts: RestoreFacts) -> RestorePlan:
    if (lost := _target_lost(facts, Step.SAFETY)) is not None:
        return lost
    verdict = Verdict(
        Standing.WORKING, "SafetyBackup", f"Backup {facts.safety_name} of the data that will be replaced is being made."
    )
    if facts.safety is None:
        return _at_work(facts, Step.SAFETY, verdict, create_safety=True, again=timedelta(seconds=5))
    if facts.safety.phase is Phase.COMPLETE:
        return _done(facts, Step.SAFETY)
    if facts.safety.phase is Phase.FAILED:
        return _failed(
            facts,
            Step.SAFETY,
            "SafetyBackupFailed",
            f"The safety backup {facts.safety_name} failed ({facts.safety.reason}): {facts.safety.message} Nothing was "
            "changed; the cluster serves its data as before.",
        )
    return _at_work(facts, Step.SAFETY, verdict)


def _prepare(facts: RestoreFacts) -> RestorePlan:
    if (lost := _target_lost(facts, Step.PREPARE)) is not None:
        return lost
    hold, name = facts.hold, facts.target_name
    if hold is not None and hold.restore != facts.uid:
        message = (
            f"The Lease {name} is not one that waits for this restore, so there may be data of somebody else. Nothing "
            f"was written; delete DatabaseCluster {name} if that is not wanted, and restore into another name."
        )
        return _failed(facts, Step.PREPARE, "TargetHasData", message)
    if hold is not None and hold.volume:
        return _done(facts, Step.PREPARE)
    if facts.step_started is not None and facts.now - facts.step_started > READY_WITHIN:
        return _failed(
            facts,
            Step.PREPARE,
            "ClusterNotReady",
            f"DatabaseCluster {name} was made and got no volume within {READY_WITHIN // timedelta(minutes=1)} minutes; "
            f"see `kubectl describe dbc {name}`. {_held(facts)}",
        )
    verdict = Verdict(Standing.WORKING, "WaitingForVolume", f"The first volume of {name} is being made.")
    return _at_work(facts, Step.PREPARE, verdict, again=timedelta(seconds=2))


def _start(facts: RestoreFacts) -> RestorePlan:
    if (lost := _target_lost(facts, Step.START)) is not None:
        return lost
    hold, name, target = facts.hold, facts.target_name, facts.target
    assert target is not None
    verdict = Verdict(Standing.WORKING, "WaitingForCluster", f"DatabaseCluster {name} starts on what was restored.")
    if hold is not None and hold.restore == facts.uid and not hold.lifted:
        return _at_work(facts, Step.START, verdict, lift=True, again=timedelta(seconds=2))
    if target.ready and target.system == facts.system:
        return _done(facts, Step.START)
    if target.ready:
        message = (
            f"DatabaseCluster {name} serves database system {target.system}, and this restore made {facts.system}: it "
            "is another database. Do not use it before you know whose it is."
        )
        return _failed(facts, Step.START, "AnotherDatabase", message)
    if facts.step_started is not None and facts.now - facts.step_started > READY_WITHIN:
        message = (
            f"The data is restored, but DatabaseCluster {name} did not become ready within "
            f"{READY_WITHIN // timedelta(minutes=1)} minutes; see `kubectl describe dbc {name}`. It goes on trying."
        )
        return _failed(facts, Step.START, "ClusterNotReady", message)
    return _at_work(facts, Step.START, verdict, again=timedelta(seconds=5))


def _held(facts: RestoreFacts) -> str:
    return (
        f"No instance of {facts.target_name} was started: delete that DatabaseCluster and this Restore, its volume "
        "goes with them, and make a new Restore."
    )


def _restore(facts: RestoreFacts) -> RestorePlan:
    if facts.mode is Mode.RECOVER:
        if (lost := _target_lost(facts, Step.RESTORE)) is not None:
            return lost
        return _through_job(facts, Step.RESTORE, "recovery", after=_held(facts), repeatable=True)
    if not facts.work.noted and (lost := _target_lost(facts, Step.RESTORE)) is not None:
        return lost
    if facts.mode is Mode.NEW:
        after = (
            f"DatabaseCluster {facts.target_name} is there without the restored data: delete it and make a new Restore."
        )
    else:
        after = (
            f"Data is replaced only after all of it was compared, so {facts.target_name} serves what it had; Backup "
            f"{facts.safety_name} holds it too."
        )
    return _through_job(facts, Step.RESTORE, "restore", after=after, repeatable=False)


def _target_lost(facts: RestoreFacts, step: Step) -> RestorePlan | None:
    """The cluster was deleted, or deleted and made again, under our hands: never restore into a stranger."""
    if facts.target is not None and facts.target.uid == facts.target_uid and not facts.target.deleting:
        return None
    return _failed(
        facts,
        step,
        "TargetDeleted",
        f"DatabaseCluster {facts.target_name} is not the one this Restore began with: it was deleted meanwhile. "
        "Nothing of the backup was restored; make a new Restore.",
    )


def _through_job(facts: RestoreFacts, step: Step, what: str, *, after: str, repeatable: bool) -> RestorePlan:
    """A step that one Job does. `repeatable`: running it a second time harms nobody."""
    work, job = facts.work, facts.work.job
    unknown = (
        f"Data is switched in one step at the end, so {facts.target_name} holds either all of the backup or none of "
        "it: look at it. The restore is not repeated."
    )
    reason = "Verifying" if step is Step.VERIFY else "Restoring"
    working = Verdict(Standing.WORKING, reason, f"The {what}'s Job is at work.")
    if work.result is not None and work.result.ok and work.noted:
        return _done(facts, step)
    if not work.noted:
        if job is None and facts.source is not None:
            return _failed(facts, step, facts.source.reason, f"{facts.source.message} {after}")
        if job is None:
            return _at_work(
                facts, step, working, make_job=step, jobs_made=max(1, work.made), again=timedelta(seconds=2)
            )
        return _at_work(facts, step, working, jobs_made=work.made, job_noted=True, again=SOON)
    if job is None or (job.state is JobState.SUCCEEDED and work.result is None):
        if repeatable and work.made < MAX_JOBS:
            retry = Verdict(
                Standing.WORKING, "Retrying", f"The {what}'s Job is gone without a result; it is made again."
            )
            return _at_work(facts, step, retry, jobs_made=work.made + 1, again=SOON)
        if not repeatable and job is not None:
            return _done(facts, step)  # it says that it succeeded, only the figures of its comparison are lost
        outcome = after if repeatable else unknown
        return _failed(facts, step, "JobVanished", f"The {what}'s Job is gone without a result. {outcome}")
    if job.state is JobState.SUCCEEDED:
        return _done(facts, step)
    if job.state is JobState.FAILED:
        reason, message = why_failed(job, work.result, what)
        outcome = after if repeatable or work.result is not None else unknown
        return _failed(facts, step, reason, f"{message} {outcome}")
    if work.suspended:
        return _at_work(facts, step, working, jobs_made=work.made, job_noted=True, resume_job=True)
    if job.waiting:
        working = Verdict(Standing.WORKING, "PodWaiting", job.waiting)
    elif work.result is not None:
        said = work.result.message or work.result.reason
        working = Verdict(Standing.WORKING, "Retrying", f"An attempt failed and is repeated: {said}")
    return _at_work(facts, step, working, jobs_made=work.made, job_noted=True)


def _complete(facts: RestoreFacts) -> RestorePlan:
    message = f"Restored into {facts.target_name} and compared: counts and hashes of all tables are the backup's."
    if facts.mode is Mode.RECOVER:
        message = f"Restored into {facts.target_name}, which takes writes; status.recovered says what was reached."
    return RestorePlan(
        phase=Phase.COMPLETE,
        verdict=Verdict(
            Standing.READY,
            "Complete",
            message,
        ),
        steps=facts.steps,
        finished=True,
    )


def _done(facts: RestoreFacts, step: Step, note_target: str | None = None) -> RestorePlan:
    steps = {**facts.steps, step: StepState.DONE}
    following = next((s for s in STEPS[facts.mode] if steps.get(s) is not StepState.DONE), None)
    if following is not None:
        steps[following] = StepState.RUNNING
    else:
        return _complete(replace(facts, steps=steps))
    return RestorePlan(
        phase=Phase.RUNNING,
        verdict=Verdict(Standing.WORKING, "Running", f"Step {step} is done, step {following} begins."),
        steps=steps,
        step=following,
        note_target=note_target or facts.target_uid,
        requeue=SOON,
    )


def _at_work(
    facts: RestoreFacts,
    step: Step,
    verdict: Verdict,
    *,
    phase: Phase = Phase.RUNNING,
    create_cluster: bool = False,
    create_safety: bool = False,
    make_job: Step | None = None,
    resume_job: bool = False,
    lift: bool = False,
    jobs_made: int = 0,
    job_noted: bool = False,
    again: timedelta = LOOK_AGAIN,
) -> RestorePlan:
    return RestorePlan(
        phase=phase,
        verdict=verdict,
        steps={**facts.steps, step: StepState.RUNNING},
        step=step,
        message=verdict.message,
        note_target=facts.target_uid,
        jobs_made=jobs_made,
        job_noted=job_noted,
        create_cluster=create_cluster,
        create_safety=create_safety,
        make_job=make_job,
        resume_job=resume_job,
        lift=lift,
        requeue=again,
    )


def _failed(facts: RestoreFacts, step: Step, reason: str, message: str) -> RestorePlan:
    return RestorePlan(
        phase=Phase.FAILED,
        verdict=Verdict(Standing.STALLED, reason, message),
        steps={**facts.steps, step: StepState.FAILED},
        step=step,
        message=message,
        note_target=facts.target_uid,
        jobs_made=facts.work.made,
        job_noted=facts.work.noted,
        finished=True,
    )


def _no(reason: str, message: str) -> Verdict:
    return Verdict(Standing.STALLED, reason, message)


def _wait(reason: str, message: str) -> Verdict:
    return Verdict(Standing.WORKING, reason, message)

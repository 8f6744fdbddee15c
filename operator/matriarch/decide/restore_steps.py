"""What all steps of a Restore have in common: how one ends, goes on, fails, or is done by a Job."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from matriarch.decide.backups import LOOK_AGAIN, MAX_JOBS, JobState, Phase, why_failed
from matriarch.decide.restore_facts import STEPS, Mode, RestoreFacts, RestorePlan, Step, StepState, Workload
from matriarch.decide.verdict import Standing, Verdict

READY_WITHIN = timedelta(minutes=30)
"""How long a cluster may take to become ready."""

SOON = timedelta(0)


def late(facts: RestoreFacts, limit: timedelta) -> bool:
    """Whether the step has been at work for longer."""
    return facts.step_started is not None and facts.now - facts.step_started > limit


def target_lost(facts: RestoreFacts, step: Step) -> RestorePlan | None:
    """The cluster was deleted, or deleted and made again, under our hands: never restore into a stranger."""
    if facts.target is not None and facts.target.uid == facts.target_uid and not facts.target.deleting:
        return None
    return failed(
        facts,
        step,
        "TargetDeleted",
        f"DatabaseCluster {facts.target_name} is not the one this Restore began with: it was deleted meanwhile. "
        "Nothing of the backup was restored; make a new Restore.",
    )


def through_job(facts: RestoreFacts, step: Step, what: str, *, after: str, repeatable: bool) -> RestorePlan:
    """A step that one Job does. `repeatable`: running it a second time harms nobody."""
    work, job = facts.work, facts.work.job
    unknown = (
        f"Data is switched in one step at the end, so {facts.target_name} holds either all of the backup or none of "
        "it: look at it. The restore is not repeated."
    )
    reason = "Verifying" if step is Step.VERIFY else "Restoring"
    working = Verdict(Standing.WORKING, reason, f"The {what}'s Job is at work.")
    if work.result is not None and work.result.ok and work.noted:
        return done(facts, step)
    if not work.noted:
        if job is None and facts.source is not None:
            return failed(facts, step, facts.source.reason, f"{facts.source.message} {after}")
        if job is None:
            return at_work(facts, step, working, make_job=step, jobs_made=max(1, work.made), again=timedelta(seconds=2))
        return at_work(facts, step, working, jobs_made=work.made, job_noted=True, again=SOON)
    if job is None or (job.state is JobState.SUCCEEDED and work.result is None):
        if repeatable and work.made < MAX_JOBS:
            retry = Verdict(
                Standing.WORKING, "Retrying", f"The {what}'s Job is gone without a result; it is made again."
            )
            return at_work(facts, step, retry, jobs_made=work.made + 1, again=SOON)
        if not repeatable and job is not None:
            return done(facts, step)  # it says that it succeeded, only the figures of its comparison are lost
        outcome = after if repeatable else unknown
        return failed(facts, step, "JobVanished", f"The {what}'s Job is gone without a result. {outcome}")
    if job.state is JobState.SUCCEEDED:
        return done(facts, step)
    if job.state is JobState.FAILED:
        reason, message = why_failed(job, work.result, what)
        outcome = after if repeatable or work.result is not None else unknown
        return failed(facts, step, reason, f"{message} {outcome}")
    if work.suspended:
        return at_work(facts, step, working, jobs_made=work.made, job_noted=True, resume_job=True)
    if job.waiting:
        working = Verdict(Standing.WORKING, "PodWaiting", job.waiting)
    elif work.result is not None:
        said = work.result.message or work.result.reason
        working = Verdict(Standing.WORKING, "Retrying", f"An attempt failed and is repeated: {said}")
    return at_work(facts, step, working, jobs_made=work.made, job_noted=True)


def complete(facts: RestoreFacts) -> RestorePlan:
    message = f"Restored into {facts.target_name} and compared: counts and hashes of all tables are the backup's."
    if facts.mode is Mode.RECOVER:
        message = f"Restored into {facts.target_name}, which takes writes; status.recovered says what was reached."
    if facts.mode is Mode.REPLACE:
        where = facts.hold.begins if facts.hold is not None else "the volume"
        message = (
            f"Restored in place: {facts.target_name} takes writes, and status.recovered says what was reached. The "
            f"data of before is kept on {where} until it is confirmed that nobody needs it; see the cluster's "
            "conditions."
        )
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


def done(facts: RestoreFacts, step: Step, note_target: str | None = None) -> RestorePlan:
    steps = {**facts.steps, step: StepState.DONE}
    following = next((s for s in STEPS[facts.mode] if steps.get(s) is not StepState.DONE), None)
    if following is not None:
        steps[following] = StepState.RUNNING
    else:
        return complete(replace(facts, steps=steps))
    return RestorePlan(
        phase=Phase.RUNNING,
        verdict=Verdict(Standing.WORKING, "Running", f"Step {step} is done, step {following} begins."),
        steps=steps,
        step=following,
        note_target=note_target or facts.target_uid,
        requeue=SOON,
    )


def at_work(
    facts: RestoreFacts,
    step: Step,
    verdict: Verdict,
    *,
    phase: Phase = Phase.RUNNING,
    create_cluster: bool = False,
    create_safety: bool = False,
    make_job: Step | None = None,
    resume_job: bool = False,
    suspend: str = "",
    lift: bool = False,
    scale: tuple[Workload, ...] = (),
    start: bool = False,
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
        suspend=suspend,
        lift=lift,
        scale=scale,
        start=start,
        requeue=again,
    )


def failed(facts: RestoreFacts, step: Step, reason: str, message: str) -> RestorePlan:
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


def no(reason: str, message: str) -> Verdict:
    return Verdict(Standing.STALLED, reason, message)


def wait(reason: str, message: str) -> Verdict:
    return Verdict(Standing.WORKING, reason, message)

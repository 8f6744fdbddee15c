"""When a schedule's newest good backup is restored for a proof, and what the proof says.

A drill is written into the schedule's status, with the name of its Job, before that Job exists: a controller that dies
in between makes the same Job again, and never two. One drill of a schedule is at work at a time. One that was missed is
made up for while it is nearer than the next one, and never more than one. What cannot be drilled at its time (no good
backup, a Secret that is gone) has failed, there and then: nobody could restore it either.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from matriarch.decide.backups import JobFacts, JobState, Result
from matriarch.decide.schedule import CLOCK_SLACK, LEAST_CATCH_UP, Fires
from matriarch.decide.verdict import Verdict

MADE_WITHIN = timedelta(hours=1)
"""How long the API server may refuse the Job before the drill has failed."""

LOOK_EVERY = timedelta(seconds=30)
"""While a drill is at work; its Job's end is told by an event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Good:
    """The newest complete Backup of the schedule whose pages were sound."""

    name: str
    finished: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Active:
    """The drill that the status says is at work."""

    backup: str
    started: datetime
    scheduled: datetime | None
    seen: bool
    """Its Job was there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Last:
    """The newest drill that is over."""

    passed: bool
    backup: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillFacts:
    """Everything the decision rests on, read at one time."""

    now: datetime
    asked: bool
    """The schedule's spec wants drills."""
    refusal: str | None
    """Why the cron line cannot be read."""
    fires: Fires
    suspended: bool
    since: datetime | None
    """When drills were first seen to be wanted."""
    resumed: datetime | None
    """When a suspension ended."""
    last_run: datetime | None
    request: str | None
    """The annotation's value."""
    handled: str | None
    """The value that was carried out last."""
    newest: Good | None
    blocked: Verdict | None = None
    """Why no Job could restore it."""
    active: Active | None = None
    job: JobFacts | None = None
    result: Result | None = None
    last: Last | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """A drill to write down now."""

    backup: str
    scheduled: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A drill that is over."""

    passed: bool
    backup: str | None
    reason: str
    message: str
    started: datetime
    scheduled: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Restorable:
    """The condition of that name."""

    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillPlan:
    """What is written first, then whether to make the Job of the drill that was written down earlier."""

    begin: Begin | None = None
    ended: Ended | None = None
    make_job: bool = False
    job_seen: bool = False
    since: datetime | None = None
    last_run: datetime | None = None
    next_run: datetime | None = None
    handled: str | None = None
    overdue: bool = False
    restorable: Restorable | None = None
    requeue: timedelta | None = None


def plan_drill(facts: DrillFacts) -> DrillPlan:
    """Decide for the drills of one schedule at `facts.now`."""
    begin, ended = None, None
    last_run, handled = facts.last_run, facts.handled
    due = _due(facts)
    if facts.active is not None:
        ended = _ended(facts, facts.active)
    elif due is not None or _requested(facts):
        last_run = due or last_run
        handled = facts.request if _requested(facts) else handled
        if (why := _why_not(facts)) is not None:
            name = facts.newest.name if facts.newest is not None else None
            ended = Ended(passed=False, backup=name, reason=why[0], message=why[1], started=facts.now, scheduled=due)
        else:
            assert facts.newest is not None
            begin = Begin(backup=facts.newest.name, scheduled=due)
    next_run = facts.fires.next if facts.asked and not facts.suspended and not facts.refusal else None
    overdue = facts.active is None and begin is None and ended is None and _missed(facts)
    at_work = begin is not None or (facts.active is not None and ended is None)
    return DrillPlan(
        begin=begin,
        ended=ended,
        make_job=facts.active is not None and ended is None and not facts.active.seen and facts.job is None,
        job_seen=facts.active is not None and (facts.active.seen or facts.job is not None),
        since=(facts.since or facts.now) if facts.asked else None,
        last_run=last_run,
        next_run=next_run,
        handled=handled,
        overdue=overdue,
        restorable=_restorable(facts, ended, next_run, overdue=overdue, at_work=at_work),
        requeue=_requeue(facts, begin, ended, next_run),
    )


def _requested(facts: DrillFacts) -> bool:
    return bool(facts.request) and facts.request != facts.handled


def _since(facts: DrillFacts) -> datetime:
    # A remembered time in the future comes from a clock that was since put right: it must not silence the drills.
    times = [facts.since or facts.now, facts.resumed, facts.last_run]
    return max((t for t in times if t is not None and t <= facts.now), default=facts.now)


def _missed(facts: DrillFacts) -> bool:
    """A scheduled time has no drill, whether it may still be made up for or not."""
    last = facts.fires.last
    if not facts.asked or facts.refusal or facts.suspended or last is None:
        return False
    return last > _since(facts)


def _due(facts: DrillFacts) -> datetime | None:
    last, following = facts.fires.last, facts.fires.next
    if not _missed(facts) or last is None:
        return None
    limit = max((following - last) / 2 if following else LEAST_CATCH_UP, LEAST_CATCH_UP)
    return last if facts.now - last <= limit else None


def _why_not(facts: DrillFacts) -> tuple[str, str] | None:
    if facts.newest is None:
        return "NoBackup", "This schedule has no good backup that could be restored: look at its Backups."
    if facts.blocked is not None:
        return facts.blocked.reason, facts.blocked.message
    return None


def _ended(facts: DrillFacts, active: Active) -> Ended | None:
    """What became of the drill at work; None while it is."""
    found = _outcome(facts, active)
    if found is None:
        return None
    passed, reason, message = found
    return Ended(
        passed=passed,
        backup=active.backup,
        reason=reason,
        message=message,
        started=active.started,
        scheduled=active.scheduled,
    )


def _outcome(facts: DrillFacts, active: Active) -> tuple[bool, str, str] | None:
    job, result = facts.job, facts.result
    if job is None:
        if active.seen:
            return False, "JobVanished", "Somebody deleted the drill's Job before its result was known."
        if facts.now - active.started > MADE_WITHIN:
            return False, "JobRefused", "The API server took no Job for the drill within an hour: see its Events."
        return None
    if job.state is JobState.ACTIVE:
        return None
    if job.state is JobState.SUCCEEDED:
        if result is not None and result.ok:
            return True, "Passed", result.message
        return False, "NoResult", f"Job {job.name} ended well and left no result."
    if job.reason == "DeadlineExceeded":
        waits = f" {job.waiting}" if job.waiting else ""
        return False, "TimedOut", f"Job {job.name} was not done in its time and was ended.{waits}"
    if result is not None and not result.ok:
        return False, result.reason, result.message
    return False, "JobFailed", f"Job {job.name} failed ({job.reason}) and left no result: see its Pods' Events."


def _restorable(
    facts: DrillFacts, ended: Ended | None, next_run: datetime | None, *, overdue: bool, at_work: bool
) -> Restorable | None:
    last = facts.last
    if ended is not None:
        last = Last(passed=ended.passed, backup=ended.backup or "", reason=ended.reason, message=ended.message)
    when = f"the next drill is at {next_run:%Y-%m-%dT%H:%M:%SZ}" if next_run else "no drill is planned"
    if last is not None and not last.passed:
        what = f"The drill of Backup {last.backup} failed" if last.backup else "The drill failed"
        return Restorable(status="False", reason=last.reason, message=f"{what}: {last.message}")
    if facts.asked and facts.refusal:
        return Restorable(status="Unknown", reason="InvalidSchedule", message=f"spec.drill: {facts.refusal}")
    if overdue:
        was = f"{facts.fires.last:%Y-%m-%dT%H:%M:%SZ}"
        return Restorable(status="Unknown", reason="DrillOverdue", message=f"The drill of {was} was not made; {when}.")
    if last is not None:
        return Restorable(status="True", reason="DrillPassed", message=f"Backup {last.backup}: {last.message}")
    if at_work:
        return Restorable(status="Unknown", reason="Drilling", message="The first drill is at work.")
    if facts.asked:
        return Restorable(status="Unknown", reason="NotDrilled", message=f"No backup was drilled yet; {when}.")
    return None


def _requeue(
    facts: DrillFacts, begin: Begin | None, ended: Ended | None, next_run: datetime | None
) -> timedelta | None:
    if begin is not None or ended is not None:  # its Job; or what was asked for meanwhile
        return CLOCK_SLACK
    if facts.active is not None:
        return LOOK_EVERY
    return max(next_run - facts.now, CLOCK_SLACK) if next_run else None

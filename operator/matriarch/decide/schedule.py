"""When a schedule makes a backup, which of its records go, and when retention looks at the store.

The cron line itself is read outside (`controller/schedule_cron.py`); here are only the times that it gave. Each run is
a Backup whose name follows from its scheduled time, so making one twice is the same as making it once, and a controller
that was away makes up for at most one missed run, never for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from matriarch.decide.verdict import Standing, Verdict

LEAST_CATCH_UP = timedelta(minutes=10)
"""A run this late is always made up for: a restart of the controller takes less, and a minute's schedule would
otherwise lose runs to it."""

CLOCK_SLACK = timedelta(seconds=1)
"""Woken this much too early counts as too early; woken later than the time itself is normal."""


class RunPhase(StrEnum):
    """What became of one run."""

    ACTIVE = "Active"
    COMPLETE = "Complete"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One Backup that this schedule made."""

    name: str
    uid: str
    scheduled: datetime
    phase: RunPhase
    finished: datetime | None = None
    backup_id: str = ""
    pinned: bool = False
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fires:
    """The cron line's times around `now`; both None when it never fires."""

    last: datetime | None
    next: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionRun:
    """The newest retention Job of this schedule, named by the Backup that caused it."""

    after: str
    """uid of that Backup"""
    state: str
    """`active`, `done` or `failed`"""
    deleted: tuple[str, ...] = ()
    """ids of backups that are no longer in the store"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleFacts:
    """Everything a schedule's decision rests on, read at one time."""

    name: str
    created: datetime
    now: datetime
    refusal: str | None
    """Why the cron line or the time zone cannot be read, as a sentence."""
    fires: Fires
    suspended: bool
    resumed: datetime | None
    """When it was last seen to be no longer suspended; runs missed before that are not made up for."""
    last_run: datetime | None
    """Newest scheduled time that status remembers."""
    runs: tuple[Run, ...]
    catch_up: timedelta | None
    """How late a missed run may start; None: half the time between two runs, at least LEAST_CATCH_UP."""
    overlap: bool
    """A run starts although an earlier one is still at work: it waits for its turn as a Backup of its own."""
    keep_complete: int
    keep_failed: int
    retention_run: RetentionRun | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulePlan:
    """What to do, in this order: delete records, make a Backup, start retention; then status, then look again."""

    verdict: Verdict
    create: datetime | None = None
    """Scheduled time of the Backup to make now."""
    prune: tuple[str, ...] = ()
    """Names of Backup resources to delete; never of data in the store."""
    retention_after: str | None = None
    """uid of the Backup after which retention is to look at the store now."""
    last_run: datetime | None = None
    next_run: datetime | None = None
    last_success: datetime | None = None
    active: tuple[str, ...] = ()
    requeue: timedelta | None = None


def run_name(schedule: str, scheduled: datetime) -> str:
    """Name of the Backup for one scheduled time, such as `nightly-20260301020000`; `scheduled` is in UTC."""
    return f"{schedule}-{scheduled:%Y%m%d%H%M%S}"


def plan_schedule(facts: ScheduleFacts) -> SchedulePlan:
    """Decide for one schedule at `facts.now`."""
    runs = sorted(facts.runs, key=lambda run: (run.scheduled, run.name))
    active = tuple(run.name for run in runs if run.phase is RunPhase.ACTIVE)
    last_success = max((run.finished for run in runs if run.finished and run.phase is RunPhase.COMPLETE), default=None)
    prune = _prune(facts, runs)
    retention_after = _retention_after(facts, runs)
    due = _due(facts, runs)
    create = due if due is not None and (facts.overlap or not active) else None
    seen = [run.scheduled for run in runs]
    if facts.last_run is not None:
        seen.append(facts.last_run)
    if create is not None:
        seen.append(create)
    next_run = None if facts.suspended or facts.refusal else facts.fires.next
    return SchedulePlan(
        verdict=_verdict(facts, runs, next_run),
        create=create,
        prune=prune,
        retention_after=retention_after,
        last_run=max((time for time in seen if time <= facts.now), default=None),
        next_run=next_run,
        last_success=last_success,
        active=active,
        requeue=max(next_run - facts.now, CLOCK_SLACK) if next_run else None,
    )


def _due(facts: ScheduleFacts, runs: Iterable[Run]) -> datetime | None:
    """The newest scheduled time that has no run yet and is not too late for one."""
    last, following = facts.fires.last, facts.fires.next
    if facts.refusal or facts.suspended or last is None:
        return None
    # A remembered time in the future comes from a clock that was since put right: it must not silence the schedule.
    times = [facts.created, facts.resumed, facts.last_run, *(run.scheduled for run in runs)]
    since = max(time for time in times if time is not None and (time <= facts.now or time == facts.created))
    if last <= since:
        return None
    catch_up = facts.catch_up
    if catch_up is None:
        catch_up = max((following - last) / 2 if following else LEAST_CATCH_UP, LEAST_CATCH_UP)
    return last if facts.now - last <= catch_up else None


def _prune(facts: ScheduleFacts, runs: list[Run]) -> tuple[str, ...]:
    """Records that go: beyond the history limits, or whose data retention took from the store.

    The newest complete run's record always stays: people and Restores look for it by name.
    """
    complete = [run for run in runs if run.phase is RunPhase.COMPLETE]
    counted = [run for run in complete if not run.pinned]  # the pin is on the record
    failed = [run for run in runs if run.phase is RunPhase.FAILED]
    gone = set(facts.retention_run.deleted) if facts.retention_run else set()
    over = counted[: max(0, len(counted) - max(1, facts.keep_complete))]
    over += [run for run in complete[:-1] if run.backup_id in gone and run not in over]
    over += failed[: max(0, len(failed) - facts.keep_failed)]
    return tuple(run.name for run in sorted(over, key=lambda run: (run.scheduled, run.name)))


def _retention_after(facts: ScheduleFacts, runs: list[Run]) -> str | None:
    """Retention follows a success of this schedule, once, and never a failure: a store that takes no new backups is
    no place to delete old ones from."""
    finished = [run for run in runs if run.phase is not RunPhase.ACTIVE]
    if not finished or finished[-1].phase is not RunPhase.COMPLETE:
        return None
    done = facts.retention_run
    if done is not None and (done.state == "active" or done.after == finished[-1].uid):
        return None
    return finished[-1].uid


def _verdict(facts: ScheduleFacts, runs: list[Run], next_run: datetime | None) -> Verdict:
    if facts.refusal:
        return Verdict(Standing.STALLED, "InvalidSchedule", facts.refusal)
    if facts.fires.next is None:
        return Verdict(
            Standing.STALLED,
            "NeverFires",
            "The cron line never fires: no date matches it. Correct spec.schedule, for example to `0 2 * * *`.",
        )
    if facts.suspended:
        return Verdict(Standing.READY, "Suspended", "Suspended: no backups are made until spec.suspend is false.")
    when = f"next backup at {next_run:%Y-%m-%dT%H:%M:%SZ}"
    finished = [run for run in runs if run.phase is not RunPhase.ACTIVE]
    if finished and finished[-1].phase is RunPhase.FAILED:
        return Verdict(
            Standing.READY,
            "LastBackupFailed",
            f"Backup {finished[-1].name} failed: {finished[-1].message or 'see its conditions'}; {when}.",
        )
    return Verdict(Standing.READY, "Scheduled", f"{when[0].upper()}{when[1:]}.")

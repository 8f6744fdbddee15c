"""Which backups stay.

Retention computes what to keep and why; what is deleted is merely the rest. So a rule that is forgotten, misread or
empty can only ever keep too much. Pure: the caller gathers the facts from manifests and carries out the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from matriarch.decide.chain import children_first


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupFact:
    """One complete backup, as its manifest describes it."""

    id: str
    finished: datetime
    """UTC, from the manifest, never from the store's listing."""
    good: bool
    """Its manifest is authentic and its data is there in full size."""
    schedule: str | None = None
    """The BackupSchedule that made it; None: by hand, or before an in-place restore."""
    verified: bool = False
    """A restore has proven it."""
    pinned: bool = False
    parent: str | None = None
    """An incremental needs its parent."""
    physical: bool = False
    """WAL can be replayed onto it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """How much to keep. A rule that is None keeps nothing by itself; times are in UTC."""

    days: int | None = None
    """Everything that finished within so many days."""
    count: int | None = None
    """The newest good ones."""
    daily: int | None = None
    """The newest good one of each of so many days in which there is one; the next three likewise, weeks by ISO 8601."""
    weekly: int | None = None
    monthly: int | None = None
    yearly: int | None = None
    schedule: str | None = None
    """Only this schedule's backups are counted and may go; all others stay. None: all are this policy's."""
    window: timedelta | None = None
    """How far back any moment is to be reachable by replaying WAL: the backup to begin with stays, whosever it is."""


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """`keep` maps each kept id to its reasons, in the order of the rules; `delete` is the rest, oldest first, but
    increments before what they build on: after any beginning of it every backup has its parent."""

    keep: Mapping[str, tuple[str, ...]]
    delete: tuple[str, ...]
    frozen: str | None = None
    """Why nothing may be deleted now, as a sentence."""


def plan_retention(backups: Iterable[BackupFact], policy: RetentionPolicy, now: datetime) -> RetentionPlan:
    """Decide which backups stay at `now`.

    Deletes nothing while the policy has no good backup, while no rule is set, while an incremental's parent is unknown,
    or while a backup claims to come from the future: something is wrong then that deleting cannot mend (the failure
    class of pgbackrest#680 and wal-g#230).
    """
    facts = {b.id: b for b in backups}
    newest_first = sorted(facts.values(), key=lambda b: (b.finished, b.id), reverse=True)
    ours = [b for b in newest_first if policy.schedule is None or b.schedule == policy.schedule]
    good = [b for b in ours if b.good]

    if (why := _frozen(newest_first, ours, good, facts, policy, now)) is not None:
        return RetentionPlan({b.id: (why,) for b in newest_first}, (), frozen=why)

    reasons: dict[str, list[str]] = {}

    def keep(backup: BackupFact, why: str) -> None:
        reasons.setdefault(backup.id, []).append(why)

    keep(good[0], "newest good")
    for b in newest_first:
        if policy.schedule is not None and b.schedule != policy.schedule:
            keep(b, "not of this schedule")
        if b.pinned:
            keep(b, "pinned")
    if newest_verified := next((b for b in good if b.verified), None):
        keep(newest_verified, "newest proven by a restore")
    if policy.days is not None:
        for b in ours:  # a suspect one stays for as long, to be looked into
            if now - b.finished <= timedelta(days=policy.days):
                keep(b, f"within {policy.days} days")
    for b in good[: policy.count or 0]:
        keep(b, f"among the last {policy.count}")
    if policy.window is not None and (base := _base_of_window(newest_first, now - policy.window)) is not None:
        keep(base, "begin of the recovery window")
    for rule, number, period in (
        ("day", policy.daily, lambda d: f"{d:%Y-%m-%d}"),
        ("week", policy.weekly, lambda d: "{}-W{:02}".format(*d.isocalendar()[:2])),
        ("month", policy.monthly, lambda d: f"{d:%Y-%m}"),
        ("year", policy.yearly, lambda d: f"{d:%Y}"),
    ):
        for name, b in list(_newest_of_each(good, period).items())[: number or 0]:
            keep(b, f"{rule} {name}")
    for kept in list(reasons):
        child = facts[kept]
        while child.parent is not None:
            parent = facts[child.parent]
            already = parent.id in reasons
            keep(parent, f"{child.id} needs it")
            if already:  # and so its own chain is, or will be: it is one of those gone through here
                break
            child = parent

    gone = [b.id for b in reversed(newest_first) if b.id not in reasons]
    ordered = children_first(gone, {b.id: b.parent for b in newest_first})
    return RetentionPlan({b.id: tuple(reasons[b.id]) for b in newest_first if b.id in reasons}, ordered)


def _base_of_window(newest_first: list[BackupFact], since: datetime) -> BackupFact | None:
    """The newest good physical one from before the window. As long as there is none, the oldest: it becomes that."""
    bases = [b for b in newest_first if b.good and b.physical]
    return next((b for b in bases if b.finished <= since), bases[-1] if bases else None)


def _frozen(
    newest_first: list[BackupFact],
    ours: list[BackupFact],
    good: list[BackupFact],
    facts: Mapping[str, BackupFact],
    policy: RetentionPolicy,
    now: datetime,
) -> str | None:
    periods = (policy.daily, policy.weekly, policy.monthly, policy.yearly)
    if all(rule is None for rule in (policy.days, policy.count, *periods)):
        return "No retention rule is set, so every backup stays."
    if not good:
        return "No good backup exists, so nothing is deleted." if ours else "There is nothing to delete."
    for b in newest_first:
        if b.parent is not None and b.parent not in facts:
            return (
                f"{b.id} needs {b.parent}, which is not in the store, so it can't be restored: delete {b.id} by hand. "
                "Until then nothing is deleted."
            )
    if newest_first[0].finished - now > timedelta(hours=1):
        return f"{newest_first[0].id} claims to come from the future; set the clocks right. Nothing is deleted."
    return None


def _newest_of_each(newest_first: list[BackupFact], period: Callable[[datetime], str]) -> dict[str, BackupFact]:
    found: dict[str, BackupFact] = {}
    for b in newest_first:
        found.setdefault(period(b.finished), b)
    return found

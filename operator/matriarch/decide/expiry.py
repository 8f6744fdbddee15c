"""When a backup that no rule keeps any more really goes: it is announced first, and waits.

The wait is what a mistyped rule is noticed in. Meanwhile the backup is whole, and a rule that keeps it again, or a pin,
takes the announcement back. Pure: the caller reads the announcements and carries out the plan in the order of Expiry's
fields, so that whatever dies in between has deleted nothing that was not announced for long enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from matriarch.decide.retention import RetentionPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """Ids of backups."""

    recall: tuple[str, ...] = ()
    """Announcements to take back: a rule keeps them again, they are gone, or the run is dry."""
    announce: tuple[str, ...] = ()
    delete: tuple[str, ...] = ()
    """Increments before what they build on."""
    waiting: Mapping[str, datetime]
    """What goes later → from when on it may; in a dry run: what would be announced now."""


def plan_expiry(
    plan: RetentionPlan,
    announced: Mapping[str, datetime],
    parents: Mapping[str, str | None],
    grace: timedelta,
    now: datetime,
    *,
    dry_run: bool = False,
) -> Expiry:
    """`announced`: id → since when, by the store's clock, as `now` is. While the plan is frozen nothing changes."""
    if plan.frozen is not None:
        return Expiry(waiting={})
    going = set(plan.delete)
    if dry_run:
        return Expiry(recall=tuple(sorted(announced)), waiting=dict.fromkeys(plan.delete, now + grace))
    delete, waiting, needed = [], dict[str, datetime](), set[str]()
    for backup in plan.delete:  # increments first
        after = announced.get(backup, now) + grace
        if after > now or backup in needed:
            waiting[backup] = max(after, now)
            if (parent := parents.get(backup)) is not None:
                needed.add(parent)
        else:
            delete.append(backup)
    return Expiry(
        recall=tuple(sorted(set(announced) - going)),
        announce=tuple(b for b in waiting if b not in announced),
        delete=tuple(delete),
        waiting=waiting,
    )

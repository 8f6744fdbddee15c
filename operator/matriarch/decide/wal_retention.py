"""Which files of a WAL archive may go.

A file goes only when it ends at or before the place where the earliest physical backup begins. LSNs are compared
across timelines on purpose: whatever line a recovery follows, it reads nothing below the start of the backup it begins
with, so no history has to be believed, or even be readable, for this to be safe. The price: the end of a line that was
left stays until every backup begins above it.

Two phases: what may go is written down first (a `Mark`), and goes when that was still true a while later. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from matriarch.postgres.lsn import SEGMENT_SIZE

WAIT = timedelta(hours=1)
"""Between mark and deletion: longer than a marker of a running backup stays fresh, and time to take it back."""
AHEAD = timedelta(hours=1)
"""A time so far in the future is no clock's inaccuracy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhysicalFact:
    """One physical backup that has a manifest, whatever state it is in: each may be somebody's last hope."""

    id: str
    timeline: int
    start: int
    """LSN where its replay begins."""
    finished: datetime
    good: bool
    """Its data is there in full size, no page was bad, and no key says that it is forged."""
    authentic: bool = True
    """False: a key fits, and the manifest was not written by its holder."""
    segment_size: int = SEGMENT_SIZE


@dataclass(frozen=True, slots=True, order=True)
class WalFact:
    """One archived file."""

    timeline: int
    end: int | None
    """The LSN behind the segment that it is, or, for a label, speaks of. None: a history."""
    name: str
    stored: datetime
    """When the store received it, by the store's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """What is known at one moment. `broken`: the keys of manifests that cannot be read."""

    now: datetime
    backups: tuple[PhysicalFact, ...]
    files: tuple[WalFact, ...]
    running: tuple[str, ...] = ()
    """Backups of whatever kind that are being made; where they begin is not known yet."""
    broken: tuple[str, ...] = ()
    elsewhere: tuple[int, ...] = ()
    """LSNs where backups in other stores begin that need this archive to go on from."""
    lost: tuple[str, ...] = ()
    """What the store should have and has not, as sentences."""


@dataclass(frozen=True, slots=True)
class WalPlan:
    """`gone` may be deleted, in this order: after any part of it, what stays is no worse."""

    gone: tuple[str, ...]
    before: int
    """LSN: everything that ends behind it stays."""
    frozen: str | None = None
    """Why nothing may go now, as a sentence."""
    because: str = ""
    """What needs the oldest WAL that stays, as the end of a sentence."""


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """That everything up to LSN `before` was found to be needed by nothing, at `made` by the store's clock."""

    before: int
    made: datetime


class Step(StrEnum):
    NOTHING = "Nothing"
    UNMARK = "Unmark"
    MARK = "Mark"
    WAIT = "Wait"
    DELETE = "Delete"


@dataclass(frozen=True, slots=True)
class Turn:
    """What to do now; `gone` with DELETE, and the rest of `plan` is looked at again in the next run."""

    step: Step
    gone: tuple[str, ...] = ()
    until: datetime | None = None
    """With WAIT and MARK: when it can go on."""


def plan_wal(archive: Archive, window: timedelta | None) -> WalPlan:
    """What may go. Files that were stored within `window` stay, although no backup needs them; None and 0: none do."""
    if (why := _frozen(archive)) is not None:
        return WalPlan((), 0, why)
    before, because = _needed(archive)
    if window:
        # One young file keeps all that follows it: what stays of a timeline is one piece.
        young = [f.end - SEGMENT_SIZE for f in archive.files if f.end is not None and archive.now - f.stored <= window]
        if min([before, *young]) < before:
            before, because = min(young), f"the window of {window.days} days"
    # The newest stays in any case: by it a later look sees that the archive was not emptied or set back.
    newest = max(((f.timeline, f.end) for f in archive.files if f.end is not None), default=None)
    old = [f for f in archive.files if f.end is not None and f.end <= before and (f.timeline, f.end) != newest]
    # PostgreSQL finds the newest timeline by counting up from the backup's: histories above it leave no hole. One
    # below it is read by nobody; it goes after the last WAL of its timeline.
    lowest = min(b.timeline for b in archive.backups)
    going = {f.name for f in old}
    alive = {f.timeline for f in archive.files if f.end is not None and f.name not in going}
    histories = [
        f
        for f in archive.files
        if f.end is None
        and f.timeline < lowest
        and f.timeline not in alive
        and (not window or archive.now - f.stored > window)
    ]
    old.sort(key=lambda f: (f.end or 0, f.timeline, f.name))
    return WalPlan((*(f.name for f in old), *(f.name for f in sorted(histories))), before, because=because)


def _needed(archive: Archive) -> tuple[int, str]:
    """The start of the segment in which the earliest backup begins, and whose that is."""
    first = min(archive.backups, key=lambda b: (b.start, b.id))
    if archive.elsewhere and min(archive.elsewhere) < first.start:
        return min(archive.elsewhere) // SEGMENT_SIZE * SEGMENT_SIZE, "a backup in another store"
    return first.start // SEGMENT_SIZE * SEGMENT_SIZE, f"backup {first.id}"


def next_step(plan: WalPlan, mark: Mark | None, archive: Archive) -> Turn:
    """The one step that this run takes. A doubt takes the mark back, so that the wait begins anew."""
    if plan.frozen is not None or not plan.gone:
        return Turn(Step.NOTHING if mark is None else Step.UNMARK)
    if mark is None or mark.made - archive.now > AHEAD:
        return Turn(Step.MARK, until=archive.now + WAIT)
    marked = _up_to(plan, mark.before, archive)
    if not marked:
        return Turn(Step.MARK, until=archive.now + WAIT)
    if archive.now - mark.made < WAIT:
        return Turn(Step.WAIT, until=mark.made + WAIT)
    return Turn(Step.DELETE, marked)


def _up_to(plan: WalPlan, before: int, archive: Archive) -> tuple[str, ...]:
    """What the plan and the mark agree on; histories only once no older WAL than the plan's stays unmarked."""
    ends = {f.name: f.end for f in archive.files}
    if before >= plan.before:
        return plan.gone
    return tuple(n for n in plan.gone if (end := ends[n]) is not None and end <= before)


def _frozen(archive: Archive) -> str | None:
    if archive.lost:
        return f"{archive.lost[0]} No WAL is deleted."
    if archive.broken:
        return f"{archive.broken[0]} cannot be read; look at what is wrong with it. No WAL is deleted."
    if not any(b.good for b in archive.backups):
        return "There is no good physical backup, so all WAL stays."
    if any(lsn <= 0 for lsn in archive.elsewhere):
        return "A backup in another store does not say where it begins; no WAL is deleted."
    if archive.running:
        return f"Backup {archive.running[0]} is being made; no WAL is deleted meanwhile."
    for b in archive.backups:
        if not b.authentic:
            return f"The manifest of {b.id} was not written by a holder of its key; no WAL is deleted."
        if b.segment_size != SEGMENT_SIZE:
            return f"{b.id} has WAL segments of {b.segment_size} bytes, which the archive does not; no WAL is deleted."
        if b.start <= 0 or b.timeline < 1:
            return f"{b.id} does not say where it begins; no WAL is deleted."
        if b.finished - archive.now > AHEAD:
            return f"{b.id} claims to come from the future; set the clocks right. No WAL is deleted."
    if (late := max(archive.files, key=lambda f: f.stored, default=None)) and late.stored - archive.now > AHEAD:
        return f"{late.name} was stored in the future; set the clocks right. No WAL is deleted."
    return None

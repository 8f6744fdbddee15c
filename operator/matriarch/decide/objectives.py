"""Whether a cluster's objectives are met: what may be lost now, by its backups and its archive, and what drills
measured. Seconds throughout. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

ARCHIVE_DELAY = 60
"""What a working archive lacks at most: PostgreSQL closes a segment 45 s after something was written, and it is then
stored; see docs/backup.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The latest drill of one schedule."""

    schedule: str
    finished: datetime
    passed: bool
    rto: float | None = None
    rpo: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveFacts:
    """Everything that the verdict rests on."""

    now: datetime
    rpo: int | None
    rto: int | None
    covered_until: datetime | None
    """When the newest good backup was begun: what was committed later is not in it."""
    archive: bool
    """WAL is archived, and there is a physical backup onto which it can be replayed."""
    archive_works: bool
    archive_waits: int
    """Seconds that the oldest finished file has waited for the store."""
    drills: tuple[Measured, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compliance:
    """`exposure`: seconds of writes that would be lost if everything but the store went now; None: no backup."""

    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str
    exposure: float | None
    drill: Measured | None


def exposure(facts: ObjectiveFacts) -> float | None:
    if facts.archive and facts.archive_works:
        return float(facts.archive_waits + ARCHIVE_DELAY)
    if facts.covered_until is None:
        return None
    return max((facts.now - facts.covered_until).total_seconds(), 0.0)


def comply(facts: ObjectiveFacts) -> Compliance:
    """Messages hold no figure that changes by itself, so that a status is only written when something happened."""
    lost, drill = exposure(facts), _best(facts)
    status, reason, message = _verdict(facts, lost, drill)
    return Compliance(status=status, reason=reason, message=message, exposure=lost, drill=drill)


def _best(facts: ObjectiveFacts) -> Measured | None:
    """The drill of the way back that one would take: one that meets both objectives, else the newest good one."""
    good = [d for d in facts.drills if d.passed]
    meeting = [d for d in good if _within(d.rto, facts.rto) and _within(d.rpo, facts.rpo)]
    return newest(meeting or good)


def newest(drills: Iterable[Measured]) -> Measured | None:
    return max(drills, key=lambda d: (d.finished, d.schedule), default=None)


def _within(measured: float | None, wanted: int | None) -> bool:
    return wanted is None or measured is None or measured <= wanted


def _verdict(
    facts: ObjectiveFacts, lost: float | None, drill: Measured | None
) -> tuple[Literal["True", "False", "Unknown"], str, str]:
    if facts.rpo is not None and (lost is None or lost > facts.rpo):
        return "False", "RpoMissed", f"More than {facts.rpo} s of writes could be lost: {_why(facts)}"
    if drill is None and facts.drills:
        failed = newest(facts.drills)
        assert failed is not None
        return (
            "False",
            "DrillFailed",
            f"No restore is proven: the latest drill of BackupSchedule {failed.schedule} failed.",
        )
    if drill is None:
        return "Unknown", "NotDrilled", "No drill has measured a restore yet: set spec.drill of a BackupSchedule."
    if not _within(drill.rto, facts.rto):
        message = (
            f"The latest drill of BackupSchedule {drill.schedule} took {drill.rto:.0f} s to restore, more than the "
            f"{facts.rto} s of spec.objectives.rto: back up physically, and more often where much WAL is replayed."
        )
        return "False", "RtoMissed", message
    if not _within(drill.rpo, facts.rpo):
        message = (
            f"The latest drill of BackupSchedule {drill.schedule} brought back data that was {drill.rpo:.0f} s old, "
            f"more than the {facts.rpo} s of spec.objectives.rpo: back up more often, or archive WAL."
        )
        return "False", "RpoMissed", message
    return "True", "Met", "What would be lost now, and what the latest drill measured, are within the objectives."


def _why(facts: ObjectiveFacts) -> str:
    if facts.archive and facts.archive_works:
        return "WAL waits for the store, or the objective is less than the archive's own delay of a minute."
    if facts.archive:
        return "WAL is not archived; see the condition ArchivingWal."
    if facts.covered_until is None:
        return "there is no good backup. Make a BackupSchedule."
    return (
        f"the newest good backup began at {facts.covered_until:%Y-%m-%dT%H:%M:%SZ}. Back up more often, or make "
        "physical backups with spec.backup.walArchive."
    )

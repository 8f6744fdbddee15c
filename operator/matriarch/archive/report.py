"""What the archiver says about itself: in the agent's status, and from there in the condition ArchivingWal."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Reason(enum.StrEnum):
    """Why a file is not stored, or not given back; beside those of backup/jobspec.py, which the store says."""

    BAD_SEGMENT = "BadSegment"  # the file is not what its name says
    SPLIT_BRAIN = "SplitBrain"  # the store has the same name with other content
    FILE_GONE = "FileGone"  # or it changed while it was read; PostgreSQL itself clears up after such a file
    OTHER_SYSTEM = "OtherSystem"  # a clone or a Restore brought other data: this process works for what was there
    NOT_YET = "NotYet"  # a replica waits for its primary to store it


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Times are seconds since the epoch; ages are seconds."""

    leads: bool  # stores; else it only confirms what the primary stored
    system: str = ""
    store: str = ""
    stored: int = 0  # files since the archiver started
    stored_bytes: int = 0  # of objects
    last_name: str = ""  # newest segment that is stored
    last_lsn: str = ""  # and where it ends
    last_at: float | None = None
    pending: int = 0  # files that PostgreSQL wants archived and that are not stored yet
    oldest_pending: float = 0.0  # how long the oldest of them has waited
    error: str = ""  # of the newest attempt that failed, until one succeeds
    reason: str = ""
    failing_since: float | None = None

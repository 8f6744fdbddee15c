"""What a drill is told and what it tells back: parts of the JobSpec and the Result of `backup/jobspec.py`.

The Job mounts what a restore from that store does, the store and the key, read-only; and at `folder` a volume of its
own that goes with the pod. It gets no certificate and no account: nothing that could reach the cluster. Standard
library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Amcheck = Literal["heapallindexed", "structure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillQuery:
    """`expect` is the text of the one value that comes back; None: it must not fail, and booleans must be true."""

    name: str
    sql: str
    database: str
    expect: str | None = None
    timeout: float = 60.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillTask:
    backup: str  # its full name: which one it is was chosen by whoever asks
    method: Literal["logical", "physical"]
    folder: str  # where the throwaway instance lies; what is made in it is removed
    manifest_sha256: str | None = None  # refuses a manifest that is not the one the Backup's status names
    archive: bool = False  # physical: replay the WAL archive beside the backup to its end
    archived_to: str | None = None  # LSN that the archive must reach: what the cluster says to have stored
    queries: tuple[DrillQuery, ...] = ()
    amcheck: Amcheck = "structure"
    timeout: float = 14_400.0  # seconds for all of it
    allow_unencrypted: bool = False
    gap_patience: float = 60.0  # seconds in which a hole in the archive may still be filled by a slower upload


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillResult:
    """Times in seconds. What a restore takes is `download` and `replay`, what a drill does beyond it `checks`."""

    backup_id: str
    backup_name: str
    started: str  # RFC 3339
    download: float
    replay: float  # of a logical backup: the load
    checks: float
    size: int  # bytes that were restored
    databases: int
    tables: int
    queries: int  # of the user, that were passed
    newest_transaction: str  # RFC 3339: the newest commit that came back, or when the backup was made
    age: float  # of that, when the drill began
    lsn: str | None = None  # physical: where replay ended
    timeline: int | None = None

    @property
    def recovery(self) -> float:
        """From nothing to a server that answers: the RTO that was measured."""
        return self.download + self.replay

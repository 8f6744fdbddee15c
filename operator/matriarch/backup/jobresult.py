"""What a backup Job tells back: the other half of the contract of jobspec.py.

The Job answers with a Result in /dev/termination-log and with its exit code; on the way it reports Progress to the
status of the Backup or Restore it works for. Standard library only, so that both sides can import it.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

from matriarch.backup.drillspec import DrillResult
from matriarch.backup.jobspec import Reason, Seen, Task
from matriarch.backup.jsonclass import decode, encode

TERMINATION_LOG = "/dev/termination-log"
RESULT_LIMIT = 4096  # bytes; what the kubelet keeps of a termination message


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseResult:
    name: str
    owner: str
    size: int  # bytes in the server, as pg_database_size said


@dataclass(frozen=True, slots=True, kw_only=True)
class PhysicalResult:
    """What only a physical backup has; LSNs as PostgreSQL writes them."""

    start_lsn: str
    files: int
    pages: Literal["passed", "suspect", "off"]  # off: the server has no checksums
    pages_checked: int
    bad_pages: int
    type: Literal["full", "incremental"] = "full"
    parent: str | None = None  # id of the backup that it builds on
    increments: int = 0  # in the chain, up to this one
    full_because: str | None = None  # why it is full although an incremental one was asked for; at most 300 characters
    whole_size: int | None = None  # bytes of all files, what is inherited included


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupResult:
    """One complete backup, as status.backup of the Backup shows it. Sizes in bytes, times RFC 3339 UTC."""

    id: str  # random part of the name, e.g. k3vq7m2xw4
    name: str  # backup-2024-01-15T02:00:00.000Z-k3vq7m2xw4.sql.gz.enc
    sequence: int
    started: str
    finished: str
    size: int  # of the SQL text, or of all files
    stored_size: int
    location: str  # address of the data object, of a physical backup that of the map: s3://bucket/prefix/logical/…
    sha256: str  # of that object as stored
    manifest: str  # key of the manifest
    manifest_sha256: str  # keep it: a store that was rolled back or altered is seen by it
    encrypted: bool
    key_id: str | None
    server_version: str
    system_identifier: str
    timeline: int
    snapshot_lsn: str
    source: Literal["primary", "standby"]
    instance: str | None  # of the cluster, where it is known
    databases: tuple[DatabaseResult, ...]
    tables: int
    rows: int
    physical: PhysicalResult | None = None

    @property
    def suspect(self) -> bool:
        """Pages failed their checksum: it is kept and never counts as good."""
        return self.physical is not None and self.physical.pages == "suspect"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreResult:
    backup_id: str
    backup_name: str
    databases: tuple[str, ...]
    tables: int  # whose count and hash were equal to the manifest's
    rows: int
    sequences: int
    amcheck: bool
    already_done: bool = False  # an earlier attempt of this restore_id switched; nothing was done now
    kept: tuple[str, ...] = ()  # names under which replaced databases were kept


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverResult:
    """What lies on the volume now. LSNs as PostgreSQL writes them, times RFC 3339 UTC."""

    backup_name: str
    system_identifier: str  # a new one: a copy is a database system of its own
    timeline: int
    lsn: str  # replayed up to here
    last_commit: str | None  # of the last transaction that was replayed; None: there was none
    archived_until: str  # when the store received the newest WAL that leads on from the backup
    size: int  # bytes of the backup's files
    wal: int  # bytes replayed
    reused: int = 0  # bytes that were taken from the data that is replaced, instead of fetched


@dataclass(frozen=True, slots=True, kw_only=True)
class WalResult:
    """What a look at an archive found, and what it did."""

    step: str  # of decide.wal_retention.Step
    going: int  # files that nothing needs
    going_bytes: int
    deleted: int
    deleted_bytes: int
    kept: int
    kept_bytes: int
    before: str | None  # LSN up to which files may go
    because: str  # what keeps the rest
    again: str | None  # when it goes on, RFC 3339
    frozen: str | None
    newest: str | None  # segment


@dataclass(frozen=True, slots=True, kw_only=True)
class TendResult:
    backups: int
    head: Seen | None
    lost: tuple[str, ...] = ()
    wal: WalResult | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Going:
    """A backup that no rule keeps any more, and from when on it may be deleted; RFC 3339 UTC."""

    name: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the Job leaves in its termination log; `to_json` never exceeds RESULT_LIMIT bytes."""

    ok: bool
    task: Task
    reason: Reason
    message: str
    retryable: bool = False
    backup: BackupResult | None = None
    restore: RestoreResult | None = None
    recover: RecoverResult | None = None
    drill: DrillResult | None = None
    deleted: tuple[str, ...] = ()  # backup ids, at most 100 a run
    backups: int | None = None  # list: complete backups in the store
    warnings: tuple[str, ...] = ()
    tend: TendResult | None = None
    going: tuple[Going, ...] = ()  # what goes next, soonest first, not all of it
    going_count: int | None = None  # all

    def to_json(self) -> str:
        """Shortens message and warnings, then the deleted list, until it fits."""
        result = self
        while True:
            text = json.dumps(encode(result), sort_keys=True, ensure_ascii=False)
            if len(text.encode()) <= RESULT_LIMIT:
                return text
            if result.warnings:
                result = dataclasses.replace(result, warnings=result.warnings[:-1])
            elif len(result.message) > 500:
                result = dataclasses.replace(result, message=result.message[:499] + "…")
            elif result.going:
                result = dataclasses.replace(result, going=result.going[: len(result.going) // 2])
            elif result.deleted:
                result = dataclasses.replace(result, deleted=result.deleted[: len(result.deleted) // 2])
            elif (kept := result.backup) is not None and kept.databases:
                result = dataclasses.replace(result, backup=dataclasses.replace(kept, databases=()))
            elif (seen := result.tend) is not None and len(seen.lost) > 1:
                result = dataclasses.replace(result, tend=dataclasses.replace(seen, lost=seen.lost[:-1]))
            elif (done := result.restore) is not None and (done.databases or done.kept):
                result = dataclasses.replace(result, restore=dataclasses.replace(done, databases=(), kept=()))
            else:
                return dataclasses.replace(result, message=result.message[:100]).to_json()

    @classmethod
    def from_json(cls, text: str) -> Result:
        return decode(cls, json.loads(text))


BACKUP_STEPS = ("Connecting", "Dumping", "Reading", "Completing", "Retaining")
RESTORE_STEPS = ("Checking", "Roles", "Loading", "Comparing", "Amcheck", "Switching", "Finishing")
RECOVER_STEPS = ("Checking", "Restoring", "Replaying", "Finishing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where the Job is. Bytes are of SQL text; `bytes_total` is an estimate for a backup and exact for a restore."""

    step: str  # of BACKUP_STEPS, RESTORE_STEPS or RECOVER_STEPS
    message: str = ""  # rate, tables, time left, as a sentence
    bytes_done: int = 0
    bytes_total: int | None = None
    bytes_per_second: int = 0
    tables_done: int = 0
    tables_total: int | None = None
    eta_seconds: int | None = None

    @property
    def percent(self) -> int | None:
        if not self.bytes_total:
            return None
        return min(100 * self.bytes_done // self.bytes_total, 100)

    def to_status(self, updated_at: str) -> dict[str, Any]:
        """status.progress of a Backup or Restore; absent values are left out."""
        status = {
            "step": self.step,
            "percent": self.percent,
            "bytesDone": self.bytes_done,
            "bytesTotal": self.bytes_total,
            "updatedAt": updated_at,
            "message": self.message or None,
        }
        return {key: value for key, value in status.items() if value is not None}

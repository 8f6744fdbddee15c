"""What a backup Job is told: one half of the contract between the controller and the engine; jobresult.py is the other.

The controller writes a JobSpec into the environment variable MATRIARCH_JOB; it holds no secret, only where secrets are
mounted. Standard library only, so that both sides can import it.

Mounts the Job expects:
  /etc/matriarch/tls          tls.crt, tls.key, ca.crt: client certificate (CN matriarch_backup, or postgres to restore)
  /etc/matriarch/key/<name>   one file per key: 32 bytes raw, as hex or as base64; <name> is listed in `keys`
  /etc/matriarch/store/       S3: access-key, secret-key and, where there is one, session-token, ca.crt
                              (no access-key file: the usual AWS chain of environment, web identity and instance role)
                              GCS: key.json, a service account's, and ca.crt where the endpoint is another
                              (no key.json: Google's default chain of environment, workload identity and instance)
  store.local.path            the volume of a local store
  backup.pgdata               a physical backup: in the volume of the member that is read, read-only
  recover.volume              the volume of the instance that is to start on what is recovered
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field, replace
from typing import Literal

from matriarch.backup.drillspec import DrillTask
from matriarch.backup.jsonclass import LEFT_OUT, decode, encode

ENVIRONMENT = "MATRIARCH_JOB"
TLS_FOLDER = "/etc/matriarch/tls"
KEY_FOLDER = "/etc/matriarch/key"
STORE_FOLDER = "/etc/matriarch/store"

Task = Literal["backup", "restore", "recover", "verify", "delete", "retain", "list", "drill", "tend"]


class Reason(enum.StrEnum):
    """Why a Job ended as it did: the reason of a condition. The exit code says whether another try can help."""

    # Done.
    COMPLETED = "Completed"
    # Not now: exit code 10, the Job tries again.
    STORE_UNAVAILABLE = "StoreUnavailable"  # no answer, 5xx, slow down; also in the middle of an upload
    SOURCE_UNAVAILABLE = "SourceUnavailable"  # no server accepts the connection
    SOURCE_CHANGED = "SourceChanged"  # promoted, restarted or cancelled a query in the middle of the dump
    DUMP_FAILED = "DumpFailed"  # pg_dump, for a reason we do not know
    TARGET_UNAVAILABLE = "TargetUnavailable"
    STORE_FULL = "StoreFull"  # local volume or quota
    CANCELLED = "Cancelled"  # SIGTERM; nothing is left behind
    INTERNAL = "InternalError"  # a bug: its text is in the log
    # Refused as it stands: exit code 20, a person has to change something.
    BAD_SPEC = "BadSpec"
    KEY_MISSING = "KeyMissing"
    BAD_KEY = "BadKey"  # the file is there but holds no 32 bytes
    WRONG_KEY = "WrongKey"
    UNENCRYPTED = "Unencrypted"  # a key was given, the backup is in the clear: somebody may have replaced it
    BUCKET_MISSING = "BucketMissing"
    BUCKET_NOT_LOCKED = "BucketNotLocked"  # object lock is asked for, and the bucket was made without
    NOT_VERSIONED = "NotVersioned"  # an earlier state is asked for, and the bucket keeps none
    CREDENTIALS_MISSING = "CredentialsMissing"
    CREDENTIALS_REFUSED = "CredentialsRefused"
    STORE_REFUSED = "StoreRefused"  # the store answers, but refuses the request for another reason
    CLOCK_SKEWED = "ClockSkewed"
    PREFIX_OWNED_BY_ANOTHER = "PrefixOwnedByAnother"
    BACKUP_NOT_FOUND = "BackupNotFound"
    BACKUP_AMBIGUOUS = "BackupAmbiguous"
    MANIFEST_MISSING = "ManifestMissing"  # objects without a manifest are not a backup
    VERSION_UNSUPPORTED = "VersionUnsupported"  # of the format, the server or a tool
    PERMISSION_DENIED = "PermissionDenied"  # the role may not read something that belongs into the backup
    TARGET_NOT_EMPTY = "TargetNotEmpty"
    TARGET_IS_REPLICA = "TargetIsReplica"
    SUSPECT = "Suspect"  # a physical backup whose pages were bad when it was made
    LAST_GOOD_BACKUP = "LastGoodBackup"  # refused to delete it
    TARGET_TOO_EARLY = "TargetTooEarly"  # a recovery's moment is before the backup's end
    TARGET_TOO_LATE = "TargetTooLate"  # it is after the newest archived WAL
    WAL_MISSING = "WalMissing"
    TARGET_NOT_REACHED = "TargetNotReached"  # all archived WAL was replayed, and the moment did not come
    NEEDED_BY_INCREMENT = "NeededByIncrement"  # refused to delete it: an incremental backup builds on it
    # Data is not what it should be: exit code 30, a person has to look.
    OBJECT_CORRUPT = "ObjectCorrupt"
    OBJECT_MISSING = "ObjectMissing"
    MANIFEST_CORRUPT = "ManifestCorrupt"
    RESTORE_FAILED = "RestoreFailed"  # psql refused a statement; the target is as it was
    VERIFICATION_FAILED = "VerificationFailed"  # a count, a hash, a sequence or pg_amcheck; the target is as it was
    # Of drills alone.
    EMPTY_BACKUP = "EmptyBackup"  # it restores, and holds nothing of the user's
    QUERY_FAILED = "QueryFailed"  # one of the user's
    TIMED_OUT = "TimedOut"


class Exit(enum.IntEnum):
    """Exit codes. 20 and 30 belong into podFailurePolicy as FailJob; all others count against backoffLimit."""

    OK = 0
    UNEXPECTED = 1
    RETRY = 10
    REFUSED = 20
    CORRUPT = 30
    CANCELLED = 143


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterIdentity:
    """Whose backups these are. `system_identifier` may be unknown to the controller; the engine reads the server's."""

    namespace: str
    name: str
    uid: str
    system_identifier: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectLock:
    """What is written can't be deleted or replaced for so many days, not even by who wrote it."""

    mode: Literal["GOVERNANCE", "COMPLIANCE"]
    days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Store:
    bucket: str
    prefix: str = ""
    region: str | None = None
    endpoint: str | None = None  # URL of a store that is not AWS
    path_style: bool | None = None  # None: by path when an endpoint is given
    credentials: str = STORE_FOLDER  # folder with access-key, secret-key, session-token, ca.crt; "" = AWS chain only
    lock: ObjectLock | None = None  # refused by a bucket that has no object lock
    as_of: str | None = None  # RFC 3339: read what a versioned bucket held then; nothing can be written


@dataclass(frozen=True, slots=True, kw_only=True)
class GcsStore:
    """A bucket of Google Cloud Storage."""

    bucket: str
    prefix: str = ""
    project: str | None = None  # for the client library alone: a bucket's name is unique among all projects
    endpoint: str | None = None  # URL of a server that is not Google's; one without TLS is sent no credentials
    credentials: str = STORE_FOLDER  # folder with key.json, ca.crt; "" = Google's default chain only


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalStore:
    path: str
    prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSpec:
    """Exactly one member is set."""

    s3: S3Store | None = None
    local: LocalStore | None = None
    gcs: GcsStore | None = field(default=None, metadata=LEFT_OUT)

    def __post_init__(self) -> None:
        if sum(kind is not None for kind in (self.s3, self.gcs, self.local)) != 1:
            raise ValueError("a store is exactly one of s3, gcs and local")

    def below(self, folder: str) -> StoreSpec:
        """The same store with `folder` appended to its prefix."""
        if self.s3 is not None:
            return StoreSpec(s3=replace(self.s3, prefix=_joined(self.s3.prefix, folder)))
        if self.gcs is not None:
            return StoreSpec(gcs=replace(self.gcs, prefix=_joined(self.gcs.prefix, folder)))
        assert self.local is not None
        return StoreSpec(local=replace(self.local, prefix=_joined(self.local.prefix, folder)))


def _joined(prefix: str, folder: str) -> str:
    return "/".join(part for part in (prefix.strip("/"), folder) if part)


Prefer = Literal["standby", "primary", "any", "primary-only"]
"""`primary-only`: for who needs all that was acknowledged, which a standby may not have replayed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """Where PostgreSQL is. Hosts are tried in order; `prefer` orders by role, and only `primary-only` refuses one.

    For a backup: hosts ("orders-ro", "orders-rw"), prefer "standby". To restore: ("orders-rw",), user postgres.
    """

    hosts: tuple[str, ...]
    port: int = 5432
    user: str = "matriarch_backup"
    database: str = "postgres"  # for the first connection
    prefer: Prefer = "any"
    tls: str | None = TLS_FOLDER  # None: no TLS (only by hand)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A manifest that was in a store."""

    id: str
    sha256: str
    sequence: int = 0  # 0: not known


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedStore:
    """What a store had, as statuses remember it: see decide.intact."""

    head: Seen | None = None
    wal: str | None = None
    backups: tuple[Seen, ...] = ()
    accepted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TendTask:
    """Compare a store with what it had; with `wal`, look at its archive too, and with `delete`, take one step of its
    expiry: mark, wait, delete."""

    expected: ExpectedStore
    wal: bool = False
    window_days: int = 0
    delete: bool = False
    sweep: bool = False  # also remove what dead backups left
    elsewhere: tuple[str, ...] = ()  # LSNs where backups in other stores begin


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What stays: see decide.retention. A rule that is None keeps nothing; the newest good one always stays."""

    days: int | None = None
    count: int | None = None
    daily: int | None = None
    weekly: int | None = None
    monthly: int | None = None
    yearly: int | None = None
    schedule: str | None = None  # only backups whose manifest carries this schedule's name; None: all of the store
    pinned: tuple[str, ...] = ()  # backup ids that stay whatever the rules say
    verified: tuple[str, ...] = ()  # backup ids that a restore has proven
    window_days: int | None = None  # of the WAL archive in this store: the backup that it begins with stays
    expected: ExpectedStore | None = None  # nothing is deleted while the store lacks any of it
    grace_hours: int = 0  # between the announcement that a backup goes and its deletion
    dry_run: bool = False  # only say what would go


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupTask:
    name: str | None = None  # file name chosen before; another run of it finishes it or tells its result. None: new
    method: Literal["logical", "physical"] = "logical"
    pgdata: str | None = None  # physical: where the data directory of the first of the server's hosts is mounted
    max_increments: int | None = None  # physical: so many in a chain after a full one; None: a full one
    databases: tuple[str, ...] = ()  # empty: every database that is not a template and not `postgres`
    compression: bool = True
    encryption: bool = True  # False has to be asked for in the resource; the result carries a warning
    scheduled_for: str | None = None  # the schedule's time (RFC 3339); only recorded
    resource: str | None = None  # name of the Backup, recorded in the manifest
    schedule: str | None = None  # name of the BackupSchedule, recorded in the manifest: retention goes by it
    retention: Retention | None = None  # applied after this backup succeeded, to this store
    sweep: bool = True  # remove what dead backups left; False where these credentials may not delete


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreTask:
    backup: str  # any form of backupId; "latest" for the newest complete one
    mode: Literal["new", "in-place"]  # new: databases have to be absent or empty; in-place: replaced in one step
    restore_id: str  # the Restore's uid: names the temporary databases, so that another try finds them
    databases: tuple[str, ...] = ()  # empty: all of the backup
    keep_old: bool = False  # in-place: keep the replaced database as <name>_before_<id>
    manifest_sha256: str | None = None  # refuses a manifest that is not the one the Backup's status names
    allow_unencrypted: bool = False
    trust_source: bool = False  # also a dump whose psql commands are not restricted (CVE-2025-8714)
    amcheck: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """How far a physical backup is replayed: as decide.pitr.Target, and `backup` for its own WAL and nothing else."""

    kind: Literal["backup", "latest", "immediate", "time", "lsn", "xid", "name"] = "backup"
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverTask:
    """A physical backup becomes the data of an instance, on a volume where nothing runs.

    `replaces`: in place, so that there is data already. It is only read, and the new lies beside it until the Lease
    says that it counts. Else the volume has to be empty.
    """

    backup: str
    restore_id: str  # the Restore's uid, written into the data: an instance starts on no other
    volume: str  # where the instance's volume is mounted
    moment: Moment = Moment()
    manifest_sha256: str | None = None
    allow_unencrypted: bool = False
    replaces: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyTask:
    backup: str = "latest"
    method: Literal["logical", "physical"] | None = None  # refuses one of the other; `latest` is the newest of it
    allow_unencrypted: bool = False
    moment: Moment | None = None  # physical: does not read every byte, but says whether this can be reached
    manifest_sha256: str | None = None  # with `moment`: refuses another manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteTask:
    backups: tuple[str, ...]
    allow_last_good: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Whose status gets the progress. Best effort: a missing API server never fails a backup."""

    kind: Literal["Backup", "Restore"]
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """The whole task. The member named like `task` is set (`list` needs none)."""

    task: Task
    cluster: ClusterIdentity
    store: StoreSpec
    keys: tuple[str, ...] = ()  # files in KEY_FOLDER; the first one encrypts, all can decrypt
    server: ServerSpec | None = None  # backup, restore
    report: Report | None = None
    backup: BackupTask | None = None
    restore: RestoreTask | None = None
    recover: RecoverTask | None = None
    verify: VerifyTask | None = None
    delete: DeleteTask | None = None
    retain: Retention | None = None
    drill: DrillTask | None = None
    tend: TendTask | None = None

    def __post_init__(self) -> None:
        if self.task != "list" and getattr(self, self.task) is None:
            raise ValueError(f"task {self.task} needs the member {self.task}")
        if self.task in ("backup", "restore") and self.server is None:
            raise ValueError(f"task {self.task} needs a server")
        if self.backup is not None and (self.backup.method == "physical") != (self.backup.pgdata is not None):
            raise ValueError("a physical backup, and no other, needs pgdata")

    def to_json(self) -> str:
        return json.dumps(encode(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> JobSpec:
        """Raises ValueError with the path of the first field that is wrong or unknown."""
        return decode(cls, json.loads(text))

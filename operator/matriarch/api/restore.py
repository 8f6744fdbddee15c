"""Restore: brings one backup back, once, into a new cluster or in place.

It is an object of its own and never a part of the cluster's spec: a source that stays in a spec would roll the data
back when a pruned cluster is made again from Git.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from matriarch.api.database_cluster import ParameterValue, Resources, Scheduling
from matriarch.api.model import (
    LIST_ATOMIC,
    ClusterName,
    Column,
    Int64,
    Kind,
    Model,
    ObjectName,
    Quantity,
    Resource,
    Rule,
    Time,
    list_map,
)
from matriarch.api.rules import PARAMETERS, SIZE, not_backup, not_pooler
from matriarch.api.status import AGE, MESSAGE, Failure, OneShot, Progress, Status, Step
from matriarch.api.stores import ONE_KIND, BackupSettings, EncryptionKeyRef, GcsStore, LocalStore, S3Store


class BackupRef(Model):
    """A Backup in the same namespace."""

    name: ObjectName
    """The Backup's name; it must be complete."""


class ScheduleRef(Model):
    """A BackupSchedule in the same namespace."""

    name: ObjectName
    """Its newest good physical Backup that ended before the recovery target is taken."""


MOMENT = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})$"


class RestoreStore(Model):
    """A backup in a store that no Backup object speaks of, such as one of a lost Kubernetes cluster."""

    s3: S3Store | None = None
    gcs: GcsStore | None = None
    local: LocalStore | None = None
    cluster: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[-_.a-zA-Z0-9/]+$")] | None = None
    """The folder of the backed-up cluster below the store's prefix; needed when the store holds several clusters."""
    backup_id: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[-_.:%a-zA-Z0-9]+$")] | None = None
    """File name with or without endings, or its id; if absent the newest complete backup, for a recovery target the
    newest good one that ended before it."""
    method: Literal["logical", "physical"] | None = None
    """Which backups are looked at; `physical` if `recoveryTarget` is set, else `logical`."""
    key_secret: EncryptionKeyRef | None = None
    """The key it was encrypted with; absent only for a backup that is not encrypted."""
    as_of: Annotated[str, Field(max_length=40, pattern=MOMENT)] | None = None
    """Reads what the bucket held at this time (RFC 3339, with its zone), for backups that were deleted or overwritten
    since. The bucket must keep versions."""

    rules: ClassVar[tuple[Rule, ...]] = (
        ONE_KIND,
        Rule(
            cel="!has(self.asOf) || has(self.s3)",
            message="asOf goes with s3 only: stores of other kinds are read as they are now",
            field=".asOf",
            broken=lambda s: s.as_of is not None and s.s3 is None,
        ),
        Rule(
            cel="!has(self.local) || has(self.local.claimName)",
            message="a restore reads an existing volume: set local.claimName",
            broken=lambda s: s.local is not None and s.local.claim_name is None,
        ),
    )


class RestoreSource(Model):
    """What to restore. Exactly one of `backup`, `schedule` and `store` is set."""

    backup: BackupRef | None = None
    schedule: ScheduleRef | None = None
    store: RestoreStore | None = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="[has(self.backup), has(self.schedule), has(self.store)].filter(x, x).size() == 1",
            message="set exactly one of backup (a Backup in this namespace), schedule (the newest good one of a "
            "BackupSchedule) and store (a backup in a store)",
            broken=lambda s: sum(x is not None for x in (s.backup, s.schedule, s.store)) != 1,
        ),
    )


_LABEL = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_TARGETS = ("to", "time", "lsn", "xid", "name")


class RecoveryTarget(Model):
    """How far the WAL archive is replayed onto a physical backup. Exactly one field is set."""

    to: Literal["latest", "immediate"] | None = None
    """`latest`: the end of all archived WAL; `immediate`: as soon as the backup is consistent."""
    time: (
        Annotated[
            str,
            Field(
                max_length=40,
                pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([.]\d{1,6})?(Z|[+-]\d\d:\d\d)$",
            ),
        ]
        | None
    ) = None
    """All that was committed up to and with this moment, such as `2026-03-01T14:05:00Z`; the zone is needed."""
    lsn: Annotated[str, Field(max_length=17, pattern=r"^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$")] | None = None
    """A position in the write-ahead log, such as `0/3000148`; what was committed up to it."""
    xid: Annotated[str, Field(max_length=20, pattern=r"^[0-9]{1,20}$")] | None = None
    """A transaction's number, the last one that counts."""
    name: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """A restore point, made by `pg_create_restore_point`."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="[" + ", ".join(f"has(self.{f})" for f in _TARGETS) + "].filter(x, x).size() == 1",
            message="set exactly one of to (latest or immediate), time, lsn, xid and name",
            broken=lambda s: sum(getattr(s, f) is not None for f in _TARGETS) != 1,
        ),
    )


class StorageOverride(Model):
    """The volumes of the new cluster."""

    size: Quantity | None = None
    """At least what the data takes."""
    storage_class_name: ObjectName | None = None
    """The Kubernetes cluster's default class if absent."""

    rules: ClassVar[tuple[Rule, ...]] = (SIZE,)


class Overrides(Model):
    """Where the new cluster differs from the backed-up one. Absent fields are taken from that one's spec."""

    instances: Annotated[int, Field(ge=1, le=9)] | None = None
    """As many as the backed-up cluster had if absent."""
    storage: StorageOverride | None = None
    resources: Resources | None = None
    scheduling: Scheduling | None = None
    parameters: Annotated[dict[str, ParameterValue], Field(max_length=200)] | None = None
    """Merged over the backed-up cluster's parameters, name by name."""
    backup: BackupSettings | None = None
    """In place of the backed-up cluster's stores."""
    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """The backed-up cluster's own if absent."""

    rules: ClassVar[tuple[Rule, ...]] = PARAMETERS


class RestoreTarget(Model):
    """The cluster to restore into, in the same namespace."""

    cluster: ClusterName
    """A new name makes a new DatabaseCluster; an existing one needs `inPlace`."""
    overrides: Overrides | None = None
    """For a new cluster only."""

    rules: ClassVar[tuple[Rule, ...]] = (
        not_backup("self.cluster", ".cluster", lambda t: t.cluster),
        not_pooler("self.cluster", ".cluster", lambda t: t.cluster),
    )


LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$")]


class ApplicationSelector(Model):
    """Which workloads of this namespace are the application."""

    match_labels: Annotated[dict[str, LabelValue], Field(min_length=1, max_length=16)]
    """Labels that a Deployment or StatefulSet has, all of them."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.matchLabels.all(k, k.matches('^([a-z0-9.-]{1,253}/)?"
            "[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$'))",
            message="matchLabels has a name that no label can have: write labels as `kubectl get deploy --show-labels`"
            " shows them",
            field=".matchLabels",
            broken=lambda s: any(not _LABEL.fullmatch(name) for name in s.match_labels),
        ),
    )


class InPlace(Model):
    """Replaces the data of a cluster, after a safety backup of it.

    Clients are refused from before the safety backup until the data is replaced. By a logical backup it is replaced
    database by database. By a physical one all of it: the instances are stopped, and the replaced data is kept on the
    primary's volume until that is confirmed to be superfluous."""

    confirm: Annotated[str, Field(max_length=63)]
    """The name of the cluster whose data is to be replaced."""
    skip_safety_backup: bool | None = None
    """For a physical backup: replace also what cannot be backed up any more. The replaced data is kept in any case."""
    application_selector: ApplicationSelector | None = None
    """Deployments and StatefulSets that are scaled to nothing before the safety backup, and back to what they were when
    the Restore is over, however it ends."""


class RestoreSpec(OneShot):
    """What to restore and where to."""

    source: RestoreSource
    target: RestoreTarget
    recovery_target: RecoveryTarget | None = None
    """For physical backups, whose WAL archive is replayed. If absent, a backup is restored as it ended, without the
    archive."""
    in_place: InPlace | None = None

    rules: ClassVar[tuple[Rule, ...]] = (
        *OneShot.rules,
        Rule(
            cel="!has(self.inPlace) || self.inPlace.confirm == self.target.cluster",
            message="inPlace.confirm must equal target.cluster: this replaces the data of that cluster",
            message_cel="'inPlace.confirm must be ' + self.target.cluster + ', the cluster whose data is replaced'",
            field=".inPlace.confirm",
            broken=lambda s: (
                f"inPlace.confirm must be {s.target.cluster}, the cluster whose data is replaced"
                if s.in_place is not None and s.in_place.confirm != s.target.cluster
                else None
            ),
        ),
        Rule(
            cel="!has(self.inPlace) || !has(self.target.overrides)",
            message="overrides are for a new cluster: with inPlace change the DatabaseCluster itself",
            field=".target",
            broken=lambda s: s.in_place is not None and s.target.overrides is not None,
        ),
        Rule(
            cel="!has(self.source.schedule) || !has(self.recoveryTarget) || (!has(self.recoveryTarget.xid) &&"
            " !has(self.recoveryTarget.name))",
            message="no schedule knows which backup is before a transaction or a restore point: name a Backup",
            field=".source.schedule",
            broken=lambda s: (
                s.source.schedule is not None
                and s.recovery_target is not None
                and (s.recovery_target.xid or s.recovery_target.name) is not None
            ),
        ),
        Rule(
            cel="!has(self.recoveryTarget) || !has(self.source.store) || !has(self.source.store.method) ||"
            " self.source.store.method == 'physical'",
            message="WAL is replayed onto physical backups only: set source.store.method to physical, or leave"
            " recoveryTarget out",
            field=".source.store.method",
            broken=lambda s: (
                s.recovery_target is not None and s.source.store is not None and s.source.store.method == "logical"
            ),
        ),
    )


class Verification(Model):
    """How the restored data compares with the backup's manifest."""

    tables: int | None = None
    """Tables whose row count and hash are the manifest's."""
    rows: Int64 | None = None
    differing: Annotated[list[str], Field(max_length=100, json_schema_extra=LIST_ATOMIC)] | None = None
    """Tables that are not as the manifest says; the restore has failed when there is one."""
    amcheck: Annotated[str, Field(max_length=1024)] | None = None
    """`ok`, or what pg_amcheck found."""


class CheckedBackup(Model):
    """What the check of the backup found; the restore takes this one and no other."""

    manifest_sha256: str | None = None
    postgres_version: str | None = None
    size_bytes: Int64 | None = None
    """Before compression."""
    database: str | None = None
    """The largest database in it."""
    owner: str | None = None


class Recovered(Model):
    """What a recovery reached. The copy has a system identifier of its own: no store mixes it with its source."""

    lsn: str | None = None
    """Replayed up to here."""
    timeline: int | None = None
    """That the copy began there."""
    last_commit: Time | None = None
    """When the last transaction in the copy was committed; absent if none was replayed."""
    archived_until: Time | None = None
    """When the store received the newest WAL that leads on from the backup."""
    system_identifier: str | None = None
    size_bytes: Int64 | None = None
    """Of the backup's files."""
    wal_bytes: Int64 | None = None
    """Replayed."""
    reused_bytes: Int64 | None = None
    """In place: taken from the data that was there, instead of fetched from the store."""


class RestoreStatus(Status):
    """The restore as it was last seen."""

    backup_name: str | None = None
    """The backup that is restored, resolved to its file name."""
    checked: CheckedBackup | None = None
    location: Annotated[str, Field(max_length=1024)] | None = None
    target_uid: str | None = None
    """uid of the DatabaseCluster that is restored into."""
    safety_backup: str | None = None
    """The Backup taken before data was replaced."""
    started_at: Time | None = None
    finished_at: Time | None = None
    step: Annotated[str, Field(max_length=64)] | None = None
    """The step at work."""
    steps: Annotated[list[Step], Field(max_length=24, json_schema_extra=list_map("name"))] = Field(default_factory=list)
    progress: Progress | None = None
    verification: Verification | None = None
    recovered: Recovered | None = None
    """For a physical backup."""
    rto_seconds: Int64 | None = None
    """From the making of this Restore until the cluster took writes."""
    rpo_seconds: Int64 | None = None
    """How much older than what was asked for the data can be: 0 for a time, which was reached exactly; for `latest` the
    time from the last commit in the copy to the making of this Restore."""
    job: str | None = None
    attempt: int | None = None
    error: Failure | None = None


class Restore(Resource):
    """One restore of one backup."""

    about: ClassVar[Kind] = Kind(
        kind="Restore",
        plural="restores",
        short="rst",
        columns=(
            Column("Cluster", ".spec.target.cluster"),
            Column("Status", ".status.phase"),
            Column("Step", ".status.step"),
            Column("Percent", ".status.progress.percent", "integer"),
            Column("Finished", ".status.finishedAt", "date"),
            AGE,
            Column("Backup", ".status.backupName", priority=1),
            MESSAGE,
        ),
    )

    spec: RestoreSpec
    status: RestoreStatus = Field(default_factory=RestoreStatus)

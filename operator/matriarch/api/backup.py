"""Backup: one backup of one cluster, by hand or by a schedule. Deleting it never deletes what lies in the store."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from matriarch.api.incremental import INCREMENTAL, Incremental
from matriarch.api.model import ClusterName, Column, Int64, Kind, Model, Resource, Rule, Time
from matriarch.api.status import AGE, MESSAGE, Failure, OneShot, Progress, Status
from matriarch.api.stores import BackupStore, EncryptionKeyRef, StoreName


class BackupSpec(OneShot):
    """What to back up, how, and where to."""

    cluster: ClusterName
    """The DatabaseCluster, in the same namespace."""
    method: Literal["logical", "physical"] | None = None
    """`logical` (SQL; if absent) or `physical`: the files of an instance, for large databases."""
    incremental: Incremental | None = None
    """Of a physical backup only what changed since the one before; `{}` for the defaults. Full if absent."""
    store: StoreName | None = None
    """One of the cluster's `spec.backup.stores`; the first if absent."""
    target: Literal["prefer-replica", "primary"] | None = None
    """The instance to read from; `prefer-replica` if absent."""

    rules: ClassVar[tuple[Rule, ...]] = (*OneShot.rules, INCREMENTAL)


class PhysicalBackup(Model):
    """What only a physical backup has. It is consistent from the status' `lsn` on."""

    start_lsn: str | None = None
    """Where the WAL that it holds begins."""
    files: int | None = None
    pages: Annotated[str, Field(max_length=16)] | None = None
    """`passed`; `suspect`: pages fail their checksum; `off`: the server has no data checksums."""
    pages_checked: Int64 | None = None
    bad_pages: Int64 | None = None
    type: Annotated[str, Field(max_length=16)] | None = None
    """`full` or `incremental`."""
    parent: Annotated[str, Field(max_length=64)] | None = None
    """The id of the backup that it builds on: what it lacks is in there."""
    increments: int | None = None
    """How many there are in its chain after the full one, this one included."""
    full_because: Annotated[str, Field(max_length=512)] | None = None
    """Why it is full although an incremental one was asked for."""
    whole_bytes: Int64 | None = None
    """Of all files as a restore lays them down."""


class BackupStatus(Status):
    """The backup as it was last seen."""

    id: str | None = None
    """The backup's random id."""
    backup_name: str | None = None
    """Its file name in the store: what a restore asks for."""
    store: BackupStore | None = None
    """A copy of the store's settings, so that a restore works when the cluster is gone."""
    folder: Annotated[str, Field(max_length=256)] | None = None
    """The cluster's folder below the store's prefix: what `source.store.cluster` of a Restore takes."""
    key_secret: EncryptionKeyRef | None = None
    """The Secret whose key it was encrypted with."""
    location: Annotated[str, Field(max_length=1024)] | None = None
    """Address of the data object, such as `s3://bucket/prefix/…`; of a physical backup that of its map."""
    manifest_sha256: str | None = None
    """Of the manifest, which is written last: without it there is no backup."""
    started_at: Time | None = None
    finished_at: Time | None = None
    size_bytes: Int64 | None = None
    """Before compression."""
    stored_bytes: Int64 | None = None
    """As stored: compressed and encrypted."""
    sha256: str | None = None
    """Of that object as stored."""
    encrypted: bool | None = None
    key_id: str | None = None
    """Names the encryption key without showing it."""
    compression: str | None = None
    instance: str | None = None
    """The instance it was read from."""
    lsn: str | None = None
    timeline: Int64 | None = None
    system_identifier: str | None = None
    postgres_version: str | None = None
    databases: int | None = None
    tables: int | None = None
    rows: Int64 | None = None
    physical: PhysicalBackup | None = None
    job: str | None = None
    attempt: int | None = None
    progress: Progress | None = None
    error: Failure | None = None


class Backup(Resource):
    """One backup of a DatabaseCluster."""

    about: ClassVar[Kind] = Kind(
        kind="Backup",
        plural="backups",
        short="bak",
        columns=(
            Column("Cluster", ".spec.cluster"),
            Column("Status", ".status.phase"),
            Column("Finished", ".status.finishedAt", "date"),
            Column("Size", ".status.storedBytes", "integer"),
            AGE,
            Column("Method", ".spec.method", priority=1),
            Column("Type", ".status.physical.type", priority=1),
            Column("Store", ".status.store.name", priority=1),
            Column("Backup", ".status.backupName", priority=1),
            MESSAGE,
        ),
    )

    spec: BackupSpec
    status: BackupStatus = Field(default_factory=BackupStatus)

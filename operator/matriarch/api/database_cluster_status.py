"""The status of a DatabaseCluster: what was last seen, rebuilt from the world whenever it is lost."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from matriarch.api.model import LIST_ATOMIC, InstanceName, Int64, Model, Time, list_map
from matriarch.api.objectives import ObjectivesStatus
from matriarch.api.replication import HealthCheck
from matriarch.api.status import Status
from matriarch.api.stores import StoreName


class InstanceStatus(Model):
    """One instance as it was last seen."""

    name: InstanceName
    role: Annotated[str, Field(max_length=32)] | None = None
    """primary, replica or none."""
    state: Annotated[str, Field(max_length=32)] | None = None
    """starting, initializing, cloning, rewinding, running, fenced, waiting, or unreachable."""
    ready: bool | None = None
    timeline: Int64 | None = None
    lsn: Annotated[str, Field(max_length=20)] | None = None
    """Written (primary) or replayed (replica)."""
    lag_bytes: Int64 | None = None
    lag_seconds: float | None = None
    summaries_behind_bytes: Int64 | None = None
    """WAL that PostgreSQL's summarizer, which incremental backups need, has not read yet; absent where it is off."""
    epoch: Int64 | None = None
    incarnation: Annotated[str, Field(max_length=64)] | None = None
    voter: bool | None = None
    """Its acknowledgements count, and it can be elected."""
    node: Annotated[str, Field(max_length=253)] | None = None
    pending_restart: bool | None = None
    message: Annotated[str, Field(max_length=1024)] | None = None


class EffectiveSync(Model):
    """The rule of synchronous replication in force."""

    mode: Annotated[str, Field(max_length=16)] | None = None
    """`alone`, `quorum` or `async`."""
    number: int | None = None
    durability: Annotated[str, Field(max_length=16)] | None = None


class EffectivePooler(Model):
    """The pooler's settings in force."""

    mode: Annotated[str, Field(max_length=16)] | None = None
    instances: int | None = None
    pool_mode: Annotated[str, Field(max_length=16)] | None = None
    min_connections: int | None = None
    max_connections: int | None = None
    max_clients: int | None = None
    acquire_timeout_milliseconds: int | None = None
    connect_timeout_milliseconds: int | None = None
    idle_timeout_milliseconds: int | None = None
    lifetime_milliseconds: int | None = None
    pause_timeout_milliseconds: int | None = None


class Effective(Model):
    """The values that absent fields of the spec stand for."""

    engine: str | None = None
    version: str | None = None
    image: str | None = None
    mode: str | None = None
    sync: EffectiveSync | None = None
    reads: str | None = None
    health_check: HealthCheck | None = None
    sync_interval_milliseconds: int | None = None
    deletion_policy: str | None = None
    database: str | None = None
    owner: str | None = None
    backup_store: str | None = None
    """The store that a Backup without `store` goes to."""
    backup_key_secret: str | None = None
    pooler: EffectivePooler | None = None


class Endpoints(Model):
    """Host names within the Kubernetes cluster."""

    write: str | None = None
    """The primary."""
    read: str | None = None
    """Replicas; the primary when there is none."""
    any: str | None = None
    """Every ready instance."""
    pooled_write: str | None = None
    """The primary, through the pooler."""
    pooled_read: str | None = None
    """Replicas, through the pooler."""
    secret: str | None = None
    """The Secret with the application's credentials."""


class WalExpiryStatus(Model):
    """What the newest look at an archive found: what goes, what stays, and why."""

    step: str | None = None
    """`Nothing`, `Mark`, `Wait`, `Delete` or `Unmark`."""
    going_files: Int64 | None = None
    going_bytes: Int64 | None = None
    kept_files: Int64 | None = None
    kept_bytes: Int64 | None = None
    kept_from: str | None = None
    kept_for: str | None = None
    """What needs the oldest of it."""
    next_at: Time | None = None
    deleted_files: Int64 | None = None
    deleted_bytes: Int64 | None = None
    deleted_at: Time | None = None
    frozen: str | None = None
    """Why nothing may be deleted now."""
    frozen_since: Time | None = None


class StoreStatus(Model):
    """One store as the newest Job saw it."""

    name: StoreName
    place: str | None = None
    """What is remembered here is of this place only."""
    run: int | None = None
    started_at: Time | None = None
    finished_at: Time | None = None
    failures: int | None = None
    error: str | None = None
    looked_at: Time | None = None
    """With success."""
    backups: int | None = None
    sequence: Int64 | None = None
    """Of the newest backup that was ever seen here."""
    newest_backup: str | None = None
    manifest_sha256: str | None = None
    newest_segment: str | None = None
    lost: Annotated[list[str], Field(max_length=20, json_schema_extra=LIST_ATOMIC)] | None = None
    """What it had and has no more."""
    lost_since: Time | None = None
    accepted: str | None = None
    """The `lostSince` that somebody looked at."""
    accepted_sequence: Int64 | None = None
    wal: WalExpiryStatus | None = None


class ClusterBackupStatus(Model):
    """How the cluster's backups are, written by the backup reconciler alone."""

    last_backup: str | None = None
    """The newest complete Backup."""
    last_backup_name: str | None = None
    """Its file name in the store."""
    last_success_at: Time | None = None
    last_failure_at: Time | None = None
    store: str | None = None
    key_id: str | None = None
    """Names the encryption key in use without showing it."""
    stores: Annotated[list[StoreStatus], Field(max_length=8, json_schema_extra=list_map("name"))] | None = None
    """As they were last looked at."""


class WalArchiveStatus(Model):
    """How far the archive reaches, as the primary said last."""

    last_segment: Annotated[str, Field(max_length=64)] | None = None
    """The newest segment that is stored since the archiver started."""
    last_lsn: Annotated[str, Field(max_length=32)] | None = None
    """Where it ends."""
    last_stored_at: Time | None = None
    pending: Int64 | None = None
    """Files that are finished and not stored yet."""
    oldest_pending_seconds: Int64 | None = None
    """How long the oldest of them has waited."""
    message: Annotated[str, Field(max_length=1024)] | None = None
    """Why the newest attempt failed."""


class SwitchoverStatus(Model):
    """The latest planned change of the primary."""

    to: str | None = None
    state: Annotated[str, Field(max_length=16)] | None = None
    """running, done or aborted."""
    started_at: Time | None = None
    finished_at: Time | None = None
    why: Annotated[str, Field(max_length=256)] | None = None
    """Who asked: spec.primary, annotation, rolling update or scale down."""
    message: Annotated[str, Field(max_length=1024)] | None = None


class Handled(Model):
    """Wishes for another primary that were carried out or refused; each is looked at once."""

    primary: str | None = None
    """Value of `spec.primary`."""
    switchover: Annotated[str, Field(max_length=256)] | None = None
    """Value of the annotation `matriarch.dev/switchover`."""


class LeadershipStatus(Model):
    """What the Lease says, for people; the Lease itself is the truth."""

    epoch: Int64 | None = None
    holder: str | None = None
    mode: Annotated[str, Field(max_length=16)] | None = None
    voters: Annotated[list[str], Field(max_length=9, json_schema_extra=LIST_ATOMIC)] | None = None
    number: int | None = None


class ReplicaStatus(Model):
    """How a replica cluster follows its source; and what is left of having been one."""

    source: str | None = None
    """The host."""
    designated_primary: str | None = None
    """The instance that streams from the source; the others stream from it."""
    streaming: bool | None = None
    message: Annotated[str, Field(max_length=1024)] | None = None
    """What is wrong with the source, or what a promotion waits for."""
    forced_at: Annotated[str, Field(max_length=64)] | None = None
    """Where the latest promotion without a token parted from the source: what the source wrote after it is not here."""


class DatabaseClusterStatus(Status):
    """The cluster as it was last seen."""

    primary: str | None = None
    """The instance that takes writes."""
    instances: int | None = None
    """How many instances exist."""
    ready_instances: int | None = None
    selector: str | None = None
    """Label selector of the instances' Pods, for the scale subresource."""
    instance_statuses: Annotated[list[InstanceStatus], Field(max_length=9, json_schema_extra=list_map("name"))] = Field(
        default_factory=list
    )
    effective: Effective | None = None
    endpoints: Endpoints | None = None
    leadership: LeadershipStatus | None = None
    timeline: Int64 | None = None
    postgres_version: str | None = None
    """The running version with its minor number."""
    system_identifier: str | None = None
    """PostgreSQL's identity of this data; a cluster never starts on data of another."""
    backup: ClusterBackupStatus | None = None
    wal_archive: WalArchiveStatus | None = None
    objectives: ObjectivesStatus | None = None
    replica: ReplicaStatus | None = None
    demotion_token: Annotated[str, Field(max_length=1024)] | None = None
    """Of this cluster's demotion: with it another cluster is promoted without a lost write, once."""
    last_failover_at: Time | None = None
    switchover: SwitchoverStatus | None = None
    handled: Handled | None = None
    reported_at: Time | None = None
    """When LSN and lag of the instances were last brought up to date."""
    pending_restart: Annotated[list[str], Field(max_length=200, json_schema_extra=LIST_ATOMIC)] | None = None
    """Parameters that wait for a restart."""

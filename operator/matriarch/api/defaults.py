"""The values that absent fields stand for.

They are computed here and not written into the schema, so that a default may become better with a release and a
manifest from Git never differs from what the API server stores. `status.effective` shows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from matriarch.api.backup_schedule import BackupScheduleSpec, Retention
from matriarch.api.database_cluster import DatabaseClusterSpec
from matriarch.api.rules import quantity
from matriarch.api.stores import BackupStore
from matriarch.postgres.outside import SOURCE_ROLE

DEFAULT_PRIORITY = 100
RETENTION_DAYS = 30
"""Kept when a schedule says neither days nor count."""
HISTORY_SUCCESSFUL = 7
HISTORY_FAILED = 3
S3_REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class SyncRule:
    """The rule of synchronous replication: `number` replicas hold a commit before it is acknowledged."""

    mode: Literal["alone", "quorum", "async"]
    number: int
    durability: Literal["required", "preferred", "none"]


@dataclass(frozen=True, slots=True)
class PoolerDefaults:
    """A pooler's settings. Times are in milliseconds."""

    doors: tuple[Literal["rw", "ro"], ...]
    instances: int
    pool_mode: Literal["transaction", "session"]
    min_connections: int
    max_connections: int
    max_clients: int
    acquire_timeout_milliseconds: int
    connect_timeout_milliseconds: int
    idle_timeout_milliseconds: int
    lifetime_milliseconds: int
    pause_timeout_milliseconds: int


@dataclass(frozen=True, slots=True)
class ReplicaDefaults:
    """The server that is followed, and whether it is."""

    enabled: bool
    host: str
    port: int
    user: str
    ssl_mode: Literal["require", "verify-ca", "verify-full"]
    secret: str
    token: str | None
    forced: bool


@dataclass(frozen=True, slots=True)
class WalArchiveDefaults:
    """Where every instance archives to."""

    store: BackupStore
    """A bucket: `s3` or `gcs` is set."""
    max_rate: int | None
    """Bytes a second."""
    window_days: int = RETENTION_DAYS
    expires: bool = True
    """By itself."""

    @property
    def name(self) -> str:
        return self.store.name


@dataclass(frozen=True, slots=True)
class ClusterDefaults:
    """A DatabaseCluster's settings with every absent one filled in. Times are in milliseconds."""

    engine: str
    version: str
    mode: str
    instances: int
    sync: SyncRule
    priorities: dict[str, int]
    delays: dict[str, int]
    """Instance → seconds that its replay stays behind."""
    reads: Literal["strict", "bounded"]
    health_interval_milliseconds: int
    health_timeout_milliseconds: int
    sync_interval_milliseconds: int
    parameters: dict[str, str]
    superuser_access: bool
    database: str
    owner: str
    deletion_policy: Literal["Retain", "Delete"]
    backup_store: str | None
    backup_key_secret: str | None
    """None when backups are not encrypted; otherwise the Secret's name."""
    backup_key: str
    compression: Literal["gzip", "none"]
    pooler: PoolerDefaults | None = None
    replica: ReplicaDefaults | None = None
    wal_archive: WalArchiveDefaults | None = None


def sync_rule(spec: DatabaseClusterSpec) -> SyncRule:
    """Three and more instances: quorum, required. Two: quorum, preferred. One: alone. Async only where it is asked for.

    `number` is half of the instances, at least 1, and 0 for a single one, which has nobody to wait for. Delayed
    replicas do not count.
    """
    asked = spec.replication.sync if spec.replication else None
    counted = spec.instances - len((spec.replication.delayed if spec.replication else None) or [])
    if counted <= 1:
        return SyncRule("alone", 0, "preferred")
    if asked is not None and asked.mode == "async":
        return SyncRule("async", 0, "none")
    number = asked.number if asked and asked.number is not None else max(1, counted // 2)
    durability = asked.durability if asked else None
    return SyncRule("quorum", number, durability or ("required" if counted >= 3 else "preferred"))


def pooler(spec: DatabaseClusterSpec) -> PoolerDefaults | None:
    """None: the cluster has no pooler."""
    asked = spec.pooler
    if asked is None:
        return None
    return PoolerDefaults(
        doors=("rw", "ro") if asked.mode == "both" else (asked.mode or "rw",),
        instances=asked.instances or 2,
        pool_mode=asked.pool_mode or "transaction",
        min_connections=2 if asked.min_connections is None else asked.min_connections,
        max_connections=asked.max_connections or 10,
        max_clients=asked.max_clients or 1000,
        acquire_timeout_milliseconds=asked.acquire_timeout_milliseconds or 30_000,
        connect_timeout_milliseconds=asked.connect_timeout_milliseconds or 30_000,
        idle_timeout_milliseconds=asked.idle_timeout_milliseconds or 30_000,
        lifetime_milliseconds=asked.lifetime_milliseconds or 3_600_000,
        pause_timeout_milliseconds=asked.pause_timeout_milliseconds or 3_000,
    )


def replica(spec: DatabaseClusterSpec) -> ReplicaDefaults | None:
    """None: the cluster knows no other site."""
    asked = spec.replica
    if asked is None:
        return None
    return ReplicaDefaults(
        enabled=asked.enabled,
        host=asked.source.host,
        port=asked.source.port or 5432,
        user=asked.source.user or SOURCE_ROLE,
        ssl_mode=asked.source.ssl_mode or "verify-full",
        secret=asked.source.secret.name,
        token=asked.promotion_token,
        forced=asked.promotion == "forced",
    )


def wal_archive(spec: DatabaseClusterSpec) -> WalArchiveDefaults | None:
    """None: nothing is archived, which is the default: it costs a bucket, and a restart when it is switched on."""
    asked = spec.backup.wal_archive if spec.backup else None
    if spec.backup is None or asked is None:
        return None
    store = next((s for s in spec.backup.stores if s.name == asked.store and s.local is None), None)
    if store is None:
        return None  # refused by the resource's rules
    return WalArchiveDefaults(
        store,
        int(quantity(asked.max_rate)) if asked.max_rate else None,
        window_days=RETENTION_DAYS if asked.recovery_window_days is None else asked.recovery_window_days,
        expires=asked.expiry != "Manual",
    )


def fill(name: str, spec: DatabaseClusterSpec) -> ClusterDefaults:
    """The settings in force for the cluster called `name`."""
    replication, backup = spec.replication, spec.backup
    health = replication.health_check if replication else None
    encryption = backup.encryption if backup else None
    key = encryption.key_secret if encryption else None
    plain = encryption is not None and encryption.disabled is not None
    return ClusterDefaults(
        engine=spec.engine or "postgresql",
        version=spec.version,
        mode="primary-replica",
        instances=spec.instances,
        sync=sync_rule(spec),
        priorities={p.instance: p.priority for p in (replication.priorities if replication else None) or []},
        delays={d.instance: d.delay_seconds for d in (replication.delayed if replication else None) or []},
        reads=(replication.reads if replication else None) or "strict",
        health_interval_milliseconds=(health.interval_milliseconds if health else None) or 10_000,
        health_timeout_milliseconds=(health.timeout_milliseconds if health else None) or 5_000,
        sync_interval_milliseconds=(replication.sync_interval_milliseconds if replication else None) or 30_000,
        parameters=dict(spec.parameters or {}),
        superuser_access=bool(spec.superuser_access),
        database=(spec.bootstrap.database if spec.bootstrap else None) or "app",
        owner=(spec.bootstrap.owner if spec.bootstrap else None) or "app",
        deletion_policy=spec.deletion_policy or "Retain",
        backup_store=backup.stores[0].name if backup and backup.stores else None,
        backup_key_secret=None if plain else (key.name if key else f"{name}-backup-key"),
        backup_key=(key.key if key else None) or "key",
        compression=(backup.compression if backup else None) or "gzip",
        pooler=pooler(spec),
        replica=replica(spec),
        wal_archive=wal_archive(spec),
    )


def retention(spec: BackupScheduleSpec) -> Retention:
    """The rules in force: 30 days when none is set."""
    asked = spec.retention or Retention()
    rules = (asked.days, asked.count, asked.daily, asked.weekly, asked.monthly, asked.yearly)
    if all(rule is None for rule in rules):
        return asked.model_copy(update={"days": RETENTION_DAYS})
    return asked

"""DatabaseCluster: one PostgreSQL cluster of one primary and its replicas.

No default is in the schema but `status.observedGeneration`: the operator computes the rest and shows the values in
force in `status.effective`, so that a manifest from Git never differs from what the API server stores.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from matriarch.api.model import (
    LIST_ATOMIC,
    ClusterName,
    Column,
    InstanceName,
    Int64,
    Kind,
    Model,
    ObjectName,
    Quantity,
    Resource,
    Rule,
    Time,
    int_or_string,
    list_map,
)
from matriarch.api.rules import CLUSTER_OBJECT, CLUSTER_SPEC, HEALTH, REPLICATION, RESOURCES, STORAGE, SYNC
from matriarch.api.status import AGE, MESSAGE, READY, Status
from matriarch.api.stores import BackupSettings

Amount = Annotated[str, *int_or_string(32)]
ParameterValue = Annotated[str, *int_or_string(4096)]


class Sync(Model):
    """How many replicas must have a commit on disk before it is acknowledged."""

    mode: Literal["quorum", "async"] | None = None
    """`quorum` if absent."""
    number: Annotated[int, Field(ge=1, le=8)] | None = None
    """How many replicas; half of `instances`, rounded down, if absent."""
    durability: Literal["required", "preferred"] | None = None
    """`required`: with too few replicas writes wait. `preferred`: the primary goes on alone, and says so. If absent,
    `required` with three or more instances and `preferred` with two."""

    rules: ClassVar[tuple[Rule, ...]] = SYNC


class Priority(Model):
    """How much an instance is wanted as primary, among those that hold the same data."""

    instance: InstanceName
    """`<cluster>-N`."""
    priority: Annotated[int, Field(ge=0, le=1000)]
    """Higher wins; 100 if absent. Never outweighs data: the replica with the most data wins first."""


class HealthCheck(Model):
    """How often the controller looks at each instance by itself. Failover never waits for it."""

    interval_milliseconds: Annotated[int, Field(ge=1000, le=600_000)] | None = None
    """10000 if absent."""
    timeout_milliseconds: Annotated[int, Field(ge=100, le=60_000)] | None = None
    """5000 if absent."""

    rules: ClassVar[tuple[Rule, ...]] = HEALTH


class Replication(Model):
    """How instances copy each other."""

    mode: Literal["primary-replica", "master-slave", "master-master", "cluster"] | None = None
    """`primary-replica` if absent; `master-slave` is its older name."""
    sync: Sync | None = None
    priorities: Annotated[list[Priority], Field(max_length=9, json_schema_extra=list_map("instance"))] | None = None
    """Which instance is preferred as primary; all alike if absent."""
    health_check: HealthCheck | None = None
    sync_interval_milliseconds: Annotated[int, Field(ge=1000, le=3_600_000)] | None = None
    """How often each replica's progress is checked and reported; 30000 if absent. PostgreSQL streams all the time."""
    reads: Literal["strict", "bounded"] | None = None
    """`strict` (if absent): a deposed primary answers no read after a newer one acknowledged a write. `bounded`: such
    reads may be at most two seconds old, and a failover ends sooner."""

    rules: ClassVar[tuple[Rule, ...]] = REPLICATION


class Storage(Model):
    """The volume of each instance."""

    size: Quantity
    """Can grow, never shrink."""
    storage_class_name: ObjectName | None = None
    """The Kubernetes cluster's default class if absent. Cannot change."""

    rules: ClassVar[tuple[Rule, ...]] = STORAGE


class Resources(Model):
    """What each instance's container asks for, as in a Pod."""

    requests: Annotated[dict[str, Amount], Field(max_length=16)] | None = None
    """What the scheduler keeps free, such as `cpu: 2` and `memory: 4Gi`."""
    limits: Annotated[dict[str, Amount], Field(max_length=16)] | None = None
    """A CPU limit is accepted with a warning: a throttled instance misses its heartbeats."""

    rules: ClassVar[tuple[Rule, ...]] = RESOURCES


class Toleration(Model):
    """A taint that instances put up with, as in a Pod."""

    key: Annotated[str, Field(max_length=316)] | None = None
    """The taint's key; absent with `Exists`: every key."""
    operator: Literal["Exists", "Equal"] | None = None
    """`Equal` if absent."""
    value: Annotated[str, Field(max_length=63)] | None = None
    """The taint's value; absent with `Exists`."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Every effect if absent."""
    toleration_seconds: Int64 | None = None
    """How long a `NoExecute` taint is put up with; for ever if absent."""


class Spread(Model):
    """Keeps instances of this cluster apart."""

    topology_key: Annotated[str, Field(min_length=1, max_length=316)]
    """A node label, such as `kubernetes.io/hostname` or `topology.kubernetes.io/zone`."""
    rule: Literal["preferred", "required"] | None = None
    """`preferred` if absent. With `required` an instance without a place of its own stays Pending."""


class Scheduling(Model):
    """Where instances run."""

    node_selector: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=16)] | None = None
    """Labels that a node must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=16, json_schema_extra=LIST_ATOMIC)] | None = None
    """Taints that instances put up with."""
    spread: Annotated[list[Spread], Field(max_length=4, json_schema_extra=list_map("topologyKey"))] | None = None
    """If absent, instances prefer different nodes."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of the Pods."""


class Bootstrap(Model):
    """What is made when the cluster is born. Cannot change."""

    database: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-zA-Z_][-a-zA-Z0-9_]*$")] | None = None
    """Name of the application's database; `app` if absent."""
    owner: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-zA-Z_][-a-zA-Z0-9_]*$")] | None = None
    """Name of the role that owns it; `app` if absent. Its password is in the Secret `<cluster>-app`."""


class SecretName(Model):
    """A Secret in the same namespace."""

    name: ObjectName
    """The Secret's name."""


class DatabaseClusterSpec(Model):
    """The wanted cluster."""

    engine: Literal["postgresql", "sqlite"] | None = None
    """`postgresql` if absent. Cannot change."""
    version: Annotated[str, *int_or_string(16)]
    """Major version of PostgreSQL: `"17"`. The minor version comes with the operator's image."""
    instances: Annotated[int, Field(ge=1, le=9)]
    """One primary and `instances` - 1 replicas."""
    primary: InstanceName | None = None
    """The instance that should be primary. Changing it is a planned switchover; after a failover it is not enforced
    again until it changes."""
    replication: Replication | None = None
    storage: Storage
    resources: Resources | None = None
    scheduling: Scheduling | None = None
    parameters: Annotated[dict[str, ParameterValue], Field(max_length=200)] | None = None
    """PostgreSQL's configuration parameters: numbers, or strings (`"on"`, `"1.1"` and `"64MB"` want their quotes)."""
    superuser_access: bool | None = None
    """Lets `postgres` log in with the password of the Secret `<cluster>-superuser`; false if absent."""
    bootstrap: Bootstrap | None = None
    backup: BackupSettings | None = None
    deletion_policy: Literal["Retain", "Delete"] | None = None
    """What happens to volumes, credentials and keys when this resource is deleted; `Retain` if absent. Backups in
    stores are never deleted with it."""
    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """PostgreSQL image in place of the operator's own."""
    image_pull_secrets: Annotated[list[SecretName], Field(max_length=8, json_schema_extra=list_map("name"))] | None = (
        None
    )
    """Secrets for the registry of the image."""

    rules: ClassVar[tuple[Rule, ...]] = CLUSTER_SPEC


class InstanceStatus(Model):
    """One instance as it was last seen."""

    name: InstanceName
    role: Literal["primary", "replica", "none"] | None = None
    state: Annotated[str, Field(max_length=32)] | None = None
    """starting, initializing, cloning, rewinding, running, fenced, waiting, or unreachable."""
    ready: bool | None = None
    timeline: Int64 | None = None
    lsn: Annotated[str, Field(max_length=20)] | None = None
    """Written (primary) or replayed (replica)."""
    lag_bytes: Int64 | None = None
    lag_seconds: float | None = None
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


class Endpoints(Model):
    """Host names within the Kubernetes cluster."""

    write: str | None = None
    """The primary."""
    read: str | None = None
    """Replicas; the primary when there is none."""
    any: str | None = None
    """Every ready instance."""
    secret: str | None = None
    """The Secret with the application's credentials."""


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


class SwitchoverStatus(Model):
    """The latest planned change of the primary."""

    to: str | None = None
    state: Annotated[str, Field(max_length=16)] | None = None
    """running, done or aborted."""
    started_at: Time | None = None
    finished_at: Time | None = None
    why: Annotated[str, Field(max_length=64)] | None = None
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
    last_failover_at: Time | None = None
    switchover: SwitchoverStatus | None = None
    handled: Handled | None = None
    reported_at: Time | None = None
    """When LSN and lag of the instances were last brought up to date."""
    pending_restart: Annotated[list[str], Field(max_length=200, json_schema_extra=LIST_ATOMIC)] | None = None
    """Parameters that wait for a restart."""


class DatabaseCluster(Resource):
    """A PostgreSQL cluster: one primary, its replicas, and where its backups go."""

    about: ClassVar[Kind] = Kind(
        kind="DatabaseCluster",
        plural="databaseclusters",
        short="dbc",
        scale=True,
        columns=(
            READY,
            Column("Status", ".status.phase"),
            Column("Primary", ".status.primary"),
            Column("Instances", ".status.readyInstances", "integer"),
            Column("Last Backup", ".status.backup.lastSuccessAt", "date"),
            AGE,
            Column("Wanted", ".spec.instances", "integer", 1),
            Column("Version", ".status.postgresVersion", priority=1),
            MESSAGE,
        ),
    )
    rules: ClassVar[tuple[Rule, ...]] = CLUSTER_OBJECT

    spec: DatabaseClusterSpec
    status: DatabaseClusterStatus = Field(default_factory=DatabaseClusterStatus)

    @property
    def name(self) -> ClusterName:
        """The cluster's name, which all its objects carry."""
        return self.metadata.name

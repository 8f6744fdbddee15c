"""DatabaseCluster: one PostgreSQL cluster of one primary and its replicas.

No default is in the schema but `status.observedGeneration`: the operator computes the rest and shows the values in
force in `status.effective`, so that a manifest from Git never differs from what the API server stores.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from matriarch.api.database_cluster_status import DatabaseClusterStatus
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
    int_or_string,
    list_map,
)
from matriarch.api.objectives import Objectives
from matriarch.api.pooler import Pooler
from matriarch.api.replica import Replica
from matriarch.api.replication import Replication
from matriarch.api.rules import CLUSTER_OBJECT, CLUSTER_SPEC, RESOURCES, STORAGE
from matriarch.api.status import AGE, MESSAGE, READY
from matriarch.api.stores import BackupSettings

Amount = Annotated[str, *int_or_string(32)]
ParameterValue = Annotated[str, *int_or_string(4096)]


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
    replica: Replica | None = None
    """The other site that this cluster follows, or could; none if absent."""
    storage: Storage
    resources: Resources | None = None
    scheduling: Scheduling | None = None
    parameters: Annotated[dict[str, ParameterValue], Field(max_length=200)] | None = None
    """PostgreSQL's configuration parameters: numbers, or strings (`"on"`, `"1.1"` and `"64MB"` want their quotes)."""
    superuser_access: bool | None = None
    """Lets `postgres` log in with the password of the Secret `<cluster>-superuser`; false if absent."""
    bootstrap: Bootstrap | None = None
    pooler: Pooler | None = None
    """PgBouncer; none if absent."""
    backup: BackupSettings | None = None
    objectives: Objectives | None = None
    """How much may be lost and how long a restore may take; compared with what is measured. None if absent."""
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

"""How the instances of a DatabaseCluster copy each other: the part `spec.replication`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from matriarch.api.model import InstanceName, Model, Rule, list_map
from matriarch.api.rules import HEALTH, REPLICATION, SYNC


class Sync(Model):
    """How many replicas must have a commit on disk before it is acknowledged."""

    mode: Literal["quorum", "async"] | None = None
    """`quorum` if absent: a commit waits until `number` replicas have it, and no failover loses it. `async`: no commit
    waits; a failover may lose the newest writes, comes after 15 s, and the primary stops after 10 s without the API
    server. May be changed at any time."""
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


class Delayed(Model):
    """A replica that stays behind on purpose, to look at, or to take back, what a mistake destroyed."""

    instance: InstanceName
    """`<cluster>-N`. It is never primary, acknowledges nothing, and serves no reads of the Services."""
    delay_seconds: Annotated[int, Field(ge=1, le=604_800)]
    """How long after its commit a change is replayed; the WAL of that time must fit on the volumes."""


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
    delayed: Annotated[list[Delayed], Field(max_length=8, json_schema_extra=list_map("instance"))] | None = None
    """Which replicas stay behind; none if absent."""
    health_check: HealthCheck | None = None
    sync_interval_milliseconds: Annotated[int, Field(ge=1000, le=3_600_000)] | None = None
    """How often each replica's progress is checked and reported; 30000 if absent. PostgreSQL streams all the time."""
    reads: Literal["strict", "bounded"] | None = None
    """`strict` (if absent): a deposed primary answers no read after a newer one acknowledged a write. `bounded`: such
    reads may be at most two seconds old, and a failover ends sooner."""

    rules: ClassVar[tuple[Rule, ...]] = REPLICATION

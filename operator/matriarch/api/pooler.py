"""PgBouncer between clients and a cluster: the part `spec.pooler`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from matriarch.api.model import Model, Rule, int_or_string
from matriarch.api.rules import POOLER, RESOURCES

Milliseconds = Annotated[int, Field(ge=100, le=86_400_000)]
Amount = Annotated[str, *int_or_string(32)]


class PoolerResources(Model):
    """What each pooler's container asks for, as in a Pod."""

    requests: Annotated[dict[str, Amount], Field(max_length=16)] | None = None
    """`cpu: 50m` and `memory: 64Mi` if absent."""
    limits: Annotated[dict[str, Amount], Field(max_length=16)] | None = None
    """None if absent."""

    rules: ClassVar[tuple[Rule, ...]] = RESOURCES


class Pooler(Model):
    """Connection pools in Pods of their own, behind the Services `<cluster>-pooler-rw` and `<cluster>-pooler-ro`.

    A pool is what one Pod keeps for one pair of database and user.
    """

    mode: Literal["rw", "ro", "both"] | None = None
    """`rw` (if absent) leads to the primary, `ro` to the replicas; `both` makes both."""
    instances: Annotated[int, Field(ge=1, le=9)] | None = None
    """Pods of each; 2 if absent."""
    pool_mode: Literal["transaction", "session"] | None = None
    """When a server's connection goes back to its pool; at the end of each `transaction` if absent. A switchover
    without an error for clients needs `transaction`: a session cannot be moved."""
    min_connections: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Connections that a pool in use keeps open; 2 if absent."""
    max_connections: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Connections that a pool opens at most; 10 if absent."""
    max_clients: Annotated[int, Field(ge=1, le=50_000)] | None = None
    """Clients that each Pod lets in; 1000 if absent."""
    acquire_timeout_milliseconds: Milliseconds | None = None
    """How long a client waits for a connection before it gets an error; 30000 if absent."""
    connect_timeout_milliseconds: Milliseconds | None = None
    """How long a connection to the server may take to be made; 30000 if absent."""
    idle_timeout_milliseconds: Milliseconds | None = None
    """Connections above the minimum that nobody used for so long are closed; 30000 if absent."""
    lifetime_milliseconds: Milliseconds | None = None
    """Connections that are older are closed once nobody uses them; 3600000 if absent."""
    pause_timeout_milliseconds: Annotated[int, Field(ge=100, le=30_000)] | None = None
    """How long a switchover waits for transactions to end, while new ones wait; 3000 if absent. What is not done by
    then gets an error."""
    resources: PoolerResources | None = None

    rules: ClassVar[tuple[Rule, ...]] = POOLER

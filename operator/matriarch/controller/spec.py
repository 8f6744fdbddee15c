"""What a DatabaseCluster asks for: read, refused, and put into the words that decisions use."""

from __future__ import annotations

from pydantic import ValidationError

from matriarch.api.database_cluster import DatabaseCluster
from matriarch.api.defaults import ClusterDefaults
from matriarch.api.rules import quantity
from matriarch.decide.conditions import LOSS_SEEN
from matriarch.decide.facts import Instance, Wish
from matriarch.errors import MatriarchError
from matriarch.kube.client import Object
from matriarch.postgres import parameters
from matriarch.postgres.settings import SHARED_DEFAULTS
from matriarch.resources import names
from matriarch.resources.blueprint import Blueprint

_RESERVED = 10  # connections that the superuser and the agent take


def parse(resource: Object) -> DatabaseCluster:
    try:
        return DatabaseCluster.model_validate(resource)
    except ValidationError as e:
        said = "; ".join(f"{'.'.join(map(str, d['loc']))}: {d['msg']}" for d in e.errors()[:5])
        raise Unreadable(f"the resource cannot be read ({said}); correct it") from e


class Unreadable(MatriarchError):  # noqa: N818 - reads as the outcome it is
    """A stored resource that today's schema would not let in."""


def findings(defaults: ClusterDefaults) -> list[parameters.Finding]:
    try:
        return parameters.validate(defaults.parameters, defaults.version)
    except MatriarchError:
        return []  # an unknown version, which the rules have refused already


def wish_of(b: Blueprint) -> Wish:
    d, spec, annotations = b.defaults, b.cluster.spec, b.cluster.metadata.annotations
    restore_name, _, restore = annotations.get(names.FILLED_BY, "").partition("/")
    return Wish(
        cluster=b.name,
        instances=b.instances,
        number=d.sync.number,
        required=d.sync.durability == "required",
        asynchronous=d.sync.mode == "async",
        loss_seen=annotations.get(LOSS_SEEN),
        primary=spec.primary,
        request=annotations.get(names.SWITCHOVER),
        restart=annotations.get(names.RESTART),
        priorities=d.priorities,
        delayed=tuple(sorted(d.delays)),
        storage=int(quantity(spec.storage.size)),
        health_interval=d.health_interval_milliseconds / 1000,
        advice=tuple(_advice(b)),
        poolers=tuple(names.pooler_door(b.name, door) for door in d.pooler.doors) if d.pooler is not None else (),
        replica=d.replica is not None and d.replica.enabled,
        source=d.replica.host if d.replica is not None else "",
        archives=d.wal_archive is not None,
        restore_name=restore_name,
        restore=restore,
    )


def _advice(b: Blueprint) -> list[str]:
    found = []
    if len(b.instances) == 2 and b.defaults.sync.durability == "required":
        found.append("With two instances and durability required, writes wait whenever either instance is away.")
    if b.cluster.spec.resources is not None and "cpu" in (b.cluster.spec.resources.limits or {}):
        found.append(
            "A CPU limit stops an instance in the middle of its heartbeats and can cause failovers; remove it."
        )
    if (d := b.defaults.pooler) is not None:
        most = d.instances * d.max_connections
        limit = b.defaults.parameters.get("max_connections", str(SHARED_DEFAULTS["max_connections"]))
        if limit.isdigit() and most > int(limit) - _RESERVED:
            found.append(
                f"{d.instances} poolers may open {most} connections for each user of each database, and max_connections"
                f" is {limit}: lower maxConnections or raise it."
            )
        if d.pool_mode == "session":
            found.append("With poolMode session a switchover ends the clients' connections.")
    return found


def against_volumes(b: Blueprint, instances: tuple[Instance, ...]) -> list[str]:
    """What a spec may not ask of volumes that are there already (the schema guards only changes of one resource)."""
    found = []
    size = int(quantity(b.cluster.spec.storage.size))
    larger = [i.name for i in instances if i.claim is not None and i.claim.requested > size]
    if larger:
        found.append(
            f"spec.storage.size: the volumes of {', '.join(larger)} are larger than {b.cluster.spec.storage.size} "
            "and cannot shrink; ask for at least their size"
        )
    other = {i.claim.version for i in instances if i.claim is not None and i.claim.version} - {b.defaults.version}
    if other:
        found.append(
            f"spec.version: the volumes hold data of PostgreSQL {', '.join(sorted(other))}, "
            f"which {b.defaults.version} cannot read; set that version"
        )
    return found

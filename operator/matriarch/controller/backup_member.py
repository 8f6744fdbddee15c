"""The members of a cluster as a physical backup may read them: from the cluster's status, and their volumes."""

from __future__ import annotations

from matriarch.api.database_cluster_status import InstanceStatus
from matriarch.controller import backup_store
from matriarch.controller.backup_around import Around, cluster_place
from matriarch.controller.env import Env
from matriarch.decide.readfrom import Candidate, choose
from matriarch.decide.verdict import Verdict
from matriarch.kube.client import Object

_NODE = "volume.kubernetes.io/selected-node"
"""On a claim: the node that its volume was made for (Kubernetes, well-known annotations)."""


async def choose_for(backup: Object, around: Around, env: Env) -> str | Verdict | None:
    """The instance that this Backup reads, or why there is none; None while there is no cluster."""
    cluster, defaults = around.cluster, around.defaults
    if cluster is None or defaults is None:
        return None
    found, store = [], await _store_claim(backup, around, env)
    for status in cluster.status.instance_statuses:
        claim = await env.kube.get("PersistentVolumeClaim", around.namespace, status.name)
        found.append(candidate(status, claim, delayed=status.name in defaults.delays, store=store))
    leadership = cluster.status.leadership
    attempt = max(1, int((backup.get("status") or {}).get("attempt") or 1))
    number = (leadership.number if leadership is not None else None) or 0
    return choose(found, number=number, primary=backup["spec"].get("target") == "primary", attempt=attempt)


async def _store_claim(backup: Object, around: Around, env: Env) -> Object | None:
    place = cluster_place(around, backup["spec"].get("store"))
    name = backup_store.claim(place) if place is not None else None
    return await env.kube.get("PersistentVolumeClaim", around.namespace, name) if name is not None else None


def _node(claim: Object | None) -> str | None:
    node: str | None = ((claim or {}).get("metadata", {}).get("annotations") or {}).get(_NODE)
    return node


def candidate(status: InstanceStatus, claim: Object | None, *, delayed: bool, store: Object | None = None) -> Candidate:
    """Pure. `store`: the claim of a store that is a volume."""
    modes = ((claim or {}).get("spec") or {}).get("accessModes") or ()
    return Candidate(
        name=status.name,
        role=status.role or "none",
        ready=bool(status.ready),
        delayed=delayed,
        voter=bool(status.voter),
        lag_bytes=status.lag_bytes,
        lag_seconds=status.lag_seconds,
        claim=claim is not None and "deletionTimestamp" not in claim["metadata"],
        shared=list(modes) != ["ReadWriteOncePod"],
        near=None in (_node(store), _node(claim)) or _node(store) == _node(claim),
    )

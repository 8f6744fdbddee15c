"""What follows when a DatabaseCluster is gone: its Pods stop, its data stays unless the spec had said otherwise.

There is no finalizer: a resource can be deleted while the operator is away, and the sweep then happens when it is back.
So everything that it needs to know stands on what is left: the deletion policy on volumes and Lease. With `Delete` the
Lease is marked first and deleted last; a resource of the same name that comes in between knows what had begun.
"""

from __future__ import annotations

import asyncio
import logging

from matriarch.controller.env import Env
from matriarch.controller.execute import kept_secrets
from matriarch.controller.queue import Key
from matriarch.controller.view import ERASING
from matriarch.kube.client import Object
from matriarch.resources import names

log = logging.getLogger(__name__)

_AGAIN = 2.0  # seconds


async def sweep(key: Key, env: Env) -> float | None:
    """One step; None when nothing is left to do."""
    labels = {names.CLUSTER_LABEL: key.name}
    pods, claims, lease = await asyncio.gather(
        env.kube.list("Pod", key.namespace, {**labels, names.INSTANCE_LABEL: ""}),
        env.kube.list("PersistentVolumeClaim", key.namespace, {**labels, names.INSTANCE_LABEL: ""}),
        env.kube.get("Lease", key.namespace, key.name),
    )
    if lease is not None and (lease["metadata"].get("labels") or {}).get(names.CLUSTER_LABEL) != key.name:
        lease = None  # a Lease of somebody else that happens to have this name
    erase = _is_to_be_erased(claims, lease)
    for pod in pods:
        if "deletionTimestamp" not in pod["metadata"]:
            log.info("%s is gone: stopping Pod %s", key, pod["metadata"]["name"])
            await env.kube.delete("Pod", key.namespace, pod["metadata"]["name"], uid=pod["metadata"]["uid"])
    if not erase:
        return _AGAIN if pods else None
    return await _erase(key, env, pods, claims, lease)


def _is_to_be_erased(claims: list[Object], lease: Object | None) -> bool:
    """Every witness that is left says Delete; one that says otherwise, or nothing, keeps everything."""
    witnesses = [*claims, *([lease] if lease is not None else [])]
    policies = {(w["metadata"].get("annotations") or {}).get(names.DELETION_POLICY) for w in witnesses}
    return policies == {"Delete"}


async def _erase(key: Key, env: Env, pods: list[Object], claims: list[Object], lease: Object | None) -> float | None:
    if lease is not None and ERASING not in (lease["metadata"].get("annotations") or {}):
        mark = {"metadata": {"annotations": {ERASING: "true"}, "resourceVersion": lease["metadata"]["resourceVersion"]}}
        await env.kube.patch("Lease", key.namespace, key.name, mark)
    for claim in claims:
        if "deletionTimestamp" not in claim["metadata"]:
            name, uid = claim["metadata"]["name"], claim["metadata"]["uid"]
            log.warning("%s is gone and asked for it: deleting volume %s", key, name)
            await env.kube.delete("PersistentVolumeClaim", key.namespace, name, uid=uid)
    if pods or claims:
        return _AGAIN
    for secret in kept_secrets(key.name):
        await env.kube.delete("Secret", key.namespace, secret)
    if lease is not None:
        await env.kube.delete("Lease", key.namespace, key.name, uid=lease["metadata"]["uid"])
    return None

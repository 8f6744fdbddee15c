"""Tells the replicas when Kubernetes shows first that their primary is gone.

A Pod event puts this key into the queue beside the cluster's own, so that a look that waits for a silent agent never
holds it up. The agents look for themselves and elect only on evidence: asking once too often is harmless.
"""

from __future__ import annotations

import asyncio
import logging

from matriarch.controller import facts_of
from matriarch.controller.env import Env
from matriarch.controller.queue import Key
from matriarch.controller.reconcile import reconciles
from matriarch.controller.view import door_of
from matriarch.decide.facts import Pod
from matriarch.decide.leasetext import from_manifest
from matriarch.errors import MatriarchError
from matriarch.resources import names

log = logging.getLogger(__name__)

_AGAIN = 1.0  # seconds


@reconciles("Election")
async def ask_for_election(key: Key, env: Env) -> float | None:
    """Ask every replica when the holder's Pod is gone or not ready; again until there is a holder that is."""
    labels = {names.CLUSTER_LABEL: key.name, names.INSTANCE_LABEL: ""}
    manifest, found = await asyncio.gather(
        env.kube.get("Lease", key.namespace, key.name), env.kube.list("Pod", key.namespace, labels)
    )
    try:
        lease = from_manifest(manifest).state if manifest is not None else None
    except ValueError:
        return None  # the cluster's own reconcile says so
    if lease is None or lease.holder is None or lease.mode in ("alone", "follow"):
        return None
    if lease.filling is not None:
        return None  # a Restore stopped it, and nobody is elected meanwhile
    pods = {p["metadata"]["name"]: facts_of.pod(p) for p in found}
    why = _gone(pods.get(lease.holder.instance))
    others = {n: p for n, p in pods.items() if n != lease.holder.instance and p.running and p.ip and not p.terminating}
    if why is None or not others:
        return None
    door = door_of(key.namespace, key.name, await env.kube.get("Secret", key.namespace, names.authority(key.name)))
    if door is None:
        return None
    reason = f"{lease.holder.instance}: {why}"
    log.info("%s/%s: asking %s for an election: %s", key.namespace, key.name, ", ".join(sorted(others)), reason)
    calls = (env.agents.elect(door, name, p.ip, reason) for name, p in others.items())
    for problem in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(problem, MatriarchError):
            log.info("%s", problem)
        elif isinstance(problem, BaseException):
            raise problem
    return _AGAIN


def _gone(pod: Pod | None) -> str | None:
    """What Kubernetes shows of the holder's Pod that speaks against it."""
    if pod is None:
        return "its Pod is gone"
    if pod.finished:
        return "its Pod ended"
    if not pod.running:
        return f"its container does not run ({pod.waiting})" if pod.waiting else "its container does not run"
    if not pod.ready:
        return "its Pod is not ready"
    return None

"""Whether a cluster's instances let clients in: not while a Restore in place wants them out.

The agents read it from their configuration. It follows from the Restores as they are now and nothing is remembered, so
a Restore that fails or is deleted opens the door, whatever else is wrong with the cluster: this is settled before
anything else is looked at.
"""

from __future__ import annotations

import json
import logging

from matriarch.controller import application
from matriarch.controller.backup_around import over
from matriarch.controller.env import Env
from matriarch.decide.restore_application import keeps_out
from matriarch.decide.restore_facts import Step, StepState
from matriarch.errors import MatriarchError
from matriarch.kube.client import Object
from matriarch.resources import names
from matriarch.resources.config import KEY
from matriarch.resources.job import labels

log = logging.getLogger(__name__)


async def settle(namespace: str, cluster: str, env: Env) -> tuple[str, str]:
    """uid and name of the Restore in place for which this cluster refuses clients; empty for none. The agents are told
    when that has changed."""
    found = await env.kube.get("ConfigMap", namespace, names.config(cluster))
    document = _document(found)
    before = str(document.get("closed_by") or "")
    uid, name = await _wanted(namespace, cluster, env)
    if not uid and before and await _still_writes(namespace, cluster, env):
        uid = before  # of a Restore that is gone; whoever wrote now would write to what is about to be replaced
    if document and uid != before:
        assert found is not None
        await _tell(namespace, found, document, uid, env)
        if before:
            await _start_application(namespace, env)
    return uid, name


def _document(config: Object | None) -> Object:
    """The agents' configuration as it is published; empty when there is none, or none that can be read."""
    try:
        document = json.loads(((config or {}).get("data") or {}).get(KEY) or "null")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


async def _wanted(namespace: str, cluster: str, env: Env) -> tuple[str, str]:
    for found in await env.kube.list("Restore", namespace):
        spec, metadata = found.get("spec") or {}, found["metadata"]
        here = (spec.get("target") or {}).get("cluster") == cluster and spec.get("inPlace")
        if not here or over(found) or metadata.get("deletionTimestamp"):
            continue
        steps = {s.get("name"): s.get("state") for s in (found.get("status") or {}).get("steps") or ()}
        known = {Step(n): StepState(s) for n, s in steps.items() if n in set(Step) and s in set(StepState)}
        if keeps_out(known):
            return str(metadata["uid"]), str(metadata["name"])
    return "", ""


async def _still_writes(namespace: str, cluster: str, env: Env) -> bool:
    """Whether a Pod that replaces the data has not ended. Its Job goes with the Restore, the Pod some time later."""
    pods = await env.kube.list("Pod", namespace, labels(cluster, "restore"))
    return any((p.get("status") or {}).get("phase") not in ("Succeeded", "Failed") for p in pods)


async def _tell(namespace: str, config: Object, document: Object, uid: str, env: Env) -> None:
    document = {k: v for k, v in document.items() if k != "closed_by"} | ({"closed_by": uid} if uid else {})
    document["generation"] = int(document.get("generation") or 0) + 1
    change = {
        "metadata": {"resourceVersion": config["metadata"]["resourceVersion"]},
        "data": {KEY: json.dumps(document, sort_keys=True, indent=1)},
    }
    await env.kube.patch("ConfigMap", namespace, config["metadata"]["name"], change)


async def _start_application(namespace: str, env: Env) -> None:
    """Of a Restore that may be gone. What a workload is refused for must not stop the cluster; it is tried again by
    the next resync."""
    try:
        await application.start_again(env, namespace)
    except MatriarchError as e:
        log.warning("%s: the application is not started again: %s", namespace, e)

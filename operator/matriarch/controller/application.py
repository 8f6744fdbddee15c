"""The application's workloads while a Restore replaces its database in place: stopped, and started again.

What they were is noted on themselves, in the same write that stops them, so nothing has to be remembered elsewhere: a
workload whose Restore is over or gone gets its replicas back, whoever notices first, also after a restart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from matriarch.api.restore import Restore
from matriarch.controller.backup_around import over
from matriarch.controller.env import Env
from matriarch.decide.restore_facts import Workload
from matriarch.errors import MatriarchError
from matriarch.kube.client import Object
from matriarch.kube.errors import Forbidden, NotFound
from matriarch.resources.names import MANAGED_BY

KINDS = ("Deployment", "StatefulSet")
STOPPED_BY = "matriarch.dev/stopped-by"
"""Label: the uid of the Restore that stopped it."""
REPLICAS = "matriarch.dev/replicas-before"
"""Annotation: what it had."""


def selector(restore: Restore) -> Mapping[str, str] | None:
    """Labels of the workloads that this Restore names; None when it names none."""
    in_place = restore.spec.in_place
    chosen = in_place.application_selector if in_place is not None else None
    return chosen.match_labels if chosen is not None else None


async def look(env: Env, namespace: str, labels: Mapping[str, str], *, ends: bool) -> tuple[Workload, ...]:
    """What is selected; never what belongs to a cluster itself, such as its poolers. `ends`: count Pods that are about
    to end, too, which a Deployment's status does not.

    Raises Forbidden."""
    found = []
    for kind in KINDS:
        for obj in await env.kube.list(kind, namespace, labels):
            # The API server takes an empty value for any.
            its = obj["metadata"].get("labels") or {}
            if _is_ours(obj) or any(its.get(k) != v for k, v in labels.items()):
                continue
            pods = await _pods(env, namespace, obj) if ends else 0
            found.append(_workload(kind, obj, pods))
    return tuple(found)


async def _pods(env: Env, namespace: str, workload: Object) -> int:
    """How many have not ended."""
    chosen = ((workload.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
    pods = await env.kube.list("Pod", namespace, chosen) if chosen else []
    return sum(1 for p in pods if (p.get("status") or {}).get("phase") not in ("Succeeded", "Failed"))


def _is_ours(obj: Object) -> bool:
    key, _, value = MANAGED_BY.partition("=")
    return bool((obj["metadata"].get("labels") or {}).get(key) == value)


def _workload(kind: str, obj: Object, pods: int) -> Workload:
    metadata, status = obj["metadata"], obj.get("status") or {}
    # Its controller has not seen the change yet: what it says is of before.
    stale = int(status.get("observedGeneration") or 0) < int(metadata.get("generation") or 0)
    return Workload(
        kind=kind,
        name=metadata["name"],
        replicas=_wanted(obj),
        there=max(int(status.get("replicas") or 0), int(stale), pods),
        stopped_by=(metadata.get("labels") or {}).get(STOPPED_BY) or "",
    )


def _wanted(obj: Object) -> int:
    found = (obj.get("spec") or {}).get("replicas")
    return 1 if found is None else int(found)


async def stop(env: Env, namespace: str, workload: Workload, uid: str) -> None:
    """Raises Conflict when somebody changed it meanwhile; Forbidden, Invalid."""
    obj = await env.kube.get(workload.kind, namespace, workload.name)
    if obj is None or (replicas := _wanted(obj)) == 0:
        return
    metadata = obj["metadata"]
    marks: dict[str, Any] = {"labels": {STOPPED_BY: uid}, "resourceVersion": metadata["resourceVersion"]}
    if (metadata.get("labels") or {}).get(STOPPED_BY) != uid:  # started by somebody meanwhile: the first number counts
        marks["annotations"] = {REPLICAS: str(replicas)}
    await env.kube.patch(workload.kind, namespace, workload.name, {"metadata": marks, "spec": {"replicas": 0}})


async def start_again(env: Env, namespace: str | None, *, done: str = "") -> None:
    """Start whatever was stopped by a Restore that is over or gone, or whose uid is `done`. `namespace` None: in all.

    One that cannot be started keeps no other one back. Raises the last of their errors."""
    stopped = await _stopped(env, namespace)
    if not stopped:
        return
    going_on, failure = await at_work(env, namespace) - {done}, None
    for kind, obj in stopped:
        if obj["metadata"]["labels"][STOPPED_BY] not in going_on:
            try:
                await _start(env, kind, obj)
            except MatriarchError as e:
                failure = e
    if failure is not None:
        raise failure


async def _stopped(env: Env, namespace: str | None) -> list[tuple[str, Object]]:
    found = []
    for kind in KINDS:
        with contextlib.suppress(Forbidden, NotFound):  # rights of an older version: none of this kind was stopped
            found += [(kind, obj) for obj in await env.kube.list(kind, namespace, {STOPPED_BY: ""})]
    return found


async def _start(env: Env, kind: str, obj: Object) -> None:
    metadata = obj["metadata"]
    noted = (metadata.get("annotations") or {}).get(REPLICAS) or ""
    marks = {
        "labels": {STOPPED_BY: None},
        "annotations": {REPLICAS: None},
        "resourceVersion": metadata["resourceVersion"],
    }
    change: dict[str, Any] = {"metadata": marks}
    if _wanted(obj) == 0:  # else somebody was faster, and knows better
        change["spec"] = {"replicas": int(noted) if noted.isdecimal() else 1}
    await env.kube.patch(kind, metadata["namespace"], metadata["name"], change)


async def at_work(env: Env, namespace: str | None) -> frozenset[str]:
    """uids of the Restores in place that are neither over nor being deleted."""
    restores = await env.kube.list("Restore", namespace)
    return frozenset(
        r["metadata"]["uid"]
        for r in restores
        if not over(r) and not r["metadata"].get("deletionTimestamp") and (r.get("spec") or {}).get("inPlace")
    )

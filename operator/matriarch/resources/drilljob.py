"""The Job of a drill: as the other Jobs beside a cluster, but with a volume of its own for a throwaway instance.

It has no account and no certificate, reads the store and the key, and mounts a local store read-only: whatever it does,
neither the cluster nor its backups can change by it. Its volume goes with its pod. A pod that was evicted counts as a
failed attempt: an instance that outgrows the node would be evicted for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from matriarch.resources.job import FINAL_EXIT_CODES, JobWish, job, labels

Object = dict[str, Any]

FOLDER = "/var/lib/matriarch-drill"
COMMAND = ("python", "-m", "matriarch.drill.job")
RETRIES = 2
"""Pods that may fail before the Job does."""
START_WITHIN = 900
"""Seconds beyond the drill's own time: for a node, a volume and the image, and for the pauses between attempts."""
KEPT = 24 * 3600
"""Seconds that a finished Job and its log stay."""
REQUESTS: Mapping[str, str] = {"cpu": "100m", "memory": "512Mi"}
LIMITS: Mapping[str, str] = {"memory": "1Gi"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillVolume:
    """`size` is a quantity; `needed`: bytes that the node's disk must have for the pod to be placed there at all."""

    size: str
    needed: int
    storage_class: str | None = None
    """None: the node's own disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillWish:
    """What tells a drill's Job from the others."""

    timeout: int
    """Seconds that the drill itself may take."""
    volume: DrillVolume
    requests: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)


def drill_job(wish: JobWish, drill: DrillWish) -> Object:
    """The Job as it is created; nothing of it is changed later."""
    made = job(replace(wish, account=None))
    spec = made["spec"]
    spec["backoffLimit"] = RETRIES
    spec["activeDeadlineSeconds"] = drill.timeout + START_WITHIN
    spec["ttlSecondsAfterFinished"] = KEPT
    final = {"containerName": "backup", "operator": "In", "values": list(FINAL_EXIT_CODES)}
    spec["podFailurePolicy"] = {"rules": [{"action": "FailJob", "onExitCodes": final}]}
    pod = spec["template"]["spec"]
    container = pod["containers"][0]
    container["command"] = list(COMMAND)
    container["resources"] = _resources(drill)
    for mount in container["volumeMounts"]:
        mount["readOnly"] = mount["name"] != "tmp"
    container["volumeMounts"].append({"name": "drill", "mountPath": FOLDER})
    pod["volumes"].append({"name": "drill", **_volume(wish, drill.volume)})
    return made


def _resources(drill: DrillWish) -> Object:
    # A default never contradicts what is given for the other of the two.
    requests = {**{k: v for k, v in REQUESTS.items() if k not in drill.limits}, **drill.requests}
    limits = {**{k: v for k, v in LIMITS.items() if k not in drill.requests}, **drill.limits}
    if drill.volume.storage_class is None:
        requests.setdefault("ephemeral-storage", str(drill.volume.needed))
    return {"requests": requests, "limits": limits}


def _volume(wish: JobWish, volume: DrillVolume) -> Object:
    if volume.storage_class is None:
        return {"emptyDir": {"sizeLimit": volume.size}}
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": volume.storage_class,
        "resources": {"requests": {"storage": volume.size}},
    }
    template = {"metadata": {"labels": labels(wish.cluster, wish.purpose)}, "spec": claim}
    return {"ephemeral": {"volumeClaimTemplate": template}}

"""The cluster that is struck, as this machine sees it: who is primary, where everybody runs, which processes are whose.

Looked at before a blow, so that the blow itself needs no API server and falls at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import Process, pod_processes, servers
from dev.cluster import Nodes
from dev.host import DevError
from dev.install import NAMESPACE
from dev.kubectl import Kubectl
from dev.product import Cluster

STATE = "matriarch.dev/state"
FILL = "fault-fill"  # on a volume, beside what the instance keeps there
Pick = Callable[[list[Process]], list[Process]]
_BACKEND = re.compile(r"postgres: \S+: (?!walsender)\S+ \S+ [0-9a-f.:]+\(\d+\)")


def processes(uid: str) -> list[Process]:
    """Every process of a pod's containers but the sandbox."""
    return [p for p in pod_processes(uid) if p.name != "pause"]


def postmaster(found: list[Process]) -> list[Process]:
    """The one whose parent is no `postgres`."""
    of_postgres = servers(found)
    pids = {p.pid for p in of_postgres}
    return [p for p in of_postgres if p.parent not in pids]


def titled(*words: str) -> Pick:
    """Processes that call themselves so."""
    return lambda found: [p for p in found if any(word in p.command for word in words)]


def backends(found: list[Process]) -> list[Process]:
    """Client sessions from outside of the pod."""
    return [p for p in found if _BACKEND.match(p.command)]


def send(targets: Iterable[Process], sign: signal.Signals) -> None:
    """The signal to each that is still there."""
    for process in targets:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, sign)


@dataclass(frozen=True, slots=True)
class Place:
    """One instance: its pod, its node, and the folder of its volume on this machine (None where it is elsewhere)."""

    instance: str
    uid: str
    node: str
    volume: Path | None

    def processes(self) -> list[Process]:
        return processes(self.uid)


@dataclass(frozen=True, slots=True)
class Scene:
    """A look at the cluster."""

    cluster: Cluster
    nodes: Nodes
    primary: str
    places: dict[str, Place]
    operators: tuple[str, ...]  # uids of the operator's pods

    @classmethod
    def look(cls, cluster: Cluster, nodes: Nodes) -> Scene:
        """The primary is whom the Lease names: the status may lag. Raises DevError while a pod is missing."""
        kubectl, namespace = cluster.kubectl, cluster.namespace
        primary = holder(lease_state(kubectl, namespace, cluster.name))
        status = cluster.status()
        volumes = {v["metadata"]["name"]: v for v in kubectl.list("persistentvolume")}
        places = {}
        for name in (s["name"] for s in status["instanceStatuses"]):
            pod = cluster.pod(name)
            claim = kubectl.need("persistentvolumeclaim", name, namespace)
            volume = volumes.get(claim["spec"].get("volumeName"), {})
            path = volume.get("spec", {}).get("local", {}).get("path")
            places[name] = Place(name, pod["metadata"]["uid"], pod["spec"]["nodeName"], Path(path) if path else None)
        operators = tuple(p["metadata"]["uid"] for p in kubectl.list("pod", NAMESPACE))
        return cls(cluster, nodes, primary, places, operators)

    def named(self, role: str) -> list[Place]:
        """The instances of a role, by name."""
        return [p for name, p in sorted(self.places.items()) if (name == self.primary) == (role == "primary")]


def lease_state(kubectl: Kubectl, namespace: str, name: str) -> dict[str, Any]:
    """What the Lease says of leadership; {} where there is none."""
    lease = kubectl.get("lease", name, namespace) or {}
    found: dict[str, Any] = json.loads(lease.get("metadata", {}).get("annotations", {}).get(STATE, "{}"))
    return found


def holder(state: dict[str, Any]) -> str:
    """The instance that leads by this state of the Lease, "" when none does."""
    return str((state.get("holder") or [""])[0])


def replicas(cluster: Cluster) -> str:
    """The address of the Service that leads to replicas."""
    service = cluster.kubectl.need("service", f"{cluster.name}-ro", cluster.namespace)
    return str(service["spec"]["clusterIP"])


def heal_everything(cluster: Cluster, nodes: Nodes) -> None:
    """Whatever an interrupted run left behind: the API server, nodes, cables, stopped processes, full volumes.

    Raises DevError when the local Kubernetes cannot be brought back.
    """
    nodes.start_api()
    for node in nodes.cluster.nodes:
        nodes.start_node(node.name)
        nodes.heal(node.name)
    for pod in cluster.kubectl.list("pod"):
        send(processes(pod["metadata"]["uid"]), signal.SIGCONT)
    for path in nodes.cluster.folder.glob(f"volumes/*/*/mount/{FILL}"):
        path.unlink(missing_ok=True)


def fill(volume: Path | None) -> Path:
    """Takes all the space that is left on a volume; returns the file that holds it."""
    if volume is None or not volume.is_dir():
        raise DevError("the volume is not on this machine")
    path = volume / FILL
    with path.open("wb") as file:
        size = 1 << 30
        while size >= 4096:
            try:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)
            except OSError:
                size >>= 1
    return path

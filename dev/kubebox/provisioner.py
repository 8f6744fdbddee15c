"""Makes, grows and deletes the volumes that claims of the class `local` ask for: a small CSI driver's work without CSI.

A round looks at all claims and volumes and does what is missing, so it can be killed between any two steps. It runs as
a process of its own (`python -m dev.kubebox.provisioner NAME`), several times a second.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dev.host import DevError
from dev.kubebox.api import Api, ApiError, Object
from dev.kubebox.names import Cluster, find
from dev.kubebox.volumes import Volume, bytes_of, quantity, size_for

CLASS = "local"
PROVISIONER = "matriarch.dev/local"
INTERVAL = 0.25  # seconds between two rounds


def storage_class() -> Object:
    """The default class: bound where the pod is scheduled, growable, deleted with its claim."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": PROVISIONER,
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": True,
        "reclaimPolicy": "Delete",
    }


@dataclass(frozen=True, slots=True)
class Work:
    """What a round has to do; each list holds what it is done for."""

    make: list[Object]  # claims
    grow: list[tuple[Object, Object]]  # claims with their volumes
    remove: list[Object]  # volumes


def work(claims: list[Object], volumes: list[Object]) -> Work:
    """What is missing, from claims and volumes alone."""
    by_name = {v["metadata"]["name"]: v for v in volumes}
    found = Work([], [], [])
    for claim in claims:
        spec, meta = claim["spec"], claim["metadata"]
        if spec.get("storageClassName") != CLASS or "deletionTimestamp" in meta:
            continue
        volume = by_name.get(spec.get("volumeName") or volume_name(claim))
        if volume is None:
            if not spec.get("volumeName") and selected_node(claim):
                found.make.append(claim)
        elif claim.get("status", {}).get("phase") == "Bound" and _wanted(claim) > bytes_of(
            min(volume["spec"]["capacity"]["storage"], claim["status"]["capacity"]["storage"], key=bytes_of)
        ):
            found.grow.append((claim, volume))
    for volume in volumes:
        spec = volume["spec"]
        if (
            spec.get("storageClassName") == CLASS
            and spec.get("persistentVolumeReclaimPolicy") == "Delete"
            and volume.get("status", {}).get("phase") == "Released"
        ):
            found.remove.append(volume)
    return found


def volume_name(claim: Object) -> str:
    """The name of the volume that is made for a claim."""
    return f"pvc-{claim['metadata']['uid']}"


def selected_node(claim: Object) -> str:
    """The node that the scheduler chose for a claim, or nothing."""
    annotations: dict[str, str] = claim["metadata"].get("annotations") or {}
    return annotations.get("volume.kubernetes.io/selected-node", "")


def _wanted(claim: Object) -> int:
    return bytes_of(claim["spec"]["resources"]["requests"]["storage"])


def persistent_volume(claim: Object, size: int, path: Path) -> Object:
    """The volume object for a claim, usable on the node that was selected and nowhere else."""
    meta = claim["metadata"]
    node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [selected_node(claim)]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": volume_name(claim),
            # Without this, Kubernetes would try to delete the volume itself, and fail.
            "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER},
        },
        "spec": {
            "capacity": {"storage": quantity(size)},
            "accessModes": claim["spec"]["accessModes"],
            "storageClassName": CLASS,
            "persistentVolumeReclaimPolicy": "Delete",
            "local": {"path": str(path)},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "name": meta["name"],
                "namespace": meta["namespace"],
                "uid": meta["uid"],
            },
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [node]}]}},
        },
    }


def _volume(cluster: Cluster, node: str, name: str) -> Volume:
    return Volume(cluster.folder / "volumes" / node / name)


def make(cluster: Cluster, api: Api, claim: Object) -> None:
    """A file system and its volume object for a claim."""
    size = size_for(_wanted(claim))
    volume = _volume(cluster, cluster.node(selected_node(claim)).name, volume_name(claim))
    volume.make(size)
    api.call("POST", "/api/v1/persistentvolumes", persistent_volume(claim, size, volume.mount))


def grow(api: Api, claim: Object, volume: Object) -> None:
    """The file system first, then the claim's status, then the volume object.

    In this order the kubelet, which compares the two, never thinks that it has to grow something itself.
    """
    size = size_for(_wanted(claim))
    Volume(Path(volume["spec"]["local"]["path"]).parent).grow(size)
    meta = claim["metadata"]
    path = f"/api/v1/namespaces/{meta['namespace']}/persistentvolumeclaims/{meta['name']}"
    merge = "application/merge-patch+json"
    status = {
        "capacity": {"storage": quantity(size)},
        "conditions": None,
        "allocatedResources": None,
        "allocatedResourceStatuses": None,
    }
    api.call("PATCH", f"{path}/status", {"status": status}, merge)
    api.call(
        "PATCH",
        f"/api/v1/persistentvolumes/{volume['metadata']['name']}",
        {"spec": {"capacity": {"storage": quantity(size)}}},
        merge,
    )


def remove(api: Api, volume: Object) -> None:
    """The file system of a released volume, then its object."""
    Volume(Path(volume["spec"]["local"]["path"]).parent).remove()
    api.call("DELETE", f"/api/v1/persistentvolumes/{volume['metadata']['name']}")


def one_round(cluster: Cluster, api: Api) -> None:
    """Do what is missing; one failure does not keep the others from being tried."""
    todo = work(api.items("/api/v1/persistentvolumeclaims"), api.items("/api/v1/persistentvolumes"))
    steps = [
        *(partial(make, cluster, api, claim) for claim in todo.make),
        *(partial(grow, api, claim, volume) for claim, volume in todo.grow),
        *(partial(remove, api, volume) for volume in todo.remove),
    ]
    for step in steps:
        try:
            step()
        except ApiError as e:
            if e.status not in {404, 409}:  # the list came from a cache: gone, or done before
                print(e, flush=True)
        except DevError as e:
            print(e, flush=True)
            time.sleep(1)


def main() -> None:
    cluster = find(sys.argv[1])
    api = Api(cluster, "provisioner")
    while True:
        try:
            one_round(cluster, api)
        except (OSError, DevError) as e:
            print(e, flush=True)
            time.sleep(1)
        time.sleep(INTERVAL)


if __name__ == "__main__":
    main()

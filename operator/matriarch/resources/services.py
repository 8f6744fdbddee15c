"""Services and their EndpointSlices.

No Service has a selector: Kubernetes would move its endpoints when it sees a Pod change, and hold back the second of
two changes within a second. The agents write the addresses; the slices are only made here, without endpoints, and
never given any by the controller.
"""

from __future__ import annotations

from matriarch.resources import names
from matriarch.resources.blueprint import Blueprint, Object

POSTGRES = {"name": "postgres", "port": 5432, "protocol": "TCP"}
MEMBER_PORTS = (
    POSTGRES,
    {"name": "agent", "port": 7443, "protocol": "TCP"},
    {"name": "heartbeat", "port": 7431, "protocol": "UDP"},
    {"name": "presence", "port": 7432, "protocol": "TCP"},
)
DOORS = ("rw", "ro", "r")


def services(b: Blueprint) -> list[Object]:
    """`-rw` (the primary), `-ro` (replicas), `-r` (all), and the headless one by which agents find each other."""
    made = [_service(b, f"{b.name}-{door}", {"type": "ClusterIP", "ports": [_port(POSTGRES)]}) for door in DOORS]
    members = {
        "type": "ClusterIP",
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "ports": [_port(p) for p in MEMBER_PORTS],
    }
    return [*made, _service(b, names.members_service(b.name), members)]


def slices(b: Blueprint, instances: tuple[str, ...]) -> list[Object]:
    """One slice per door and one per instance, without endpoints: that field belongs to the agents.

    `instances` are those that exist or are wanted: one that leaves is still looked for by the others.
    """
    made = [_slice(b, f"{b.name}-{door}", f"{b.name}-{door}", [POSTGRES]) for door in DOORS]
    members = names.members_service(b.name)
    return [*made, *(_slice(b, i, members, list(MEMBER_PORTS), instance=i) for i in instances)]


def _service(b: Blueprint, name: str, spec: Object) -> Object:
    return {"apiVersion": "v1", "kind": "Service", "metadata": b.metadata(name), "spec": spec}


def _port(port: Object) -> Object:
    return {**port, "targetPort": port["port"]}


def _slice(b: Blueprint, name: str, service: str, ports: list[Object], *, instance: str | None = None) -> Object:
    metadata = b.metadata(name, instance=instance)
    metadata["labels"] |= {
        "kubernetes.io/service-name": service,
        "endpointslice.kubernetes.io/managed-by": "matriarch.dev",
    }
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": b.slice_family,
        "ports": ports,
    }

"""What the objects of a cluster are called and how they are labelled: docs/architecture.md in code."""

from __future__ import annotations

import re
from collections.abc import Mapping

CLUSTER_LABEL = "matriarch.dev/cluster"
INSTANCE_LABEL = "matriarch.dev/instance"
POOLER_LABEL = "matriarch.dev/pooler"
"""`rw` or `ro`: on a pooler's Service, its slices and its Pods."""
ROLE_LABEL = "matriarch.dev/role"
MANAGED_BY = "app.kubernetes.io/managed-by=matriarch"

POD_HASH = "matriarch.dev/pod-hash"
DELETION_POLICY = "matriarch.dev/deletion-policy"
RESTART = "matriarch.dev/restart"
SWITCHOVER = "matriarch.dev/switchover"
FILLED_BY = "matriarch.dev/filled-by"
"""On a DatabaseCluster whose first data a Restore brings: `<name>/<uid>` of it. It counts when the Lease is made."""


_ORDINAL = re.compile(r"-([1-9])$")


def labels(cluster: str, instance: str | None = None) -> dict[str, str]:
    """On everything that belongs to a cluster; with `instance` also what belongs to one instance."""
    found = {
        "app.kubernetes.io/name": "postgresql",
        "app.kubernetes.io/instance": cluster,
        "app.kubernetes.io/managed-by": "matriarch",
        "app.kubernetes.io/component": "database",
        CLUSTER_LABEL: cluster,
    }
    if instance is not None:
        found[INSTANCE_LABEL] = instance
    return found


def selector(cluster: str) -> dict[str, str]:
    """What a cluster's Pods are found by. Never changes after a release: Kubernetes keeps selectors for life."""
    return {CLUSTER_LABEL: cluster, "app.kubernetes.io/component": "database"}


def selector_text(cluster: str) -> str:
    """The same as kubectl writes it."""
    return ",".join(f"{k}={v}" for k, v in sorted(selector(cluster).items()))


def instance(cluster: str, ordinal: int) -> str:
    """`orders`, 2 → `orders-2`: name of Pod, PVC and member slice."""
    return f"{cluster}-{ordinal}"


def instances(cluster: str, count: int) -> tuple[str, ...]:
    """The wanted instances, lowest number first."""
    return tuple(instance(cluster, i) for i in range(1, count + 1))


def is_instance(cluster: str, name: str) -> bool:
    """Whether a Pod or a volume of this name is, or was, an instance's of the cluster."""
    return name in instances(cluster, 9)


def ordinal(name: str) -> int:
    """`orders-2` → 2. Raises ValueError for a name that is no instance's."""
    match = _ORDINAL.search(name)
    if match is None:
        raise ValueError(f"{name} is not an instance's name")
    return int(match[1])


def config(cluster: str) -> str:
    """ConfigMap with the ClusterConfig."""
    return f"{cluster}-config"


def authority(cluster: str) -> str:
    """Secret of the cluster's certificate authority."""
    return f"{cluster}-ca"


def instance_tls(name: str) -> str:
    """Secret with one instance's certificate."""
    return f"{name}-tls"


def backup_tls(cluster: str) -> str:
    """Secret with the backup Jobs' client certificate."""
    return f"{cluster}-backup-tls"


def replica_tls(cluster: str) -> str:
    """Secret with which another cluster follows this one."""
    return f"{cluster}-replica-tls"


def member_host(cluster: str, namespace: str, name: str) -> str:
    """One instance, by a name that is in its certificate."""
    return f"{name}.{members_service(cluster)}.{namespace}.svc"


def app_secret(cluster: str) -> str:
    """Secret with the application's credentials."""
    return f"{cluster}-app"


def superuser_secret(cluster: str) -> str:
    """Secret with the superuser's credentials."""
    return f"{cluster}-superuser"


def members_service(cluster: str) -> str:
    """Headless Service by which agents find each other."""
    return f"{cluster}-members"


def pooler(cluster: str) -> str:
    """ServiceAccount, Role and ConfigMap of the pooler."""
    return f"{cluster}-pooler"


def pooler_door(cluster: str, door: str) -> str:
    """Deployment and Service of one of the pooler's doors, `rw` or `ro`."""
    return f"{cluster}-pooler-{door}"


def pooler_host(cluster: str, namespace: str, door: str) -> str:
    """Where clients of the pooler connect."""
    return f"{pooler_door(cluster, door)}.{namespace}.svc"


def pooler_tls(cluster: str) -> str:
    """Secret with the pooler's certificate."""
    return f"{cluster}-pooler-tls"


def pooler_selector(cluster: str, door: str) -> dict[str, str]:
    """What a pooler's Pods are found by; never a part of the cluster's own selector."""
    return {"matriarch.dev/pooler-of": cluster, "app.kubernetes.io/component": "pooler", POOLER_LABEL: door}


def backup_account(cluster: str) -> str:
    """ServiceAccount of the backup Jobs."""
    return f"{cluster}-backup"


def write_host(cluster: str, namespace: str) -> str:
    """Where clients that write connect."""
    return f"{cluster}-rw.{namespace}.svc"


def owned_by(cluster: Mapping[str, object]) -> list[dict[str, object]]:
    """Owner references to a DatabaseCluster, given its apiVersion, kind, name and uid."""
    return [
        {
            "apiVersion": cluster["apiVersion"],
            "kind": cluster["kind"],
            "name": cluster["name"],
            "uid": cluster["uid"],
            "controller": True,
            "blockOwnerDeletion": False,
        }
    ]

"""The Job of one backup, check, restore, retention pass or look at a store: the postgres image with the engine in it.

A pod that was killed or found a store away is replaced a few times; what a person has to mend ends the Job at once
(the engine's exit codes 20 and 30). A pod starts only after the one before it is gone, so that two never work on the
same thing. The task holds no secret; secrets are files, mounted where `backup/jobspec.py` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from matriarch.resources import names
from matriarch.resources.pod import USER
from matriarch.resources.storefiles import SecretFiles

Object = dict[str, Any]

TLS_PATH = "/etc/matriarch/tls"
KEY_PATH = "/etc/matriarch/key"
STORE_PATH = "/etc/matriarch/store"
LOCAL_PATH = "/var/lib/matriarch-backups"
"""Where the volume of a local store is mounted."""

MEMBER_PATH = "/var/lib/matriarch"
"""Where the volume of the member that a physical backup reads is mounted, as in the member's own Pod."""
PGDATA = f"{MEMBER_PATH}/pgdata"

COMMAND = ("python", "-m", "matriarch.backup.job")
TENDING = ("python", "-m", "matriarch.archive.tend")
"""The engine with what only the archive's layer knows."""
RETRIES = 3
"""Pods that may fail before the Job does; pods that a drain evicted do not count."""
DEADLINE = 24 * 3600
"""Seconds that all attempts of one Job may take together."""
FINISHED_KEPT = 3600
"""Seconds that a finished Job and its log stay; its result is in a status long before."""
VOLUME_KEPT = 300
"""The same for a Job that mounts an instance's volume: no claim is deleted while a Pod names it, even an ended one, and
a deleted cluster would wait for it. A result that nobody read in time is told again by the same task."""
NODE_GONE = 30
"""Seconds that a pod waits for a node that is not heard of, in place of Kubernetes' 300."""
GRACE = 60
"""Seconds for the engine to abort its upload."""
MEMORY = "256Mi"
TENDING_MEMORY = "1Gi"
"""It holds the archive's listing, about half a KiB for each file: room for more than a million."""
FINAL_EXIT_CODES = (20, 30)
"""Refused, corrupt: `backup/jobspec.py`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobWish:
    """All that tells one Job from another."""

    name: str
    namespace: str
    cluster: str
    """For the labels: Jobs are found by it and their owners are told of their end."""
    owner: Mapping[str, Any]
    """The Backup, BackupSchedule or Restore that it works for, as a manifest."""
    image: str
    task: str
    """JSON of a JobSpec."""
    purpose: str
    """`backup`, `verify`, `restore`, `retain` or `tend`, as a label."""
    account: str | None = None
    """ServiceAccount that may report progress; None: no access to the API."""
    pull_secrets: tuple[str, ...] = ()
    tls: str | None = None
    """Secret with the client certificate."""
    key: SecretFiles | None = None
    store: tuple[SecretFiles, ...] = ()
    claim: str | None = None
    """Claim of a local store."""
    member: str | None = None
    """Instance whose volume is mounted, read-only, on the node where that instance runs."""
    password: str | None = None
    """Secret whose `password` the server wants besides the certificate."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    fills: str | None = None
    """Instance whose volume is mounted to be written; none of its Pods runs."""
    command: tuple[str, ...] = COMMAND
    requests: Mapping[str, str] = field(default_factory=lambda: {"cpu": "100m", "memory": "128Mi"})
    memory: str = MEMORY
    """Limit of memory."""
    suspended: bool = False
    keep: bool = False
    """Stays until its owner goes; else it is removed an hour after its end."""


def job(wish: JobWish) -> Object:
    """The Job as it is created. Nothing of it is changed later but `suspend`."""
    spec: Object = {
        "backoffLimit": RETRIES,
        "activeDeadlineSeconds": DEADLINE,
        "completions": 1,
        "parallelism": 1,
        "suspend": wish.suspended,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": "backup",
                        "operator": "In",
                        "values": list(FINAL_EXIT_CODES),
                    },
                },
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": {
            "metadata": {"labels": labels(wish.cluster, wish.purpose)},
            "spec": _pod(wish),
        },
    }
    if not wish.keep:
        spec["ttlSecondsAfterFinished"] = VOLUME_KEPT if wish.member or wish.fills else FINISHED_KEPT
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": wish.name,
            "namespace": wish.namespace,
            "labels": labels(wish.cluster, wish.purpose),
            "ownerReferences": [_owner(wish.owner)],
        },
        "spec": spec,
    }


def job_name(cluster: str, purpose: str, uid: str, attempt: int) -> str:
    """`orders-backup-1a2b3c4d5e-1`: at most 63 characters for a cluster's name of 40."""
    return f"{cluster}-{purpose}-{uid.replace('-', '')[:10]}-{attempt}"


def labels(cluster: str, purpose: str) -> dict[str, str]:
    """On Jobs, their pods, and what is kept for backups.

    Not the cluster's own labels: what selects the cluster's pods, asks them for their status, or erases what belongs to
    a cluster must never meet a Job or a volume of backups.
    """
    return {
        "app.kubernetes.io/name": "postgresql",
        "app.kubernetes.io/instance": cluster,
        "app.kubernetes.io/managed-by": "matriarch",
        "app.kubernetes.io/component": "backup",
        "matriarch.dev/backup-of": cluster,
        "matriarch.dev/job": purpose,
    }


def _owner(owner: Mapping[str, Any]) -> Object:
    metadata = owner["metadata"]
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }


def _pod(wish: JobWish) -> Object:
    pod: Object = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE,
        "enableServiceLinks": False,
        "automountServiceAccountToken": wish.account is not None,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(wish)],
        "volumes": _volumes(wish),
    }
    if wish.account is not None:
        pod["serviceAccountName"] = wish.account
    if wish.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in wish.pull_secrets]
    if wish.member is not None:
        pod["affinity"] = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [_beside(wish)]}}
    if wish.node_selector:
        pod["nodeSelector"] = dict(wish.node_selector)
    pod["tolerations"] = [*(dict(toleration) for toleration in wish.tolerations), *_gone_nodes(wish.tolerations)]
    return pod


def _beside(wish: JobWish) -> Object:
    """Where the member runs: its volume is ReadWriteOnce, which is one node, not one Pod. By the member and not by the
    node's name, so that an attempt that is repeated follows a member that moved."""
    member = {names.CLUSTER_LABEL: wish.cluster, names.INSTANCE_LABEL: wish.member}
    return {"labelSelector": {"matchLabels": member}, "topologyKey": "kubernetes.io/hostname"}


def _gone_nodes(given: Iterable[Mapping[str, Any]]) -> list[Object]:
    """A backup leaves a node that is gone soon; what the cluster's spec says of such nodes goes first."""
    said = {toleration.get("key") for toleration in given}
    keys = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
    return [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": NODE_GONE}
        for key in keys
        if key not in said
    ]


def _container(wish: JobWish) -> Object:
    env: list[Object] = [{"name": "MATRIARCH_JOB", "value": wish.task}, {"name": "HOME", "value": "/tmp"}]  # noqa: S108 - an emptyDir of this pod alone
    if wish.password is not None:
        source = {"secretKeyRef": {"name": wish.password, "key": "password"}}
        env.append({"name": "PGPASSWORD", "valueFrom": source})
    mounts: list[Object] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - the same
    if wish.tls is not None:
        mounts.append({"name": "tls", "mountPath": TLS_PATH, "readOnly": True})
    if wish.key is not None:
        mounts.append({"name": "key", "mountPath": KEY_PATH, "readOnly": True})
    if wish.store:
        mounts.append({"name": "store", "mountPath": STORE_PATH, "readOnly": True})
    if wish.claim is not None:
        mounts.append({"name": "backups", "mountPath": LOCAL_PATH})
    if wish.member is not None:
        # All of the volume: where a subPath is missing the kubelet makes it, in a volume that is not ours to change.
        mounts.append({"name": "member", "mountPath": MEMBER_PATH, "readOnly": True})
    if wish.fills is not None:
        mounts.append({"name": "data", "mountPath": MEMBER_PATH})
    return {
        "name": "backup",
        "image": wish.image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(wish.command),
        "env": env,
        "resources": {"requests": dict(wish.requests), "limits": {"memory": wish.memory}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "File",
        "volumeMounts": mounts,
    }


def _volumes(wish: JobWish) -> list[Object]:
    volumes: list[Object] = [{"name": "tmp", "emptyDir": {}}]
    if wish.tls is not None:
        volumes.append({"name": "tls", "secret": {"secretName": wish.tls, "defaultMode": 0o440}})
    if wish.key is not None:
        volumes.append({"name": "key", "projected": {"defaultMode": 0o440, "sources": [_files(wish.key)]}})
    if wish.store:
        sources = [_files(files) for files in wish.store]
        volumes.append({"name": "store", "projected": {"defaultMode": 0o440, "sources": sources}})
    if wish.claim is not None:
        volumes.append({"name": "backups", "persistentVolumeClaim": {"claimName": wish.claim}})
    if wish.member is not None:
        volumes.append({"name": "member", "persistentVolumeClaim": {"claimName": wish.member, "readOnly": True}})
    if wish.fills is not None:
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": wish.fills}})
    return volumes


def _files(files: SecretFiles) -> Object:
    source: Object = {
        "name": files.secret,
        "items": [{"key": key, "path": path} for key, path in sorted(files.files.items())],
    }
    if files.optional:
        source["optional"] = True
    return {"secret": source}

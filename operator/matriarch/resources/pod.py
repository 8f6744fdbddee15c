"""The Pod of one instance (docs/architecture.md, "A database pod").

The hash of the wanted Pod goes into an annotation: when it differs from the running Pod's, the rollout replaces that
Pod in its turn. So whatever is not part of the wish (the claim's uid) stays out of it.
"""

from __future__ import annotations

import hashlib
import json

from matriarch.resources import archive, names
from matriarch.resources.blueprint import Blueprint, Object

USER = 999
GRACE = 60  # seconds: covers a switchover, or the checkpoint of a single instance's shutdown
_DEFAULT_REQUESTS = {"cpu": "100m", "memory": "256Mi"}  # without any, the kernel would kill a database first
_SPREAD_WEIGHT = 100


def pod(b: Blueprint, instance: str, claim_uid: str) -> Object:
    """The Pod as it is created."""
    spec = _spec(b, instance)
    restart = b.cluster.metadata.annotations.get(names.RESTART, "")
    metadata = b.metadata(instance, instance=instance, owned=False)
    metadata["annotations"] = {names.POD_HASH: pod_hash(b, instance)}
    if restart:
        metadata["annotations"][names.RESTART] = restart
    container = spec["containers"][0]
    container["env"] = [*container["env"], {"name": "MATRIARCH_CLAIM_UID", "value": claim_uid}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def pod_hash(b: Blueprint, instance: str) -> str:
    """Of everything in the wanted spec that a running Pod cannot take on."""
    text = json.dumps(_spec(b, instance), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _spec(b: Blueprint, instance: str) -> Object:
    spec: Object = {
        "serviceAccountName": b.name,
        "hostname": instance,
        "subdomain": names.members_service(b.name),
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(b, instance)],
        "volumes": _volumes(b, instance),
        "affinity": _affinity(b),
    }
    if pull := b.cluster.spec.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": s.name} for s in pull]
    scheduling = b.cluster.spec.scheduling
    if scheduling is not None:
        if scheduling.node_selector:
            spec["nodeSelector"] = dict(scheduling.node_selector)
        if scheduling.tolerations:
            spec["tolerations"] = [t.model_dump(by_alias=True, exclude_none=True) for t in scheduling.tolerations]
        if scheduling.priority_class_name:
            spec["priorityClassName"] = scheduling.priority_class_name
    return spec


def _container(b: Blueprint, instance: str) -> Object:
    return {
        "name": "postgres",
        "image": b.image,
        "imagePullPolicy": "IfNotPresent",
        "env": [
            {"name": "MATRIARCH_CLUSTER", "value": b.name},
            {"name": "MATRIARCH_NAMESPACE", "value": b.namespace},
            {"name": "MATRIARCH_INSTANCE", "value": instance},
            _from_pod("MATRIARCH_POD_IP", "status.podIP"),
            _from_pod("MATRIARCH_POD_UID", "metadata.uid"),
            _from_pod("MATRIARCH_NODE", "spec.nodeName"),
            *([{"name": "MATRIARCH_TEST_MUTANT", "value": b.test_mutant}] if b.test_mutant else []),
        ],
        "ports": [
            {"name": "postgres", "containerPort": 5432, "protocol": "TCP"},
            {"name": "agent", "containerPort": 7443, "protocol": "TCP"},
            {"name": "probes", "containerPort": 7080, "protocol": "TCP"},
            {"name": "heartbeat", "containerPort": 7431, "protocol": "UDP"},
            {"name": "presence", "containerPort": 7432, "protocol": "TCP"},
        ],
        # No startup probe: a recovery may take hours. Liveness asks PID 1 alone, never the database: an overloaded
        # primary must not be killed for being slow.
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": 7080},
            "periodSeconds": 1,
            "timeoutSeconds": 2,
            "failureThreshold": 3,
        },
        "livenessProbe": {
            "tcpSocket": {"port": 7432},
            "initialDelaySeconds": 20,
            "periodSeconds": 20,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "resources": _resources(b),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "data", "mountPath": "/var/lib/matriarch"},
            {"name": "run", "mountPath": "/run/matriarch"},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - an emptyDir of this pod alone
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - the same
            {"name": "tls", "mountPath": "/etc/matriarch/tls", "readOnly": True},
            {"name": "app", "mountPath": "/etc/matriarch/app", "readOnly": True},
            {"name": "superuser", "mountPath": "/etc/matriarch/superuser", "readOnly": True},
            *(
                [{"name": "source", "mountPath": "/etc/matriarch/source", "readOnly": True}]
                if b.defaults.replica
                else []
            ),
            *archive.mounts(b),
        ],
    }


def _from_pod(name: str, path: str) -> Object:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _resources(b: Blueprint) -> Object:
    wanted = b.cluster.spec.resources
    limits = dict(wanted.limits or {}) if wanted else {}
    # a limit without a request is its own request in Kubernetes; ours must not lie above it
    requests = {k: v for k, v in _DEFAULT_REQUESTS.items() if k not in limits}
    requests |= (wanted.requests if wanted else None) or {}
    return {"requests": requests, **({"limits": limits} if limits else {})}


def _volumes(b: Blueprint, instance: str) -> list[Object]:
    return [
        {"name": "data", "persistentVolumeClaim": {"claimName": instance}},
        {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        _secret("tls", names.instance_tls(instance)),
        _secret("app", names.app_secret(b.name)),
        _secret("superuser", names.superuser_secret(b.name), optional=True),
        # Optional: a cluster that was promoted starts without what opened its former source.
        *([_secret("source", b.defaults.replica.secret, optional=True)] if b.defaults.replica else []),
        *archive.volumes(b),
    ]


def _secret(volume: str, name: str, *, optional: bool = False) -> Object:
    source: Object = {"secretName": name, "defaultMode": 0o440}
    if optional:
        source["optional"] = True
    return {"name": volume, "secret": source}


def _affinity(b: Blueprint) -> Object:
    """Anti-affinity rather than topology spread: `required` then means what it says, one instance per place."""
    scheduling = b.cluster.spec.scheduling
    wanted = [(s.topology_key, s.rule or "preferred") for s in (scheduling.spread if scheduling else None) or ()]
    if not wanted:
        wanted = [("kubernetes.io/hostname", "preferred"), ("topology.kubernetes.io/zone", "preferred")]
    others = {"matchLabels": names.selector(b.name)}
    preferred, required = [], []
    for position, (key, rule) in enumerate(wanted):
        term = {"labelSelector": others, "topologyKey": key}
        if rule == "required":
            required.append(term)
        else:
            preferred.append({"weight": _SPREAD_WEIGHT // (position + 1), "podAffinityTerm": term})
    found: Object = {}
    if preferred:
        found["preferredDuringSchedulingIgnoredDuringExecution"] = preferred
    if required:
        found["requiredDuringSchedulingIgnoredDuringExecution"] = required
    return {"podAntiAffinity": found}

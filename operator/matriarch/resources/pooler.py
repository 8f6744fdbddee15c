"""The pooler's objects: a Deployment, a Service and a disruption budget for each door, and what they share.

Its Pods do not carry the cluster's own label: what selects a cluster's instances must never meet them. The settings
come by a ConfigMap that a running pooler reads again, so that changing them disconnects nobody.
"""

from __future__ import annotations

import hashlib
import json

from matriarch.api.defaults import PoolerDefaults
from matriarch.postgres.pgbouncer import Pool, render
from matriarch.resources import names
from matriarch.resources.blueprint import Blueprint, Object
from matriarch.resources.pod import USER

PORT, CONTROL, PROBES = 5432, 7443, 7080
SETTINGS = "/etc/matriarch/pooler"
TLS = "/etc/matriarch/tls"
RUN = "/run/matriarch"
GRACE = 60
"""Seconds in which clients may end by themselves before transactions are all that is waited for."""
COMMAND = ("python", "-m", "matriarch.agent.pooler.main")
_DEFAULT_REQUESTS = {"cpu": "50m", "memory": "64Mi"}


def pooler(b: Blueprint) -> list[Object]:
    """Everything but the certificate; nothing for a cluster without a pooler."""
    d = b.defaults.pooler
    if d is None:
        return []
    made = [*_account(b, d), _settings(b, d)]
    for door in d.doors:
        made += [_deployment(b, d, door), _service(b, door)]
        if d.instances > 1:
            made.append(_budget(b, door))
    return made


def settings(b: Blueprint, d: PoolerDefaults, door: str) -> str:
    """pgbouncer.ini of one door."""
    pool = Pool(
        host=f"{b.name}-{door}.{b.namespace}.svc",
        mode=d.pool_mode,
        minimum=d.min_connections,
        maximum=d.max_connections,
        clients=d.max_clients,
        acquire=d.acquire_timeout_milliseconds,
        connect=d.connect_timeout_milliseconds,
        idle=d.idle_timeout_milliseconds,
        lifetime=d.lifetime_milliseconds,
    )
    return render(pool, socket_dir=RUN, tls_folder=TLS)


def hosts(b: Blueprint) -> frozenset[str]:
    """The names that the pooler's certificate is valid for."""
    found = set()
    for door in ("rw", "ro"):
        name = names.pooler_door(b.name, door)
        found |= {name, f"{name}.{b.namespace}", f"{name}.{b.namespace}.svc", f"{name}.{b.namespace}.svc.cluster.local"}
    return frozenset(found)


def _metadata(b: Blueprint, name: str) -> Object:
    metadata = b.metadata(name)
    metadata["labels"] |= {"app.kubernetes.io/component": "pooler"}
    return metadata


def _settings(b: Blueprint, d: PoolerDefaults) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(b, names.pooler(b.name)),
        "data": {f"pgbouncer-{door}.ini": settings(b, d, door) for door in d.doors},
    }


def _account(b: Blueprint, d: PoolerDefaults) -> list[Object]:
    """May watch where the Services lead, to see a failover, and nothing else."""
    rbac, name = "rbac.authorization.k8s.io", names.pooler(b.name)
    rule = {
        "apiGroups": ["discovery.k8s.io"],
        "resources": ["endpointslices"],
        "verbs": ["get", "list", "watch"],
        "resourceNames": [f"{b.name}-{door}" for door in d.doors],
    }
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _metadata(b, name)},
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": _metadata(b, name), "rules": [rule]},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": _metadata(b, name),
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": b.namespace}],
        },
    ]


def _service(b: Blueprint, door: str) -> Object:
    metadata = _metadata(b, names.pooler_door(b.name, door))
    metadata["labels"][names.POOLER_LABEL] = door  # Kubernetes copies it to the slices, where agents look for it
    port = {"name": "postgres", "port": PORT, "protocol": "TCP", "targetPort": PORT}
    spec = {"type": "ClusterIP", "selector": names.pooler_selector(b.name, door), "ports": [port]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def _budget(b: Blueprint, door: str) -> Object:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(b, names.pooler_door(b.name, door)),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": names.pooler_selector(b.name, door)}},
    }


def _deployment(b: Blueprint, d: PoolerDefaults, door: str) -> Object:
    selector = names.pooler_selector(b.name, door)
    spec: Object = {
        "replicas": d.instances,
        "revisionHistoryLimit": 2,
        "selector": {"matchLabels": selector},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {
            "metadata": {
                "labels": {
                    "app.kubernetes.io/name": "pgbouncer",
                    "app.kubernetes.io/instance": b.name,
                    "app.kubernetes.io/managed-by": "matriarch",
                    **selector,
                }
            },
            "spec": _pod(b, d, door),
        },
    }
    metadata = _metadata(b, names.pooler_door(b.name, door))
    text = json.dumps(spec, sort_keys=True)
    metadata["annotations"] = {names.POD_HASH: hashlib.sha256(text.encode()).hexdigest()[:16]}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def _pod(b: Blueprint, d: PoolerDefaults, door: str) -> Object:
    spec: Object = {
        "serviceAccountName": names.pooler(b.name),
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(b, d, door)],
        "volumes": [
            {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "settings", "configMap": {"name": names.pooler(b.name)}},
            {"name": "tls", "secret": {"secretName": names.pooler_tls(b.name), "defaultMode": 0o440}},
        ],
        "affinity": _affinity(b, door),
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


def _container(b: Blueprint, d: PoolerDefaults, door: str) -> Object:
    return {
        "name": "pooler",
        "image": b.pooler_image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(COMMAND),
        "env": [
            {"name": "MATRIARCH_CLUSTER", "value": b.name},
            {"name": "MATRIARCH_NAMESPACE", "value": b.namespace},
            {"name": "MATRIARCH_POOLER", "value": door},
            {"name": "MATRIARCH_PAUSE_MILLISECONDS", "value": str(d.pause_timeout_milliseconds)},
        ],
        "ports": [
            {"name": "postgres", "containerPort": PORT, "protocol": "TCP"},
            {"name": "control", "containerPort": CONTROL, "protocol": "TCP"},
            {"name": "probes", "containerPort": PROBES, "protocol": "TCP"},
        ],
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": PROBES},
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "failureThreshold": 2,
        },
        "livenessProbe": {
            "httpGet": {"path": "/livez", "port": PROBES},
            "initialDelaySeconds": 10,
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "resources": _resources(b),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "run", "mountPath": RUN},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - an emptyDir of this pod alone
            {"name": "settings", "mountPath": SETTINGS, "readOnly": True},
            {"name": "tls", "mountPath": TLS, "readOnly": True},
        ],
    }


def _resources(b: Blueprint) -> Object:
    asked = b.cluster.spec.pooler.resources if b.cluster.spec.pooler else None
    limits = dict(asked.limits or {}) if asked else {}
    requests = {k: v for k, v in _DEFAULT_REQUESTS.items() if k not in limits}
    requests |= (asked.requests if asked else None) or {}
    return {"requests": requests, **({"limits": limits} if limits else {})}


def _affinity(b: Blueprint, door: str) -> Object:
    others = {"matchLabels": names.pooler_selector(b.name, door)}
    keys = ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
    terms = [
        {"weight": 100 // n, "podAffinityTerm": {"labelSelector": others, "topologyKey": key}}
        for n, key in enumerate(keys, 1)
    ]
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}}

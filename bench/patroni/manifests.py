"""What the peer is made of: its settings, and the objects that a cluster of three takes. Pure.

Patroni keeps its state in Endpoints, the mode that its documentation recommends, because the leader and the address of
the write Service then change in one update. Everything that is not its own is as in our cluster: PostgreSQL 17 from the
same archive, requests, volumes, one instance a node, a commit that waits for one of two standbys and never for none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

Object = dict[str, Any]
Settings = Literal["default", "fastest"]

SETTINGS: Mapping[Settings, Object] = {
    "default": {"ttl": 30, "loop_wait": 10, "retry_timeout": 10},
    # The least that its documentation allows (dynamic configuration): ttl 20, loop_wait 1, retry_timeout 3. What else
    # shortens an outage goes with it: a primary that crashed gives its key up at once instead of recovering first, and
    # with the failsafe mode a stopped API server demotes nobody while all members answer.
    "fastest": {"ttl": 20, "loop_wait": 1, "retry_timeout": 3, "primary_start_timeout": 0, "failsafe_mode": True},
}

PARAMETERS: Object = {
    "max_connections": 100,
    "max_worker_processes": 8,
    "max_wal_senders": 32,
    "max_replication_slots": 32,
    "wal_level": "logical",
    "wal_keep_size": "64MB",
    "max_wal_size": "128MB",
    "min_wal_size": "32MB",
    "jit": "off",
    "huge_pages": "off",
    "dynamic_shared_memory_type": "sysv",
    "recovery_init_sync_method": "syncfs",
    "password_encryption": "scram-sha-256",
}
QUICK_WAL: Object = {  # as ours has them; PostgreSQL's defaults are 5 s, 10 s, 60 s, 60 s
    "wal_retrieve_retry_interval": "100ms",
    "wal_receiver_status_interval": "1s",
    "wal_receiver_timeout": "5s",
    "wal_sender_timeout": "5s",
}

NAME = "patroni"
USER, DATABASE = "app", "app"
VOLUME = "/var/lib/postgresql"
LABELS = {"application": "patroni", "cluster-name": NAME}
_UID = 999

CREATE_DATABASE = f"""\
import os, subprocess, sys
for statement in ("CREATE ROLE {USER} LOGIN PASSWORD '" + os.environ["APP_PASSWORD"] + "'",
                  "CREATE DATABASE {DATABASE} OWNER {USER}"):
    subprocess.run(["psql", "-v", "ON_ERROR_STOP=1", "-d", sys.argv[1], "-c", statement], check=True)
"""


def configuration(settings: Settings) -> Object:
    """patroni.yml (JSON is YAML); names, addresses and passwords come from each pod's environment."""
    parameters = {**PARAMETERS, **(QUICK_WAL if settings == "fastest" else {})}
    return {
        "scope": NAME,
        "bootstrap": {
            "dcs": {
                **SETTINGS[settings],
                "synchronous_mode": "quorum",
                "synchronous_mode_strict": True,
                "synchronous_node_count": 1,
                "postgresql": {"use_pg_rewind": True, "use_slots": True, "parameters": parameters},
            },
            "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, "data-checksums"],
            "post_bootstrap": "python3 /etc/patroni/create_database.py",
        },
        "kubernetes": {
            "labels": {"application": "patroni"},
            "scope_label": "cluster-name",
            "role_label": "role",
            "use_endpoints": True,
            "ports": [{"name": "postgresql", "port": 5432}],
        },
        "restapi": {"listen": "0.0.0.0:8008"},
        "postgresql": {
            "listen": "0.0.0.0:5432",
            "data_dir": f"{VOLUME}/pgdata",
            "bin_dir": "/usr/lib/postgresql/17/bin",
            "pgpass": "/tmp/pgpass",
            "parameters": {"unix_socket_directories": "/run/postgresql"},
            "pg_hba": [
                "local all all trust",
                "host replication standby all scram-sha-256",
                "host all all all scram-sha-256",
            ],
        },
    }


def _meta(name: str, **more: Any) -> Object:
    return {"name": name, "labels": LABELS, **more}


def _from_pod(name: str, path: str) -> Object:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _from_secret(name: str, key: str) -> Object:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": NAME, "key": key}}}


def _environment() -> list[Object]:
    plain = {
        "PATRONI_KUBERNETES_NAMESPACE": "$(NAMESPACE)",
        "PATRONI_POSTGRESQL_CONNECT_ADDRESS": "$(PATRONI_KUBERNETES_POD_IP):5432",
        "PATRONI_RESTAPI_CONNECT_ADDRESS": "$(PATRONI_KUBERNETES_POD_IP):8008",
        "PATRONI_SUPERUSER_USERNAME": "postgres",
        "PATRONI_REPLICATION_USERNAME": "standby",
    }
    return [
        _from_pod("NAMESPACE", "metadata.namespace"),
        _from_pod("PATRONI_NAME", "metadata.name"),
        _from_pod("PATRONI_KUBERNETES_POD_IP", "status.podIP"),
        *({"name": name, "value": value} for name, value in plain.items()),
        _from_secret("PATRONI_SUPERUSER_PASSWORD", "superuser"),
        _from_secret("PATRONI_REPLICATION_PASSWORD", "replication"),
        _from_secret("APP_PASSWORD", "password"),
    ]


def _container(image: str, requests: Mapping[str, str]) -> Object:
    probe = {"httpGet": {"path": "/readiness", "port": 8008}, "periodSeconds": 1, "timeoutSeconds": 2}
    return {
        "name": "postgres",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "env": _environment(),
        "ports": [{"containerPort": 5432}, {"containerPort": 8008}],
        "readinessProbe": {**probe, "failureThreshold": 3},
        "resources": {"requests": dict(requests)},
        "volumeMounts": [
            {"name": "data", "mountPath": VOLUME},
            {"name": "config", "mountPath": "/etc/patroni"},
            {"name": "run", "mountPath": "/run/postgresql"},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }


def _stateful_set(image: str, requests: Mapping[str, str], size: str, settings: Settings) -> Object:
    apart = {"labelSelector": {"matchLabels": LABELS}, "topologyKey": "kubernetes.io/hostname"}
    pod = {
        "serviceAccountName": NAME,
        "enableServiceLinks": False,  # Patroni would read PATRONI_PORT and its like as its own settings
        "terminationGracePeriodSeconds": 60,
        # Only a new volume is given to the group: PostgreSQL refuses a data folder that a group may write to.
        "securityContext": {
            "runAsUser": _UID,
            "runAsGroup": _UID,
            "fsGroup": _UID,
            # Only a new volume is given to the group: PostgreSQL refuses a data folder that a group may write to.
            "fsGroupChangePolicy": "OnRootMismatch",
        },
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}},
        "containers": [_container(image, requests)],
        "volumes": [
            {"name": "config", "configMap": {"name": f"{NAME}-files"}},
            {"name": "run", "emptyDir": {"medium": "Memory"}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
    }
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": _meta(NAME, annotations={"settings": settings}),
        "spec": {
            "replicas": 3,
            "serviceName": NAME,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": LABELS},
            "template": {"metadata": {"labels": LABELS}, "spec": pod},
            "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": LABELS}, "spec": claim}],
        },
    }


def _rights() -> list[Object]:
    group = "rbac.authorization.k8s.io"
    everything = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
    rules = [
        {"apiGroups": [""], "resources": ["endpoints", "configmaps"], "verbs": everything},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "patch", "update", "watch"]},
        {"apiGroups": [""], "resources": ["services"], "verbs": ["create", "get", "list", "watch"]},
    ]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _meta(NAME)},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": _meta(NAME), "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": _meta(NAME),
            "subjects": [{"kind": "ServiceAccount", "name": NAME}],
            "roleRef": {"apiGroup": group, "kind": "Role", "name": NAME},
        },
    ]


def objects(
    *,
    image: str,
    namespace: str,
    settings: Settings,
    passwords: Mapping[str, str],
    requests: Mapping[str, str],
    size: str,
) -> list[Object]:
    """Everything for one cluster. `passwords` for `superuser`, `replication` and `password` (the application's)."""
    port = [{"name": "postgresql", "port": 5432, "targetPort": 5432}]
    uri = f"postgresql://{USER}:{passwords['password']}@{NAME}.{namespace}.svc:5432/{DATABASE}"
    files = {
        "patroni.yml": json.dumps(configuration(settings), indent=1),
        "create_database.py": CREATE_DATABASE,
    }
    return [
        *_rights(),
        {"apiVersion": "v1", "kind": "Secret", "metadata": _meta(NAME), "stringData": {**passwords, "uri": uri}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _meta(f"{NAME}-files"), "data": files},
        # No selector: Patroni itself writes the Endpoints of this name.
        {"apiVersion": "v1", "kind": "Service", "metadata": _meta(NAME), "spec": {"ports": port}},
        # Without a Service of their name these Endpoints would be removed as orphans.
        *(
            {"apiVersion": "v1", "kind": "Service", "metadata": _meta(f"{NAME}-{part}"), "spec": {"clusterIP": "None"}}
            for part in ("config", "sync", "failover")
        ),
        _stateful_set(image, requests, size, settings),
    ]

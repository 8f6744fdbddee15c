"""Plain PostgreSQL to compare with: one primary and two standbys by streaming, and nothing beside them.

The same image, nodes, requests, volumes, settings and rule of replication as the cluster it is compared with; only what
names that cluster's own files and peers is left out of the settings. No agent, no fencing, no failover.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dev.kubectl import Kubectl, Object, condition, wait
from dev.product import Cluster, Database

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "plain"
LABELS = {"app": NAME}
_UID = 999
_DATA = "/var/lib/matriarch/pgdata"

OF_THE_CLUSTER = {
    *("cluster_name", "primary_conninfo", "primary_slot_name", "synchronous_standby_names", "restore_command"),
    *("ssl_cert_file", "ssl_key_file", "ssl_ca_file", "unix_socket_directories", "listen_addresses", "port"),
    *("config_file", "data_directory", "hba_file", "ident_file", "external_pid_file"),
    *("restart_after_crash", "allow_alter_system"),
}

HBA = """\
local all all trust
host replication all all trust
hostssl all all all scram-sha-256
"""

START = """\
set -eu
cd /
if [ ! -e {data}/PG_VERSION ]; then
    rm -rf {data}
    if [ "$PLAIN" = {name}-0 ]; then
        initdb -D {data} -U postgres --data-checksums --encoding UTF8 --locale C.UTF-8 >/dev/null
    else
        # -C makes the slot; one that an interrupted attempt left is used as it is.
        copy="pg_basebackup -D {data} -R -S $(echo "$PLAIN" | tr - _) -d"
        from="host={name}-0 user=postgres application_name=$PLAIN"
        until $copy "$from" -C || $copy "$from"; do sleep 1; rm -rf {data}; done
    fi
    cp /etc/plain/postgresql.conf /etc/plain/pg_hba.conf {data}/
fi
exec postgres -D {data}
"""


def settings_file(settings: Mapping[str, str]) -> str:
    """postgresql.conf out of a cluster's own settings, by name."""
    own = {
        "listen_addresses": "*",
        "unix_socket_directories": "/run/matriarch",
        "ssl_cert_file": "/etc/matriarch/tls/tls.crt",
        "ssl_key_file": "/etc/matriarch/tls/tls.key",
        "ssl_ca_file": "/etc/matriarch/tls/ca.crt",
        "synchronous_standby_names": f'ANY 1 ("{NAME}-1", "{NAME}-2")',
    }
    kept = {name: value for name, value in settings.items() if name not in OF_THE_CLUSTER}
    quoted = ((name, value.replace("'", "''")) for name, value in {**kept, **own}.items())
    return "".join(f"{name} = '{value}'\n" for name, value in quoted)


def objects(*, image: str, nodes: list[str], settings: Mapping[str, str], tls: str, spec: Object) -> list[Object]:
    """Everything; `nodes` are those of the primary and of both standbys, `tls` the Secret with a server certificate,
    `spec` the compared cluster's (resources and volumes are taken from it).
    """
    files = {
        "postgresql.conf": settings_file(settings),
        "pg_hba.conf": HBA,
        "start": START.format(data=_DATA, name=NAME),
    }
    made: list[Object] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "labels": LABELS}, "data": files}
    ]
    for number, node in enumerate(nodes):
        name = f"{NAME}-{number}"
        claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": spec["storage"]["size"]}}}
        selector = {**LABELS, "instance": name}
        made += [
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": name, "labels": LABELS},
                "spec": claim,
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name, "labels": LABELS},
                "spec": {"selector": selector, "ports": [{"port": 5432}]},
            },
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": selector},
                "spec": _pod(name, image, node, tls, spec.get("resources", {})),
            },
        ]
    return made


def _pod(name: str, image: str, node: str, tls: str, resources: Object) -> Object:
    ready = {"exec": {"command": ["pg_isready", "-q", "-h", "/run/matriarch"]}, "periodSeconds": 2}
    return {
        "nodeSelector": {"kubernetes.io/hostname": node},
        "enableServiceLinks": False,
        # Only a new volume is given to the group: PostgreSQL refuses a data folder that a group may write to.
        "securityContext": {
            "runAsUser": _UID,
            "runAsGroup": _UID,
            "fsGroup": _UID,
            # Only a new volume is given to the group: PostgreSQL refuses a data folder that a group may write to.
            "fsGroupChangePolicy": "OnRootMismatch",
        },
        "containers": [
            {
                "name": "postgres",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "/etc/plain/start"],
                "env": [{"name": "PLAIN", "value": name}],
                "readinessProbe": ready,
                "resources": resources,
                "volumeMounts": [
                    {"name": "data", "mountPath": "/var/lib/matriarch"},
                    {"name": "run", "mountPath": "/run/matriarch"},
                    {"name": "shm", "mountPath": "/dev/shm"},
                    {"name": "files", "mountPath": "/etc/plain"},
                    {"name": "tls", "mountPath": "/etc/matriarch/tls"},
                ],
            }
        ],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": name}},
            {"name": "run", "emptyDir": {"medium": "Memory"}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            {"name": "files", "configMap": {"name": NAME}},
            {"name": "tls", "secret": {"secretName": tls, "defaultMode": 0o440}},
        ],
    }


@dataclass(frozen=True, slots=True)
class Plain:
    """The compared cluster's double, in its namespace."""

    of: Cluster

    @property
    def _kubectl(self) -> Kubectl:
        return self.of.kubectl

    def create(self, image: str) -> None:
        """Makes it beside the cluster that is up, with the same application role and database."""
        self.remove()
        primary = self.of.primary
        order = [primary, *(name for name in self.of.instances() if name != primary)]
        found = self._kubectl.need("databasecluster", self.of.name, self.of.namespace)
        made = objects(
            image=image,
            nodes=[self.of.node_of(name) for name in order],
            settings=self._settings(primary),
            tls=f"{primary}-tls",
            spec=found["spec"],
        )
        self._kubectl.apply(*made, namespace=self.of.namespace)
        wait("plain PostgreSQL with two standbys", self._streaming, timeout=180, poll=1)
        credentials = self.of.credentials()
        for statement in (
            f"CREATE ROLE {credentials['username']} LOGIN PASSWORD '{credentials['password']}'",
            f"CREATE DATABASE {credentials['dbname']} OWNER {credentials['username']}",
        ):
            self.sql(statement)

    def remove(self) -> None:
        chosen = ("-l", f"app={NAME}", "-n", self.of.namespace, "--ignore-not-found")
        self._kubectl.run("delete", "pod", *chosen, "--grace-period=1", timeout=120)
        self._kubectl.run("delete", "persistentvolumeclaim,service,configmap", *chosen, timeout=120)

    def sql(self, statement: str) -> str:
        """What psql printed at the primary, as superuser."""
        return self._psql(f"{NAME}-0", "/run/matriarch", statement)

    def _psql(self, pod: str, socket: str, statement: str) -> str:
        words = ("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", socket, "-U", "postgres", "-c", statement)
        return self._kubectl.run("exec", pod, "-n", self.of.namespace, "--", *words)

    def _settings(self, instance: str) -> dict[str, str]:
        statement = (
            "SELECT json_object_agg(name, current_setting(name)) FROM pg_settings WHERE source = 'configuration file'"
        )
        found: dict[str, str] = json.loads(self._psql(instance, "/run/matriarch/pg", statement))
        return found

    def _streaming(self) -> bool | None:
        pods = [self._kubectl.get("pod", f"{NAME}-{n}", self.of.namespace) for n in range(3)]
        if not all(condition(pod, "Ready").get("status") == "True" for pod in pods):
            return None
        statement = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'quorum'"
        return self.sql(statement).strip() == "2" or None

    def database(self) -> Database:
        """The application's uri, with this primary's Service as host."""
        from bench.contenders import replaced

        uri = replaced(self.of.credentials()["uri"], f"{NAME}-0")
        return Database(uri, self._kubectl.resolve(uri))


def client_pod(name: str, image: str, node: str) -> Any:
    """A pod that only waits for `kubectl exec`: the benchmark's client, on a node of its own choice."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": LABELS},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {"name": "client", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "infinity"]}
            ],
        },
    }

"""A few lines of YAML become a cluster that an ordinary client can use."""

from __future__ import annotations

import asyncpg
import pytest

from dev.kubectl import Kubectl, KubectlError, condition
from dev.product import Cluster


def test_three_instances_become_ready_and_the_status_tells_each_role(orders: Cluster) -> None:
    status = orders.wait_ready()["status"]
    roles = sorted(instance["role"] for instance in status["instanceStatuses"])
    assert roles == ["primary", "replica", "replica"]
    assert status["primary"] in {i["name"] for i in status["instanceStatuses"] if i["role"] == "primary"}
    assert {i["timeline"] for i in status["instanceStatuses"]} == {status["timeline"]}
    assert all("/" in i["lsn"] and i["lagBytes"] >= 0 for i in status["instanceStatuses"])
    assert len({i["node"] for i in status["instanceStatuses"]}) == 3
    assert status["leadership"]["mode"] == "quorum"
    assert status["effective"]["sync"] == {"mode": "quorum", "number": 1, "durability": "required"}


def test_pods_carry_their_roles_as_labels(orders: Cluster) -> None:
    orders.wait_ready()
    pods = orders.kubectl.list("pod", orders.namespace, f"matriarch.dev/cluster={orders.name}")
    roles = {pod["metadata"]["name"]: pod["metadata"]["labels"]["matriarch.dev/role"] for pod in pods}
    assert roles.pop(orders.primary) == "primary"
    assert set(roles.values()) == {"replica"}


def test_the_plain_uri_works_from_outside_and_writes(orders: Cluster) -> None:
    database = orders.database()
    database.execute("CREATE TABLE IF NOT EXISTS hello (who text); INSERT INTO hello VALUES ('world')")
    assert database.value("SELECT who FROM hello LIMIT 1") == "world"
    assert database.value("SELECT pg_is_in_recovery()") is False
    assert database.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") is True


def test_the_secret_has_every_form_that_clients_like(orders: Cluster) -> None:
    secret = orders.credentials()
    assert set(secret) >= {
        *("username", "password", "dbname", "host", "port", "uri", "uri-libpq", "jdbc-uri", "pgpass", "service"),
    }
    assert secret["password"] in secret["uri"]
    assert "?" not in secret["uri"], "drivers hand options they don't know to the server"


def test_writes_wait_for_a_replica_and_nothing_is_switched_off(orders: Cluster) -> None:
    database = orders.database()
    shown = {name: database.value(f"SHOW {name}") for name in ("fsync", "full_page_writes", "synchronous_commit")}
    assert shown == {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
    assert database.value("SHOW synchronous_standby_names").startswith("ANY 1 ")
    assert database.value("SHOW data_checksums") == "on"


def test_the_superuser_cannot_log_in(orders: Cluster) -> None:
    assert orders.kubectl.get("secret", f"{orders.name}-superuser", orders.namespace) is None
    secret = orders.credentials()
    other = orders.database()
    uri = other.uri.replace(f"{secret['username']}:", "postgres:")
    with pytest.raises(asyncpg.PostgresError):
        type(other)(uri, other.names).value("SELECT 1")
    assert other.value("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False


def test_replicas_answer_reads_and_refuse_writes(orders: Cluster) -> None:
    uri = orders.credentials()["uri"].replace(f"{orders.name}-rw", f"{orders.name}-ro")
    replica = type(orders.database())(uri, orders.kubectl.resolve(uri))
    assert replica.value("SELECT pg_is_in_recovery()") is True
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        replica.execute("CREATE TABLE nowhere ()")


def test_a_second_apply_changes_nothing(orders: Cluster) -> None:
    """As Git tools do it: what the API server would store is what it has."""
    before = orders.wait_ready()
    applied = before["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"]
    # `kubectl diff` ends with 1 and prints what differs, when something does.
    assert orders.kubectl.run("diff", "-n", orders.namespace, "-f", "-", stdin=applied) == ""
    orders.kubectl.run("apply", "-n", orders.namespace, "-f", "-", stdin=applied)
    assert (orders.get() or {})["metadata"]["generation"] == before["metadata"]["generation"]


def test_conditions_of_a_healthy_cluster_are_what_git_tools_read(orders: Cluster) -> None:
    found = orders.wait_ready()
    assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
    assert condition(found, "Reconciling").get("status") in {None, "False"}
    assert condition(found, "Stalled").get("status") in {None, "False"}
    orders.kubectl.run(
        *("wait", "databasecluster", orders.name, "-n", orders.namespace, "--for=condition=Ready", "--timeout=10s")
    )


def test_every_connection_is_encrypted_by_the_clusters_own_authority(orders: Cluster, kubectl: Kubectl) -> None:
    """A client that checks everything is content with the CA that the cluster gives out."""
    instance = orders.primary
    shown = kubectl.run(
        *("exec", instance, "-n", orders.namespace, "-c", "postgres", "--", "python3", "-c", VERIFY),
        f"{orders.name}-rw.{orders.namespace}.svc",
    )
    assert shown.strip() == f"CN={instance}"


VERIFY = """
import socket, ssl, struct, sys
context = ssl.create_default_context(cafile="/etc/matriarch/tls/ca.crt")
with socket.create_connection((sys.argv[1], 5432), timeout=5) as raw:
    raw.sendall(struct.pack("!ii", 8, 80877103))
    assert raw.recv(1) == b"S"
    with context.wrap_socket(raw, server_hostname=sys.argv[1]) as wrapped:
        subject = dict(pair[0] for pair in wrapped.getpeercert()["subject"])
print("CN=" + subject["commonName"])
"""


def test_two_clusters_of_one_name_live_side_by_side(orders: Cluster, kubectl: Kubectl, namespace: str) -> None:
    other = Cluster(kubectl, namespace, orders.name)
    other.apply(instances=1)
    other.wait_ready()
    other.database().execute("CREATE TABLE only_here ()")
    with pytest.raises(asyncpg.UndefinedTableError):
        orders.database().execute("SELECT FROM only_here")


def test_a_name_that_is_too_long_is_refused_at_once(kubectl: Kubectl, namespace: str) -> None:
    with pytest.raises(KubectlError, match="at most 40 characters"):
        Cluster(kubectl, namespace, "a" * 41).apply()

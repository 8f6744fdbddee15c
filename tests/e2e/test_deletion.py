"""Deleting the resource is not deleting the data; deleting the operator is not deleting anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.load import Load
from dev.kubectl import Kubectl, condition, wait
from dev.product import Cluster
from tests.e2e.fixtures import Operator


@pytest.fixture
def kept(kubectl: Kubectl, namespace: str) -> Cluster:
    cluster = Cluster(kubectl, namespace, "kept")
    cluster.apply(instances=2)
    cluster.wait_ready()
    cluster.database().execute("CREATE TABLE facts AS SELECT generate_series(1, 1000) AS n")
    return cluster


def gone(cluster: Cluster) -> None:
    labels = f"matriarch.dev/cluster={cluster.name}"
    wait(
        "its pods gone",
        lambda: not cluster.kubectl.list("pod", cluster.namespace, labels) or None,
        timeout=120,
        show=lambda: cluster.kubectl.run("get", "pod", "-n", cluster.namespace),
    )


def test_data_is_kept_and_adopted_by_a_resource_of_the_same_name(kept: Cluster) -> None:
    password = kept.credentials()["password"]
    identifier = kept.status()["systemIdentifier"]
    timeline = kept.status()["timeline"]
    kept.kubectl.delete("databasecluster", kept.name, kept.namespace)
    gone(kept)
    claims = kept.kubectl.list("persistentvolumeclaim", kept.namespace, f"matriarch.dev/cluster={kept.name}")
    assert sorted(claim["metadata"]["name"] for claim in claims) == ["kept-1", "kept-2"]
    assert all(not claim["metadata"].get("deletionTimestamp") for claim in claims)

    kept.apply(instances=2)
    kept.wait_ready(timeout=240)
    assert kept.status()["systemIdentifier"] == identifier
    assert kept.status()["timeline"] >= timeline
    assert kept.credentials()["password"] == password
    assert kept.database().value("SELECT count(*) FROM facts") == 1000


def test_deletion_policy_delete_removes_the_volumes(kubectl: Kubectl, namespace: str) -> None:
    cluster = Cluster(kubectl, namespace, "brief")
    cluster.apply(instances=1, deletionPolicy="Delete")
    cluster.wait_ready()
    kubectl.delete("databasecluster", cluster.name, namespace)
    gone(cluster)
    wait(
        "its volumes gone",
        lambda: not kubectl.list("persistentvolumeclaim", namespace, "matriarch.dev/cluster=brief") or None,
        timeout=120,
    )
    assert kubectl.get("secret", "brief-app", namespace) is None


def test_a_resource_deleted_while_the_operator_is_away(kept: Cluster, operator: Operator) -> None:
    with operator.away():
        kept.kubectl.delete("databasecluster", kept.name, kept.namespace, "--wait=false")
    kept.apply(instances=2)
    kept.wait_ready(timeout=240)
    assert kept.database().value("SELECT count(*) FROM facts") == 1000


def test_clients_do_not_notice_that_the_operator_is_away(orders: Cluster, operator: Operator, artifacts: Path) -> None:
    orders.wait_ready()
    with Load(orders.database(), artifacts / "load" / "operator-away.log") as load:
        calm = load.flowing()
        with operator.away():
            load.flowing(more=500)
        orders.wait_ready()
        load.flowing()
        load.stop()
        seen = load.figures(calm)
    assert seen.lost == ()
    assert seen.failed == seen.unknown == 0


def test_the_warm_second_takes_over_when_the_active_operator_dies(operator: Operator, orders: Cluster) -> None:
    orders.wait_ready()
    active = wait("an active operator", lambda: operator.active() or None, timeout=60)  # it was away just before
    operator.kubectl.run("delete", "pod", active, "-n", operator.namespace, "--grace-period=0", "--force")
    wait("another active operator", lambda: operator.active() not in {active, ""} or None, timeout=60)
    orders.patch({"parameters": {"work_mem": "9MB"}})
    wait("it acts", lambda: (orders.database().value("SHOW work_mem") == "9MB") or None, timeout=60)
    assert condition(orders.wait_ready(), "Ready")["status"] == "True"

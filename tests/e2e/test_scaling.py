"""A cluster grows, shrinks and is restarted while clients write."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import asyncpg
import pytest

from bench.load import Load
from dev.kubectl import Kubectl, wait
from dev.product import Cluster, Database


@pytest.fixture
def small(kubectl: Kubectl, namespace: str) -> Cluster:
    cluster = Cluster(kubectl, namespace, "scaled")
    cluster.apply(instances=1)
    cluster.wait_ready()
    return cluster


def scale(cluster: Cluster, instances: int) -> None:
    """By the scale subresource, as `kubectl scale` and autoscalers do it."""
    cluster.kubectl.run(*("scale", "databasecluster", cluster.name, "-n", cluster.namespace, f"--replicas={instances}"))
    status = cluster.wait_ready(timeout=240)["status"]
    assert len(status["instanceStatuses"]) == instances


def test_one_three_five_three_under_load(small: Cluster, artifacts: Path) -> None:
    with Load(small.database(), artifacts / "load" / "scaling.log", interval=0.05) as load:
        calm = load.flowing()
        for instances in (3, 5, 3):
            scale(small, instances)
            load.flowing()
        load.stop()
        assert load.figures(calm).lost == ()
    status = small.status()
    assert sorted(i["name"] for i in status["instanceStatuses"]) == ["scaled-1", "scaled-2", "scaled-3"]
    assert status["leadership"]["number"] == 1
    pods = small.kubectl.list("pod", small.namespace, "matriarch.dev/cluster=scaled")
    assert len(pods) == 3


def test_the_primary_is_moved_before_its_instance_goes(orders: Cluster, artifacts: Path) -> None:
    orders.wait_ready()
    orders.patch({"primary": f"{orders.name}-3"})
    orders.wait_primary(f"{orders.name}-3")
    orders.wait_ready()
    with Load(orders.database(), artifacts / "load" / "scale-down.log") as load:
        calm = load.flowing()
        orders.patch({"primary": None, "instances": 2})
        orders.wait_ready()
        assert orders.primary != f"{orders.name}-3"
        load.flowing()
        orders.patch({"instances": 3})
        orders.wait_ready()
        load.stop()
        assert load.figures(calm).lost == ()


# While an instance restarts or changes its role it turns clients away for a moment.
NOT_NOW = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def starts(cluster: Cluster) -> dict[str, object]:
    """When each instance's PostgreSQL was started, as each says itself."""
    uri = cluster.credentials()["uri"]
    host = f"{cluster.name}-rw.{cluster.namespace}.svc"

    def asked(address: str) -> object | None:
        try:
            started: object = Database(uri, {host: address}).value("SELECT pg_postmaster_start_time()")
        except NOT_NOW:
            return None
        return started

    found = {}
    for instance in cluster.status()["instanceStatuses"]:
        address = cluster.pod(instance["name"])["status"]["podIP"]
        found[instance["name"]] = wait(
            f"an answer of {instance['name']}", partial(asked, address), timeout=60, show=cluster.describe
        )
    return found


def shows(cluster: Cluster, name: str, value: str) -> bool | None:
    """Whether the primary's parameter has this value; None while it cannot be asked."""
    try:
        return cluster.database().value(f"SHOW {name}") == value or None
    except NOT_NOW:
        return None


def restarted(cluster: Cluster, before: dict[str, object]) -> bool | None:
    """Whether every instance's PostgreSQL was started anew since."""
    after = starts(cluster)
    return all(after[name] != before[name] for name in before) or None


@pytest.mark.parametrize("connections", [150, 120])
def test_a_parameter_that_needs_a_restart(orders: Cluster, artifacts: Path, connections: int) -> None:
    """Raised, then lowered: replicas refuse to run with less than their primary, so the order differs."""
    orders.wait_ready()
    before = starts(orders)
    with Load(orders.database(), artifacts / "load" / f"restart-{connections}.log") as load:
        calm = load.flowing()
        orders.patch({"parameters": {"max_connections": connections}})

        there = partial(shows, orders, "max_connections", str(connections))
        wait(f"max_connections {connections}", there, timeout=180, show=orders.describe)
        wait("all instances restarted", partial(restarted, orders, before), timeout=180, show=orders.describe)
        found = orders.wait_ready()
        assert not found["status"].get("pendingRestart")
        load.flowing()
        load.stop()
        assert load.figures(calm).lost == ()


def test_a_parameter_that_needs_no_restart(orders: Cluster) -> None:
    orders.wait_ready()
    before = starts(orders)
    orders.patch({"parameters": {"work_mem": "7MB"}})

    wait("work_mem 7MB", partial(shows, orders, "work_mem", "7MB"), timeout=60)
    orders.wait_ready()
    assert starts(orders) == before

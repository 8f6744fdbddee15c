"""The Lease is deleted, damaged, or put back to an older state, under load: nothing is lost, nobody is asked."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from bench.faults import FAULTS, Nodes
from bench.load import Load
from bench.runs import Bench
from dev.kubectl import Kubectl, Object, wait
from dev.product import Cluster
from tests.e2e.fixtures import Operator
from tests.e2e.inside import VOLUME, Inside, condition_of, events, wait_condition

pytestmark = pytest.mark.timeout(600)

STATE = "matriarch.dev/state"
KILL_AGENT = """
import os, pathlib, signal
for p in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    if b"matriarch.agent.main" in p.read_bytes() and int(p.parent.name) != os.getpid():
        os.kill(int(p.parent.name), signal.SIGKILL)
"""


def _lease(cluster: Cluster) -> Object:
    return cluster.kubectl.need("lease", cluster.name, cluster.namespace)


def _state(cluster: Cluster) -> dict[str, Any]:
    lease = cluster.kubectl.get("lease", cluster.name, cluster.namespace)
    try:
        return dict(json.loads(lease["metadata"]["annotations"][STATE])) if lease else {}
    except ValueError:
        return {}


def _put_back(cluster: Cluster, state: str) -> None:
    """What a restored etcd would say, and no version that anybody has."""
    merge = {"metadata": {"annotations": {STATE: state}}}
    cluster.kubectl.patch("lease", cluster.name, cluster.namespace, merge)


def _written_again(cluster: Cluster, above: int, timeout: float = 60) -> dict[str, Any]:
    def seen() -> dict[str, Any] | None:
        state = _state(cluster)
        return state if state.get("epoch", 0) > above else None

    return wait("the Lease above the older one", seen, timeout=timeout, show=cluster.describe)


@pytest.mark.parametrize("how", ["deleted", "damaged"])
def test_a_lost_lease_is_written_again_under_load(orders: Cluster, artifacts: Path, how: str) -> None:
    orders.wait_ready(timeout=300)
    before, primary = _state(orders), orders.primary
    with Load(orders.database(), artifacts / f"load-lease-{how}.log") as load:
        began = load.flowing(more=400)
        if how == "deleted":
            orders.kubectl.delete("lease", orders.name, orders.namespace)
        else:
            _put_back(orders, "{")
        after = _written_again(orders, before["epoch"])
        load.flowing(more=400)
        load.stop()
        seen = load.figures(began)
    assert seen.lost == ()
    assert seen.gap.seconds < 5
    assert orders.primary == primary
    assert (after["holder"], after["voters"], after["k"]) == (before["holder"], before["voters"], before["k"])
    orders.wait_ready(timeout=120)
    assert events(orders, "LeaseLost" if how == "deleted" else "LeaseUnreadable")


def test_a_lease_from_before_a_failover_leads_nobody(orders: Cluster, nodes: Nodes, artifacts: Path) -> None:
    orders.wait_ready(timeout=300)
    older = _lease(orders)["metadata"]["annotations"][STATE]
    former = orders.primary
    seen = Bench(orders, nodes, artifacts / "load").run(FAULTS["pod-delete-now"])
    assert seen.lost == ()
    primary, epoch = orders.primary, _state(orders)["epoch"]
    assert primary != former
    with Load(orders.database(), artifacts / "load-lease-older.log") as load:
        began = load.flowing(more=400)
        _put_back(orders, older)
        after = _written_again(orders, epoch)
        load.flowing(more=400)
        load.stop()
        figures = load.figures(began)
    assert figures.lost == ()
    assert orders.primary == primary
    assert after["holder"][0] == primary
    orders.wait_ready(timeout=120)
    assert events(orders, "LeaseRolledBack")


@pytest.mark.long
def test_the_pod_that_an_older_lease_names_does_not_lead_by_it(orders: Cluster, operator: Operator) -> None:
    """Nobody repairs it here, and the former primary starts anew into it: its peers know better."""
    orders.wait_ready(timeout=300)
    older = _lease(orders)["metadata"]["annotations"][STATE]
    former = orders.primary
    other = next(i for i in orders.instances() if i != former)
    orders.hand_over(other)
    orders.wait_primary(other)
    orders.wait_ready(timeout=120)
    forgetful = Inside(orders, former)
    with operator.away():
        _put_back(orders, older)
        forgetful.run("rm", f"{VOLUME}/member/lease.json")
        forgetful.python(KILL_AGENT)
        orders.database().execute("CREATE TABLE IF NOT EXISTS lease_t (i int); INSERT INTO lease_t VALUES (1)")
        time.sleep(10)  # for it to do wrong
        assert orders.database().value("SELECT host(inet_server_addr())") == orders.pod(other)["status"]["podIP"]
        assert forgetful.sql("SELECT pg_is_in_recovery()") == "t"
        orders.database().execute("INSERT INTO lease_t VALUES (2)")
    _written_again(orders, json.loads(older)["epoch"])
    orders.wait_ready(timeout=300)
    assert orders.primary == other
    assert orders.database().value("SELECT count(*) FROM lease_t") >= 2


@pytest.mark.long
def test_without_a_holder_every_member_must_answer(
    kubectl: Kubectl, namespace: str, nodes: Nodes, operator: Operator
) -> None:
    """The Lease and every Pod are deleted, and one node is away: refused and said, until it is back."""
    cluster = Cluster(kubectl, namespace, "lost")
    cluster.apply()
    cluster.wait_ready(timeout=240)
    cluster.database().execute("CREATE TABLE t (i int); INSERT INTO t VALUES (1)")
    silent = next(i for i in cluster.instances() if i != cluster.primary)
    node = cluster.node_of(silent)
    kubectl.run("cordon", node)  # for the operator to come back elsewhere
    try:
        with operator.away():  # a Pod that still runs, or is back at once, would write the Lease again
            nodes.cut(node)
            kubectl.run("delete", "pod", "--all", "-n", namespace, "--force", "--grace-period=0", timeout=60)
            kubectl.delete("lease", cluster.name, namespace)
        said = wait_condition(cluster, "Ready", "LeaseLost", status="False", timeout=120)
        wait("who is missing", lambda: silent in condition_of(cluster, "Ready")["message"] or None, timeout=120)
        assert "not answer" in said["message"]
        assert kubectl.get("lease", cluster.name, namespace) is None
    finally:
        nodes.heal(node)
        kubectl.run("uncordon", node)
    cluster.wait_ready(timeout=300)
    assert cluster.database().value("SELECT count(*) FROM t") == 1

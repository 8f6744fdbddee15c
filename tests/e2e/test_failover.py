"""The primary is lost in every way that matters: writes go on, none that was acknowledged is missing, no hand helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.faults import FAULTS, Nodes
from bench.runs import Bench
from dev.product import Cluster


@pytest.fixture
def bench(orders: Cluster, nodes: Nodes, artifacts: Path) -> Bench:
    orders.wait_ready(timeout=300)
    return Bench(orders, nodes, artifacts / "load")


@pytest.mark.parametrize("fault", ["postmaster-kill", "pod-delete-now", "pod-delete", "pid1-kill", "node-cut"])
def test_nothing_acknowledged_is_lost_and_the_cluster_heals(bench: Bench, fault: str) -> None:
    seen = bench.run(FAULTS[fault])
    assert seen.lost == ()
    assert not seen.gap.open_end, "writes never came back"


def test_the_write_service_follows(bench: Bench, orders: Cluster) -> None:
    before = orders.primary
    bench.run(FAULTS["pod-delete-now"])
    assert orders.primary != before
    address = orders.database().value("SELECT host(inet_server_addr())")
    assert address == orders.pod(orders.primary)["status"]["podIP"]
    slices = orders.kubectl.list("endpointslice", orders.namespace, f"kubernetes.io/service-name={orders.name}-rw")
    assert [a for s in slices for e in s["endpoints"] or [] for a in e["addresses"]] == [address]


def test_an_api_server_that_is_away_stops_no_write(bench: Bench, orders: Cluster) -> None:
    before = orders.primary
    seen = bench.run(FAULTS["api-down"])
    assert seen.lost == ()
    assert orders.primary == before
    assert not seen.gap.open_end

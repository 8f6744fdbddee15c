"""Mode async: what it may lose is said, what need not be lost is not, and the mode changes under load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.faults import FAULTS, Nodes
from bench.load import Load
from bench.runs import Bench
from dev.kubectl import Kubectl, wait
from dev.product import Cluster
from tests.e2e.inside import condition_of, wait_condition

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]

ASYNC: dict[str, Any] = {"sync": {"mode": "async"}}


@pytest.fixture(scope="module")
def events(kubectl: Kubectl, operator: object) -> Iterator[Cluster]:
    """A cluster of three in mode async, with a node for each."""
    namespace = "asynchronous"
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    cluster = Cluster(kubectl, namespace, "events")
    cluster.apply(replication=ASYNC)
    cluster.wait_ready(timeout=240)
    yield cluster
    kubectl.run("delete", "databasecluster", "--all", "-n", namespace, timeout=120)
    kubectl.run("delete", "namespace", namespace, "--wait=false", timeout=60)


def _mode(cluster: Cluster, mode: str, timeout: float = 60) -> None:
    def is_so() -> bool | None:
        return cluster.status().get("leadership", {}).get("mode") == mode or None

    wait(f"{cluster.name} in mode {mode}", is_so, timeout=timeout, show=cluster.describe)


def test_no_commit_waits_and_the_condition_says_so(events: Cluster) -> None:
    events.wait_ready(timeout=240)
    _mode(events, "async")
    assert wait_condition(events, "SyncDegraded", "Asynchronous", status="False")["message"]
    assert condition_of(events, "PossibleLoss") == {}
    lease = events.kubectl.need("lease", events.name, events.namespace)
    assert lease["spec"]["leaseDurationSeconds"] == 15


@pytest.mark.parametrize("fault", ["postmaster-kill", "pid1-kill", "pod-delete", "switchover"])
def test_what_comes_back_or_hands_over_loses_nothing(
    events: Cluster, nodes: Nodes, artifacts: Path, fault: str
) -> None:
    events.wait_ready(timeout=240)
    seen = Bench(events, nodes, artifacts / "load").run(FAULTS[fault])
    assert seen.lost == ()
    assert not seen.gap.open_end
    assert condition_of(events, "PossibleLoss") == {}


def test_a_primary_that_stays_away_is_replaced_and_the_loss_is_said(
    events: Cluster, nodes: Nodes, artifacts: Path
) -> None:
    events.wait_ready(timeout=240)
    before = events.primary
    seen = Bench(events, nodes, artifacts / "load").run(FAULTS["node-cut"])
    assert not seen.gap.open_end
    assert seen.gap.seconds > 10, "before that the old primary may still be there"
    assert events.primary != before
    said = wait_condition(events, "PossibleLoss", "AsyncFailover", status="True")
    assert before in said["message"]
    epoch = said["message"].split("loss-seen=")[1].split()[0]
    mark = f"matriarch.dev/loss-seen={epoch}"
    events.kubectl.run("annotate", "dbc", events.name, "-n", events.namespace, mark, "--overwrite")
    wait("the loss is looked at", lambda: condition_of(events, "PossibleLoss") == {} or None, timeout=30)


def test_without_the_api_server_the_primary_stops_and_comes_back(
    events: Cluster, nodes: Nodes, artifacts: Path
) -> None:
    events.wait_ready(timeout=240)
    seen = Bench(events, nodes, artifacts / "load").run(FAULTS["api-down"])
    assert not seen.gap.open_end
    assert seen.lost == ()


def test_the_mode_changes_under_load_in_both_directions(events: Cluster, artifacts: Path) -> None:
    events.wait_ready(timeout=240)
    with Load(events.database(), artifacts / "load-mode.log") as load:
        began = load.flowing(more=400)
        events.patch({"replication": {"sync": {"mode": "quorum"}}})
        _mode(events, "quorum")
        assert wait_condition(events, "SyncDegraded", "Synchronous", status="False")
        load.flowing(more=400)
        events.patch({"replication": ASYNC})
        _mode(events, "async")
        load.flowing(more=400)
        load.stop()
        assert load.figures(began).lost == ()
    events.wait_ready(timeout=120)

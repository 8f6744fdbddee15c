"""Replicas that fall ill in every way the doctor knows: repaired by the lightest means, or copied anew, and told."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import pytest

from bench.faults import Nodes
from dev.kubectl import Kubectl, wait
from dev.product import Cluster
from matriarch.postgres.lsn import parse_lsn, segment_start
from tests.e2e.inside import VOLUME, Inside, events, wait_condition

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def sick(kubectl: Kubectl, operator: object) -> Iterator[Cluster]:
    """A cluster of its own, with volumes on which little WAL may be kept, and a replica for each new copy: a second one
    of the same instance would have to wait."""
    namespace = "doctor"
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    cluster = Cluster(kubectl, namespace, "sick")
    cluster.apply(size="600Mi", instances=4, replication={"sync": {"number": 1}})
    cluster.wait_ready(timeout=240)
    cluster.database().execute("CREATE TABLE IF NOT EXISTS t (i int)")
    yield cluster
    kubectl.run("delete", "databasecluster", "--all", "-n", namespace, timeout=120)
    kubectl.run("delete", "namespace", namespace, "--wait=false", timeout=60)


def _replicas(cluster: Cluster) -> list[Inside]:
    """Those alone on their node first: a node may be cut off without taking another one along."""
    cluster.wait_ready(timeout=240)
    primary = cluster.primary
    names = [str(i["name"]) for i in cluster.status()["instanceStatuses"]]
    nodes = [cluster.node_of(n) for n in names]
    alone = sorted(names, key=lambda n: (nodes.count(cluster.node_of(n)), n))
    return [Inside(cluster, n) for n in alone if n != primary]


def _follows(cluster: Cluster, replica: Inside, timeout: float = 120) -> None:
    """It has what is written now, and the whole cluster is well."""
    cluster.database().execute("INSERT INTO t VALUES (1)")
    wanted = cluster.database().value("SELECT count(*) FROM t")

    def has() -> bool | None:
        with contextlib.suppress(Exception):
            return int(replica.sql("SELECT count(*) FROM t")) >= wanted or None
        return None

    wait(f"{replica.instance} follows", has, timeout=timeout, show=cluster.describe)
    wait_condition(cluster, "ReplicasHealthy", "NothingFound", status="True", timeout=60)
    cluster.wait_ready(timeout=120)


@pytest.mark.long
def test_a_replica_whose_wal_is_gone_is_copied_anew(sick: Cluster, nodes: Nodes) -> None:
    replica = _replicas(sick)[0]
    before = replica.status()["incarnation"]
    node = sick.node_of(replica.instance)
    reached = parse_lsn(replica.sql("SELECT pg_last_wal_receive_lsn()"))
    nodes.cut(node)
    try:
        primary = Inside(sick, sick.primary)
        for _ in range(14):  # more than the slot may keep, in a volume that has room for it
            primary.sql("SELECT pg_switch_wal(), pg_logical_emit_message(false, 'x', repeat('x', 200000), true)")
        wait("its WAL is gone", lambda: _oldest(primary) > reached or None, timeout=60)
    finally:
        nodes.heal(node)
    wait_condition(sick, "ReplicasHealthy", "WalMissing", status="False", timeout=90)
    _follows(sick, replica)
    assert replica.status()["incarnation"] != before
    assert any("WAL" in m for m in events(sick, "ReplicaRepair"))
    assert len(events(sick, "ReplicaCopied")) >= 2, "begun and ended"


def _oldest(primary: Inside) -> int:
    """Where the oldest WAL begins that the primary has."""
    primary.sql("CHECKPOINT")
    return segment_start(primary.sql("SELECT min(name) FROM pg_ls_waldir() WHERE length(name) = 24", "postgres"))


def test_a_standby_that_crashes_in_recovery_is_copied_anew(sick: Cluster) -> None:
    """A file that its recovery needs cannot be opened any more, as on a broken disk."""
    replica = _replicas(sick)[1]
    before = replica.status()["incarnation"]
    sick.database().execute("INSERT INTO t SELECT generate_series(1, 1000)")
    file = replica.sql("SELECT pg_relation_filepath('t')")
    replica.run("chmod", "000", f"{VOLUME}/pgdata/{file}")
    replica.signal("startup", signal.SIGKILL)
    wait("another copy", lambda: replica.status().get("incarnation") not in (None, "", before) or None, timeout=200)
    _follows(sick, replica)
    assert any("ended" in m for m in events(sick, "ReplicaRepair"))


@pytest.mark.long
def test_a_data_directory_that_cannot_be_read_is_copied_anew(sick: Cluster) -> None:
    replica = _replicas(sick)[2]
    before = replica.status()["incarnation"]
    replica.run("rm", f"{VOLUME}/pgdata/global/pg_control")
    replica.signal("startup", signal.SIGKILL)
    wait("another copy", lambda: replica.status().get("incarnation") not in (None, "", before) or None, timeout=200)
    _follows(sick, replica)


def test_a_paused_replay_is_resumed(sick: Cluster) -> None:
    replica = _replicas(sick)[0]
    before = replica.status()["incarnation"]
    replica.sql("SELECT pg_wal_replay_pause()")
    wait(
        "the repair",
        lambda: any("paused" in m and replica.instance in m for m in events(sick, "ReplicaRepair")) or None,
        timeout=120,
    )
    _follows(sick, replica)
    assert replica.status()["incarnation"] == before


@pytest.mark.long
def test_a_receiver_that_stands_still_costs_a_restart_and_no_copy(sick: Cluster) -> None:
    replica = _replicas(sick)[0]
    before = replica.status()["incarnation"]
    replica.signal("walreceiver", signal.SIGSTOP)
    sick.database().execute("INSERT INTO t VALUES (2)")
    wait(
        "the repair",
        lambda: any("remedy: restart." in m and replica.instance in m for m in events(sick, "ReplicaRepair")) or None,
        timeout=150,
    )
    _follows(sick, replica)
    assert replica.status()["incarnation"] == before

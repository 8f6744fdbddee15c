"""A replica that stays behind on purpose: late, out of the quorum and the Services, and never primary."""

from __future__ import annotations

import time

import pytest

from dev.kubectl import Kubectl, wait
from dev.product import Cluster
from tests.e2e.inside import Inside

pytestmark = pytest.mark.timeout(600)
DELAY = 20


def test_it_is_late_and_never_more_than_a_witness(kubectl: Kubectl, namespace: str) -> None:
    cluster = Cluster(kubectl, namespace, "late")
    late = Inside(cluster, "late-4")
    cluster.apply(instances=4, replication={"delayed": [{"instance": "late-4", "delaySeconds": DELAY}]})
    cluster.wait_ready(timeout=240)
    cluster.database().execute("CREATE TABLE t (i int)")
    wait("the table", lambda: late.sql("SELECT to_regclass('t')") or None, timeout=3 * DELAY)
    begun = time.monotonic()
    cluster.database().execute("INSERT INTO t VALUES (1)")
    wait("the row", lambda: late.sql("SELECT count(*) FROM t") == "1" or None, timeout=3 * DELAY)
    assert time.monotonic() - begun >= DELAY - 1
    assert "late-4" not in cluster.status()["leadership"]["voters"]
    slices = kubectl.list("endpointslice", namespace, "kubernetes.io/service-name=late-ro")
    readers = [a for s in slices for e in s["endpoints"] or [] for a in e["addresses"]]
    assert cluster.pod("late-4")["status"]["podIP"] not in readers

    before = cluster.primary
    kubectl.run("delete", "pod", before, "-n", namespace, "--grace-period=0", "--force", "--wait=false")
    wait("another primary", lambda: cluster.status().get("primary") not in (None, before) or None, timeout=60)
    assert cluster.primary in {"late-1", "late-2", "late-3"}
    cluster.database().execute("INSERT INTO t VALUES (2)")
    cluster.wait_ready(timeout=180)
    wait("the row after the failover", lambda: late.sql("SELECT count(*) FROM t") == "2" or None, timeout=4 * DELAY)

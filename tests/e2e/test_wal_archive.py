"""The WAL archive of a running cluster: switched on under load, and whole over a failover."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from bench.load import Load
from dev import cluster as dev_cluster
from dev.kubectl import Kubectl, wait
from dev.product import Cluster, s3_store
from tests.e2e.fixtures import Operator
from tests.e2e.inside import condition_of, wait_condition

pytestmark = pytest.mark.timeout(600)

BUCKET = "e2e-wal"


def test_every_segment_is_stored_over_a_failover(
    ground: dev_cluster.Ground, kubectl: Kubectl, namespace: str, operator: Operator, artifacts: Path
) -> None:
    server, prefix = ground.s3(), uuid.uuid4().hex[:8]
    server.make_bucket(BUCKET)
    secret = {"ACCESS_KEY_ID": server.access_key, "SECRET_ACCESS_KEY": server.secret_key}
    kubectl.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": secret}, namespace=namespace
    )
    store = s3_store("offsite", BUCKET, server.endpoint, "s3", prefix)
    cluster = Cluster(kubectl, namespace, "ledger")

    def stored() -> list[str]:
        pages = server.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [o["Key"] for page in pages for o in page.get("Contents", []) if "/wal/" in o["Key"]]

    def segments(timeline: int) -> set[int]:
        """Numbers of a timeline's whole segments."""
        names = [key.rsplit("/", 1)[1].split(".")[0] for key in stored() if f"/wal/{timeline:08X}/" in key]
        return {int(n[8:16], 16) * 256 + int(n[16:], 16) for n in names if len(n) == 24}

    cluster.apply(instances=2, backup={"stores": [store]})
    cluster.wait_ready(timeout=240)
    with Load(cluster.database(), artifacts / "load-wal-archive.log") as load:
        began = load.flowing(more=200)
        cluster.patch({"backup": {"walArchive": {"store": "offsite"}}})
        wait_condition(cluster, "ArchivingWal", "Archiving", timeout=180)
        cluster.wait_ready(timeout=240)
        load.flowing(more=400)
        wait("a stored segment", lambda: stored() or None, timeout=120, show=cluster.describe)
        first = cluster.primary
        other = next(i for i in cluster.instances() if i != first)
        kubectl.run("delete", "pod", first, "-n", namespace, "--grace-period=0", "--force", "--wait=false")
        cluster.wait_primary(other)
        load.flowing(more=400)
        load.stop()
        assert load.figures(began).lost == ()
    cluster.wait_ready(timeout=240)
    timeline = int(cluster.status()["timeline"])
    wait(
        f"a segment of timeline {timeline}, and its history",
        lambda: (segments(timeline) and any(f"{timeline:08X}.history" in key for key in stored())) or None,
        timeout=150,
        show=cluster.describe,
    )
    found = set().union(*(segments(t) for t in range(1, timeline + 1)))
    assert found == set(range(min(found), max(found) + 1)), "no segment is missing in between"
    assert condition_of(cluster, "ArchivingWal")["status"] == "True"
    assert all(key.endswith(".enc") for key in stored())

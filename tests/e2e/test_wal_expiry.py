"""A running cluster's archive is expired by itself, and a bucket from which a backup was taken is known for it."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

import pytest

from dev import cluster as dev_cluster
from dev.kubectl import Kubectl, Object, wait
from dev.product import Cluster, one_shot, resource, s3_store
from tests.e2e.fixtures import Operator
from tests.e2e.inside import condition_of, wait_condition

pytestmark = pytest.mark.timeout(900)

BUCKET = "e2e-expiry"


def test_wal_that_nothing_needs_goes_and_a_robbed_store_is_known(
    ground: dev_cluster.Ground, kubectl: Kubectl, namespace: str, operator: Operator
) -> None:
    server, prefix = ground.s3(), uuid.uuid4().hex[:8]
    server.make_bucket(BUCKET)
    secret = {"ACCESS_KEY_ID": server.access_key, "SECRET_ACCESS_KEY": server.secret_key}
    for name in ("s3", "s3-delete"):
        kubectl.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": secret},
            namespace=namespace,
        )
    store = s3_store("offsite", BUCKET, server.endpoint, "s3", prefix)
    store["s3"]["deleteCredentials"] = {"secretName": "s3-delete"}
    cluster = Cluster(kubectl, namespace, "ledger")

    def keys(folder: str) -> list[str]:
        pages = server.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        found = [o["Key"] for page in pages for o in page.get("Contents", []) if f"/{folder}/" in o["Key"]]
        return sorted(found)

    def segments() -> set[str]:
        names = (key.rsplit("/", 1)[1].split(".")[0] for key in keys("wal"))
        return {n for n in names if len(n) == 24}

    def entry() -> Object:
        found = ((cluster.status().get("backup") or {}).get("stores")) or [{}]
        return dict(found[0])

    def looked(run: int) -> Object:
        def seen() -> Object | None:
            found = entry()
            return found if (found.get("run") or 0) >= run and found.get("finishedAt") else None

        return wait(f"run {run} of the store's Job", seen, timeout=240, show=cluster.describe)

    cluster.apply(instances=2, backup={"stores": [store], "walArchive": {"store": "offsite", "recoveryWindowDays": 0}})
    cluster.wait_ready(timeout=240)
    wait_condition(cluster, "ArchivingWal", "Archiving", timeout=180)
    database = cluster.database()
    database.execute("CREATE TABLE t AS SELECT g, md5(g::text) AS m FROM generate_series(1, 400000) g")
    wait("some segments", lambda: len(segments()) >= 3 or None, timeout=180, show=cluster.describe)

    one_shot(kubectl, resource("Backup", "files", {"cluster": "ledger", "method": "physical"}), namespace, timeout=240)
    run = 1
    while (found := looked(run)).get("wal", {}).get("step") not in ("Mark", "Wait"):
        assert found.get("failures") is None, found
        run = int(found["run"]) + 1
    assert found["backups"] == 1
    assert found["wal"]["goingFiles"] >= 1, found
    assert condition_of(cluster, "WalExpiry")["reason"] == "Expiring"
    before = segments()

    # An hour later, for the store.
    (mark,) = keys("expire")
    hours_ago = time.time() - 2 * 3600
    os.utime(Path(server.folder) / "data" / BUCKET / mark, (hours_ago, hours_ago))
    one_shot(kubectl, resource("Backup", "sql", {"cluster": "ledger"}), namespace, timeout=240)
    run = int(found["run"]) + 1
    while not (found := looked(run))["wal"].get("deletedFiles"):
        assert found.get("failures") is None, found
        run = int(found["run"]) + 1
    gone = before - segments()
    assert len(gone) >= 1
    assert all(name < min(segments()) for name in gone), "only the oldest"
    assert wait_condition(cluster, "StoreIntact", "Intact", timeout=90)["status"] == "True"

    # Somebody takes the first backup's manifest.
    manifest = keys("manifests")[0]
    server.client().delete_object(Bucket=BUCKET, Key=manifest)
    one_shot(kubectl, resource("Backup", "after", {"cluster": "ledger"}), namespace, timeout=240)
    lost = wait_condition(cluster, "StoreIntact", "BackupsLost", status="False", timeout=240)
    assert manifest.rsplit("-", 1)[1].removesuffix(".json") in lost["message"]
    assert "had" in entry()["lost"][0] or "gone without a trace" in entry()["lost"][0]
    assert entry()["wal"]["frozen"]

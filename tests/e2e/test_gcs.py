"""A cluster whose backups and WAL go to Google Cloud Storage, and what a Restore brings back from there.

The server is an emulator: Google's own is never asked (docs/backup.md).
"""

from __future__ import annotations

import uuid

import pytest

from dev import cluster as dev_cluster
from dev.kubectl import Kubectl, wait
from dev.product import Cluster, one_shot, resource
from matriarch.postgres.lsn import parse_lsn
from tests.e2e.fixtures import Operator

pytestmark = pytest.mark.timeout(900)

BUCKET = "e2e-gcs"
END = 300.0  # seconds in which every Backup and Restore here comes to an end, on a busy machine


def test_backups_of_both_kinds_the_archive_and_a_restore_to_the_latest(
    ground: dev_cluster.Ground, kubectl: Kubectl, namespace: str, operator: Operator
) -> None:
    server = ground.gcs()
    server.make_bucket(BUCKET)
    store = {"name": "google", "gcs": {"bucket": BUCKET, "endpoint": server.endpoint, "prefix": uuid.uuid4().hex[:8]}}
    settings = {"stores": [store], "walArchive": {"store": "google"}}
    cluster = Cluster(kubectl, namespace, "ledger")
    cluster.apply(instances=1, backup=settings)
    cluster.wait_ready(timeout=END)
    cluster.database().execute("CREATE TABLE t (n int PRIMARY KEY); INSERT INTO t VALUES (1)")
    for method in ("logical", "physical"):
        made = one_shot(
            kubectl, resource("Backup", method, {"cluster": "ledger", "method": method}), namespace, timeout=END
        )
        assert made["status"]["phase"] == "Complete", made["status"]
    cluster.database().execute("INSERT INTO t VALUES (2)")
    written = parse_lsn(str(cluster.database().value("SELECT pg_current_wal_lsn()::text")))

    def stored() -> bool | None:
        told = (cluster.status().get("walArchive") or {}).get("lastLsn")
        return (parse_lsn(told) > written if told else None) or None

    wait("the row in the archive", stored, timeout=240, show=cluster.describe)
    spec = {
        "source": {"backup": {"name": "physical"}},
        "target": {"cluster": "copy", "overrides": {"instances": 1}},
        "recoveryTarget": {"to": "latest"},
    }
    restored = one_shot(kubectl, resource("Restore", "back", spec), namespace, timeout=END)
    assert restored["status"]["phase"] == "Complete", restored["status"]
    assert [r[0] for r in Cluster(kubectl, namespace, "copy").database().rows("SELECT n FROM t ORDER BY n")] == [1, 2]

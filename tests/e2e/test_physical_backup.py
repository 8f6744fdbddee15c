"""Physical backups asked for by a resource: read beside a replica, whole in the store; an increment is restored."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid

import pytest

from dev import cluster as dev_cluster
from dev.host import PROJECT
from dev.kubectl import Kubectl, condition
from dev.product import Cluster, one_shot, resource, s3_store
from tests.e2e.fixtures import Operator

pytestmark = pytest.mark.timeout(600)

BUCKET = "e2e-physical"


def test_the_files_of_a_replica_are_in_the_store(
    ground: dev_cluster.Ground, kubectl: Kubectl, namespace: str, operator: Operator
) -> None:
    server, prefix = ground.s3(), uuid.uuid4().hex[:8]
    server.make_bucket(BUCKET)
    secret = {"ACCESS_KEY_ID": server.access_key, "SECRET_ACCESS_KEY": server.secret_key}
    kubectl.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": secret}, namespace=namespace
    )
    cluster = Cluster(kubectl, namespace, "ledger")
    cluster.apply(instances=2, backup={"stores": [s3_store("offsite", BUCKET, server.endpoint, "s3", prefix)]})
    cluster.wait_ready(timeout=240)
    cluster.database().execute("CREATE TABLE t AS SELECT g, md5(g::text) AS m FROM generate_series(1, 100000) g")
    wanted = resource("Backup", "files", {"cluster": "ledger", "method": "physical"})
    backup = one_shot(kubectl, wanted, namespace, timeout=240)
    status = backup["status"]
    assert condition(backup, "Complete")["reason"] == "Complete"
    assert status["instance"] != cluster.primary, "it was to read a replica"
    assert status["physical"]["pages"] == "passed"
    assert status["physical"]["pagesChecked"] > 1000
    assert status["sizeBytes"] > status["storedBytes"] > 0
    assert (cluster.get() or {})["status"]["backup"]["lastBackup"] == "files"
    cluster.wait_ready(timeout=60)  # the member that was read is as it was

    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT / "operator"),
        "BACKUP_ENCRYPTION_KEY": kubectl.secret("ledger-backup-key", namespace)["key"],
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
    }
    where = f"s3://{BUCKET}/{prefix}/{status['folder']}"
    command = [sys.executable, "-m", "matriarch.cli.main", "verify", "--store", where, "--endpoint", server.endpoint]
    done = subprocess.run(
        [*command, "--backup", status["backupName"]], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is whole" in done.stdout

    cluster.database().execute("UPDATE t SET m = 'changed' WHERE g <= 100")
    wanted = resource("Backup", "changes", {"cluster": "ledger", "method": "physical", "incremental": {}})
    changes = one_shot(kubectl, wanted, namespace, timeout=240)["status"]
    assert changes["physical"]["type"] == "incremental", changes["physical"].get("fullBecause")
    assert changes["physical"]["parent"] == status["id"]
    assert changes["storedBytes"] < status["storedBytes"]
    back = {"source": {"backup": {"name": "changes"}}, "target": {"cluster": "copy"}}
    one_shot(kubectl, resource("Restore", "back", back), namespace, timeout=300)
    copy = Cluster(kubectl, namespace, "copy")
    copy.wait_ready(timeout=120)
    sql = "SELECT count(*), count(*) FILTER (WHERE m = 'changed'), count(*) FILTER (WHERE m = md5(g::text)) FROM t"
    assert copy.database().rows(sql) == [(100_000, 100, 99_900)]

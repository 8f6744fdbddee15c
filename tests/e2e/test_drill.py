"""A schedule's newest backup is proven to restore, with figures; damaged, it is proven not to."""

from __future__ import annotations

import uuid

import pytest

from dev import cluster as dev_cluster
from dev.kubectl import Kubectl, Object, condition, wait
from dev.product import Cluster, resource, s3_store
from dev.s3 import S3Server
from tests.e2e.fixtures import Operator
from tests.e2e.inside import wait_condition

pytestmark = pytest.mark.timeout(900)

BUCKET = "e2e-drill"


def drill(kubectl: Kubectl, namespace: str, schedule: str) -> Object:
    """One drill on demand; the schedule when it is over."""
    wish = uuid.uuid4().hex[:8]
    kubectl.patch("backupschedule", schedule, namespace, {"metadata": {"annotations": {"matriarch.dev/drill": wish}}})

    def over() -> Object | None:
        found = kubectl.need("backupschedule", schedule, namespace)
        drills = found.get("status", {}).get("drill") or {}
        return found if drills.get("handled") == wish and not drills.get("active") else None

    def show() -> str:
        jobs = kubectl.list("job", namespace, "matriarch.dev/job=drill")
        pods = kubectl.list("pod", namespace, "matriarch.dev/job=drill")
        return str([j.get("status") for j in jobs]) + str([p.get("status") for p in pods])

    return wait(f"drill {wish} of {schedule}", over, timeout=300, show=show)


def damage(server: S3Server, prefix: str, backup_id: str) -> str:
    """Change one byte in the middle of the biggest pack."""
    client = server.client()
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    packs = [o for o in found if f"/physical/{backup_id}/" in o["Key"] and ".pack." in o["Key"]]
    key = max(packs, key=lambda o: o["Size"])["Key"]
    data = bytearray(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    data[len(data) // 2] ^= 0x10
    client.put_object(Bucket=BUCKET, Key=key, Body=bytes(data))
    return str(key).rpartition("/")[2]


def test_a_good_drill_has_figures_and_a_damaged_backup_fails_its_drill(
    ground: dev_cluster.Ground, kubectl: Kubectl, namespace: str, operator: Operator
) -> None:
    server, prefix = ground.s3(), uuid.uuid4().hex[:8]
    server.make_bucket(BUCKET)
    secret = {"ACCESS_KEY_ID": server.access_key, "SECRET_ACCESS_KEY": server.secret_key}
    kubectl.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": secret}, namespace=namespace
    )
    cluster = Cluster(kubectl, namespace, "ledger")
    stores = [s3_store("offsite", BUCKET, server.endpoint, "s3", prefix)]
    cluster.apply(
        instances=2,
        backup={"stores": stores, "walArchive": {"store": "offsite"}},
        objectives={"rpo": "15m", "rto": "important"},
    )
    cluster.wait_ready(timeout=240)
    database = cluster.database()
    database.execute("CREATE TABLE t AS SELECT g, md5(g::text) AS m FROM generate_series(1, 50000) g")
    asked = {"name": "rows", "sql": "SELECT count(*) FROM public.t", "expect": "60000"}
    spec = {
        "cluster": "ledger",
        "cron": "* * * * *",
        "method": "physical",
        "drill": {"cron": "0 5 * * 0", "queries": [asked]},
    }
    kubectl.apply(resource("BackupSchedule", "files", spec), namespace=namespace)

    def backed_up() -> Object | None:
        found = kubectl.need("backupschedule", "files", namespace)
        return found if found.get("status", {}).get("lastSuccess") else None

    wait("a backup by the schedule", backed_up, timeout=240, show=cluster.describe)
    kubectl.patch("backupschedule", "files", namespace, {"spec": {"suspend": True}})
    wait(
        "the last backup's end",
        lambda: not kubectl.need("backupschedule", "files", namespace)["status"].get("active") or None,
        timeout=240,
    )
    database.execute(
        "INSERT INTO t SELECT g, md5(g::text) FROM generate_series(50001, 60000) g"
    )  # in the archive alone
    wait_condition(cluster, "ArchivingWal", "Archiving", timeout=120)
    database.execute("SELECT 1")
    stored = cluster.status()["walArchive"].get("lastLsn")
    wait(
        "the archive to have it",
        lambda: (cluster.status()["walArchive"].get("lastLsn") not in (None, stored)) or None,
        timeout=180,
    )

    schedule = drill(kubectl, namespace, "files")
    last = schedule["status"]["lastDrill"]
    assert last["result"] == "Passed", last
    assert condition(schedule, "Restorable")["status"] == "True"
    assert last["rtoSeconds"] > 0
    assert last["rtoSeconds"] == pytest.approx(last["downloadSeconds"] + last["replaySeconds"], abs=0.01)
    assert 0 <= last["rpoSeconds"] < 900
    assert (last["tables"], last["queries"]) == (1, 1)
    print("drill:", {k: v for k, v in last.items() if k.endswith("Seconds") or k == "sizeBytes"})
    wait_condition(cluster, "ObjectivesMet", "Met", timeout=120)

    assert not kubectl.list("pvc", namespace, "matriarch.dev/job=drill")
    name = damage(server, prefix, last["backupId"])
    schedule = drill(kubectl, namespace, "files")
    last = schedule["status"]["lastDrill"]
    assert (last["result"], last["reason"]) == ("Failed", "ObjectCorrupt"), last
    assert name in last["message"]
    said = condition(schedule, "Restorable")
    assert (said["status"], said["reason"]) == ("False", "ObjectCorrupt")
    wait_condition(cluster, "ObjectivesMet", "DrillFailed", timeout=120)
    cluster.wait_ready(timeout=60)
    assert database.value("SELECT count(*) FROM t") == 60000, "a drill touched the cluster"

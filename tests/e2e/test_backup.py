"""Backups that are restored: a real Kubernetes, a real S3 server, and things that are killed in the middle."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from dev import cluster as dev_cluster
from dev import s3
from dev.codepal import data, schema
from dev.kubebox.node import PAUSE
from dev.kubectl import Kubectl, Object, condition, holds, wait
from dev.product import Cluster, Database, one_shot, resource, s3_store
from tests.e2e.fixtures import Operator

BUCKET, ABSENT = "e2e-backups", "e2e-no-such-bucket"
END = 300.0  # seconds in which every Backup and Restore here comes to an end, on a busy machine


@dataclass(frozen=True)
class Shop:
    """A cluster of two instances with CodePal's data and three stores: a good one and two that lack something."""

    kubectl: Kubectl
    namespace: str
    server: s3.S3Server
    cluster: Cluster
    prefix: str

    def backup(self, name: str, **spec: Any) -> Object:
        """Made and waited for."""
        return one_shot(self.kubectl, self.manifest(name, **spec), self.namespace, timeout=END)

    def start(self, name: str, **spec: Any) -> None:
        self.kubectl.apply(self.manifest(name, **spec), namespace=self.namespace)

    def manifest(self, name: str, **spec: Any) -> Object:
        return resource("Backup", name, {"cluster": self.cluster.name, **spec})

    def ended(self, kind: str, name: str) -> Object:
        """At its end, good or bad."""
        return wait(
            f"{kind} {name} at its end",
            lambda: found if (found := self.get(kind, name)) and _over(found) else None,
            timeout=END,
            show=lambda: str((self.get(kind, name) or {}).get("status")),
        )

    def get(self, kind: str, name: str) -> Object | None:
        return self.kubectl.get(kind, name, self.namespace)

    def objects(self, part: str = "") -> list[str]:
        """Objects of this cluster in the bucket, but the log of deletions."""
        pages = self.server.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=self.prefix)
        keys = [o["Key"] for page in pages for o in page.get("Contents", [])]
        return [key for key in keys if part in key and "/tombstones/" not in key]

    def running_pod(self, backup: str) -> str:
        """The pod of a Backup's Job, once it runs."""

        def seen() -> str | None:
            job = ((self.get("Backup", backup) or {}).get("status") or {}).get("job")
            pods = self.kubectl.list("pod", self.namespace, f"batch.kubernetes.io/job-name={job}") if job else []
            return next((p["metadata"]["name"] for p in pods if p["status"].get("phase") == "Running"), None)

        return wait(f"a running pod of Backup {backup}", seen, timeout=END)


def _over(found: Object) -> bool:
    return holds(found, "Complete") or holds(found, "Failed")


def fingerprints(database: Database) -> dict[str, tuple[int, str]]:
    """Count and content of every table."""
    tables = [row[0] for row in database.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")]
    found = {}
    for table in tables:
        sql = (
            f"SELECT count(*), coalesce(md5(string_agg(md5(t::text), '' ORDER BY md5(t::text))), '') FROM \"{table}\" t"
        )
        ((count, digest),) = database.rows(sql, timeout=120)
        found[table] = (count, digest)
    return found


@pytest.fixture(scope="module")
def shop(ground: dev_cluster.Ground, kubectl: Kubectl, operator: Operator) -> Iterator[Shop]:
    server = ground.s3()
    server.make_bucket(BUCKET)
    namespace, prefix = f"shop-{uuid.uuid4().hex[:6]}", uuid.uuid4().hex[:8]
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
    _credentials(kubectl, namespace, "s3", server)
    cluster = Cluster(kubectl, namespace, "shop")
    stores = [
        s3_store("offsite", BUCKET, server.endpoint, "s3", prefix),
        s3_store("no-bucket", ABSENT, server.endpoint, "s3"),
        s3_store("no-secret", BUCKET, server.endpoint, "later", f"{prefix}-later"),
    ]
    cluster.apply(instances=2, backup={"stores": stores})
    cluster.wait_ready(timeout=END)

    _fill(cluster.database())
    yield Shop(kubectl, namespace, server, cluster, prefix)
    kubectl.run("delete", "databasecluster", "--all", "-n", namespace, "--ignore-not-found", timeout=120)
    kubectl.run("delete", "namespace", namespace, "--wait=false", timeout=60)


def _fill(database: Database) -> None:
    """CodePal's rows; from the start again when a failover comes between, as it may on a machine that is overloaded."""

    async def fill(connection: Any) -> None:
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        await schema.deploy(connection)
        await data.load(connection, 7, data.Scale(0.1))

    for attempts_left in (2, 1, 0):
        try:
            database.run(fill, timeout=END)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            if not attempts_left:
                raise
            time.sleep(10)
        else:
            return


def _credentials(kubectl: Kubectl, namespace: str, name: str, server: s3.S3Server) -> None:
    values = {"ACCESS_KEY_ID": server.access_key, "SECRET_ACCESS_KEY": server.secret_key}
    kubectl.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values}, namespace=namespace
    )


def restore_manifest(name: str, source: Object, target: str, **more: Any) -> Object:
    overrides = {} if "inPlace" in more else {"overrides": {"instances": 1}}
    return resource("Restore", name, {"source": source, "target": {"cluster": target, **overrides}, **more})


def test_a_backup_by_hand_reads_a_replica_and_is_unreadable_in_the_store(shop: Shop) -> None:
    backup = shop.backup("by-hand")
    status = backup["status"]
    assert status["tables"] == 9
    assert status["rows"] > 20_000
    assert status["instance"] != shop.cluster.primary, "it was to read a replica"
    assert status["encrypted"] is True
    key = status["location"].removeprefix(f"s3://{BUCKET}/")
    assert key in shop.objects()
    assert key.endswith(".sql.gz.enc")
    body = shop.server.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
    assert len(body) == status["storedBytes"]
    assert b"CREATE TABLE" not in body
    cluster = shop.cluster.get()
    assert condition(cluster, "BackupHealthy")["status"] == "True"
    assert (cluster or {})["status"]["backup"]["lastBackup"] == "by-hand"
    shown = shop.kubectl.run("wait", "--for=condition=Complete", "backup/by-hand", "-n", shop.namespace)
    assert "condition met" in shown


def test_restored_into_a_new_cluster_every_table_is_the_same(shop: Shop) -> None:
    shop.backup("for-new")
    before = fingerprints(shop.cluster.database())
    shop.cluster.database().execute("UPDATE \"User\" SET name = name || ' later'")
    manifest = restore_manifest("to-new", {"backup": {"name": "for-new"}}, "copy")
    restore = one_shot(shop.kubectl, manifest, shop.namespace, timeout=2 * END)
    copy = Cluster(shop.kubectl, shop.namespace, "copy")
    assert fingerprints(copy.database()) == before
    assert restore["status"]["verification"]["tables"] == len(before)
    assert restore["status"]["verification"]["amcheck"] == "ok"
    assert [s["state"] for s in restore["status"]["steps"]] == ["done"] * 5
    assert shop.get("secret", "copy-restore-tls") is None, "the superuser's certificate outlived the restore"
    assert condition(copy.get(), "Restoring") == {}
    copy.database().execute("CREATE TABLE works (n int); INSERT INTO works VALUES (1)")
    shop.kubectl.apply(manifest, namespace=shop.namespace)  # applied once more: nothing happens
    assert shop.get("Restore", "to-new") == shop.ended("Restore", "to-new")
    assert copy.database().value("SELECT count(*) FROM works") == 1
    shop.kubectl.delete("databasecluster", "copy", shop.namespace)


class Writer(threading.Thread):
    """Writes until it is sent away. `acknowledged`: what it was told is safe; `tried`: the last one that it sent."""

    def __init__(self, database: Database) -> None:
        super().__init__(daemon=True)
        self.database = database
        self.acknowledged: list[int] = []
        self.tried = 0
        self.said = ""

    def run(self) -> None:
        async def write(connection: Any) -> None:
            while True:
                self.tried += 1
                await connection.execute("INSERT INTO written VALUES ($1)", self.tried)
                self.acknowledged.append(self.tried)
                await asyncio.sleep(0.02)

        try:
            self.database.run(write, timeout=2 * END)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self.said = str(error)


def application(replicas: int) -> Object:
    """Pods that have nothing to do, under the label that a Restore names."""
    secure = {
        "runAsNonRoot": True, "runAsUser": 1000, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    container = {"name": "works", "image": PAUSE, "imagePullPolicy": "Never", "securityContext": secure}
    labels = {"app": "works"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "works", "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


def test_restored_in_place_after_a_safety_backup_that_has_all_that_was_acknowledged(shop: Shop) -> None:
    database = shop.cluster.database()
    database.execute("CREATE TABLE written (n int primary key)")
    shop.kubectl.apply(application(2), namespace=shop.namespace)
    database.execute('CREATE TABLE IF NOT EXISTS "marks" (id int primary key, what text)')
    database.execute("INSERT INTO marks VALUES (1, 'before') ON CONFLICT DO NOTHING")
    shop.backup("for-place")
    before = fingerprints(database)
    database.execute("UPDATE marks SET what = 'a mistake'; DELETE FROM \"Session\"")
    source = {"backup": {"name": "for-place"}}
    with pytest.raises(Exception, match="inPlace"):
        shop.kubectl.apply(
            restore_manifest("mistyped", source, "shop", inPlace={"confirm": "Shop"}), namespace=shop.namespace
        )
    assert database.value("SELECT what FROM marks") == "a mistake"
    chosen = {"confirm": "shop", "applicationSelector": {"matchLabels": {"app": "works"}}}
    writer = Writer(database)
    writer.start()
    wait("some writes", lambda: len(writer.acknowledged) > 20 or None, timeout=60)
    manifest = restore_manifest("in-place", source, "shop", inPlace=chosen)
    restore = one_shot(shop.kubectl, manifest, shop.namespace, timeout=2 * END)
    writer.join(30)
    assert not writer.is_alive(), "nobody sent it away"
    assert fingerprints(shop.cluster.database()) == before
    safety = shop.get("Backup", restore["status"]["safetyBackup"])
    assert holds(safety, "Complete")
    names = [step["name"] for step in restore["status"]["steps"]]
    assert names == [
        "check", "verify", "stop-application", "close-door", "safety-backup", "restore", "open-door",
        "start-application",
    ]  # fmt: skip
    databases = {row[0] for row in shop.cluster.database().rows("SELECT datname FROM pg_database")}
    assert databases == {"postgres", "template0", "template1", "app"}, "something temporary is left"
    works = shop.kubectl.need("Deployment", "works", shop.namespace)
    assert works["spec"]["replicas"] == 2
    assert "matriarch.dev/stopped-by" not in works["metadata"]["labels"]

    # And back again: whatever was acknowledged is there.
    source = {"backup": {"name": restore["status"]["safetyBackup"]}}
    manifest = restore_manifest("back-again", source, "shop", inPlace={"confirm": "shop"})
    one_shot(shop.kubectl, manifest, shop.namespace, timeout=2 * END)
    there = {row[0] for row in shop.cluster.database().rows("SELECT n FROM written")}
    assert set(writer.acknowledged) <= there <= {*writer.acknowledged, writer.tried}
    assert shop.cluster.database().value("SELECT what FROM marks") == "a mistake"
    shop.kubectl.delete("deployment", "works", shop.namespace)


def test_with_nothing_but_the_store_and_the_key_and_not_with_another_key(shop: Shop, namespace: str) -> None:
    backup = shop.backup("for-store")
    wanted = fingerprints(shop.cluster.database())
    key = shop.kubectl.secret("shop-backup-key", shop.namespace)["key"]
    _credentials(shop.kubectl, namespace, "s3", shop.server)
    for name, value in (("right", key), ("wrong", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")):
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"key": value}}
        shop.kubectl.apply(secret, namespace=namespace)
    store = {
        "s3": s3_store("x", BUCKET, shop.server.endpoint, "s3", shop.prefix)["s3"],
        "cluster": backup["status"]["folder"],
    }
    elsewhere = Shop(shop.kubectl, namespace, shop.server, Cluster(shop.kubectl, namespace, "rescued"), shop.prefix)
    wrong = restore_manifest("wrong", {"store": {**store, "keySecret": {"name": "wrong"}}}, "never")
    shop.kubectl.apply(wrong, namespace=namespace)
    failed = elsewhere.ended("Restore", "wrong")
    assert condition(failed, "Failed")["reason"] == "WrongKey"
    assert backup["status"]["keyId"] in condition(failed, "Failed")["message"]
    assert elsewhere.get("DatabaseCluster", "never") is None
    right = restore_manifest("right", {"store": {**store, "keySecret": {"name": "right"}}}, "rescued")
    done = one_shot(shop.kubectl, right, namespace, timeout=2 * END)
    assert done["status"]["backupName"] == backup["status"]["backupName"], "the newest one"
    assert fingerprints(elsewhere.cluster.database()) == wanted


def test_one_changed_byte_is_found_before_anything_is_made(shop: Shop) -> None:
    backup = shop.backup("to-be-altered")
    client, key = shop.server.client(), backup["status"]["location"].removeprefix(f"s3://{BUCKET}/")
    body = bytearray(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    body[len(body) // 2] ^= 1
    client.put_object(Bucket=BUCKET, Key=key, Body=bytes(body))
    manifest = restore_manifest("altered", {"backup": {"name": "to-be-altered"}}, "never")
    shop.kubectl.apply(manifest, namespace=shop.namespace)
    failed = condition(shop.ended("Restore", "altered"), "Failed")
    assert failed["reason"] == "ObjectCorrupt"
    assert "Nothing was changed" in failed["message"]
    assert shop.get("DatabaseCluster", "never") is None


def test_what_is_missing_is_named(shop: Shop) -> None:
    shop.start("nowhere", store="no-bucket")
    failed = condition(shop.ended("Backup", "nowhere"), "Failed")
    assert failed["reason"] == "BucketMissing"
    assert ABSENT in failed["message"]
    shop.start("waits", store="no-secret")

    def told() -> Object | None:
        ready = condition(shop.get("Backup", "waits"), "Ready")
        return ready if ready.get("reason") == "MissingSecret" else None

    ready = wait("the missing Secret named", told, timeout=60)
    assert "Secret later does not exist" in ready["message"]
    assert (shop.get("Backup", "waits") or {})["status"].get("job") is None
    _credentials(shop.kubectl, shop.namespace, "later", shop.server)
    assert holds(shop.ended("Backup", "waits"), "Complete")


def test_a_job_s_pod_killed_in_the_middle_leaves_one_backup(shop: Shop) -> None:
    before = len(shop.objects("/manifests/"))
    shop.server.freeze()  # so that it is in the middle
    try:
        shop.start("killed")
        pod = shop.running_pod("killed")
        shop.kubectl.run("delete", "pod", pod, "-n", shop.namespace, "--grace-period=0", "--force")
    finally:
        shop.server.thaw()
    done = shop.ended("Backup", "killed")
    assert holds(done, "Complete")
    assert len(shop.objects("/manifests/")) == before + 1
    assert len(shop.objects(done["status"]["id"])) >= 1


def test_s3_killed_in_the_middle_leaves_one_backup(shop: Shop) -> None:
    before = len(shop.objects("/manifests/"))
    shop.server.freeze()
    try:
        shop.start("cut-off")
        shop.running_pod("cut-off")
        shop.server.thaw()
    finally:
        shop.server.stop()
    time.sleep(10)  # long enough for a request to fail, and the one after it
    shop.server.start()
    done = shop.ended("Backup", "cut-off")
    assert holds(done, "Complete")
    assert len(shop.objects("/manifests/")) == before + 1


def test_two_at_once_run_one_after_the_other(shop: Shop) -> None:
    shop.kubectl.apply(shop.manifest("one"), shop.manifest("two"), namespace=shop.namespace)
    times = []
    for name in ("one", "two"):
        status = shop.ended("Backup", name)["status"]
        assert status["phase"] == "Complete"
        times.append((status["startedAt"], status["finishedAt"]))
    first, second = sorted(times)
    assert first[1] <= second[0]


def test_a_schedule_backs_up_by_the_clock_and_removes_what_is_too_old(shop: Shop) -> None:
    spec = {"cluster": shop.cluster.name, "cron": "* * * * *", "retention": {"count": 1}}
    shop.kubectl.apply(resource("BackupSchedule", "minutely", spec), namespace=shop.namespace)

    def made() -> list[Object]:
        found = shop.kubectl.list("backup", shop.namespace, "matriarch.dev/schedule=minutely")
        return sorted(found, key=lambda b: b["metadata"]["name"])

    try:
        first = wait("a scheduled backup", lambda: next((b for b in made() if holds(b, "Complete")), None), timeout=END)
        gone = first["status"]["id"]
        assert shop.objects(gone)
        wait("the first one removed from the store", lambda: not shop.objects(gone), timeout=END)
        wait(
            "its record removed",
            lambda: first["metadata"]["name"] not in [b["metadata"]["name"] for b in made()],
            timeout=60,
        )
    finally:
        suspend = {"spec": {"suspend": True}}
        shop.kubectl.patch("backupschedule", "minutely", shop.namespace, suspend)
    kept = [b for b in made() if holds(b, "Complete")]
    assert kept
    assert shop.objects(kept[-1]["status"]["id"]), "the newest one has to stay"
    schedule = shop.get("BackupSchedule", "minutely")
    assert (schedule or {})["status"]["retention"]["kept"] >= 1
    by_hand = shop.get("Backup", "by-hand")
    if by_hand is not None:
        assert shop.objects(by_hand["status"]["id"]), "retention of a schedule took a backup made by hand"

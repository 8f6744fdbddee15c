"""From the resource to PostgreSQL and back to the status: who asks for an archive, and who does not."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from matriarch.agent import archiving as module
from matriarch.agent.archiving import Archiving, config_for
from matriarch.agent.config import ArchiveWish, ClusterConfig
from matriarch.api.database_cluster import DatabaseCluster
from matriarch.api.defaults import fill
from matriarch.archive import main as archive_main
from matriarch.archive.config import ENVIRONMENT, ArchiveConfig
from matriarch.backup.jobspec import ClusterIdentity, GcsStore, LocalStore, ObjectLock, S3Store, StoreSpec
from matriarch.controller import backup_store
from matriarch.controller.backup_store import Place
from matriarch.controller.facts_of import agent
from matriarch.decide.archive import condition
from matriarch.decide.facts import Archive
from matriarch.postgres.settings import ServerSettings, render_main
from matriarch.resources.blueprint import Blueprint
from matriarch.resources.config import KEY, config
from matriarch.resources.pod import pod, pod_hash

sys.path.insert(0, str(Path(__file__).parent))

from cluster_world import world

S3 = {"bucket": "backups", "prefix": "a/", "endpoint": "https://s3.example", "credentials": {"secretName": "s3"}}
ARCHIVE = {"stores": [{"name": "main", "s3": S3}], "walArchive": {"store": "main", "maxRate": "20Mi"}}


def blueprint(backup: dict[str, Any] | None) -> Blueprint:
    spec: dict[str, Any] = {"version": "17", "instances": 3, "storage": {"size": "1Gi"}}
    if backup is not None:
        spec["backup"] = backup
    cluster = DatabaseCluster.model_validate(
        {
            "apiVersion": "matriarch.dev/v1alpha1",
            "kind": "DatabaseCluster",
            "metadata": {"name": "orders", "namespace": "prod", "uid": "u", "generation": 1},
            "spec": spec,
        }
    )
    return Blueprint(cluster, fill("orders", cluster.spec), "image")


def read(b: Blueprint) -> ClusterConfig:
    return ClusterConfig.parse(json.loads(config(b, "orders-1")["data"][KEY]))


def settings(*, archive: bool) -> dict[str, str]:
    text = render_main(ServerSettings(archive=archive), instance="orders-1", socket_dir="/s", tls_folder="/t")
    return {n: v.strip("'") for n, v in (line.split(" = ", 1) for line in text.splitlines() if " = " in line)}


def test_a_cluster_that_does_not_ask_is_as_it_was() -> None:
    plain, stores_only = blueprint(None), blueprint({"stores": ARCHIVE["stores"]})
    assert pod_hash(plain, "orders-1") == pod_hash(stores_only, "orders-1")
    assert "archive" not in json.loads(config(stores_only, "orders-1")["data"][KEY])
    assert read(stores_only).archive is None
    assert settings(archive=False)["archive_mode"] == "off"


def test_a_cluster_that_asks() -> None:
    b = blueprint(ARCHIVE)
    assert read(b).archive == ArchiveWish(
        bucket="backups",
        prefix="a",
        region="us-east-1",
        endpoint="https://s3.example",
        path_style=None,
        keys=("backup-key",),
        max_rate=20 << 20,
    )
    values = settings(archive=True)
    assert (values["archive_mode"], values["archive_command"]) == ("always", "/usr/local/bin/matriarch-wal push %p %f")
    assert 0 < int(values["archive_timeout"].removesuffix("s")) < 60
    spec = pod(b, "orders-1", "claim")["spec"]
    volumes = {v["name"]: v["projected"]["sources"] for v in spec["volumes"] if "projected" in v}
    mounts = {m["name"]: m["mountPath"] for m in spec["containers"][0]["volumeMounts"]}
    assert mounts["archive-store"] == "/etc/matriarch/archive-store"
    assert mounts["archive-key"] == "/etc/matriarch/archive-key"
    assert [s["secret"]["name"] for s in volumes["archive-store"]] == ["s3"]
    assert [s["secret"]["name"] for s in volumes["archive-key"]] == ["orders-backup-key"]
    assert all(s["secret"]["optional"] for sources in volumes.values() for s in sources)
    assert pod_hash(b, "orders-1") != pod_hash(blueprint(None), "orders-1")


def test_a_bucket_at_google() -> None:
    """With a key it is mounted as the keys of S3 are; without one nothing is, and Google's own chain is asked."""
    gcs = {"bucket": "acme-backups", "prefix": "/a/", "projectId": "acme", "credentials": {"secretName": "gcs"}}
    b = blueprint({**ARCHIVE, "stores": [{"name": "main", "gcs": gcs}]})
    wish = read(b).archive
    assert wish is not None
    assert (wish.kind, wish.bucket, wish.prefix, wish.project, wish.max_rate) == (
        "gcs", "acme-backups", "a", "acme", 20 << 20,
    )  # fmt: skip
    spec = pod(b, "orders-1", "claim")["spec"]
    (source,) = next(v for v in spec["volumes"] if v["name"] == "archive-store")["projected"]["sources"]
    assert source["secret"] == {"name": "gcs", "items": [{"key": "key.json", "path": "key.json"}], "optional": True}
    told = config_for(an_instance(Path("/x"), wish), wish).store
    assert told == StoreSpec(
        gcs=GcsStore(bucket="acme-backups", prefix="a", project="acme", credentials="/etc/matriarch/archive-store")
    )
    place = Place(store=b.cluster.spec.backup.stores[0], folder="f", key=None, cluster="orders")  # type: ignore[union-attr]
    assert backup_store.spec(place) == StoreSpec(gcs=GcsStore(bucket="acme-backups", prefix="a/f", project="acme"))
    assert backup_store.address(place) == "gs://acme-backups/a/f"
    assert [(f.secret, dict(f.files)) for f in backup_store.store_files(place)] == [("gcs", {"key.json": "key.json"})]
    assert backup_store.claim(place) is None
    assert not backup_store.deletes_apart(place)

    del gcs["credentials"]
    b = blueprint({**ARCHIVE, "stores": [{"name": "main", "gcs": gcs}]})
    mounts = {m["name"]: m["mountPath"] for m in pod(b, "orders-1", "claim")["spec"]["containers"][0]["volumeMounts"]}
    assert "archive-store" not in mounts
    assert mounts["archive-key"] == "/etc/matriarch/archive-key"


def test_the_archiver_locks_what_it_stores_and_never_has_the_right_to_delete() -> None:
    locking = {**S3, "objectLock": {"mode": "Compliance", "days": 45}, "deleteCredentials": {"secretName": "s3-delete"}}
    b = blueprint({**ARCHIVE, "stores": [{"name": "main", "s3": locking}]})
    wish = read(b).archive
    assert wish is not None
    assert wish.lock == ("COMPLIANCE", 45)
    assert "s3-delete" not in json.dumps(pod(b, "orders-1", "claim"))
    place = Place(store=b.cluster.spec.backup.stores[0], folder="f", key=None, cluster="orders")  # type: ignore[union-attr]
    for_jobs = backup_store.spec(place).s3
    assert for_jobs is not None
    assert for_jobs.lock == ObjectLock(mode="COMPLIANCE", days=45)
    assert [f.secret for f in backup_store.store_files(place)] == ["s3"]
    assert [f.secret for f in backup_store.store_files(place, deleting=True)] == ["s3-delete"]
    was = backup_store.spec(replace(place, as_of="2026-03-01T14:05:00Z")).s3
    assert was is not None
    assert was.as_of == "2026-03-01T14:05:00Z"


def test_in_the_clear_there_is_no_key() -> None:
    b = blueprint({**ARCHIVE, "encryption": {"disabled": "i-accept-plaintext-backups"}})
    wish = read(b).archive
    assert wish is not None
    assert wish.keys == ()
    assert "archive-key" not in json.dumps(pod(b, "orders-1", "claim"))


@pytest.mark.parametrize(
    ("told", "status", "reason"),
    [
        (None, "Unknown", "NotStarted"),
        (Archive(), "True", "Archiving"),
        (Archive(pending=9, oldest_pending=59.0), "True", "Archiving"),
        (Archive(pending=9, oldest_pending=61.0), "False", "ArchiveBehind"),
        (Archive(error="The store is away.", reason="StoreUnavailable"), "False", "StoreUnavailable"),
        (Archive(error="Other content.", reason="SplitBrain", oldest_pending=99.0), "False", "SplitBrain"),
    ],
)
def test_the_condition(told: Archive | None, status: str, reason: str) -> None:
    w = world(3, archives=True)
    w.settle()
    facts = w.facts()
    instances = tuple(
        replace(i, agent=replace(i.agent, archive=told)) if i.agent is not None else i for i in facts.instances
    )
    found = condition(replace(facts, instances=instances))
    assert found is not None
    assert (found.type, found.status, found.reason) == ("ArchivingWal", status, reason)
    assert condition(replace(facts, wish=replace(facts.wish, archives=False))) is None


def test_what_an_agent_says_of_its_archive() -> None:
    told = {"pending": 3, "oldest_pending": 1.5, "last_name": "n", "last_lsn": "0/1", "last_at": 5.0, "error": "e"}
    assert agent({"archive": told}).archive == Archive(3, 1.5, "n", "0/1", 5.0, "e", "")
    assert agent({}).archive is None


def an_instance(tmp_path: Path, wish: ArchiveWish | None) -> Any:
    """As much of an Instance as the task looks at."""
    return SimpleNamespace(
        config=SimpleNamespace(archive=wish, uid="u"),
        env=SimpleNamespace(namespace="prod", cluster="orders"),
        server=SimpleNamespace(
            paths=SimpleNamespace(pgdata=tmp_path / "pgdata", volume=tmp_path), postmaster=lambda: None
        ),
        server_role="primary",
        is_holder=True,
        system_identifier="",
        archive=None,
    )


async def until(what: Any) -> None:
    async with asyncio.timeout(30):
        while not what():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)


async def test_the_agent_keeps_an_archiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started, told who leads, started again after a kill, and ended with the wish."""
    monkeypatch.setattr(module, "EVERY", 0.05)
    monkeypatch.setenv("PYTHONPATH", "operator")
    wish = read(blueprint(ARCHIVE)).archive
    assert wish is not None
    made = config_for(an_instance(tmp_path, wish), wish)
    assert ArchiveConfig.from_json(made.to_json()) == made
    assert (made.store.s3 or pytest.fail("no bucket")).prefix == "a"
    assert made.own_folder
    assert ENVIRONMENT.startswith("MATRIARCH_")
    instance = an_instance(tmp_path, wish)
    archiving = Archiving(instance, str(tmp_path / "s"))
    task = asyncio.create_task(archiving.keep())
    try:
        await until(lambda: instance.archive is not None and instance.archive["leads"])
        first = archiving._process
        assert first is not None
        instance.is_holder = False
        await until(lambda: not instance.archive["leads"])
        first.kill()
        await until(lambda: archiving._process is not first and archiving._process is not None)
        instance.archive = None
        await until(lambda: instance.archive is not None)
        second = archiving._process
        assert second is not None
        instance.config.archive = None
        await until(lambda: instance.archive is None and second.returncode is not None)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await archiving.close()


def test_the_archivers_folder_is_where_the_clusters_backups_are() -> None:
    """One folder for both: a restore finds the WAL beside the backup that it belongs to."""
    cluster = ClusterIdentity(namespace="prod", name="orders", uid="u")
    for prefix, wanted in (("", "prod/orders-74"), ("a", "a/prod/orders-74"), ("/a/b/", "a/b/prod/orders-74")):
        s3 = ArchiveConfig(
            cluster=cluster, store=StoreSpec(s3=S3Store(bucket="b", prefix=prefix)), pgdata="/", own_folder=True
        )
        assert (archive_main._with_folder(s3, 74).s3 or pytest.fail("no bucket")).prefix == wanted
        local = replace(s3, store=StoreSpec(local=LocalStore(path="/x", prefix=prefix)))
        assert (archive_main._with_folder(local, 74).local or pytest.fail("no folder")).prefix == wanted
        assert archive_main._with_folder(replace(s3, own_folder=False), 74) == s3.store
    assert backup_store.folder("prod", "orders", "74") == "prod/orders-74"

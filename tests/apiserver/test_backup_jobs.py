"""Backups on a real API server: the Job as it is accepted, statuses, refusals, and a controller that dies anywhere."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from matriarch.backup.jobresult import PhysicalResult
from matriarch.backup.jobspec import Reason
from matriarch.kube.client import Object
from tests.apiserver.backup_world import IMAGE, KEY_TEXT, S3, SYSTEM, Dying, World, backup_result, condition, failure
from tests.apiserver.backup_world import task as task_of


async def begun(world: World, name: str = "by-hand", **spec: object) -> tuple[Object, Object]:
    """A Backup whose Job exists, and that Job."""
    await world.make("Backup", name, {"cluster": "orders", **spec})
    backup = await world.look("Backup", name)
    return backup, next(j for j in await world.jobs("backup") if j["metadata"]["ownerReferences"][0]["name"] == name)


async def test_a_backup_by_hand_becomes_a_job_and_then_complete(world: World) -> None:
    await world.credentials()
    await world.cluster()
    backup, job = await begun(world)
    status = backup["status"]
    assert status["phase"] == "Running"
    assert status["backupName"].endswith(f"-{status['id']}.sql.gz.enc")
    assert status["folder"] == f"{world.namespace}/orders-{SYSTEM}"
    assert status["store"] == S3
    assert (status["job"], status["attempt"]) == (job["metadata"]["name"], 1)
    assert condition(backup, "Reconciling") == ("True", "Running")
    await world.finish(job, backup_result(status["backupName"]))
    done = await world.look("Backup", "by-hand")
    assert done["status"]["phase"] == "Complete"
    assert done["status"]["observedGeneration"] == 1
    assert condition(done, "Ready") == condition(done, "Complete") == ("True", "Complete")
    assert condition(done, "Reconciling") is condition(done, "Failed") is None
    assert {k: done["status"][k] for k in ("sizeBytes", "storedBytes", "tables", "rows", "finishedAt", "instance")} == {
        "sizeBytes": 300_000_000,
        "storedBytes": 90_000_000,
        "tables": 8,
        "rows": 214_000,
        "finishedAt": "2026-03-01T02:00:09Z",
        "instance": "orders-2",
    }
    cluster = await world.kube.get("DatabaseCluster", world.namespace, "orders")
    assert cluster is not None
    assert cluster["status"]["backup"]["lastBackup"] == "by-hand"
    assert condition(cluster, "BackupHealthy") == ("True", "BackedUpByHand")
    assert condition(cluster, "BackupKeySaved") == ("False", "NotSaved")
    assert condition(cluster, "Available") == ("True", "PrimaryServes"), "another writer's condition was touched"


async def test_the_job_s_pod_is_restricted_bounded_and_holds_no_secret(world: World) -> None:
    await world.credentials()
    await world.cluster()
    backup, job = await begun(world)
    spec = job["spec"]
    pod = spec["template"]["spec"]
    container = pod["containers"][0]
    assert container["image"] == IMAGE
    assert container["resources"]["limits"] == {"memory": "256Mi"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["serviceAccountName"] == "orders-backup"
    assert spec["backoffLimit"] <= 5
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["podReplacementPolicy"] == "Failed"
    owner = job["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["uid"]) == ("Backup", backup["metadata"]["uid"])
    told = task_of(job)
    assert told.task == "backup"
    assert told.backup is not None
    assert told.backup.name == backup["status"]["backupName"]
    assert told.store.s3 is not None
    assert told.store.s3.prefix == f"here/{world.namespace}/orders-{SYSTEM}"
    assert told.server is not None
    assert (told.server.hosts, told.server.prefer) == (("orders-ro", "orders-rw"), "standby")
    assert {m["mountPath"] for m in container["volumeMounts"]} == {
        "/tmp",
        "/etc/matriarch/tls",
        "/etc/matriarch/key",
        "/etc/matriarch/store",
    }
    selected = await world.kube.list("Job", world.namespace, {"matriarch.dev/cluster": ""})
    assert selected == [], "a Job is taken for a part of the cluster"


@pytest.mark.parametrize(
    ("missing", "reason", "says"),
    [
        (
            "credentials",
            "MissingSecret",
            "Secret s3 does not exist, and it should hold the credentials of store offsite",
        ),
        ("entry", "MissingSecretKey", "Secret s3 has no SECRET_ACCESS_KEY"),
        ("key", "MissingSecret", "Secret mine does not exist, and it should hold the key"),
        ("bad key", "InvalidSecret", "holds no encryption key"),
        ("cluster", "MissingCluster", "There is no DatabaseCluster orders"),
        ("store", "UnknownStore", "has no store 'nowhere', only offsite"),
        ("any store", "NoStore", "has no backup store"),
        ("instances", "ClusterNotReady", "No instance of orders is ready"),
    ],
)
async def test_what_is_missing_is_said_before_any_job_is_made(
    world: World, missing: str, reason: str, says: str
) -> None:
    own_key = {"backup": {"stores": [S3], "encryption": {"keySecret": {"name": "mine"}}}}
    if missing == "entry":
        await world.make("Secret", "s3", stringData={"ACCESS_KEY_ID": "a"})
    elif missing != "credentials":
        await world.credentials()
    if missing == "bad key":
        await world.make("Secret", "mine", stringData={"key": "too short"})
    if missing != "cluster":
        with_key = own_key if missing in ("key", "bad key") else {}
        await world.cluster(stores=[] if missing == "any store" or with_key else [S3], **with_key)
    if missing == "instances":
        await world.serve("orders", ready=0)
    spec = {"cluster": "orders", **({"store": "nowhere"} if missing == "store" else {})}
    await world.make("Backup", "by-hand", spec)
    backup = await world.look("Backup", "by-hand")
    ready = next(c for c in backup["status"]["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", reason)
    assert says in ready["message"]
    assert await world.jobs() == []
    assert "backupName" not in backup["status"]


async def test_it_goes_on_when_what_was_missing_comes(world: World) -> None:
    await world.cluster()
    await world.make("Backup", "by-hand", {"cluster": "orders"})
    assert condition(await world.look("Backup", "by-hand"), "Ready") == ("False", "MissingSecret")
    await world.credentials()
    backup = await world.look("Backup", "by-hand")
    assert backup["status"]["phase"] == "Running"
    assert len(await world.jobs()) == 1


async def test_a_job_s_word_is_the_backup_s_error(world: World) -> None:
    await world.credentials()
    await world.cluster()
    _, job = await begun(world)
    await world.refuse(job, failure("backup", Reason.BUCKET_MISSING, "Bucket backups does not exist: create it."))
    backup = await world.look("Backup", "by-hand")
    assert backup["status"]["phase"] == "Failed"
    assert backup["status"]["error"] == {
        "reason": "BucketMissing",
        "message": "Bucket backups does not exist: create it.",
    }
    assert condition(backup, "Failed") == ("True", "BucketMissing")
    assert condition(backup, "Stalled") == ("True", "BucketMissing")
    cluster = await world.kube.get("DatabaseCluster", world.namespace, "orders")
    assert cluster is not None
    assert condition(cluster, "BackupHealthy") == ("False", "LastBackupFailed")


async def test_one_backup_of_a_cluster_at_a_time_in_order(world: World) -> None:
    await world.credentials()
    await world.cluster()
    for name in ("c-first", "b-second", "a-third"):
        await world.make("Backup", name, {"cluster": "orders"})
    first = await world.look("Backup", "a-third")
    assert condition(first, "Ready") in [("False", "Queued"), ("False", "Running")]
    order = []
    for _ in range(3):
        open_jobs = [j for j in await world.jobs("backup") if not j["status"].get("conditions")]
        assert len(open_jobs) == 1, "two backups of a cluster at once"
        order.append(open_jobs[0]["metadata"]["ownerReferences"][0]["name"])
        owner = await world.kube.get("Backup", world.namespace, order[-1])
        assert owner is not None
        await world.finish(open_jobs[0], backup_result(owner["status"]["backupName"]))
        await world.look("Backup", order[-1])
    assert sorted(order) == ["a-third", "b-second", "c-first"]
    created = [
        (await world.kube.get("Backup", world.namespace, n) or {})["metadata"]["creationTimestamp"] for n in order
    ]
    assert created == sorted(created)


async def test_a_job_that_vanished_is_made_again_for_the_same_name(world: World) -> None:
    await world.credentials()
    await world.cluster()
    backup, job = await begun(world)
    await world.kube.delete("Job", world.namespace, job["metadata"]["name"])
    again = await world.look("Backup", "by-hand")
    assert again["status"]["attempt"] == 2
    assert again["status"]["backupName"] == backup["status"]["backupName"]
    remade = (await world.jobs("backup"))[0]
    assert remade["metadata"]["name"] != job["metadata"]["name"]
    told, told_before = task_of(remade), task_of(job)
    assert told.backup == told_before.backup


async def test_the_key_is_made_once_and_a_lost_one_is_not_replaced(world: World) -> None:
    await world.credentials()
    await world.cluster()
    _, job = await begun(world)
    secret = await world.kube.get("Secret", world.namespace, "orders-backup-key")
    assert secret is not None
    assert not secret["metadata"].get("ownerReferences"), "the key goes with the cluster"
    backup = await world.kube.get("Backup", world.namespace, "by-hand")
    assert backup is not None
    await world.finish(job, backup_result(backup["status"]["backupName"]))
    await world.look("Backup", "by-hand")
    await world.kube.delete("Secret", world.namespace, "orders-backup-key")
    await world.make("Backup", "second", {"cluster": "orders"})
    second = await world.look("Backup", "second")
    assert condition(second, "Ready") == ("False", "KeyLost")
    assert await world.kube.get("Secret", world.namespace, "orders-backup-key") is None
    await world.kube.create({
        "apiVersion": "v1", "kind": "Secret", "data": secret["data"],
        "metadata": {"name": "orders-backup-key", "namespace": world.namespace,
                     "annotations": {"matriarch.dev/saved": "true"}},
    })  # fmt: skip
    assert (await world.look("Backup", "second"))["status"]["phase"] == "Running"
    cluster = await world.kube.get("DatabaseCluster", world.namespace, "orders")
    assert cluster is not None
    assert condition(cluster, "BackupKeySaved") == ("True", "Saved")


async def test_plaintext_is_possible_with_the_word_and_shown(world: World) -> None:
    await world.credentials()
    await world.cluster(stores=[], backup={"stores": [S3], "encryption": {"disabled": "i-accept-plaintext-backups"}})
    backup, job = await begun(world)
    assert backup["status"]["backupName"].endswith(".sql.gz")
    assert task_of(job).keys == ()
    cluster = await world.kube.get("DatabaseCluster", world.namespace, "orders")
    assert cluster is not None
    assert condition(cluster, "BackupsEncrypted") == ("False", "Plaintext")
    assert await world.kube.get("Secret", world.namespace, "orders-backup-key") is None


async def test_a_local_store_gets_a_claim_that_outlives_the_cluster(world: World) -> None:
    await world.cluster(stores=[{"name": "disk", "local": {"size": "1Gi"}}])
    _, job = await begun(world)
    claim = await world.kube.get("PersistentVolumeClaim", world.namespace, "orders-store-disk")
    assert claim is not None
    assert not claim["metadata"].get("ownerReferences")
    assert "matriarch.dev/cluster" not in claim["metadata"]["labels"], "it would be erased with the cluster"
    volumes = job["spec"]["template"]["spec"]["volumes"]
    assert {"name": "backups", "persistentVolumeClaim": {"claimName": "orders-store-disk"}} in volumes
    told = task_of(job)
    assert told.store.local is not None
    assert told.store.local.path in {
        m["mountPath"] for m in job["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    }


async def test_a_bucket_at_google_with_a_key_and_with_the_pods_own_identity(world: World) -> None:
    """The archive goes there too, which instances without a key mount nothing for."""
    await world.make("Secret", "mine", stringData={"key": KEY_TEXT})
    bucket = {"bucket": "acme-backups", "prefix": "here", "projectId": "acme"}
    keyed = {"name": "keyed", "gcs": {**bucket, "credentials": {"secretName": "gcs", "key": "account.json"}}}
    backup = {"stores": [keyed, {"name": "own", "gcs": bucket}], "encryption": {"keySecret": {"name": "mine"}}}
    await world.cluster(stores=[], backup={**backup, "walArchive": {"store": "own"}})
    await world.make("Backup", "first", {"cluster": "orders"})
    waits = await world.look("Backup", "first")
    assert condition(waits, "Ready") == ("False", "MissingSecret")
    await world.make("Secret", "gcs", stringData={"account.json": "{}"})
    await world.look("Backup", "first")
    (job,) = await world.jobs("backup")
    told = task_of(job).store.gcs
    assert told is not None
    assert (told.bucket, told.prefix, told.project, told.endpoint) == (
        "acme-backups", f"here/{world.namespace}/orders-{SYSTEM}", "acme", None,
    )  # fmt: skip
    volumes = {v["name"]: v for v in job["spec"]["template"]["spec"]["volumes"]}
    (source,) = volumes["store"]["projected"]["sources"]
    assert source["secret"] == {"name": "gcs", "items": [{"key": "account.json", "path": "key.json"}]}
    await world.finish(job, backup_result((await world.look("Backup", "first"))["status"]["backupName"]))

    _, job = await begun(world, "second", store="own")
    pod = job["spec"]["template"]["spec"]
    assert "store" not in {v["name"] for v in pod["volumes"]}
    assert task_of(job).store.gcs == told
    assert pod["serviceAccountName"] == "orders-backup"


async def test_keys_of_the_user_s_own_choosing(world: World) -> None:
    await world.make("Secret", "mine", stringData={"backup.key": KEY_TEXT})
    await world.make("Secret", "creds", stringData={"user": "a", "pass": "b"})
    await world.make("Secret", "ca", stringData={"root.pem": "x"})
    store = {
        "name": "offsite",
        "s3": {
            "bucket": "backups",
            "credentials": {"secretName": "creds", "accessKeyIdKey": "user", "secretAccessKeyKey": "pass"},
            "ca": {"secretName": "ca", "key": "root.pem"},
        },
    }
    encryption = {"keySecret": {"name": "mine", "key": "backup.key"}}
    await world.cluster(stores=[], backup={"stores": [store], "encryption": encryption})
    _, job = await begun(world, target="primary")
    volumes = {v["name"]: v for v in job["spec"]["template"]["spec"]["volumes"]}
    items = {
        (source["secret"]["name"], item["key"], item["path"])
        for name in ("store", "key")
        for source in volumes[name]["projected"]["sources"]
        for item in source["secret"]["items"]
    }
    assert items == {
        ("creds", "user", "access-key"),
        ("creds", "pass", "secret-key"),
        ("ca", "root.pem", "ca.crt"),
        ("mine", "backup.key", "backup-key"),
    }
    told = task_of(job)
    assert told.server is not None
    assert told.server.hosts == ("orders-rw",)


@pytest.mark.parametrize("dies_before", range(12))
async def test_a_controller_that_dies_before_any_of_its_writes_makes_one_backup(world: World, dies_before: int) -> None:
    await world.credentials()
    await world.cluster()
    await world.make("Backup", "by-hand", {"cluster": "orders"})
    world.kube.changes, world.kube.dies_before = 0, dies_before
    names = set()
    for _ in range(4):
        with suppress(Dying):
            await world.look("Backup", "by-hand")
        for job in await world.jobs("backup"):
            told = task_of(job).backup
            assert told is not None
            names.add(told.name)
        world.kube.dies_before = None  # it comes back, and lives
        world.forget()
    jobs = await world.jobs("backup")
    assert len(jobs) == 1
    assert len(names) == 1
    backup = await world.kube.get("Backup", world.namespace, "by-hand")
    assert backup is not None
    assert names == {backup["status"]["backupName"]}
    await world.finish(jobs[0], backup_result(backup["status"]["backupName"]))
    assert (await world.look("Backup", "by-hand"))["status"]["phase"] == "Complete"
    assert len(await world.jobs("backup")) == 1


async def test_a_pod_on_a_node_that_is_gone_does_not_hold_up_the_job(world: World) -> None:
    await world.credentials()
    await world.cluster()
    _, job = await begun(world)
    spec = {**job["spec"]["template"]["spec"], "nodeName": "gone"}
    labels = {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    await world.make("Pod", "lost", spec, metadata={"labels": labels})
    await world.kube.delete("Pod", world.namespace, "lost", grace=60)  # as the eviction from a lost node does
    await world.look("Backup", "by-hand")
    assert await world.kube.get("Pod", world.namespace, "lost") is not None, "its node may still end it"
    world.env.ahead[0] += 180
    backup = await world.look("Backup", "by-hand")
    assert await world.kube.get("Pod", world.namespace, "lost") is None
    assert backup["status"]["phase"] == "Running"


async def test_a_job_that_a_quota_refuses_is_said_and_tried_again(world: World) -> None:
    await world.credentials()
    await world.cluster()
    hard = {"hard": {"count/jobs.batch": "0"}}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": hard}
    world.kubectl.apply(quota, namespace=world.namespace)
    world.kubectl.run(
        *("patch", "resourcequota", "none", "-n", world.namespace, "--subresource=status", "--type=merge"),
        *("-p", '{"status":{"hard":{"count/jobs.batch":"0"},"used":{"count/jobs.batch":"0"}}}'),
    )
    await world.make("Backup", "by-hand", {"cluster": "orders"})
    backup = await world.look("Backup", "by-hand")
    ready = next(c for c in backup["status"]["conditions"] if c["type"] == "Ready")
    assert ready["reason"] == "JobRefused"
    assert "exceeded quota: none" in ready["message"]
    world.kubectl.run("delete", "resourcequota", "none", "-n", world.namespace)
    again = await world.look("Backup", "by-hand")
    assert again["status"]["backupName"] == backup["status"]["backupName"]
    assert len(await world.jobs("backup")) == 1


async def members(world: World, *, mode: str = "ReadWriteOnce") -> None:
    """Three instances as the cluster's reconciler reports them, with their volumes."""
    found = []
    for number, role in ((1, "primary"), (2, "replica"), (3, "replica")):
        name = f"orders-{number}"
        volume = {"accessModes": [mode], "resources": {"requests": {"storage": "1Gi"}}}
        await world.make("PersistentVolumeClaim", name, volume)
        lag = {} if role == "primary" else {"lagBytes": 1000 * number, "voter": True}
        found.append({"name": name, "role": role, "ready": True, **lag})
    obj = {
        "kind": "DatabaseCluster",
        "metadata": {"name": "orders", "namespace": world.namespace},
        "status": {"instanceStatuses": found, "leadership": {"number": 1}},
    }
    await world.kube.apply_status(obj, manager="matriarch-instances")


async def test_a_physical_backup_runs_beside_a_replica_and_one_with_bad_pages_is_suspect(world: World) -> None:
    await world.credentials()
    await world.cluster()
    await members(world)
    backup, job = await begun(world, "files", method="physical")
    told = task_of(job)
    assert told.server is not None
    assert told.server.hosts == (f"orders-2.orders-members.{world.namespace}.svc",), "the replica with the least lag"
    assert told.backup is not None
    assert (told.backup.method, told.backup.pgdata) == ("physical", "/var/lib/matriarch/pgdata")
    chosen = backup["status"]["backupName"]
    assert chosen.endswith(f"Z-{backup['status']['id']}")
    pages = PhysicalResult(start_lsn="0/2000028", files=1000, pages="suspect", pages_checked=5000, bad_pages=2)
    made = backup_result(f"{chosen}abcdef")
    assert made.backup is not None
    await world.finish(job, replace(made, backup=replace(made.backup, tables=0, rows=0, physical=pages)))
    done = await world.look("Backup", "files")
    assert condition(done, "Complete") == ("True", "Suspect")
    assert condition(done, "Suspect") == ("True", "PageChecksums")
    assert done["status"]["backupName"] == f"{chosen}abcdef"
    assert done["status"]["physical"] == {
        "startLsn": "0/2000028", "files": 1000, "pages": "suspect", "pagesChecked": 5000, "badPages": 2,
        "type": "full",
    }  # fmt: skip
    assert "tables" not in done["status"]
    cluster = await world.kube.get("DatabaseCluster", world.namespace, "orders")
    assert cluster is not None
    assert condition(cluster, "BackupHealthy") == ("False", "LastBackupSuspect")
    assert "lastBackup" not in cluster["status"]["backup"]
    restore = {"source": {"backup": {"name": "files"}}, "target": {"cluster": "copy"}}
    await world.make("Restore", "of-bad-pages", restore)
    refused = await world.look("Restore", "of-bad-pages")
    assert condition(refused, "Failed") == ("True", "Suspect")
    assert await world.jobs("verify") == []


async def test_an_incremental_backup_is_asked_for_and_its_parent_is_shown(world: World) -> None:
    await world.credentials()
    await world.cluster()
    await members(world)
    backup, job = await begun(world, "files", method="physical", incremental={"maxIncrements": 3})
    told = task_of(job)
    assert told.backup is not None
    assert told.backup.max_increments == 3
    made = backup_result(f"{backup['status']['backupName']}abcdef")
    assert made.backup is not None
    pages = PhysicalResult(
        start_lsn="0/2000028", files=1000, pages="passed", pages_checked=50, bad_pages=0, type="incremental",
        parent="k3vq7m2xw4abcdef", increments=2, whole_size=8 << 30,
    )  # fmt: skip
    await world.finish(job, replace(made, backup=replace(made.backup, tables=0, rows=0, physical=pages)))
    shown = (await world.look("Backup", "files"))["status"]["physical"]
    assert shown["type"] == "incremental"
    assert (shown["parent"], shown["increments"], shown["wholeBytes"]) == ("k3vq7m2xw4abcdef", 2, 8 << 30)
    assert "fullBecause" not in shown


async def test_volumes_that_only_one_pod_may_mount_are_refused_before_a_job_is_made(world: World) -> None:
    await world.credentials()
    await world.cluster()
    await members(world, mode="ReadWriteOncePod")
    await world.make("Backup", "files", {"cluster": "orders", "method": "physical"})
    failed = await world.look("Backup", "files")
    assert condition(failed, "Failed") == ("True", "VolumeNotShared")
    assert await world.jobs() == []

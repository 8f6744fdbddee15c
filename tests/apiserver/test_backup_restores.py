"""Restores on a real API server: the steps, the refusals, and data that is replaced at most once."""

from __future__ import annotations

from contextlib import suppress

import pytest

from matriarch.backup.jobresult import RestoreResult, Result
from matriarch.backup.jobspec import Reason
from matriarch.kube.client import Object
from tests.apiserver.backup_world import KEY_TEXT, S3, SYSTEM, Dying, World, backup_result, condition, failure
from tests.apiserver.backup_world import task as task_of

FILE = "backup-2026-03-01T02:00:00.000Z-abcdef2345.sql.gz.enc"


async def source(world: World) -> None:
    """A cluster with a complete Backup, made as the reconciler makes it."""
    await world.credentials()
    await world.cluster(bootstrap={"database": "shop", "owner": "keeper"}, primary="orders-1")
    await world.serve_authority("orders")
    await world.make("Backup", "good", {"cluster": "orders"})
    backup = await world.look("Backup", "good")
    (job,) = await world.jobs("backup")
    await world.finish(job, backup_result(backup["status"]["backupName"]))
    assert (await world.look("Backup", "good"))["status"]["phase"] == "Complete"


async def verified(world: World, name: str) -> Object:
    """The check of the backup ended well."""
    await world.look("Restore", name)
    (job,) = await world.jobs("verify")
    told = task_of(job).verify
    assert told is not None
    checked = backup_result(FILE if told.backup == "latest" else told.backup, task="verify")
    await world.finish(job, checked)
    return await world.look("Restore", name)


def restored(name: str) -> Result:
    done = RestoreResult(
        backup_id="abcdef2345", backup_name=name, databases=("shop",), tables=8, rows=214_000, sequences=3, amcheck=True
    )
    return Result(ok=True, task="restore", reason=Reason.COMPLETED, message="ok", restore=done)


def states(restore: Object) -> dict[str, str]:
    return {step["name"]: step["state"] for step in restore["status"]["steps"]}


async def test_into_a_new_cluster_step_by_step(world: World) -> None:
    await source(world)
    overrides = {"instances": 1, "parameters": {"work_mem": "8MB"}}
    spec = {"source": {"backup": {"name": "good"}}, "target": {"cluster": "again", "overrides": overrides}}
    await world.make("Restore", "back", spec)
    restore = await world.look("Restore", "back")
    assert states(restore) == {
        "check": "done", "verify": "running", "create-cluster": "pending", "wait-ready": "pending", "restore": "pending"
    }  # fmt: skip
    assert await world.kube.get("DatabaseCluster", world.namespace, "again") is None, "made before the check"
    await verified(world, "back")
    made = await world.kube.get("DatabaseCluster", world.namespace, "again")
    assert made is not None
    assert made["spec"] == {
        "version": "17",
        "instances": 1,
        "storage": {"size": "1Gi"},
        "backup": {"stores": [S3]},
        "bootstrap": {"database": "shop", "owner": "keeper"},
        "parameters": {"work_mem": "8MB"},
    }
    assert await world.jobs("restore") == []
    await world.serve("again", ready=1)
    await world.serve_authority("again")
    restore = await world.look("Restore", "back")
    (job,) = await world.jobs("restore")
    assert job["spec"]["suspend"] is False
    assert "ttlSecondsAfterFinished" not in job["spec"]
    told = task_of(job)
    assert told.restore is not None
    assert told.restore.mode == "new"
    assert told.restore.restore_id == restore["metadata"]["uid"]
    assert told.restore.manifest_sha256 == restore["status"]["checked"]["manifestSha256"]
    assert told.cluster.name == "orders"
    assert told.server is not None
    assert (told.server.hosts, told.server.user) == (("again-rw",), "postgres")
    assert await world.kube.get("Secret", world.namespace, "again-restore-tls") is not None
    await world.look_backups("again")
    target = await world.kube.get("DatabaseCluster", world.namespace, "again")
    assert target is not None
    assert condition(target, "Restoring") == ("True", "RestoreInProgress")
    await world.finish(job, restored(restore["status"]["backupName"]))
    done = await world.look("Restore", "back")
    assert condition(done, "Complete") == ("True", "Complete")
    assert done["status"]["verification"] == {"tables": 8, "rows": 214_000, "differing": [], "amcheck": "ok"}
    assert set(states(done).values()) == {"done"}
    assert all(step["startedAt"] <= step["finishedAt"] for step in done["status"]["steps"])
    assert await world.kube.get("Secret", world.namespace, "again-restore-tls") is None, "the superuser's key is left"
    target = await world.kube.get("DatabaseCluster", world.namespace, "again")
    assert target is not None
    assert condition(target, "Restoring") is None
    await world.look("Restore", "back")
    assert len(await world.jobs("restore")) == 1


async def test_from_a_store_alone_when_the_cluster_is_gone(world: World) -> None:
    await world.credentials()
    await world.make("Secret", "old-key", stringData={"key": KEY_TEXT})
    store = {"s3": S3["s3"], "cluster": f"prod/orders-{SYSTEM}", "keySecret": {"name": "old-key"}}
    await world.make("Restore", "back", {"source": {"store": store}, "target": {"cluster": "again"}})
    restore = await world.look("Restore", "back")
    (job,) = await world.jobs("verify")
    told = task_of(job)
    assert told.store.s3 is not None
    assert told.store.s3.prefix == f"here/prod/orders-{SYSTEM}"
    assert (told.cluster.namespace, told.cluster.name, told.cluster.system_identifier) == ("prod", "orders", SYSTEM)
    restore = await verified(world, "back")
    assert restore["status"]["backupName"] == FILE
    made = await world.kube.get("DatabaseCluster", world.namespace, "again")
    assert made is not None
    assert made["spec"] == {
        "version": "17",
        "instances": 1,
        "storage": {"size": "2Gi"},
        "bootstrap": {"database": "shop", "owner": "keeper"},
    }


@pytest.mark.parametrize(
    ("case", "reason", "says"),
    [
        ("target exists", "TargetExists", "exists already"),
        ("volumes left", "TargetHasData", "PersistentVolumeClaim again-1 is left"),
        ("failed source", "BackupFailed", "holds nothing to restore"),
        ("no store for safety", "NoStore", "only after a safety backup"),
    ],
)
async def test_what_is_refused_changes_nothing(world: World, case: str, reason: str, says: str) -> None:
    await source(world)
    target, in_place, backup = "again", {}, "good"
    if case == "target exists":
        target = "orders"
    elif case == "volumes left":
        await world.make(
            "PersistentVolumeClaim",
            "again-1",
            {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
            metadata={"labels": {"matriarch.dev/cluster": "again"}},
        )
    elif case == "failed source":
        await world.make("Backup", "bad", {"cluster": "orders", "store": "nowhere"})
        await world.look("Backup", "bad")
        backup = "bad"
    elif case == "no store for safety":
        target, in_place = "plain", {"inPlace": {"confirm": "plain"}}
        await world.cluster("plain", stores=[])
    before = len(await world.jobs())
    spec = {"source": {"backup": {"name": backup}}, "target": {"cluster": target}, **in_place}
    await world.make("Restore", "back", spec)
    restore = await world.look("Restore", "back")
    assert restore["status"]["phase"] == "Failed"
    assert restore["status"]["error"]["reason"] == reason
    assert says in restore["status"]["error"]["message"]
    assert condition(restore, "Failed") == condition(restore, "Stalled") == ("True", reason)
    assert len(await world.jobs()) == before
    assert await world.kube.get("DatabaseCluster", world.namespace, "again") is None


async def test_a_wrong_key_is_found_before_anything_is_made(world: World) -> None:
    await source(world)
    await world.make("Restore", "back", {"source": {"backup": {"name": "good"}}, "target": {"cluster": "again"}})
    await world.look("Restore", "back")
    (job,) = await world.jobs("verify")
    await world.refuse(job, failure("verify", Reason.WRONG_KEY, "It is encrypted with key ab, key cd was given."))
    restore = await world.look("Restore", "back")
    assert condition(restore, "Failed") == ("True", "WrongKey")
    assert restore["status"]["error"]["message"].endswith("Nothing was changed.")
    assert await world.kube.get("DatabaseCluster", world.namespace, "again") is None


async def test_two_restores_into_one_name_the_first_one_wins(world: World) -> None:
    await source(world)
    spec = {"source": {"backup": {"name": "good"}}, "target": {"cluster": "again"}}
    await world.make("Restore", "a", spec)
    await world.look("Restore", "a")
    await world.make("Restore", "b", spec)
    second = await world.look("Restore", "b")
    assert condition(second, "Failed") == ("True", "AnotherRestore")
    assert (await world.look("Restore", "a"))["status"]["phase"] == "Running"


async def test_a_restore_job_that_vanished_is_never_repeated(world: World) -> None:
    await source(world)
    await world.make("Restore", "back", {"source": {"backup": {"name": "good"}}, "target": {"cluster": "again"}})
    await verified(world, "back")
    await world.serve("again")
    await world.serve_authority("again")
    await world.look("Restore", "back")
    (job,) = await world.jobs("restore")
    await world.kube.delete("Job", world.namespace, job["metadata"]["name"])
    restore = await world.look("Restore", "back")
    assert condition(restore, "Failed") == ("True", "JobVanished")
    assert await world.jobs("restore") == []
    await world.look("Restore", "back")
    assert await world.jobs("restore") == []


@pytest.mark.parametrize("dies_before", range(0, 24, 2))
async def test_a_controller_that_dies_before_any_of_its_writes_restores_once(world: World, dies_before: int) -> None:
    """Every write of the way is the last one of some controller; the Jobs that ran are counted by what was let go."""
    await source(world)
    await world.make("Restore", "back", {"source": {"backup": {"name": "good"}}, "target": {"cluster": "again"}})
    world.kube.changes, world.kube.dies_before = 0, dies_before
    let_go: set[str] = set()
    for _ in range(16):
        with suppress(Dying):
            await world.look("Restore", "back")
        if world.kube.dies_before is not None and world.kube.changes >= world.kube.dies_before:
            world.kube.dies_before = None
            world.forget()
        spared, world.kube.dies_before = world.kube.dies_before, None  # the others of this world do not die with it
        for purpose in ("verify", "restore"):
            for job in await world.jobs(purpose):
                if not job["spec"]["suspend"] and not job.get("status", {}).get("conditions"):
                    if purpose == "restore":
                        let_go.add(job["metadata"]["uid"])
                    name = task_of(job)
                    told = name.verify.backup if name.verify else name.restore.backup if name.restore else ""
                    ended = backup_result(told, task="verify") if purpose == "verify" else restored(told)
                    await world.finish(job, ended)
        if await world.kube.get("DatabaseCluster", world.namespace, "again") is not None:
            await world.serve("again")
            if await world.kube.get("Secret", world.namespace, "again-ca") is None:
                await world.serve_authority("again")
        world.kube.dies_before = spared
    restore = await world.kube.get("Restore", world.namespace, "back")
    assert restore is not None
    assert restore["status"]["phase"] == "Complete"
    assert len(let_go) == 1
    assert await world.kube.get("Secret", world.namespace, "again-restore-tls") is None

"""Restores of physical backups on a real API server: the held cluster, the refusals, and who starts when."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from matriarch.backup.jobresult import RecoverResult, Result
from matriarch.backup.jobspec import Moment, Reason
from matriarch.decide import lease as transitions
from matriarch.decide import leasetext
from matriarch.decide.member import Member
from matriarch.kube.client import Object
from matriarch.resources import names
from tests.apiserver.backup_world import (
    IMAGE,
    KEY_TEXT,
    S3,
    SHA,
    SYSTEM,
    Dying,
    World,
    backup_result,
    condition,
    failure,
)
from tests.apiserver.backup_world import task as task_of
from tests.apiserver.cluster_world import ClusterWorld, cluster_world, definitions

__all__ = ["cluster_world", "definitions"]

NEW_SYSTEM = "7499999999999999999"


def file_of(hour: int) -> str:
    return f"backup-2026-03-01T{hour:02}:00:00.000Z-abcdef2{hour:02}5.physical.enc"


async def physical(world: World, name: str, hour: int, *, schedule: str | None = None, **status: Any) -> None:
    """A complete physical Backup, as its reconciler leaves it."""
    labels = {"labels": {"matriarch.dev/schedule": schedule}} if schedule else {}
    await world.make("Backup", name, {"cluster": "orders", "method": "physical"}, metadata=labels)
    wanted = {
        "phase": "Complete",
        "backupName": file_of(hour),
        "finishedAt": f"2026-03-01T{hour:02}:10:00Z",
        "lsn": f"0/{hour}000148",
        "manifestSha256": SHA,
        "postgresVersion": "17.11",
        "systemIdentifier": SYSTEM,
        "store": S3,
        "folder": f"{world.namespace}/orders-{SYSTEM}",
        "keySecret": {"name": "orders-backup-key"},
        **status,
    }
    metadata = {"name": name, "namespace": world.namespace}
    obj = {"kind": "Backup", "metadata": metadata, "status": wanted}
    await world.kube.apply_status(obj, manager="matriarch-controller")


async def source(world: World, **spec: Any) -> None:
    await world.credentials()
    await world.cluster(bootstrap={"database": "shop", "owner": "keeper"}, primary="orders-1", **spec)
    await world.make("Secret", "orders-backup-key", stringData={"key": KEY_TEXT})


def restore_of(source: Object, target: str = "again", **more: Any) -> Object:
    return {"source": source, "target": {"cluster": target}, **more}


async def hold(world: World, name: str, uid: str, *, policy: str = "Delete") -> None:
    """What the controller of the new cluster does: the Lease, and the volume that it names."""
    made = leasetext.to_manifest(
        transitions.initial(f"{name}-1", uid),
        cluster=name,
        namespace=world.namespace,
        renew_time="2026-03-01T02:00:00.000000Z",
        labels=names.labels(name),
        resource_version="",
    )
    made["metadata"]["annotations"][names.DELETION_POLICY] = policy
    await world.kube.create(made)
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    await world.make("PersistentVolumeClaim", f"{name}-1", spec, metadata={"labels": names.labels(name, f"{name}-1")})
    await world.kube.create(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": f"{name}-backup", "namespace": world.namespace},
        }
    )


async def serve(world: World, name: str, system: str = NEW_SYSTEM) -> None:
    available = {
        "type": "Available", "status": "True", "reason": "PrimaryServes", "lastTransitionTime": "2026-03-01T02:00:00Z",
    }  # fmt: skip
    status = {"readyInstances": 1, "systemIdentifier": system, "conditions": [available]}
    obj = {"kind": "DatabaseCluster", "metadata": {"name": name, "namespace": world.namespace}, "status": status}
    await world.kube.apply_status(obj, manager="matriarch-controller")


def recovered(file: str) -> Result:
    done = RecoverResult(
        backup_name=file,
        system_identifier=NEW_SYSTEM,
        timeline=3,
        lsn="0/5000148",
        last_commit="2026-03-01T04:00:00.000Z",
        archived_until="2026-03-01T04:01:00.000Z",
        size=30_000_000,
        wal=48_000_000,
    )
    return Result(ok=True, task="recover", reason=Reason.COMPLETED, message="ok", recover=done)


def checked(file: str) -> Result:
    return backup_result(file, task="verify")


async def lease_of(world: World, name: str) -> transitions.LeaseState:
    found = await world.kube.get("Lease", world.namespace, name)
    assert found is not None
    return leasetext.from_manifest(found).state


async def test_to_a_moment_step_by_step(world: World) -> None:
    await source(world)
    await physical(world, "good", 2)
    spec = restore_of({"backup": {"name": "good"}}, recoveryTarget={"time": "2026-03-01T03:30:00.5Z"})
    spec["target"]["overrides"] = {"instances": 1}
    made = await world.make("Restore", "back", spec)
    uid = made["metadata"]["uid"]
    restore = await world.look("Restore", "back")
    steps = ["check", "verify", "create-cluster", "prepare-volume", "restore", "start"]
    assert [s["name"] for s in restore["status"]["steps"]] == steps
    (job,) = await world.jobs("verify")
    told = task_of(job).verify
    assert told is not None
    assert (told.backup, told.method, told.manifest_sha256) == (file_of(2), "physical", SHA)
    assert told.moment == Moment(kind="time", value="2026-03-01T03:30:00.5Z")
    assert job["spec"]["template"]["spec"]["containers"][0]["command"][-1] == "matriarch.recovery.job"
    assert await world.kube.get("DatabaseCluster", world.namespace, "again") is None, "made before the check"

    await world.finish(job, checked(file_of(2)))
    restore = await world.look("Restore", "back")
    cluster = await world.kube.get("DatabaseCluster", world.namespace, "again")
    assert cluster is not None
    assert cluster["metadata"]["annotations"][names.FILLED_BY] == f"back/{uid}"
    assert "primary" not in cluster["spec"]
    assert condition(restore, "Ready") == ("False", "WaitingForVolume")
    assert await world.jobs("restore") == []

    await hold(world, "again", uid)
    await world.look("Restore", "back")
    (job,) = await world.jobs("restore")
    pod = job["spec"]["template"]["spec"]
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "again-1"}} in pod["volumes"]
    assert pod["containers"][0]["image"] == IMAGE
    assert pod["containers"][0]["resources"]["limits"] == {"memory": "1Gi"}
    assert job["spec"]["suspend"] is False
    recover = task_of(job).recover
    assert recover is not None
    assert (recover.backup, recover.restore_id, recover.moment.kind) == (file_of(2), uid, "time")
    assert (await lease_of(world, "again")).held, "an instance could start on nothing"

    await world.finish(job, recovered(file_of(2)))
    restore = await world.look("Restore", "back")
    state = await lease_of(world, "again")
    assert state.filling == transitions.Filling(uid, done=True)
    lease = await world.kube.get("Lease", world.namespace, "again")
    assert lease is not None
    assert lease["metadata"]["annotations"][names.DELETION_POLICY] == "Retain"
    assert condition(restore, "Ready") == ("False", "WaitingForCluster")
    await serve(world, "again")
    done = await world.look("Restore", "back")
    assert condition(done, "Complete") == ("True", "Complete")
    status = done["status"]
    assert status["recovered"] == {
        "lsn": "0/5000148",
        "timeline": 3,
        "lastCommit": "2026-03-01T04:00:00.000Z",
        "archivedUntil": "2026-03-01T04:01:00.000Z",
        "systemIdentifier": NEW_SYSTEM,
        "sizeBytes": 30_000_000,
        "walBytes": 48_000_000,
    }
    assert status["rpoSeconds"] == 0
    assert 0 <= status["rtoSeconds"] < 240
    assert {s["state"] for s in status["steps"]} == {"done"}


@pytest.mark.parametrize(
    ("backup", "spec", "reason"),
    [
        pytest.param({}, {"recoveryTarget": {"time": "2026-06-31T00:00:00Z"}}, "InvalidTarget", id="no such day"),
        pytest.param({"physical": {"pages": "suspect"}}, {}, "Suspect", id="bad pages"),
        pytest.param({"store": {**S3, "name": "other"}}, {"recoveryTarget": {"to": "latest"}}, "ArchiveElsewhere",
                     id="backup and archive in two stores"),
        pytest.param({}, {"target": {"cluster": "orders"}}, "TargetExists", id="the target is there"),
    ],
)  # fmt: skip
async def test_refused_before_anything_is_made(world: World, backup: Object, spec: Object, reason: str) -> None:
    await source(world, backup={"stores": [S3], "walArchive": {"store": S3["name"]}})
    await physical(world, "good", 2, **backup)
    await world.make("Restore", "back", {**restore_of({"backup": {"name": "good"}}), **spec})
    restore = await world.look("Restore", "back")
    assert condition(restore, "Failed") == ("True", reason)
    assert [await world.jobs(purpose) for purpose in ("verify", "restore")] == [[], []]
    assert await world.kube.get("DatabaseCluster", world.namespace, "again") is None


async def test_a_logical_backup_has_no_moments(world: World) -> None:
    await source(world)
    await physical(world, "good", 2)
    await world.make("Backup", "dump", {"cluster": "orders"})
    obj = {"kind": "Backup", "metadata": {"name": "dump", "namespace": world.namespace}}
    files = {"phase": "Complete", "backupName": file_of(3), "store": S3, "finishedAt": "2026-03-01T03:10:00Z"}
    await world.kube.apply_status({**obj, "status": files}, manager="matriarch-controller")
    await world.make("Restore", "back", restore_of({"backup": {"name": "dump"}}, recoveryTarget={"to": "latest"}))
    assert condition(await world.look("Restore", "back"), "Failed") == ("True", "LogicalBackup")


async def test_what_the_job_refuses_leaves_nothing(world: World) -> None:
    await source(world)
    await physical(world, "good", 2)
    await world.make("Restore", "back", restore_of({"backup": {"name": "good"}}, recoveryTarget={"lsn": "FF/0"}))
    await world.look("Restore", "back")
    (job,) = await world.jobs("verify")
    await world.refuse(job, failure("verify", Reason.TARGET_TOO_LATE, "FF/0 is after the newest archived WAL."))
    restore = await world.look("Restore", "back")
    assert condition(restore, "Failed") == ("True", "TargetTooLate")
    assert "Nothing was changed" in restore["status"]["error"]["message"]
    assert await world.kube.get("DatabaseCluster", world.namespace, "again") is None


@pytest.mark.parametrize(
    ("target", "chosen"),
    [
        ({"to": "latest"}, 4),
        (None, 4),
        ({"time": "2026-03-01T04:10:00Z"}, 3),
        ({"time": "2026-03-01T04:10:01Z"}, 4),
        ({"lsn": "0/3000149"}, 3),
    ],
)
async def test_a_schedule_s_newest_good_backup_before_the_target(
    world: World, target: Object | None, chosen: int
) -> None:
    await source(world)
    for hour in (2, 3, 4):
        await physical(world, f"nightly-{hour}", hour, schedule="nightly")
    await physical(world, "nightly-5", 5, schedule="nightly", physical={"pages": "suspect"})
    await physical(world, "by-hand", 6)
    more = {"recoveryTarget": target} if target else {}
    await world.make("Restore", "back", restore_of({"schedule": {"name": "nightly"}}, **more))
    await world.look("Restore", "back")
    (job,) = await world.jobs("verify")
    told = task_of(job).verify
    assert told is not None
    assert told.backup == file_of(chosen)
    await world.finish(job, checked(file_of(chosen)))
    await physical(world, "nightly-7", 7, schedule="nightly")  # meanwhile
    restore = await world.look("Restore", "back")
    await hold(world, "again", restore["metadata"]["uid"])
    await world.look("Restore", "back")
    (job,) = await world.jobs("restore")
    recover = task_of(job).recover
    assert recover is not None
    assert recover.backup == file_of(chosen)


async def test_a_cluster_that_is_deleted_meanwhile_ends_the_job(world: World) -> None:
    await source(world)
    await physical(world, "good", 2)
    await world.make("Restore", "back", restore_of({"backup": {"name": "good"}}))
    await world.look("Restore", "back")
    (job,) = await world.jobs("verify")
    await world.finish(job, checked(file_of(2)))
    restore = await world.look("Restore", "back")
    await hold(world, "again", restore["metadata"]["uid"])
    await world.look("Restore", "back")
    assert len(await world.jobs("restore")) == 1
    await world.kube.delete("DatabaseCluster", world.namespace, "again")
    assert condition(await world.look("Restore", "back"), "Failed") == ("True", "TargetDeleted")
    left = [j for j in await world.jobs("restore") if "deletionTimestamp" not in j["metadata"]]
    assert left == [], "it fills a volume that nobody wants"


@pytest.mark.parametrize("dies_before", range(0, 24, 2))
async def test_a_controller_that_dies_before_any_of_its_writes(world: World, dies_before: int) -> None:
    await source(world)
    await physical(world, "good", 2)
    made = await world.make(
        "Restore", "back", restore_of({"backup": {"name": "good"}}, recoveryTarget={"to": "latest"})
    )
    world.kube.changes, world.kube.dies_before = 0, dies_before
    finished: set[str] = set()
    for _ in range(20):
        with suppress(Dying):
            await world.look("Restore", "back")
        if world.kube.dies_before is not None and world.kube.changes >= world.kube.dies_before:
            world.kube.dies_before = None
            world.forget()
        spared, world.kube.dies_before = world.kube.dies_before, None
        for purpose, result in (("verify", checked), ("restore", recovered)):
            for job in await world.jobs(purpose):
                if not job.get("status", {}).get("conditions"):
                    await world.finish(job, result(file_of(2)))
                    finished.add(purpose)
        if await world.kube.get("DatabaseCluster", world.namespace, "again") is not None:
            if await world.kube.get("Lease", world.namespace, "again") is None:
                await hold(world, "again", made["metadata"]["uid"])
            elif not (await lease_of(world, "again")).held:
                assert "restore" in finished, "started on nothing"
                await serve(world, "again")
        world.kube.dies_before = spared
    restore = await world.kube.get("Restore", world.namespace, "back")
    assert restore is not None
    assert restore["status"]["phase"] == "Complete"
    assert restore["status"]["recovered"]["systemIdentifier"] == NEW_SYSTEM


async def test_the_cluster_is_held_and_goes_with_all_it_has(cluster_world: ClusterWorld) -> None:
    world = cluster_world
    spec = restore_of({"backup": {"name": "good"}}, "orders")
    metadata = {"name": "back", "namespace": world.namespace}
    restore = await world.kube.create({"kind": "Restore", "metadata": metadata, "spec": spec})
    uid = restore["metadata"]["uid"]
    notes = {"name": "orders", "namespace": world.namespace, "annotations": {names.FILLED_BY: f"back/{uid}"}}
    cluster = {"version": "17", "instances": 3, "storage": {"size": "1Gi"}}
    await world.kube.create({"kind": "DatabaseCluster", "metadata": notes, "spec": cluster})
    await world.reconcile(3)
    objects = await world.objects()
    assert [n for k, n in objects if k == "PersistentVolumeClaim"] == ["orders-1"]
    assert [n for k, n in objects if k == "Pod"] == []
    assert ("ServiceAccount", "orders-backup") in objects, "the Job reports by it"
    for kind, name in (("Lease", "orders"), ("PersistentVolumeClaim", "orders-1")):
        assert objects[kind, name]["metadata"]["annotations"][names.DELETION_POLICY] == "Delete"
    ready = await world.condition("Ready")
    assert ready is not None
    assert (ready["status"], ready["reason"]) == ("False", "Restoring")

    await world.kube.delete("Restore", world.namespace, "back")
    await world.reconcile()
    stalled = await world.condition("Stalled")
    assert stalled is not None
    assert stalled["reason"] == "RestoreFailed"
    assert [n for k, n in await world.objects() if k == "Pod"] == []

    await world.kube.delete("DatabaseCluster", world.namespace, "orders")
    await world.reconcile()
    await world.release_claims()
    await world.reconcile(2)
    left = {(k, n) for k, n in await world.objects() if k in ("Lease", "PersistentVolumeClaim")}
    assert left == set(), "the next restore of this name would be refused"


async def test_a_lifted_hold_starts_instances_and_keeps_their_data(cluster_world: ClusterWorld) -> None:
    world = cluster_world
    notes = {"name": "orders", "namespace": world.namespace, "annotations": {names.FILLED_BY: "back/u1"}}
    cluster = {"version": "17", "instances": 2, "storage": {"size": "1Gi"}}
    await world.kube.create({"kind": "DatabaseCluster", "metadata": notes, "spec": cluster})
    await world.reconcile(2)
    found = await world.get("Lease", "orders")
    assert found is not None
    state = transitions.filled(leasetext.from_manifest(found).state, "u1")
    found["metadata"]["annotations"][leasetext.ANNOTATION] = leasetext.encode(state)
    await world.kube.replace(found)
    await world.reconcile(2)
    objects = await world.objects()
    assert sorted(n for k, n in objects if k == "Pod") == ["orders-1", "orders-2"]
    claim = objects["PersistentVolumeClaim", "orders-1"]
    assert claim["metadata"]["annotations"][names.DELETION_POLICY] == "Retain"


@pytest.mark.parametrize("lost", ["deleted", "unreadable"])
async def test_a_restored_cluster_that_loses_its_lease_keeps_its_volumes(
    cluster_world: ClusterWorld, lost: str
) -> None:
    """The note of who filled it stays on the resource, and without a Lease nothing says that the hold was lifted."""
    world = cluster_world
    notes = {"name": "orders", "namespace": world.namespace, "annotations": {names.FILLED_BY: "back/u1"}}
    cluster = {"version": "17", "instances": 1, "storage": {"size": "1Gi"}}
    await world.kube.create({"kind": "DatabaseCluster", "metadata": notes, "spec": cluster})
    await world.reconcile(2)
    found = await world.get("Lease", "orders")
    assert found is not None
    state = transitions.filled(leasetext.from_manifest(found).state, "u1")
    state = transitions.bootstrapped(state, Member("orders-1", "abc"), SYSTEM, "n")
    found["metadata"]["annotations"][leasetext.ANNOTATION] = leasetext.encode(state)
    found["metadata"]["annotations"][names.DELETION_POLICY] = "Retain"
    await world.kube.replace(found)
    await world.reconcile(2)
    if lost == "deleted":
        await world.kube.delete("Lease", world.namespace, "orders")
    else:
        merge = {"metadata": {"annotations": {leasetext.ANNOTATION: "{"}}}
        await world.kube.patch("Lease", world.namespace, "orders", merge)
    await world.reconcile(2)
    claim = await world.get("PersistentVolumeClaim", "orders-1")
    assert claim is not None
    assert claim["metadata"]["annotations"][names.DELETION_POLICY] == "Retain"
    await world.kube.delete("DatabaseCluster", world.namespace, "orders")
    await world.reconcile(2)
    claim = await world.get("PersistentVolumeClaim", "orders-1")
    assert claim is not None
    assert "deletionTimestamp" not in claim["metadata"], "all of its data is gone"

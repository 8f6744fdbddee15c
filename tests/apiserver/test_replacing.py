"""Restores of physical backups in place, on a real API server: the cluster is stopped, and goes on with one of two."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from matriarch.backup.jobspec import Moment, Reason
from matriarch.controller.databasecluster import reconcile_cluster
from matriarch.controller.elect import ask_for_election
from matriarch.controller.metrics import METRICS
from matriarch.controller.queue import Key
from matriarch.decide import lease as transitions
from matriarch.decide.conditions import FORGET_REPLACED
from matriarch.decide.lease import Filling, LeaseState
from matriarch.kube.client import Object
from matriarch.resources import names
from tests.apiserver.backup_world import S3, SYSTEM, Dying, World, condition, failure
from tests.apiserver.backup_world import task as task_of
from tests.apiserver.replacing_world import INSTANCES, Orders, hear, orders_of
from tests.apiserver.test_recoveries import NEW_SYSTEM, checked, file_of, physical, recovered

if TYPE_CHECKING:
    from dev.apiserver import ApiServer

STEPS = [
    "check",
    "verify",
    "stop-application",
    "close-door",
    "safety-backup",
    "stop-instances",
    "restore",
    "start",
    "open-door",
    "start-application",
]
KEEP = dict.fromkeys([*(f"PersistentVolumeClaim {i}" for i in INSTANCES), "Lease orders"], "Retain")


def in_place(source: Object | None = None, **more: Any) -> Object:
    return {
        "source": source or {"backup": {"name": "good"}},
        "target": {"cluster": "orders"},
        "inPlace": {"confirm": "orders", **more.pop("inPlace", {})},
        **more,
    }


async def safe(world: World, restore: Object) -> Object:
    """The safety Backup is complete."""
    await complete(world, restore["status"]["safetyBackup"], 9)
    return await world.look("Restore", "back")


async def complete(world: World, name: str, hour: int) -> None:
    obj = {"kind": "Backup", "metadata": {"name": name, "namespace": world.namespace}}
    finished = f"2026-03-01T{hour:02}:10:00Z"
    files = {"phase": "Complete", "backupName": file_of(hour), "store": S3, "finishedAt": finished}
    await world.kube.apply_status({**obj, "status": files}, manager="matriarch-controller")


async def asked(world: World, **more: Any) -> Object:
    """A Restore that has checked its backup."""
    await physical(world, "good", 2)
    await world.make("Restore", "back", in_place(**more))
    await world.look("Restore", "back")
    (job,) = await world.jobs("verify")
    await world.finish(job, checked(file_of(2)))
    await world.look("Restore", "back")
    await reconcile_cluster(Key("DatabaseCluster", world.namespace, "orders"), world.env)
    await hear(world)
    return await world.look("Restore", "back")


async def suspended(world: World, **spec: Any) -> Orders:
    """A cluster that is held up, of which no Pod is left, and the Job that restores."""
    orders = await orders_of(world, **spec)
    await safe(world, await asked(world))
    assert (await orders.lease()).suspended
    await orders.reconcile(3)
    assert await orders.pods() == []
    await world.look("Restore", "back")
    assert len(await world.jobs("restore")) == 1
    return orders


def same_but_later(now: LeaseState, before: LeaseState) -> bool:
    """Everything goes on where it was; only more was written."""
    told = [(s.epoch, s.holder, s.mode, s.voters, s.k, s.opened, s.system_identifier, s.filling) for s in (now, before)]
    return told[0] == told[1] and now.revision > before.revision


async def test_summaries_that_an_agent_is_behind_are_in_the_status_and_a_figure(world: World) -> None:
    orders = await orders_of(world)
    told = orders.agents.answers
    told["orders-2"]["summaries_behind_bytes"], told["orders-3"]["summaries_behind_bytes"] = 5, 1 << 30
    world.env.ahead[0] += 60  # what moves all the time is written now and then
    await orders.reconcile()
    await world.look_backups("orders")
    found = await world.kube.get("DatabaseCluster", world.namespace, "orders")
    assert found is not None
    status = found["status"]
    behind = {i["name"]: i.get("summariesBehindBytes") for i in status["instanceStatuses"]}
    assert behind == {"orders-1": None, "orders-2": 5, "orders-3": 1 << 30}
    assert METRICS.clusters[world.namespace, "orders"]["matriarch_wal_summaries_behind_bytes"] == 1 << 30


async def test_step_by_step(world: World) -> None:
    orders = await orders_of(world)
    before = await orders.lease()
    assert await orders.policies() == KEEP
    restore = await asked(world, recoveryTarget={"to": "latest"})
    uid = restore["metadata"]["uid"]
    assert [s["name"] for s in restore["status"]["steps"]] == STEPS
    (job,) = await world.jobs("verify")
    told = task_of(job).verify
    assert told is not None
    assert (told.method, told.moment) == ("physical", Moment(kind="latest"))
    backup = await world.kube.get("Backup", world.namespace, restore["status"]["safetyBackup"])
    assert backup is not None
    assert backup["spec"] == {"cluster": "orders", "method": "physical", "target": "primary"}
    await orders.reconcile()
    closed = await orders.condition("Ready")
    assert closed is not None
    assert closed[:2] == ("False", "Restoring")
    assert "Clients are refused while Restore back" in closed[2]
    assert await orders.lease() == before, "touched before the present data is safe"
    assert await orders.pods() == list(INSTANCES)

    restore = await safe(world, restore)
    held = await orders.lease()
    assert (held.filling, held.bootstrap) == (Filling(uid, epoch=held.epoch), "orders-1")
    assert same_but_later(transitions.resumed(held, uid), before), "what goes on with the old data has to know it"
    assert condition(restore, "Ready") == ("False", "Stopping")
    await orders.reconcile()
    assert orders.gone == ["orders-1"], "the voters are to be there while the primary stops"
    await ask_for_election(Key("Election", world.namespace, "orders"), world.env)
    assert orders.agents.elections == [], "its primary is gone because a Restore wants it so"
    await orders.reconcile(3)
    assert await orders.pods() == []
    ready = await orders.condition("Ready")
    assert ready is not None
    assert ready[:2] == ("False", "Restoring")
    assert "Restore back" in ready[2]
    assert await orders.policies() == KEEP, "this data is somebody's"

    await world.look("Restore", "back")
    (job,) = await world.jobs("restore")
    assert job["spec"]["suspend"] is False
    pod = job["spec"]["template"]["spec"]
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "orders-1"}} in pod["volumes"]
    recover = task_of(job).recover
    assert recover is not None
    assert (recover.restore_id, recover.replaces, recover.moment.kind) == (uid, True, "latest")
    await orders.reconcile(2)
    assert await orders.pods() == []

    await world.finish(job, recovered(file_of(2)))
    restore = await world.look("Restore", "back")
    assert (await orders.lease()).filling == Filling(uid, done=True, epoch=1)
    assert condition(restore, "Ready") == ("False", "WaitingForCluster")
    assert await orders.policies() == KEEP
    await orders.reconcile()
    assert await orders.pods() == list(INSTANCES)
    assert condition(await world.look("Restore", "back"), "Ready") == ("False", "WaitingForCluster")

    await orders.bootstrap(NEW_SYSTEM)
    await orders.start()
    await orders.answer(kept=(uid,))
    await orders.reconcile(2)
    opening = await world.look("Restore", "back")
    assert opening["status"]["step"] == "open-door"
    await orders.reconcile(2)
    done = await world.look("Restore", "back")
    assert condition(done, "Complete") == ("True", "Complete")
    assert {s["state"] for s in done["status"]["steps"]} == {"done"}
    assert done["status"]["recovered"]["systemIdentifier"] == NEW_SYSTEM
    after = await orders.lease()
    assert after.epoch > before.epoch
    assert (after.replaced, after.filling) == ((SYSTEM,), None)
    ready = await orders.condition("Ready")
    assert ready is not None
    assert ready[:2] == ("True", "AllInstancesReady"), ready
    assert await orders.policies() == KEEP
    await orders.reconcile(2)
    assert await orders.pods() == list(INSTANCES)


async def test_replaced_data_is_said_and_confirmed(world: World) -> None:
    orders = await orders_of(world)
    await orders.answer(kept=("u-1", "u-2"))
    await orders.reconcile()
    kept = await orders.condition("ReplacedDataKept")
    assert kept is not None
    assert kept[:2] == ("True", "NotConfirmed")
    assert f"{FORGET_REPLACED}=u-1,u-2" in kept[2]
    world.kube.changes = 0
    await orders.reconcile(2)
    assert world.kube.changes == 0, "the same status is written again and again"

    note = {"metadata": {"annotations": {FORGET_REPLACED: "u-2, u-1"}}}
    await world.kube.patch("DatabaseCluster", world.namespace, "orders", note)
    await orders.reconcile()
    found = await world.kube.get("ConfigMap", world.namespace, names.config("orders"))
    assert found is not None
    (text,) = found["data"].values()
    assert json.loads(text)["forget_replaced"] == ["u-1", "u-2"]
    await orders.answer()
    await orders.reconcile()
    assert await orders.condition("ReplacedDataKept") is None


async def test_a_job_that_fails_leaves_the_cluster_as_it_was(world: World) -> None:
    orders = await suspended(world)
    held = await orders.lease()
    assert held.filling is not None
    before = transitions.resumed(held, held.filling.restore)
    (job,) = await world.jobs("restore")
    await world.refuse(job, failure("recover", Reason.OBJECT_CORRUPT, "Pack 3 is not what it was."))
    restore = await world.look("Restore", "back")
    assert condition(restore, "Failed") == ("True", "ObjectCorrupt")
    assert "goes on with the data that it had" in restore["status"]["error"]["message"]
    await orders.reconcile()
    assert same_but_later(await orders.lease(), before)
    await orders.reconcile()
    assert await orders.pods() == list(INSTANCES)
    assert await orders.policies() == KEEP
    await orders.start()
    await orders.reconcile(2)
    ready = await orders.condition("Ready")
    assert ready is not None
    assert ready[:2] == ("True", "AllInstancesReady"), ready


async def test_a_restore_that_is_deleted_lets_the_cluster_go_on(world: World) -> None:
    orders = await suspended(world)
    held = await orders.lease()
    assert held.filling is not None
    await world.kube.delete("Restore", world.namespace, "back")
    await orders.reconcile(2)
    assert same_but_later(await orders.lease(), transitions.resumed(held, held.filling.restore))
    assert await orders.pods() == list(INSTANCES)
    assert await orders.policies() == KEEP


async def test_a_spec_that_is_refused_keeps_nobody_from_going_on(world: World) -> None:
    """Under a wrong spec Pods stay as they are; without this the agents in them would never start PostgreSQL again."""
    orders = await orders_of(world)
    await safe(world, await asked(world))
    assert (await orders.lease()).suspended
    smaller = {"spec": {"parameters": {"shared_buffers": "a lot"}}}
    await world.kube.patch("DatabaseCluster", world.namespace, "orders", smaller)
    await world.kube.delete("Restore", world.namespace, "back")
    await orders.reconcile(2)
    stalled = await orders.condition("Stalled")
    assert stalled is not None
    assert stalled[1] == "InvalidSpec"
    assert (await orders.lease()).filling is None
    assert await orders.pods() == list(INSTANCES)


async def test_once_the_new_data_counts_deleting_the_restore_takes_nothing_back(world: World) -> None:
    orders = await suspended(world)
    (job,) = await world.jobs("restore")
    await world.finish(job, recovered(file_of(2)))
    await world.look("Restore", "back")
    await world.kube.delete("Restore", world.namespace, "back")
    await orders.reconcile(3)
    assert (await orders.lease()).filling is not None
    assert await orders.pods() == list(INSTANCES)
    await orders.bootstrap(NEW_SYSTEM)
    assert (await orders.lease()).system_identifier == NEW_SYSTEM


async def test_no_room_is_found_while_the_cluster_still_serves(world: World) -> None:
    orders = await orders_of(world)
    await orders.answer(free=200_000_000)  # the backup has 300 million bytes
    before = await orders.lease_object()
    restore = await safe(world, await asked(world))
    assert condition(restore, "Failed") == ("True", "NoRoom")
    assert "spec.storage.size" in restore["status"]["error"]["message"]
    assert await orders.lease_object() == before
    await orders.reconcile()
    assert await orders.pods() == list(INSTANCES)


@pytest.mark.parametrize(
    ("cluster", "restore", "reason", "says"),
    [
        pytest.param({"backup": None}, {}, "NoStore", "only after a safety backup", id="no store"),
        pytest.param({}, {"recoveryTarget": {"time": "2026-06-31T00:00:00Z"}}, "InvalidTarget", "", id="no such day"),
    ],
)
async def test_refused_before_anything_is_made(
    world: World, cluster: Object, restore: Object, reason: str, says: str
) -> None:
    orders = await orders_of(world, **cluster)
    before = await orders.lease_object()
    await physical(world, "good", 2)
    await world.make("Restore", "back", in_place(**restore))
    found = await world.look("Restore", "back")
    assert condition(found, "Failed") == ("True", reason)
    assert says in found["status"]["error"]["message"]
    assert [await world.jobs(purpose) for purpose in ("verify", "restore")] == [[], []]
    assert await orders.lease_object() == before


async def test_a_replica_cluster_has_its_source_s_data(world: World) -> None:
    host = {"enabled": True, "source": {"host": "primary.example.com", "secret": {"name": "source"}}}
    await world.cluster(replica=host)
    await world.credentials()
    await world.make("Secret", "orders-backup-key", stringData={"key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="})
    await physical(world, "good", 2)
    await world.make("Restore", "back", in_place())
    found = await world.look("Restore", "back")
    assert condition(found, "Failed") == ("True", "ReplicaCluster")
    assert "primary.example.com" in found["status"]["error"]["message"]
    assert [await world.jobs(purpose) for purpose in ("verify", "restore")] == [[], []]


async def test_without_a_store_if_no_safety_backup_is_wanted(world: World) -> None:
    """Nor does such a cluster have to be ready: this is for what cannot be backed up any more."""
    orders = await orders_of(world, backup=None)
    orders.agents.answers = {}
    await orders.reconcile()
    available = await orders.condition("Available")
    assert available is not None
    assert available[0] == "False"
    restore = await asked(world, inPlace={"skipSafetyBackup": True})
    assert await world.kube.get("Backup", world.namespace, f"orders-before-{restore['metadata']['uid'][:8]}") is None
    assert [b["metadata"]["name"] for b in await world.kube.list("Backup", world.namespace)] == ["good"]
    assert (await orders.lease()).suspended
    await orders.reconcile(3)
    assert await orders.pods() == []
    await world.look("Restore", "back")
    assert len(await world.jobs("restore")) == 1


async def test_a_backup_that_is_not_complete_yet_is_waited_for(world: World) -> None:
    """Only a complete one shows that it is physical, and needs no safety backup."""
    await orders_of(world)
    await world.make("Backup", "good", {"cluster": "orders", "method": "physical"})
    await world.make("Restore", "back", in_place(inPlace={"skipSafetyBackup": True}))
    await world.make("Restore", "other", {**in_place({"backup": {"name": "none"}}, inPlace={"skipSafetyBackup": True})})
    found = await world.look("Restore", "back")
    assert condition(found, "Ready") == ("False", "BackupNotComplete")


async def test_logical_backups_replace_nothing_without_a_safety_backup(world: World) -> None:
    await orders_of(world)
    await physical(world, "good", 2)
    await world.make("Backup", "dump", {"cluster": "orders"})
    await complete(world, "dump", 3)
    spec = in_place({"backup": {"name": "dump"}}, inPlace={"skipSafetyBackup": True})
    await world.make("Restore", "back", spec)
    assert condition(await world.look("Restore", "back"), "Failed") == ("True", "SafetyBackupNeeded")


async def test_the_check_is_made_by_the_image_that_will_read_the_data(world: World) -> None:
    """The backup's own cluster may have another one."""
    await orders_of(world, image="example.com/orders:1")
    spec = {"version": "17", "instances": 1, "storage": {"size": "1Gi"}, "image": "example.com/other:1"}
    await world.make("DatabaseCluster", "other", spec)
    await world.make("Backup", "good", {"cluster": "other", "method": "physical"})
    await complete(world, "good", 2)
    await world.make("Restore", "back", in_place())
    await world.look("Restore", "back")
    (job,) = await world.jobs("verify")
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == "example.com/orders:1"


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
async def test_a_cluster_that_is_deleted_while_it_is_held_up(world: World, policy: str) -> None:
    orders = await suspended(world, deletionPolicy=policy)
    held = await orders.lease()
    assert held.filling is not None
    await world.kube.delete("DatabaseCluster", world.namespace, "orders")
    restore = await world.look("Restore", "back")
    assert condition(restore, "Failed") == ("True", "TargetDeleted")
    assert [j for j in await world.jobs("restore") if "deletionTimestamp" not in j["metadata"]] == []
    await orders.reconcile(2)
    claims = await world.kube.list("PersistentVolumeClaim", world.namespace, names.selector("orders"))
    going = sorted(c["metadata"]["name"] for c in claims if "deletionTimestamp" in c["metadata"])
    if policy == "Delete":
        assert going == sorted(c["metadata"]["name"] for c in claims)
        return
    assert going == []
    assert await orders.lease() == held
    assert await orders.policies() == KEEP
    # The same name again takes the volumes over, and nobody fills them any more.
    spec = {"version": "17", "instances": 3, "storage": {"size": "20Gi"}, "backup": {"stores": [S3]}}
    await world.make("DatabaseCluster", "orders", spec)
    await orders.reconcile(3)
    assert same_but_later(await orders.lease(), transitions.resumed(held, held.filling.restore))
    assert await orders.pods() == list(INSTANCES)


@pytest.mark.parametrize("dies_before", range(0, 30, 3))
async def test_a_controller_that_dies_before_any_of_its_writes(world: World, dies_before: int) -> None:
    """Both reconcilers die with it; what is replaced is replaced once, and only by a Job that ended well."""
    orders = await orders_of(world)
    await physical(world, "good", 2)
    await world.make("Restore", "back", in_place(recoveryTarget={"to": "latest"}))
    world.kube.changes, world.kube.dies_before = 0, dies_before
    restored = False
    for _ in range(24):
        with suppress(Dying):
            await world.look("Restore", "back")
            await orders.reconcile()
        if world.kube.dies_before is not None and world.kube.changes >= world.kube.dies_before:
            world.kube.dies_before = None
            world.forget()
        spared, world.kube.dies_before = world.kube.dies_before, None
        restore = await world.kube.get("Restore", world.namespace, "back")
        assert restore is not None
        if (restore.get("status") or {}).get("phase") == "Complete":
            break
        for purpose, result in (("verify", checked), ("restore", recovered)):
            for job in await world.jobs(purpose):
                if not job.get("status", {}).get("conditions"):
                    assert purpose == "verify" or await orders.pods() == [], "two at one volume"
                    await world.finish(job, result(file_of(2)))
                    restored = restored or purpose == "restore"
        name = (restore.get("status") or {}).get("safetyBackup")
        if name and await world.kube.get("Backup", world.namespace, name) is not None:
            await complete(world, name, 9)
        state = await orders.lease()
        if state.filling is not None and state.filling.done and "orders-1" in await orders.pods():
            assert restored, "lifted before anything was there"
            await orders.bootstrap(NEW_SYSTEM)
        if state.filling is None:
            await orders.start()
            await orders.answer()
        world.kube.dies_before = spared
    restore = await world.kube.get("Restore", world.namespace, "back")
    assert restore is not None
    assert restore["status"]["phase"] == "Complete"
    assert (await orders.lease()).replaced == (SYSTEM,)
    assert len(await world.jobs("restore")) == 1


async def test_asked_for_by_the_command_line(world: World, api_server: ApiServer) -> None:
    await orders_of(world)
    await physical(world, "good", 2)
    command = "restore orders --from good --in-place --wal-archive --target-time 2026-03-01T04:00:00Z"
    command += f" --skip-safety-backup --yes --no-wait --namespace {world.namespace}"
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "matriarch.cli.main", *command.split(),
        env={**os.environ, "PYTHONPATH": "operator", "KUBECONFIG": str(api_server.kubeconfig)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, problem = await done.communicate()
    assert done.returncode == 0, problem
    made = await world.look("Restore", said.decode().strip())
    assert made["spec"]["inPlace"] == {"confirm": "orders", "skipSafetyBackup": True}
    assert made["spec"]["recoveryTarget"] == {"time": "2026-03-01T04:00:00Z"}
    assert [s["name"] for s in made["status"]["steps"]] == STEPS
    assert len(await world.jobs("verify")) == 1

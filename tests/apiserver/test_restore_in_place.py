"""Restores of logical backups in place, on a real API server: the application is stopped, clients are refused, and both
come back however it ends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from matriarch.backup.jobspec import Reason
from matriarch.controller import application
from matriarch.controller.queue import Key
from matriarch.kube.client import Object
from matriarch.kube.errors import Forbidden
from matriarch.resources import names
from matriarch.resources.config import KEY
from matriarch.resources.job import labels
from tests.apiserver.backup_world import World, backup_result, condition, failure
from tests.apiserver.backup_world import task as task_of
from tests.apiserver.replacing_world import Orders, orders_of
from tests.apiserver.test_backup_restores import restored, states, verified

SHOP = {"app": "shop"}
SECURE: Object = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
POD: Object = {"containers": [{"name": "c", "image": "i", "securityContext": SECURE}]}
BEGINS = ["check", "verify", "stop-application"]


async def workload(world: World, kind: str, name: str, replicas: int, **labels: str) -> None:
    template = {
        "metadata": {"labels": {"pod": name}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    await world.make(
        kind,
        name,
        {"replicas": replicas, "selector": {"matchLabels": {"pod": name}}, "template": template},
        metadata={"labels": labels},
    )
    await settle(world, kind, name)


async def settle(world: World, kind: str, name: str) -> None:
    """As Kubernetes' own controllers do: as many Pods as are wanted."""
    found = await world.kube.get(kind, world.namespace, name)
    assert found is not None
    status = {"observedGeneration": found["metadata"]["generation"], "replicas": found["spec"]["replicas"]}
    await world.kube.patch(kind, world.namespace, name, {"status": status}, subresource="status")


async def replicas(world: World) -> dict[str, int]:
    found = {}
    for kind in application.KINDS:
        for obj in await world.kube.list(kind, world.namespace):
            if names.CLUSTER_LABEL not in (obj["metadata"].get("labels") or {}):
                found[obj["metadata"]["name"]] = obj["spec"]["replicas"]
                marked = application.STOPPED_BY in (obj["metadata"].get("labels") or {})
                noted = application.REPLICAS in (obj["metadata"].get("annotations") or {})
                assert marked == noted
    return found


async def closed_by(world: World) -> str:
    found = await world.kube.get("ConfigMap", world.namespace, names.config("orders"))
    assert found is not None
    return str(json.loads(found["data"][KEY]).get("closed_by") or "")


async def world_of(world: World) -> Orders:
    """A cluster that serves, a logical Backup, an application of two workloads and somebody else's."""
    orders = await orders_of(world)
    await world.make("Backup", "good", {"cluster": "orders"})
    backup = await world.look("Backup", "good")
    (job,) = await world.jobs("backup")
    await world.finish(job, backup_result(backup["status"]["backupName"]))
    assert (await world.look("Backup", "good"))["status"]["phase"] == "Complete"
    await workload(world, "Deployment", "web", 3, **SHOP)
    await workload(world, "StatefulSet", "queue", 2, **SHOP)
    await workload(world, "Deployment", "idle", 0, **SHOP)
    await workload(world, "Deployment", "other", 5, app="other")
    return orders


async def asked(world: World, **in_place: Any) -> Object:
    spec = {
        "source": {"backup": {"name": "good"}},
        "target": {"cluster": "orders"},
        "inPlace": {"confirm": "orders", "applicationSelector": {"matchLabels": SHOP}, **in_place},
    }
    await world.make("Restore", "back", spec)
    return await world.look("Restore", "back")


async def closed(world: World, orders: Orders) -> Object:
    """The application is stopped, and clients are refused."""
    await verified(world, "back")
    await settle(world, "Deployment", "web")
    await settle(world, "StatefulSet", "queue")
    await world.look("Restore", "back")
    await orders.reconcile()
    return await world.look("Restore", "back")


async def test_step_by_step(world: World) -> None:
    orders = await world_of(world)
    await asked(world)
    assert await replicas(world) == {"web": 3, "queue": 2, "idle": 0, "other": 5}
    restore = await verified(world, "back")
    assert [s for s, state in states(restore).items() if state != "pending"] == BEGINS
    assert await replicas(world) == {"web": 0, "queue": 0, "idle": 0, "other": 5}
    await settle(world, "Deployment", "web")
    restore = await world.look("Restore", "back")
    assert restore["status"]["step"] == "stop-application"
    assert "StatefulSet queue" in restore["status"]["steps"][2]["message"]
    await orders.reconcile()
    assert await closed_by(world) == "", "clients are refused while the application still ends"
    await settle(world, "StatefulSet", "queue")
    restore = await world.look("Restore", "back")
    assert restore["status"]["step"] == "close-door"
    assert [b["metadata"]["name"] for b in await world.kube.list("Backup", world.namespace)] == ["good"]
    await orders.reconcile()
    assert await closed_by(world) == restore["metadata"]["uid"]

    restore = await world.look("Restore", "back")
    assert restore["status"]["step"] == "safety-backup"
    safety = restore["status"]["safetyBackup"]
    await world.make("Backup", "meanwhile", {"cluster": "orders"})
    assert condition(await world.look("Backup", "meanwhile"), "Ready") == ("False", "RestoreInProgress")
    backup = await world.look("Backup", safety)
    job = next(j for j in await world.jobs("backup") if j["metadata"]["ownerReferences"][0]["name"] == safety)
    await world.finish(job, backup_result(backup["status"]["backupName"]))
    await world.look("Backup", safety)
    restore = await world.look("Restore", "back")
    (job,) = await world.jobs("restore")
    told = task_of(job).restore
    assert told is not None
    assert told.mode == "in-place"
    await world.finish(job, restored(restore["status"]["backupName"]))
    assert (await world.look("Restore", "back"))["status"]["step"] == "open-door"
    assert await replicas(world) == {"web": 0, "queue": 0, "idle": 0, "other": 5}
    await orders.reconcile()
    assert await closed_by(world) == ""
    done = await world.look("Restore", "back")
    assert condition(done, "Complete") == ("True", "Complete")
    assert set(states(done).values()) == {"done"}
    assert await replicas(world) == {"web": 3, "queue": 2, "idle": 0, "other": 5}
    assert (await world.look("Backup", "meanwhile"))["status"]["phase"] == "Running"


async def test_when_it_fails_all_is_as_it_was(world: World) -> None:
    orders = await world_of(world)
    await asked(world)
    restore = await closed(world, orders)
    safety = restore["status"]["safetyBackup"]
    await world.look("Backup", safety)
    job = next(j for j in await world.jobs("backup") if j["metadata"]["ownerReferences"][0]["name"] == safety)
    await world.refuse(job, failure("backup", Reason.STORE_FULL, "The store is full."))
    await world.look("Backup", safety)
    restore = await world.look("Restore", "back")
    assert condition(restore, "Failed") == ("True", "SafetyBackupFailed")
    assert await replicas(world) == {"web": 3, "queue": 2, "idle": 0, "other": 5}
    await orders.reconcile()
    assert await closed_by(world) == ""


@pytest.mark.parametrize("notices", ["Restore", "DatabaseCluster"])
async def test_when_it_is_deleted_all_is_as_it_was(world: World, notices: str) -> None:
    """Whoever notices: the event of the deletion may have come while nobody listened."""
    orders = await world_of(world)
    await asked(world)
    await closed(world, orders)
    # Of a spec that is refused nothing is written; clients are let in all the same.
    wrong = {"spec": {"parameters": {"shared_buffers": "a lot"}}}
    await world.kube.patch("DatabaseCluster", world.namespace, "orders", wrong)
    await world.kube.delete("Restore", world.namespace, "back")
    if notices == "Restore":
        world.env.queue.add(Key("Restore", world.namespace, "back"))
        await world.run()
        assert await replicas(world) == {"web": 3, "queue": 2, "idle": 0, "other": 5}
    await orders.reconcile()
    stalled = await orders.condition("Stalled")
    assert stalled is not None
    assert stalled[1] == "InvalidSpec"
    assert await closed_by(world) == ""
    assert await replicas(world) == {"web": 3, "queue": 2, "idle": 0, "other": 5}


async def test_when_it_is_deleted_while_nobody_listens_and_clients_are_not_refused_yet(world: World) -> None:
    await world_of(world)
    await asked(world)
    await verified(world, "back")
    assert (await replicas(world))["web"] == 0
    await world.kube.delete("Restore", world.namespace, "back")
    await application.start_again(world.env, None)  # as each resync does
    assert await replicas(world) == {"web": 3, "queue": 2, "idle": 0, "other": 5}


async def test_a_workload_that_cannot_be_started_keeps_nothing_else_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = await world_of(world)
    await asked(world)
    await closed(world, orders)
    await world.kube.delete("Restore", world.namespace, "back")
    patch = world.kube.patch

    async def refused(kind: str, namespace: str | None, name: str, *more: Any, **how: Any) -> Object:
        if name == "web":
            raise Forbidden("no", status=403)
        return await patch(kind, namespace, name, *more, **how)

    monkeypatch.setattr(world.kube, "patch", refused)
    await orders.reconcile()
    assert await closed_by(world) == ""
    assert await replicas(world) == {"web": 0, "queue": 2, "idle": 0, "other": 5}
    monkeypatch.undo()
    await application.start_again(world.env, world.namespace)
    assert (await replicas(world))["web"] == 3


async def test_while_a_pod_still_replaces_the_data_clients_stay_out(world: World) -> None:
    """The Job of a Restore that is deleted goes some time after it."""
    orders = await world_of(world)
    restore = await asked(world)
    await closed(world, orders)
    await world.make("Pod", "writes", POD, metadata={"labels": labels("orders", "restore")})
    await world.kube.delete("Restore", world.namespace, "back")
    await orders.reconcile()
    assert await closed_by(world) == restore["metadata"]["uid"]
    status = {"status": {"phase": "Failed"}}
    await world.kube.patch("Pod", world.namespace, "writes", status, subresource="status")
    await orders.reconcile()
    assert await closed_by(world) == ""


async def test_pods_that_are_about_to_end_are_waited_for(world: World) -> None:
    """A Deployment's status counts them no more."""
    await world_of(world)
    await asked(world)
    await world.make("Pod", "web-1", POD, metadata={"labels": {"pod": "web"}})
    await verified(world, "back")
    await settle(world, "Deployment", "web")
    await settle(world, "StatefulSet", "queue")
    restore = await world.look("Restore", "back")
    assert restore["status"]["step"] == "stop-application"
    await world.kube.patch("Pod", world.namespace, "web-1", {"status": {"phase": "Succeeded"}}, subresource="status")
    assert (await world.look("Restore", "back"))["status"]["step"] == "close-door"


async def test_an_empty_value_is_a_value_and_not_any(world: World) -> None:
    await world_of(world)
    restore = await asked(world, applicationSelector={"matchLabels": {"app": ""}})
    assert condition(restore, "Ready") == ("False", "MissingApplication")


async def test_one_that_began_under_an_earlier_version_goes_on_by_its_own_steps(world: World) -> None:
    """It has neither stopped the application nor refused clients, and is past the point where that helps."""
    await world_of(world)
    restore = await asked(world)
    before = [
        {"name": "check", "state": "done", "startedAt": "2026-03-01T02:00:00Z", "finishedAt": "2026-03-01T02:00:00Z"},
        {"name": "verify", "state": "running", "startedAt": "2026-03-01T02:00:00Z"},
        {"name": "safety-backup", "state": "pending"},
        {"name": "restore", "state": "pending"},
    ]
    status = {**restore["status"], "steps": before}
    await world.kube.patch("Restore", world.namespace, "back", {"status": status}, subresource="status")
    restore = await verified(world, "back")
    assert restore["status"]["step"] == "safety-backup"
    assert await replicas(world) == {"web": 3, "queue": 2, "idle": 0, "other": 5}


async def test_what_somebody_started_meanwhile_is_left_as_it_is(world: World) -> None:
    orders = await world_of(world)
    await asked(world)
    await closed(world, orders)
    await world.kube.patch("Deployment", world.namespace, "web", {"spec": {"replicas": 7}})
    await world.kube.delete("Restore", world.namespace, "back")
    await orders.reconcile()
    assert await replicas(world) == {"web": 7, "queue": 2, "idle": 0, "other": 5}


async def test_a_selector_that_matches_nothing_is_said_before_anything_is_done(world: World) -> None:
    await world_of(world)
    restore = await asked(world, applicationSelector={"matchLabels": {"app": "shpo"}})
    assert condition(restore, "Ready") == ("False", "MissingApplication")
    assert "app=shpo" in restore["status"]["steps"][0]["message"]
    assert await world.jobs("verify") == []

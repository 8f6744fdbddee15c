"""Drills on a real API server: written down before their Job, one at a time, and what the schedule says of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from matriarch.backup.drillspec import DrillResult
from matriarch.backup.jobresult import Result
from matriarch.backup.jobspec import Reason
from matriarch.controller.metrics import METRICS
from matriarch.kube.client import Object
from matriarch.kube.errors import Invalid
from tests.apiserver.backup_world import S3, Dying, World, backup_result, condition, events, failure
from tests.apiserver.backup_world import task as task_of
from tests.apiserver.test_backup_schedules import complete, hourly, to

HOUR = 3600.0
DRILL: Object = {
    "cron": "30 * * * *",
    "queries": [{"name": "there", "sql": "SELECT count(*) FROM t", "expect": "3"}],
    "timeoutSeconds": 900,
}


def passed(backup: Object, **more: Any) -> Result:
    done = DrillResult(
        backup_id=backup["status"]["id"],
        backup_name=backup["status"]["backupName"],
        started="2026-03-01T05:00:00.000Z",
        download=3.5,
        replay=9.0,
        checks=2.0,
        size=1000,
        databases=1,
        tables=8,
        queries=1,
        newest_transaction="2026-03-01T04:59:19.000Z",
        **{"age": 41.0, **more},
    )
    return Result(ok=True, task="drill", reason=Reason.COMPLETED, message="It came back in 12 s.", drill=done)


async def _past_the_drill_of_this_hour(world: World) -> None:
    """Between now and the first backup, at the full hour, no drill is due: whatever time of day the test runs at."""
    now = world.env.now()
    world.env.ahead[0] += (now.replace(minute=45, second=0, microsecond=0) - now).total_seconds()


async def drilled(world: World, **spec: Any) -> tuple[Object, Object, Object]:
    """A schedule with a complete backup whose first drill is at work: the schedule, the Backup, the Job."""
    await _past_the_drill_of_this_hour(world)
    await world.credentials()
    await world.cluster(**spec.pop("cluster", {}))
    schedule = await hourly(world, **{"drill": DRILL, **spec})
    (made,) = await world.kube.list("Backup", world.namespace)
    backup = await complete(world, made["metadata"]["name"])
    assert condition(schedule, "Restorable") == ("Unknown", "NotDrilled")
    await to(world, schedule["status"]["drill"]["nextRun"])
    schedule = await world.look("BackupSchedule", "hourly")
    (job,) = await world.jobs("drill")
    return schedule, backup, job


async def test_the_newest_backup_is_drilled_by_a_job_that_can_change_nothing(world: World) -> None:
    _, backup, job = await drilled(world)
    schedule = await world.look("BackupSchedule", "hourly")
    active = schedule["status"]["drill"]["active"]
    assert (active["backup"], active["job"]) == (backup["metadata"]["name"], job["metadata"]["name"])
    assert active["jobSeen"] is True
    assert condition(schedule, "Restorable") == ("Unknown", "Drilling")
    assert condition(schedule, "Ready") == ("True", "Scheduled")
    told = task_of(job)
    assert told.drill is not None
    assert told.server is None
    assert (told.drill.backup, told.drill.method) == (backup["status"]["backupName"], "logical")
    assert told.drill.manifest_sha256 == backup["status"]["manifestSha256"]
    (query,) = told.drill.queries
    assert (query.name, query.database, query.expect) == ("there", "app", "3")
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["command"][-1] == "matriarch.drill.job"
    assert pod["automountServiceAccountToken"] is False
    await world.finish(job, passed(backup))  # the pod is admitted under the restricted standard
    schedule = await world.look("BackupSchedule", "hourly")
    last = schedule["status"]["lastDrill"]
    assert (last["result"], last["backup"], last["rtoSeconds"], last["rpoSeconds"]) == (
        "Passed", backup["metadata"]["name"], 12.5, 41.0,
    )  # fmt: skip
    assert "active" not in schedule["status"]["drill"]
    assert condition(schedule, "Restorable") == ("True", "DrillPassed")
    assert schedule["status"]["drills"] == [last]
    figures = METRICS.schedules[world.namespace, "orders", "hourly"]
    assert figures["matriarch_drill_failed"] == 0
    assert figures["matriarch_drill_rto_seconds"] == 12.5
    assert len(await world.jobs("drill")) == 1
    assert {"DrillStarted", "DrillPassed"} <= events(await world.kube.list("Event", world.namespace))


async def test_a_drill_that_fails_turns_the_condition_and_the_next_one_turns_it_back(world: World) -> None:
    schedule, backup, job = await drilled(world)
    await world.refuse(job, failure("drill", Reason.OBJECT_CORRUPT, "The object x is damaged."))
    schedule = await world.look("BackupSchedule", "hourly")
    assert condition(schedule, "Restorable") == ("False", "ObjectCorrupt")
    assert "The object x is damaged." in schedule["status"]["lastDrill"]["message"]
    assert METRICS.schedules[world.namespace, "orders", "hourly"]["matriarch_drill_failed"] == 1
    annotation = {"metadata": {"annotations": {"matriarch.dev/drill": "again"}}}
    await world.kube.patch("BackupSchedule", world.namespace, "hourly", annotation)
    schedule = await world.look("BackupSchedule", "hourly")
    (again,) = [j for j in await world.jobs("drill") if j["metadata"]["uid"] != job["metadata"]["uid"]]
    assert schedule["status"]["drill"]["handled"] == "again"
    assert condition(schedule, "Restorable") == ("False", "ObjectCorrupt"), "nothing is known yet that is better"
    await world.finish(again, passed(backup))
    schedule = await world.look("BackupSchedule", "hourly")
    assert condition(schedule, "Restorable") == ("True", "DrillPassed")
    assert [d["result"] for d in schedule["status"]["drills"]] == ["Passed", "Failed"]
    assert len(await world.jobs("drill")) == 2, "a request was carried out twice"


@pytest.mark.parametrize("dies_before", range(8))
async def test_a_controller_that_dies_anywhere_makes_one_job_and_one_record(world: World, dies_before: int) -> None:
    await world.credentials()
    await world.cluster()
    schedule = await hourly(world, drill=DRILL)
    (made,) = await world.kube.list("Backup", world.namespace)
    backup = await complete(world, made["metadata"]["name"])
    await world.look("BackupSchedule", "hourly")
    await to(world, schedule["status"]["drill"]["nextRun"])
    ahead = world.env.ahead[0]
    world.kube.dies_before, world.kube.changes = dies_before, 0
    try:
        await world.look("BackupSchedule", "hourly")
        (job,) = await world.jobs("drill")
        await world.finish(job, passed(backup))
        await world.look("BackupSchedule", "hourly")
    except Dying:
        pass
    world.kube.dies_before = None
    world.forget()
    world.env.ahead[0] = ahead
    schedule = await world.look("BackupSchedule", "hourly")
    (job,) = await world.jobs("drill")
    if not job["status"].get("succeeded"):
        await world.finish(job, passed(backup))
    schedule = await world.look("BackupSchedule", "hourly")
    assert len(await world.jobs("drill")) == 1
    assert [d["result"] for d in schedule["status"]["drills"]] == ["Passed"]


async def test_what_cannot_be_restored_fails_without_a_job(world: World) -> None:
    await world.credentials()
    await world.cluster()
    schedule = await hourly(world, drill=DRILL)
    await to(world, schedule["status"]["drill"]["nextRun"])
    schedule = await world.look("BackupSchedule", "hourly")
    assert condition(schedule, "Restorable") == ("False", "NoBackup")
    (made,) = await world.kube.list("Backup", world.namespace)
    await complete(world, made["metadata"]["name"])
    await world.kube.delete("Secret", world.namespace, "s3")
    await to(world, schedule["status"]["drill"]["nextRun"])
    schedule = await world.look("BackupSchedule", "hourly")
    assert condition(schedule, "Restorable") == ("False", "MissingSecret")
    assert "s3" in schedule["status"]["lastDrill"]["message"]
    assert await world.jobs("drill") == []


async def test_a_controller_that_was_away_makes_up_for_one_drill_and_says_when_it_cannot(world: World) -> None:
    schedule, backup, job = await drilled(world)
    await world.finish(job, passed(backup))
    await world.look("BackupSchedule", "hourly")
    world.env.ahead[0] += 9 * HOUR + 600
    schedule = await world.look("BackupSchedule", "hourly")
    assert len(await world.jobs("drill")) == 2, "it was away for nine drills"
    (again,) = [j for j in await world.jobs("drill") if j["metadata"]["uid"] != job["metadata"]["uid"]]
    await world.finish(again, passed(backup))
    schedule = await world.look("BackupSchedule", "hourly")
    await to(world, schedule["status"]["drill"]["nextRun"])
    world.env.ahead[0] += 2400
    schedule = await world.look("BackupSchedule", "hourly")
    assert len(await world.jobs("drill")) == 2, "nearer to the next one than to the missed one"
    assert condition(schedule, "Restorable") == ("Unknown", "DrillOverdue")
    assert METRICS.schedules[world.namespace, "orders", "hourly"]["matriarch_drill_overdue"] == 1


async def test_files_are_drilled_with_the_archive_that_lies_beside_them(world: World) -> None:
    await world.credentials()
    await world.cluster(backup={"stores": [S3], "walArchive": {"store": "offsite"}},
                        objectives={"rpo": "user-data", "rto": "10s"})  # fmt: skip
    status = {
        "readyInstances": 3,
        "systemIdentifier": "7412345678901234567",
        "walArchive": {"lastLsn": "0/5000000", "pending": 0, "oldestPendingSeconds": 0},
        "conditions": [
            {"type": "Available", "status": "True", "reason": "PrimaryServes",
             "lastTransitionTime": "2026-03-01T02:00:00Z"},
            {"type": "ArchivingWal", "status": "True", "reason": "Archiving",
             "lastTransitionTime": "2026-03-01T02:00:00Z"},
        ],
    }  # fmt: skip
    obj = {"kind": "DatabaseCluster", "metadata": {"name": "orders", "namespace": world.namespace}, "status": status}
    await world.kube.apply_status(obj, manager="matriarch-controller")
    labels = {"matriarch.dev/schedule": "files"}
    await world.make("BackupSchedule", "files", {"cluster": "orders", "cron": "0 1 * * *", "method": "physical"})
    await world.make("Backup", "files-1", {"cluster": "orders", "method": "physical"}, metadata={"labels": labels})
    name = "backup-2026-03-01T02:00:00.000Z-abcdefghij"
    done = backup_result(name).backup
    assert done is not None
    of_backup = {
        "phase": "Complete", "id": done.id, "backupName": name, "store": S3, "folder": "here/orders-1",
        "startedAt": f"{world.env.now() - timedelta(hours=2):%Y-%m-%dT%H:%M:%SZ}",
        "finishedAt": f"{world.env.now():%Y-%m-%dT%H:%M:%SZ}", "manifestSha256": done.manifest_sha256,
        "sizeBytes": 1 << 30, "observedGeneration": 1,
    }  # fmt: skip
    obj = {"kind": "Backup", "metadata": {"name": "files-1", "namespace": world.namespace}, "status": of_backup}
    await world.kube.apply_status(obj, manager="matriarch-controller")
    await world.look_backups("orders")
    cluster = await world.kube.get("DatabaseCluster", world.namespace, "orders")
    assert cluster is not None
    assert condition(cluster, "ObjectivesMet") == ("Unknown", "NotDrilled")
    annotation = {"metadata": {"annotations": {"matriarch.dev/drill": "1"}}}
    await world.kube.patch("BackupSchedule", world.namespace, "files", annotation)
    schedule = await world.look("BackupSchedule", "files")
    (job,) = await world.jobs("drill")
    told = task_of(job).drill
    assert told is not None
    assert (told.method, told.archive, told.archived_to) == ("physical", True, "0/5000000")
    (volume,) = [v for v in job["spec"]["template"]["spec"]["volumes"] if v["name"] == "drill"]
    assert int(volume["emptyDir"]["sizeLimit"]) == 4 << 30
    await world.finish(job, passed({"status": of_backup}, age=9000.0))  # idle for long, and nothing waits
    schedule = await world.look("BackupSchedule", "files")
    assert schedule["status"]["lastDrill"]["rpoSeconds"] == 60.0
    assert "nextRun" not in schedule["status"]["drill"]
    await world.look_backups("orders")
    cluster = await world.kube.get("DatabaseCluster", world.namespace, "orders")
    assert cluster is not None
    assert condition(cluster, "ObjectivesMet") == ("False", "RtoMissed")
    assert cluster["status"]["objectives"]["measuredRpoSeconds"] == 60
    assert cluster["status"]["objectives"]["rtoSeconds"] == 10


@pytest.mark.parametrize(
    ("drill", "says"),
    [
        ({"cron": "0 2 * *"}, "five fields"),
        ({"cron": "0 2 30 2 *"}, "never fires"),
        ({"cron": "0 2 * * *", "queries": [{"name": "Bad Name", "sql": "SELECT 1"}]}, "name"),
        ({"cron": "0 2 * * *", "queries": [{"name": "q", "sql": ""}]}, "sql"),
        ({"cron": "0 2 * * *", "timeoutSeconds": 5}, "timeoutSeconds"),
        ({"cron": "0 2 * * *", "amcheck": "off"}, "amcheck"),
        ({}, "cron"),
    ],
)
async def test_bad_input_is_refused_at_once(world: World, drill: Object, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        await world.make("BackupSchedule", "s", {"cluster": "orders", "cron": "0 1 * * *", "drill": drill})


@pytest.mark.parametrize("field", [{"rpo": "soon"}, {"rto": "user-data"}, {"rpo": "0m"}, {"rto": "5"}])
async def test_bad_objectives_are_refused_at_once(world: World, field: Object) -> None:
    with pytest.raises(Invalid, match="objectives"):
        await world.cluster(objectives=field)

"""Schedules on a real API server: what is due, retention after a success, records, lines that never fire."""

from __future__ import annotations

from datetime import timedelta

import pytest

from matriarch.backup.jobresult import Going, Result
from matriarch.backup.jobspec import Reason
from matriarch.controller.backup_status import parse_time
from matriarch.kube.client import Object
from tests.apiserver.backup_world import SYSTEM, World, backup_result, condition
from tests.apiserver.backup_world import task as task_of

HOUR = 3600.0


async def hourly(world: World, **spec: object) -> Object:
    """A schedule whose first time has come."""
    await world.make("BackupSchedule", "hourly", {"cluster": "orders", "cron": "0 * * * *", **spec})
    schedule = await world.look("BackupSchedule", "hourly")
    assert await world.kube.list("Backup", world.namespace) == [], "a backup before the first time"
    await to(world, schedule["status"]["nextRun"])
    return await world.look("BackupSchedule", "hourly")


async def to(world: World, time: str) -> None:
    """Put the controller's clock to a second after this time."""
    there = parse_time(time)
    assert there is not None
    world.env.ahead[0] += (there - world.env.now() + timedelta(seconds=1)).total_seconds()


async def complete(world: World, name: str) -> Object:
    backup = await world.look("Backup", name)
    job = next(j for j in await world.jobs("backup") if j["metadata"]["ownerReferences"][0]["name"] == name)
    await world.finish(job, backup_result(backup["status"]["backupName"]))
    return await world.look("Backup", name)


async def test_a_backup_when_it_is_due_named_by_its_time(world: World) -> None:
    await world.credentials()
    await world.cluster()
    schedule = await hourly(world)
    (backup,) = await world.kube.list("Backup", world.namespace)
    due = parse_time(schedule["status"]["lastRun"])
    assert due is not None
    assert backup["metadata"]["name"] == f"hourly-{due:%Y%m%d%H%M%S}"
    assert not backup["metadata"].get("ownerReferences"), "the record would go with the schedule"
    assert schedule["status"]["active"] == [backup["metadata"]["name"]]
    assert condition(schedule, "Ready") == ("True", "Scheduled")
    await world.look("BackupSchedule", "hourly")
    assert len(await world.kube.list("Backup", world.namespace)) == 1
    (job,) = await world.jobs("backup")
    told = task_of(job).backup
    assert told is not None
    assert told.schedule == "hourly"
    assert told.scheduled_for == schedule["status"]["lastRun"]


async def test_a_controller_that_was_away_makes_up_for_one_run(world: World) -> None:
    await world.credentials()
    await world.cluster()
    await hourly(world)
    (first,) = await world.kube.list("Backup", world.namespace)
    await complete(world, first["metadata"]["name"])
    world.env.ahead[0] += 9.25 * HOUR
    await world.look("BackupSchedule", "hourly")
    assert len(await world.kube.list("Backup", world.namespace)) == 2


async def test_no_second_backup_while_one_is_at_work_and_none_while_suspended(world: World) -> None:
    await world.credentials()
    await world.cluster()
    schedule = await hourly(world)
    (first,) = await world.kube.list("Backup", world.namespace)
    await to(world, schedule["status"]["nextRun"])
    await world.look("BackupSchedule", "hourly")
    assert len(await world.kube.list("Backup", world.namespace)) == 1
    suspend = {"spec": {"suspend": True}}
    await world.kube.patch("BackupSchedule", world.namespace, "hourly", suspend)
    await complete(world, first["metadata"]["name"])
    schedule = await world.look("BackupSchedule", "hourly")
    assert len(await world.kube.list("Backup", world.namespace)) == 1
    assert condition(schedule, "Suspended") == ("True", "BySpec")
    assert "nextRun" not in schedule["status"]
    world.env.ahead[0] += 20 * HOUR
    await world.kube.patch("BackupSchedule", world.namespace, "hourly", {"spec": {"suspend": False}})
    schedule = await world.look("BackupSchedule", "hourly")
    assert len(await world.kube.list("Backup", world.namespace)) == 1, "what was missed while suspended is not made up"
    await to(world, schedule["status"]["nextRun"])
    await world.look("BackupSchedule", "hourly")
    assert len(await world.kube.list("Backup", world.namespace)) == 2


async def test_retention_follows_a_success_and_takes_the_records_along(world: World) -> None:
    await world.credentials()
    await world.cluster()
    schedule = await hourly(world, retention={"count": 1})
    (first,) = await world.kube.list("Backup", world.namespace)
    old = await complete(world, first["metadata"]["name"])
    schedule = await world.look("BackupSchedule", "hourly")
    (job,) = await world.jobs("retain")
    told = task_of(job)
    assert told.retain is not None
    assert (told.retain.days, told.retain.count, told.retain.schedule) == (None, 1, "hourly")
    assert told.store.s3 is not None
    assert told.store.s3.prefix == f"here/{world.namespace}/orders-{SYSTEM}"
    assert schedule["status"]["retention"]["after"] == first["metadata"]["uid"]
    await world.finish(job, Result(ok=True, task="retain", reason=Reason.COMPLETED, message="Kept 1.", backups=1))
    schedule = await world.look("BackupSchedule", "hourly")
    assert schedule["status"]["retention"]["kept"] == 1
    assert len(await world.jobs("retain")) == 1, "retention ran twice for one backup"
    await to(world, schedule["status"]["nextRun"])
    await world.look("BackupSchedule", "hourly")
    second = next(
        b for b in await world.kube.list("Backup", world.namespace) if b["metadata"]["uid"] != first["metadata"]["uid"]
    )
    await complete(world, second["metadata"]["name"])
    await world.look("BackupSchedule", "hourly")
    (again,) = [j for j in await world.jobs("retain") if j["metadata"]["uid"] != job["metadata"]["uid"]]
    deleted = (old["status"]["id"],)
    result = Result(ok=True, task="retain", reason=Reason.COMPLETED, message="ok", deleted=deleted, backups=1)
    await world.finish(again, result)
    schedule = await world.look("BackupSchedule", "hourly")
    assert schedule["status"]["retention"]["deleted"] == 1
    left = [b["metadata"]["name"] for b in await world.kube.list("Backup", world.namespace)]
    assert left == [second["metadata"]["name"]]


async def test_every_rule_and_pin_reaches_retention_and_what_goes_next_is_shown(world: World) -> None:
    await world.credentials()
    await world.cluster()
    rules = {"daily": 7, "weekly": 4, "monthly": 12, "yearly": 3}
    await hourly(world, retention={**rules, "graceHours": 24, "dryRun": True})
    (first,) = await world.kube.list("Backup", world.namespace)
    pinned = {"metadata": {"labels": {"matriarch.dev/pinned": "true"}}}
    await world.kube.patch("Backup", world.namespace, first["metadata"]["name"], pinned)
    backup = await complete(world, first["metadata"]["name"])
    await world.look("BackupSchedule", "hourly")
    (job,) = await world.jobs("retain")
    told = task_of(job).retain
    assert told is not None
    assert (told.days, told.count) == (None, None), "a rule was set, so the default is not"
    assert {name: getattr(told, name) for name in rules} == rules
    assert (told.grace_hours, told.dry_run, told.pinned) == (24, True, (backup["status"]["id"],))
    going = (Going(name="backup-1", after="2026-01-15T02:00:00Z"),)
    word = Result(ok=True, task="retain", reason=Reason.COMPLETED, message="ok", backups=9, going=going, going_count=3)
    await world.finish(job, word)
    for _ in range(2):  # and it stays there
        seen = (await world.look("BackupSchedule", "hourly"))["status"]["retention"]
        assert seen["expiring"] == [{"backup": "backup-1", "after": "2026-01-15T02:00:00Z"}]
        assert seen["expiringTotal"] == 3


async def test_a_store_that_refuses_deletions_fails_no_backup_and_is_shown(world: World) -> None:
    await world.credentials()
    await world.cluster()
    await hourly(world)
    (first,) = await world.kube.list("Backup", world.namespace)
    await complete(world, first["metadata"]["name"])
    await world.look("BackupSchedule", "hourly")
    (job,) = await world.jobs("retain")
    message = "The store refuses to delete: the access key may only write."
    await world.refuse(job, Result(ok=False, task="retain", reason=Reason.STORE_REFUSED, message=message))
    schedule = await world.look("BackupSchedule", "hourly")
    assert schedule["status"]["retention"]["frozen"] == message
    assert condition(schedule, "Ready") == ("True", "Scheduled")
    assert len(await world.kube.list("Backup", world.namespace)) == 1


@pytest.mark.parametrize(
    ("spec", "reason"),
    [({"cron": "0 0 31 2/12 *"}, "NeverFires"), ({"cron": "0 2 * * *", "timeZone": "Mars/Base"}, "InvalidSchedule")],
)
async def test_a_line_that_never_fires_is_stalled_with_a_sentence(world: World, spec: Object, reason: str) -> None:
    await world.make("BackupSchedule", "odd", {"cluster": "orders", **spec})
    schedule = await world.look("BackupSchedule", "odd")
    assert condition(schedule, "Stalled") == ("True", reason)
    assert condition(schedule, "Ready") == ("False", reason)
    assert schedule["status"]["observedGeneration"] == 1

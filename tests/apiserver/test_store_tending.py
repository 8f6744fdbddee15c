"""Stores that are tended to by Jobs, on a real API server: when, as whom, what the status says, and what is lost."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from matriarch.backup.jobresult import Result, TendResult, WalResult
from matriarch.backup.jobspec import Reason, Seen
from matriarch.controller.backup_status import parse_time
from matriarch.kube.client import Object
from tests.apiserver.backup_world import S3, SHA, Dying, World, backup_result, condition, task

HOUR, DAY = 3600.0, 86_400.0
STORE: Object = {"name": "offsite", "s3": {**S3["s3"], "deleteCredentials": {"secretName": "s3-delete"}}}
SEGMENT = "000000010000000000000009"


async def archived(world: World, **archive: Any) -> Object:
    """A cluster that archives to the store, with one complete backup in it."""
    await world.credentials()
    await world.cluster(stores=[STORE], backup={"stores": [STORE], "walArchive": {"store": "offsite", **archive}})
    return await backed_up(world, "first")


async def backed_up(world: World, name: str) -> Object:
    await world.make("Backup", name, {"cluster": "orders"})
    backup = await world.look("Backup", name)
    job = next(j for j in await world.jobs("backup") if j["metadata"]["ownerReferences"][0]["name"] == name)
    await world.finish(job, backup_result(backup["status"]["backupName"]))
    return await world.look("Backup", name)


async def look(world: World) -> tuple[Object, Object]:
    """The cluster, and its store's status."""
    await world.look_backups("orders")
    await world.look_backups("orders")  # the status that was just written is what is decided from
    cluster = await world.kube.get("DatabaseCluster", world.namespace, "orders")
    assert cluster is not None
    return cluster, (cluster["status"]["backup"].get("stores") or [{}])[0]


def wal(**more: Any) -> WalResult:
    return WalResult(**{
        "step": "Mark", "going": 7, "going_bytes": 700, "deleted": 0, "deleted_bytes": 0, "kept": 40,
        "kept_bytes": 4000, "before": "0/5000000", "because": "backup abc", "again": None, "frozen": None,
        "newest": SEGMENT, **more,
    })  # fmt: skip


def found(**more: Any) -> Result:
    told: dict[str, Any] = {"backups": 1, "head": Seen(id="abc", sha256=SHA, sequence=1), "wal": wal(), **more}
    return Result(ok=True, task="tend", reason=Reason.COMPLETED, message="Done.", tend=TendResult(**told))


async def test_a_job_after_a_backup_that_alone_may_delete_and_comes_back_for_what_it_marked(world: World) -> None:
    backup = await archived(world, recoveryWindowDays=7)
    cluster, store = await look(world)
    (job,) = await world.jobs("tend")
    assert condition(cluster, "WalExpiry") == ("Unknown", "NotYetRun")
    told = task(job)
    assert told.tend is not None
    assert (told.tend.wal, told.tend.window_days, told.tend.delete, told.tend.sweep) == (True, 7, True, True)
    assert [b.sha256 for b in told.tend.expected.backups] == [backup["status"]["manifestSha256"]]
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["command"] == ["python", "-m", "matriarch.archive.tend"]
    sources = [s["secret"]["name"] for v in pod["volumes"] if v["name"] == "store" for s in v["projected"]["sources"]]
    assert sources == ["s3-delete"]
    assert pod["automountServiceAccountToken"] is False or "serviceAccountName" in pod
    (of_backup,) = await world.jobs("backup")
    assert "s3-delete" not in str(of_backup), "the backup's own pod never sees it"
    backup_task = task(of_backup).backup
    assert backup_task is not None
    assert not backup_task.sweep

    again = world.env.now().timestamp() + HOUR
    at = f"{world.env.now().fromtimestamp(again, world.env.now().tzinfo):%Y-%m-%dT%H:%M:%S.000Z}"
    await world.finish(job, found(wal=wal(again=at)))
    cluster, store = await look(world)
    assert (store["sequence"], store["newestSegment"], store["backups"]) == (1, SEGMENT, 1)
    assert (store["wal"]["goingFiles"], store["wal"]["keptFor"]) == (7, "backup abc")
    assert condition(cluster, "StoreIntact") == ("True", "Intact")
    assert condition(cluster, "WalExpiry") == ("True", "Expiring")
    assert len(await world.jobs("tend")) == 1
    world.env.ahead[0] += HOUR + 2
    await look(world)
    second = next(j for j in await world.jobs("tend") if j["metadata"]["name"] != job["metadata"]["name"])
    told = task(second)
    assert told.tend is not None
    assert told.tend.expected.head == Seen(id="abc", sha256=SHA, sequence=1)
    assert told.tend.expected.wal == SEGMENT
    await world.finish(second, found(wal=wal(step="Delete", going=0, deleted=7, deleted_bytes=700)))
    _, store = await look(world)
    assert (store["wal"]["deletedFiles"], store["wal"]["goingFiles"]) == (7, 0)
    await look(world)
    assert len(await world.jobs("tend")) == 2
    world.env.ahead[0] += DAY
    await look(world)
    assert len(await world.jobs("tend")) == 3, "daily"


async def test_by_hand_nothing_is_deleted_and_without_an_archive_only_compared(world: World) -> None:
    await archived(world, expiry="Manual")
    await look(world)
    (job,) = await world.jobs("tend")
    told = task(job).tend
    assert told is not None
    assert (told.wal, told.delete) == (True, False)
    await world.finish(job, found())
    cluster, _ = await look(world)
    assert condition(cluster, "WalExpiry") == ("True", "ByHand")


async def test_a_store_that_lacks_what_it_had_freezes_and_says_so_until_somebody_looked(world: World) -> None:
    await archived(world)
    await look(world)
    (first,) = await world.jobs("tend")
    await world.finish(first, found())
    await look(world)
    world.env.ahead[0] += DAY
    await look(world)
    second = (await world.jobs("tend"))[-1]
    gone = "Backup abc (number 1) was the newest here and is gone without a trace."
    await world.finish(second, found(backups=0, head=None, lost=(gone,), wal=wal(frozen=gone, newest=None)))
    cluster, store = await look(world)
    assert condition(cluster, "StoreIntact") == ("False", "BackupsLost")
    assert (store["lost"], store["sequence"], store["newestSegment"]) == ([gone], 1, SEGMENT)
    message = next(c["message"] for c in cluster["status"]["conditions"] if c["type"] == "StoreIntact")
    assert gone in message
    assert f"matriarch.dev/accept-store=offsite@{store['lostSince']}" in message
    await look(world)
    assert len(await world.jobs("tend")) == 2, "and not again and again"

    annotations = {"metadata": {"annotations": {"matriarch.dev/accept-store": f"offsite@{store['lostSince']}"}}}
    await world.kube.patch("DatabaseCluster", world.namespace, "orders", annotations)
    await look(world)
    third = (await world.jobs("tend"))[-1]
    told = task(third).tend
    assert told is not None
    assert (told.expected.head, told.expected.wal, told.expected.backups, told.expected.accepted) == (None, None, (), 1)
    await world.finish(third, found(backups=0, head=None, wal=wal(newest=None)))
    cluster, store = await look(world)
    assert condition(cluster, "StoreIntact") == ("True", "Intact")
    assert "lost" not in store
    await look(world)
    assert len(await world.jobs("tend")) == 3


async def test_frozen_for_long_is_a_finding(world: World) -> None:
    await archived(world)
    for day in range(5):
        await look(world)
        await world.finish((await world.jobs("tend"))[-1], found(wal=wal(frozen="A manifest is damaged.")))
        cluster, store = await look(world)
        assert condition(cluster, "WalExpiry") == (("True", "Waiting") if day < 3 else ("False", "Frozen"))
        world.env.ahead[0] += DAY
    since = parse_time(store["wal"]["frozenSince"])
    assert since is not None
    assert (world.env.now() - since).total_seconds() > 4 * DAY


async def test_a_job_that_fails_is_repeated_after_longer_and_longer(world: World) -> None:
    await archived(world)
    refused = Result(ok=False, task="tend", reason=Reason.CREDENTIALS_REFUSED, message="The credentials may not.")
    for failures in (1, 2, 3):
        await look(world)
        assert len(await world.jobs("tend")) == failures
        await world.refuse((await world.jobs("tend"))[-1], refused)
        cluster, store = await look(world)
        assert (store["failures"], store["error"]) == (failures, refused.message)
        assert condition(cluster, "StoreIntact") == ("Unknown", "NotChecked")
        await look(world)
        assert len(await world.jobs("tend")) == failures
        world.env.ahead[0] += HOUR
    assert condition(cluster, "WalExpiry") == ("False", "ExpiryFailed")


async def test_a_controller_that_dies_at_any_change_makes_one_job_for_each_run(world: World) -> None:
    await world.credentials()
    await world.cluster(stores=[STORE], backup={"stores": [STORE], "walArchive": {"store": "offsite"}})
    await world.make("Backup", "first", {"cluster": "orders"})
    backup = await world.look("Backup", "first")
    await world.finish((await world.jobs("backup"))[0], backup_result(backup["status"]["backupName"]))
    for number in itertools.count():
        world.kube.changes, world.kube.dies_before = 0, number
        try:
            await world.look("Backup", "first")
            await look(world)
        except Dying:
            world.forget()
            continue
        finally:
            world.kube.dies_before = None
        break
    assert number > 1, "it never died"
    (job,) = await world.jobs("tend")
    _, store = await look(world)
    assert store["run"] == 1
    await world.finish(job, found())
    _, store = await look(world)
    assert store["finishedAt"]


@pytest.mark.parametrize("what", ["bucket", "prefix"])
async def test_another_place_is_another_memory(world: World, what: str) -> None:
    await archived(world)
    await look(world)
    await world.finish((await world.jobs("tend"))[0], found())
    _, store = await look(world)
    assert store["manifestSha256"] == SHA
    moved = {**STORE, "s3": {**STORE["s3"], what: "another"}}
    patch = {"spec": {"backup": {"stores": [moved], "walArchive": {"store": "offsite"}}}}
    await world.kube.patch("DatabaseCluster", world.namespace, "orders", patch)
    _, store = await look(world)
    assert "manifestSha256" not in store
    assert "another" in store["place"]
    jobs = await world.jobs("tend")
    assert len(jobs) == 1, "nothing of ours is there yet"

"""Backups of a cluster: gathered together, decided one by one in order, carried out.

All open Backups of one cluster are looked at in one run, under one key of the queue: so two of them can never both find
that it is their turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from matriarch.api.backup import Backup
from matriarch.backup.names import BackupName, new_id
from matriarch.controller import backup_health, backup_jobs, backup_key, backup_member, backup_store
from matriarch.controller.backup_around import OF_CLUSTER, Around, cluster_place, created, gather, prepare
from matriarch.controller.backup_status import backup_status, parse_time, rfc3339
from matriarch.controller.backup_store import Place
from matriarch.controller.backup_task import RESTORE, SCHEDULE_LABEL, backup_job
from matriarch.controller.env import MANAGER, Env
from matriarch.controller.queue import Key
from matriarch.controller.reconcile import reconciles
from matriarch.decide.backups import (
    LOOK_AGAIN,
    BackupFacts,
    BackupPlan,
    ClusterFacts,
    Need,
    OtherBackup,
    Phase,
    newest,
    plan_backup,
)
from matriarch.decide.verdict import Standing, Verdict
from matriarch.kube.client import Object
from matriarch.kube.errors import Conflict, Forbidden, Invalid
from matriarch.resources.job import job, job_name


@reconciles("Backup")
async def reconcile_backup(key: Key, env: Env) -> float | None:
    """A Backup is looked at together with the others of its cluster."""
    backup = await env.kube.get("Backup", key.namespace, key.name)
    if backup is not None:
        env.enqueue(OF_CLUSTER, key.namespace, backup["spec"]["cluster"])
    return None


@reconciles(OF_CLUSTER)
async def reconcile_cluster_backups(key: Key, env: Env) -> float | None:
    """All Backups of the cluster `key.name`, and how its backups stand as a whole."""
    around = await gather(key.namespace, key.name, env)
    again = []
    for uid in [backup["metadata"]["uid"] for backup in around.open]:
        backup = next((b for b in around.open if b["metadata"]["uid"] == uid), None)
        if backup is not None:
            again.append(await _one(backup, around, env))
            around = await gather(key.namespace, key.name, env)  # the next one has to see what this one became
    await backup_health.report(env, around)
    return min((seconds for seconds in again if seconds is not None), default=None)


async def _one(backup: Object, around: Around, env: Env) -> float | None:
    """Look at one Backup, decide, write its status, act."""
    metadata, status = backup["metadata"], backup.get("status") or {}
    place = await _place(backup, around, env)
    begun_already = bool(status.get("backupName"))
    needs: tuple[Need, ...] = ()
    if place is not None and not begun_already:
        needs = await backup_store.needs(env.kube, around.namespace, place)
        needs = backup_key.say_lost(needs, place, around.name, around.backups)
    made = int(status.get("attempt") or 0)
    name = job_name(around.name, "backup", metadata["uid"], made)
    looked = backup_jobs.ABSENT
    if made:
        looked = await backup_jobs.look(env.kube, around.namespace, name, metadata["uid"], around.now)
    member: str | Verdict | None = None
    if backup["spec"].get("method") == "physical" and looked.job is None:
        member = await backup_member.choose_for(backup, around, env)
    plan = plan_backup(_facts(backup, around, place, needs, looked, member))
    if plan.make_job and place is not None:  # what it is for was written down in an earlier round
        plan = await _make(env, backup, around, place, plan, member if isinstance(member, str) else None)
    if plan.drop_job:
        await env.kube.delete("Job", around.namespace, name)
    begun = _begin(backup, around, place) if plan.begin and place is not None else {}
    written = backup_status(backup, plan, now=around.now, job=name, begun=begun, report=looked.report)
    await _write(env, backup, written, exclusive=plan.begin)
    await _tell(env, backup, plan)
    if plan.finished:
        _wake(env, backup)
    return plan.requeue.total_seconds() if plan.requeue is not None else None


async def _make(
    env: Env, backup: Object, around: Around, place: Place, plan: BackupPlan, member: str | None
) -> BackupPlan:
    """Make the Job; the plan says otherwise if it is refused."""
    name = job_name(around.name, "backup", backup["metadata"]["uid"], plan.jobs_made)
    try:
        await env.kube.create(job(backup_job(env, backup, around, place, name, member)))
    except Conflict as e:
        if not e.exists:
            raise
    except (Forbidden, Invalid) as e:  # a quota, an admission policy: said, and tried again for a while
        verdict = Verdict(Standing.WORKING, "JobRefused", f"The API server refuses the backup's Job: {e}")
        await env.recorder.record(backup, verdict.reason, verdict.message, kind="Warning")
        return replace(plan, verdict=verdict, requeue=LOOK_AGAIN)
    return plan


def _facts(
    backup: Object,
    around: Around,
    place: Place | None,
    needs: tuple[Need, ...],
    looked: backup_jobs.Seen,
    member: str | Verdict | None,
) -> BackupFacts:
    metadata, status = backup["metadata"], backup.get("status") or {}
    return BackupFacts(
        name=metadata["name"],
        cluster_name=around.name,
        created=created(backup),
        now=around.now,
        queue_moved=newest(parse_time((b.get("status") or {}).get("finishedAt")) for b in around.backups),
        phase=Phase(status["phase"]) if status.get("phase") else None,
        backup_id=status.get("backupName"),
        begun=parse_time(status.get("startedAt")),
        jobs_made=int(status.get("attempt") or 0),
        job_seen=bool(status.get("job")),
        cluster=_cluster_facts(backup, around, place, member),
        needs=needs,
        others=tuple(_other(b) for b in around.open if b["metadata"]["uid"] != metadata["uid"]),
        job=looked.job,
        result=looked.result,
        physical=backup["spec"].get("method") == "physical",
    )


def _cluster_facts(
    backup: Object, around: Around, place: Place | None, member: str | Verdict | None
) -> ClusterFacts | None:
    if around.cluster is None:
        return None
    status = around.cluster.status
    restoring = around.restoring
    return ClusterFacts(
        uid=around.cluster.metadata.uid,
        deleting=around.cluster.metadata.deletion_timestamp is not None,
        # without the identity of its data there is no folder to put a backup into
        ready_instances=(status.ready_instances or 0) if status.system_identifier else 0,
        refusal=None if place is not None else _no_place(backup, around),
        restoring=restoring["metadata"]["name"] if restoring else None,
        safety_backup=(restoring.get("status") or {}).get("safetyBackup") if restoring else None,
        no_member=member if isinstance(member, Verdict) else None,
    )


def _no_place(backup: Object, around: Around) -> Verdict:
    stores = around.cluster.spec.backup.stores if around.cluster and around.cluster.spec.backup else []
    wanted = backup["spec"].get("store")
    if not stores:
        message = (
            f"DatabaseCluster {around.name} has no backup store: set its spec.backup.stores, then make a new Backup."
        )
        return Verdict(Standing.STALLED, "NoStore", message)
    known = ", ".join(store.name for store in stores)
    message = (
        f"DatabaseCluster {around.name} has no store {wanted!r}, only {known}. Make a new Backup with one of them."
    )
    return Verdict(Standing.STALLED, "UnknownStore", message)


def _other(backup: Object) -> OtherBackup:
    status = backup.get("status") or {}
    ready: Mapping[str, Any] = next((c for c in status.get("conditions") or () if c.get("type") == "Ready"), {})
    return OtherBackup(
        name=backup["metadata"]["name"],
        created=created(backup),
        started=bool(status.get("backupName")),
        obstructed=bool(ready) and ready.get("reason") != "Queued",
    )


async def _place(backup: Object, around: Around, env: Env) -> Place | None:
    """Where this Backup goes: what was noted when it began, else what the cluster's spec says now."""
    parsed = Backup.model_validate(backup)
    if parsed.status.backup_name and parsed.status.store is not None:
        return Place(
            store=parsed.status.store,
            folder=parsed.status.folder or "",
            key=parsed.status.key_secret,
            cluster=around.name,
        )
    place = cluster_place(around, parsed.spec.store)
    if place is not None:
        await prepare(env, around, place)
    return place


def _begin(backup: Object, around: Around, place: Place) -> Mapping[str, Any]:
    """What is chosen once. It is written against the version that was read, before any Job exists."""
    name = BackupName(around.now, new_id())
    physical = backup["spec"].get("method") == "physical"
    compressed = around.defaults is None or around.defaults.compression == "gzip"
    chosen: dict[str, Any] = {
        "id": name.id,
        "backupName": str(name) if physical else name.file(compressed=compressed, encrypted=place.key is not None),
        "startedAt": rfc3339(around.now),
        "store": place.store.model_dump(by_alias=True, exclude_none=True),
        "folder": place.folder,
        "encrypted": place.key is not None,
        "compression": "zstd" if physical else "gzip" if compressed else "none",
    }
    if place.key is not None:
        chosen["keySecret"] = place.key.model_dump(by_alias=True, exclude_none=True)
    return chosen


async def _write(env: Env, backup: Object, status: Mapping[str, Any], *, exclusive: bool) -> None:
    if status == {k: v for k, v in (backup.get("status") or {}).items() if k in status} and not exclusive:
        return
    metadata = {"name": backup["metadata"]["name"], "namespace": backup["metadata"]["namespace"]}
    if exclusive:
        metadata["resourceVersion"] = backup["metadata"]["resourceVersion"]
    await env.kube.apply_status({"kind": "Backup", "metadata": metadata, "status": dict(status)}, manager=MANAGER)


async def _tell(env: Env, backup: Object, plan: BackupPlan) -> None:
    """An Event where the story turns."""
    if plan.begin:
        await env.recorder.record(backup, "BackupStarted", "The backup has begun.", kind="Normal")
    elif plan.phase is Phase.COMPLETE:
        await env.recorder.record(backup, "BackupComplete", plan.verdict.message, kind="Normal")
    elif plan.phase is Phase.FAILED or (
        plan.phase is Phase.PENDING and plan.verdict.reason not in ("Queued", "ClusterNotReady")
    ):
        await env.recorder.record(backup, plan.verdict.reason, plan.verdict.message, kind="Warning")


def _wake(env: Env, backup: Object) -> None:
    """Its end concerns the schedule or the Restore that made it, and the Backups behind it."""
    namespace, labels = backup["metadata"]["namespace"], backup["metadata"].get("labels") or {}
    if labels.get(SCHEDULE_LABEL):
        env.enqueue("BackupSchedule", namespace, labels[SCHEDULE_LABEL])
    if restore := (backup["metadata"].get("annotations") or {}).get(RESTORE):
        env.enqueue("Restore", namespace, restore)
    env.enqueue(OF_CLUSTER, namespace, backup["spec"]["cluster"])

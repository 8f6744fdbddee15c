"""Retention of one schedule's backups: a Job that looks at the store after each success, and what it said.

A Job of its own, so that a store that takes backups but refuses deletions fails no backup.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from matriarch.api import defaults
from matriarch.api.backup import Backup
from matriarch.api.backup_schedule import BackupSchedule
from matriarch.backup import jobspec
from matriarch.backup.jobresult import Result
from matriarch.controller import backup_jobs, backup_store, store_tending
from matriarch.controller.backup_around import Around, is_pinned
from matriarch.controller.backup_status import rfc3339
from matriarch.controller.backup_store import Place
from matriarch.controller.backup_task import identity, job_wish
from matriarch.controller.env import Env
from matriarch.decide.backups import JobState
from matriarch.decide.schedule import RetentionRun
from matriarch.kube.client import Object
from matriarch.kube.errors import Conflict
from matriarch.resources.job import job, job_name


@dataclass(frozen=True, slots=True)
class RetentionSeen:
    """The newest retention pass: what decisions know of it, and what the status is to say."""

    run: RetentionRun | None = None
    status: Mapping[str, Any] = field(default_factory=dict)


async def look(schedule: BackupSchedule, around: Around, env: Env) -> RetentionSeen:
    remembered = schedule.status.retention
    if remembered is None or not remembered.after:
        return RetentionSeen()
    status = remembered.model_dump(by_alias=True, exclude_none=True)
    name = _job_name(schedule, remembered.after)
    looked = await backup_jobs.look(env.kube, schedule.metadata.namespace, name, schedule.metadata.uid, around.now)
    deleted = looked.report.deleted if looked.report is not None else ()
    if looked.job is None:  # removed an hour after its end
        return RetentionSeen(RetentionRun(after=remembered.after, state="done"), status)
    if looked.job.state is JobState.ACTIVE:
        return RetentionSeen(RetentionRun(after=remembered.after, state="active"), status)
    status.setdefault("finishedAt", rfc3339(around.now))
    if looked.report is not None and looked.report.ok:
        status["deleted"] = len(deleted)
        if looked.report.backups is not None:
            status["kept"] = looked.report.backups
        status |= _announced(looked.report)
        status.pop("frozen", None)
        if looked.report.warnings:
            status["frozen"] = "; ".join(looked.report.warnings)[:1024]
        return RetentionSeen(RetentionRun(after=remembered.after, state="done", deleted=deleted), status)
    said = looked.report.message if looked.report is not None else f"Job {name} failed ({looked.job.reason})."
    status["frozen"] = said[:1024]
    return RetentionSeen(RetentionRun(after=remembered.after, state="failed", deleted=deleted), status)


def _announced(report: Result) -> dict[str, Any]:
    """What goes next, for the status."""
    if not report.going_count:
        return {}
    going = [{"backup": one.name, "after": one.after} for one in report.going]
    return {"expiring": going, "expiringTotal": report.going_count}


def _job_name(schedule: BackupSchedule, after: str) -> str:
    return job_name(schedule.spec.cluster, "retain", after, 1)


async def start(env: Env, owner: Object, schedule: BackupSchedule, around: Around, after: str) -> None:
    """Start retention for the store of the Backup with this uid."""
    backup = next((b for b in around.backups if b["metadata"]["uid"] == after), None)
    place = _place_of(backup) if backup is not None else None
    if place is None or around.cluster is None:
        return
    rules = defaults.retention(schedule.spec)
    task = jobspec.JobSpec(
        task="retain",
        cluster=identity(around),
        store=backup_store.spec(place),
        keys=backup_store.key_names(place),
        retain=jobspec.Retention(
            days=rules.days,
            count=rules.count,
            daily=rules.daily,
            weekly=rules.weekly,
            monthly=rules.monthly,
            yearly=rules.yearly,
            grace_hours=rules.grace_hours or 0,
            dry_run=bool(rules.dry_run),
            schedule=schedule.metadata.name,
            verified=around.proven,
            pinned=(*_pinned(around), *_in_use(schedule, around)),
            window_days=store_tending.window_of(around, place),
            expected=store_tending.remembered(around, place),
        ),
    )
    name = _job_name(schedule, after)
    wish = job_wish(env, around, place, name=name, owner=owner, purpose="retain", task=task, tls=None, deleting=True)
    try:
        await env.kube.create(job(wish))
    except Conflict as e:
        if not e.exists:
            raise


def _pinned(around: Around) -> tuple[str, ...]:
    """Those that people want to stay whatever the rules say."""
    ids = [(b.get("status") or {}).get("id") for b in around.backups if is_pinned(b)]
    return tuple(str(i) for i in ids if i)


def _in_use(schedule: BackupSchedule, around: Around) -> tuple[str, ...]:
    """The backup that a drill reads at this time."""
    active = schedule.status.drill.active if schedule.status.drill else None
    if active is None:
        return ()
    ids = [(b.get("status") or {}).get("id") for b in around.backups if b["metadata"]["name"] == active.backup]
    return tuple(str(i) for i in ids if i)


def _place_of(backup: Object) -> Place | None:
    """Where a complete Backup lies: the store as it was then."""
    parsed = Backup.model_validate(backup)
    if parsed.status.store is None:
        return None
    return Place(
        store=parsed.status.store,
        folder=parsed.status.folder or "",
        key=parsed.status.key_secret,
        cluster=parsed.spec.cluster,
    )

"""BackupSchedules: makes the Backups that are due, prunes their records, has retention look at the store."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from matriarch.api import defaults
from matriarch.api.backup_schedule import BackupSchedule
from matriarch.controller import schedule_cron, schedule_drill, schedule_retention
from matriarch.controller.backup_around import OF_CLUSTER, Around, created, gather, is_pinned
from matriarch.controller.backup_status import is_suspect, parse_time, rfc3339
from matriarch.controller.backup_task import SCHEDULE_LABEL, SCHEDULED_FOR
from matriarch.controller.drill_status import figures
from matriarch.controller.env import MANAGER, Env
from matriarch.controller.metrics import METRICS
from matriarch.controller.queue import Key
from matriarch.controller.reconcile import reconciles
from matriarch.controller.schedule_drill import DrillSeen
from matriarch.controller.schedule_retention import RetentionSeen
from matriarch.decide.backups import Phase
from matriarch.decide.conditions import Condition, conditions, standing
from matriarch.decide.schedule import (
    Fires,
    Run,
    RunPhase,
    ScheduleFacts,
    SchedulePlan,
    plan_schedule,
    run_name,
)
from matriarch.decide.verdict import Standing
from matriarch.errors import Refused
from matriarch.kube.client import Object
from matriarch.kube.errors import Conflict

_NEVER = Fires(last=None, next=None)
_ENDED: Mapping[str | None, RunPhase] = {Phase.COMPLETE: RunPhase.COMPLETE, Phase.FAILED: RunPhase.FAILED}


@reconciles("BackupSchedule")
async def reconcile_schedule(key: Key, env: Env) -> float | None:
    """Look at one schedule and do what is due."""
    found = await env.kube.get("BackupSchedule", key.namespace, key.name)
    if found is None or found["metadata"].get("deletionTimestamp"):
        METRICS.forget_schedule(key.namespace, key.name)
        return None
    schedule = BackupSchedule.model_validate(found)
    around = await gather(key.namespace, schedule.spec.cluster, env)
    retention = await schedule_retention.look(schedule, around, env)
    facts = _facts(schedule, around, retention)
    plan = plan_schedule(facts)
    drill = await schedule_drill.look(found, schedule, around, env, facts.resumed)
    for name in plan.prune:
        await env.kube.delete("Backup", key.namespace, name)
    if plan.create is not None:
        await _create(env, found, schedule, plan.create)
    if plan.retention_after is not None:
        await schedule_retention.start(env, found, schedule, around, plan.retention_after)
    await _report(env, found, schedule, around, plan, retention, drill)
    await schedule_drill.act(env, found, schedule, around, drill)
    METRICS.schedules[key.namespace, schedule.spec.cluster, key.name] = figures(
        drill.status, overdue=drill.plan.overdue
    )
    if plan.create is not None or plan.prune or (plan.last_success and not plan.active):
        env.enqueue(OF_CLUSTER, key.namespace, schedule.spec.cluster)  # its health may have changed
    again = [wait.total_seconds() for wait in (plan.requeue, drill.requeue) if wait is not None]
    return min(again, default=None)


def _facts(schedule: BackupSchedule, around: Around, retention: RetentionSeen) -> ScheduleFacts:
    spec, status = schedule.spec, schedule.status
    fires, refusal = _NEVER, None
    try:
        fires = schedule_cron.fires(spec.cron, spec.time_zone or "UTC", around.now)
    except Refused as error:
        refusal = str(error)
    suspended = next((c for c in status.conditions if c.type == "Suspended"), None)
    made = parse_time(schedule.metadata.creation_timestamp)
    assert made is not None
    return ScheduleFacts(
        name=schedule.metadata.name,
        created=made,
        now=around.now,
        refusal=refusal,
        fires=fires,
        suspended=bool(spec.suspend),
        resumed=_resumed(suspended.status, suspended.last_transition_time, around.now) if suspended else None,
        last_run=parse_time(status.last_run),
        runs=tuple(_run(b) for b in around.backups if _is_of(b, schedule.metadata.name)),
        catch_up=timedelta(seconds=spec.starting_deadline_seconds) if spec.starting_deadline_seconds else None,
        overlap=spec.concurrency == "Allow",
        keep_complete=(spec.history.successful if spec.history else None) or defaults.HISTORY_SUCCESSFUL,
        keep_failed=_or(spec.history.failed if spec.history else None, defaults.HISTORY_FAILED),
        retention_run=retention.run,
    )


def _or(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value  # 0 is a value here


def _resumed(status: str, since: str, now: datetime) -> datetime | None:
    """When a suspension ended. It ends at the moment at which it is seen that the spec no longer asks for it."""
    return now if status == "True" else parse_time(since)


def _is_of(backup: Object, schedule: str) -> bool:
    return (backup["metadata"].get("labels") or {}).get(SCHEDULE_LABEL) == schedule


def _run(backup: Object) -> Run:
    metadata, status = backup["metadata"], backup.get("status") or {}
    suspect = is_suspect(backup)  # kept in the store, and never counted as a success
    scheduled = parse_time((metadata.get("annotations") or {}).get(SCHEDULED_FOR)) or created(backup)
    return Run(
        name=metadata["name"],
        uid=metadata["uid"],
        scheduled=scheduled,
        phase=RunPhase.FAILED if suspect else _ENDED.get(status.get("phase"), RunPhase.ACTIVE),
        finished=parse_time(status.get("finishedAt")),
        backup_id=status.get("id") or "",
        pinned=is_pinned(backup),
        message="pages fail their checksum (Suspect)." if suspect else (status.get("error") or {}).get("message") or "",
    )


async def _create(env: Env, owner: Object, schedule: BackupSchedule, scheduled: datetime) -> None:
    """The Backup of one scheduled time. It has no owner reference: a deleted schedule takes no records with it."""
    spec: dict[str, Any] = {"cluster": schedule.spec.cluster}
    for field in ("method", "store", "target"):
        if (value := getattr(schedule.spec, field)) is not None:
            spec[field] = value
    if schedule.spec.incremental is not None:
        spec["incremental"] = schedule.spec.incremental.model_dump(by_alias=True, exclude_none=True)
    name = run_name(schedule.metadata.name, scheduled)
    try:
        await env.kube.create(
            {
                "kind": "Backup",
                "metadata": {
                    "name": name,
                    "namespace": schedule.metadata.namespace,
                    "labels": {
                        SCHEDULE_LABEL: schedule.metadata.name,
                        "matriarch.dev/backup-of": schedule.spec.cluster,
                    },
                    "annotations": {SCHEDULED_FOR: rfc3339(scheduled)},
                },
                "spec": spec,
            }
        )
    except Conflict as e:
        if not e.exists:
            raise
        return
    await env.recorder.record(owner, "BackupCreated", f"Made Backup {name}.", kind="Normal")


async def _report(
    env: Env,
    found: Object,
    schedule: BackupSchedule,
    around: Around,
    plan: SchedulePlan,
    retention: RetentionSeen,
    drill: DrillSeen,
) -> None:
    generation, previous = found["metadata"].get("generation", 0), found.get("status") or {}
    wanted = [*standing(plan.verdict), *drill.conditions]
    suspended = bool(schedule.spec.suspend)
    was_suspended = any(c.get("type") == "Suspended" for c in previous.get("conditions") or ())
    if suspended or was_suspended:
        message = "No backups are made." if suspended else "Backups are made again."
        wanted.append(
            Condition("Suspended", "True" if suspended else "False", "BySpec" if suspended else "Resumed", message)
        )
    runs = [
        _run(b) for b in around.backups if _is_of(b, schedule.metadata.name) and b["metadata"]["name"] not in plan.prune
    ]
    failures = [run.finished for run in runs if run.phase is RunPhase.FAILED and run.finished]
    newest = run_name(schedule.metadata.name, plan.create) if plan.create else (runs[-1].name if runs else None)
    after = {"after": plan.retention_after} if plan.retention_after else retention.status
    status = {
        "observedGeneration": generation,
        "phase": "Stalled" if plan.verdict.standing is Standing.STALLED else "Suspended" if suspended else "Active",
        "conditions": conditions(previous.get("conditions") or (), wanted, generation, rfc3339(around.now)),
        "nextRun": rfc3339(plan.next_run) if plan.next_run else None,
        "lastRun": rfc3339(plan.last_run) if plan.last_run else None,
        "lastBackup": newest or previous.get("lastBackup"),
        "lastSuccess": rfc3339(plan.last_success) if plan.last_success else previous.get("lastSuccess"),
        "lastFailure": rfc3339(max(failures)) if failures else previous.get("lastFailure"),
        "active": [*plan.active, *([newest] if plan.create and newest else [])],
        "retention": after or None,
        **drill.status,
    }
    status = {key: value for key, value in status.items() if value is not None}
    if status == previous:
        return
    metadata = {"name": schedule.metadata.name, "namespace": schedule.metadata.namespace}
    if drill.plan.begin is not None or drill.plan.ended is not None:
        metadata["resourceVersion"] = found["metadata"]["resourceVersion"]  # a drill begins and ends once
    await env.kube.apply_status({"kind": "BackupSchedule", "metadata": metadata, "status": status}, manager=MANAGER)
    if plan.verdict.standing is Standing.STALLED:
        await env.recorder.record(found, plan.verdict.reason, plan.verdict.message, kind="Warning")

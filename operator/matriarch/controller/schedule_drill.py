"""Drills of one schedule: gathered, decided, and the Job of the one that was written down in an earlier round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from matriarch.api.backup import Backup
from matriarch.api.backup_schedule import BackupSchedule
from matriarch.api.drill import ANNOTATION
from matriarch.controller import backup_jobs, backup_store, drill_task, schedule_cron
from matriarch.controller.backup_around import OF_CLUSTER, Around
from matriarch.controller.backup_status import is_suspect, parse_time
from matriarch.controller.backup_task import SCHEDULE_LABEL
from matriarch.controller.drill_status import drill_status
from matriarch.controller.env import Env
from matriarch.decide.backups import Phase, lacking
from matriarch.decide.conditions import Condition
from matriarch.decide.drill import Active, DrillFacts, DrillPlan, Good, Last, plan_drill
from matriarch.decide.schedule import Fires
from matriarch.decide.verdict import Standing, Verdict
from matriarch.errors import Refused
from matriarch.kube.client import Object
from matriarch.kube.errors import Conflict, Forbidden, Invalid
from matriarch.resources.drilljob import drill_job

_NEVER = Fires(last=None, next=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillSeen:
    """What was decided, and what the schedule's status says of it."""

    plan: DrillPlan
    status: Mapping[str, Any]
    """`drill`, `lastDrill`, `drills`: the parts of the status that are drills'."""
    conditions: tuple[Condition, ...]
    backup: Object | None
    """The Backup that the drill at work restores."""

    @property
    def requeue(self) -> timedelta | None:
        return self.plan.requeue


async def look(
    found: Object, schedule: BackupSchedule, around: Around, env: Env, resumed: datetime | None
) -> DrillSeen:
    """Read and decide; writes nothing."""
    active = schedule.status.drill.active if schedule.status.drill else None
    looked = backup_jobs.ABSENT
    if active is not None:
        looked = await backup_jobs.look(env.kube, around.namespace, active.job, schedule.metadata.uid, around.now)
    backup = _newest_good(around, schedule.metadata.name)
    facts = _facts(schedule, around, backup, looked, resumed)
    plan = plan_drill(facts)
    if plan.begin is not None and backup is not None:
        plan = plan_drill(replace(facts, blocked=await _blocked(env, schedule, around, backup)))
    restored = next((b for b in around.backups if active and b["metadata"]["name"] == active.backup), None)
    chosen = backup if plan.begin is not None else restored
    status = drill_status(found, plan, around, looked.report, chosen)
    conditions: tuple[Condition, ...] = ()
    if plan.restorable is not None:
        said = plan.restorable
        conditions = (Condition("Restorable", said.status, said.reason, said.message[:4096]),)
    return DrillSeen(plan=plan, status=status, conditions=conditions, backup=restored)


def _facts(
    schedule: BackupSchedule,
    around: Around,
    backup: Object | None,
    looked: backup_jobs.Seen,
    resumed: datetime | None,
) -> DrillFacts:
    spec, status, last = schedule.spec, schedule.status.drill, schedule.status.last_drill
    fires, refusal = _NEVER, None
    if spec.drill is not None:
        try:
            fires = schedule_cron.fires(spec.drill.cron, spec.time_zone or "UTC", around.now)
        except Refused as error:
            refusal = str(error)
    active = status.active if status else None
    return DrillFacts(
        now=around.now,
        asked=spec.drill is not None,
        refusal=refusal,
        fires=fires,
        suspended=bool(spec.suspend),
        since=parse_time(status.since) if status else None,
        resumed=resumed,
        last_run=parse_time(status.last_run) if status else None,
        request=(schedule.metadata.annotations.get(ANNOTATION) or "")[:256] or None,
        handled=status.handled if status else None,
        newest=_good(backup),
        active=Active(
            backup=active.backup,
            started=parse_time(active.started_at) or around.now,
            scheduled=parse_time(active.scheduled_for),
            seen=bool(active.job_seen),
        )
        if active is not None
        else None,
        job=looked.job,
        result=looked.result,
        last=Last(passed=last.result == "Passed", backup=last.backup or "", reason=last.reason, message=last.message)
        if last is not None
        else None,
    )


def _newest_good(around: Around, schedule: str) -> Object | None:
    """The Backup that retention would keep whatever happens."""
    good = [
        b
        for b in around.backups
        if (b["metadata"].get("labels") or {}).get(SCHEDULE_LABEL) == schedule
        and (b.get("status") or {}).get("phase") == Phase.COMPLETE
        and b["status"].get("finishedAt")
        and b["status"].get("backupName")
        and not is_suspect(b)
    ]
    return max(good, key=lambda b: (b["status"]["finishedAt"], b["metadata"]["name"]), default=None)


def _good(backup: Object | None) -> Good | None:
    finished = parse_time(backup["status"]["finishedAt"]) if backup is not None else None
    if backup is None or finished is None:
        return None
    return Good(name=backup["metadata"]["name"], finished=finished)


async def _blocked(env: Env, schedule: BackupSchedule, around: Around, backup: Object) -> Verdict | None:
    """Why no Job could restore it, said before one is made."""
    if around.cluster is None:
        message = f"DatabaseCluster {schedule.spec.cluster} is not there, whose image and settings a drill uses."
        return Verdict(Standing.STALLED, "MissingCluster", message)
    place = drill_task.place_of(Backup.model_validate(backup))
    if place is None:
        message = f"Backup {backup['metadata']['name']} does not say in which store it lies."
        return Verdict(Standing.STALLED, "UnknownStore", message)
    for need in await backup_store.needs(env.kube, around.namespace, place):
        if (verdict := lacking(need)) is not None:
            return verdict
    try:
        drill_task.wish(env, schedule, around, backup, place, "", backup)
    except Refused as error:
        return Verdict(Standing.STALLED, error.reason, str(error))
    return None


async def act(env: Env, found: Object, schedule: BackupSchedule, around: Around, seen: DrillSeen) -> None:
    """Make the Job, tell the story's turns. After the status was written."""
    plan, active = seen.plan, schedule.status.drill.active if schedule.status.drill else None
    if plan.begin is not None:
        message = f"A drill of Backup {plan.begin.backup} begins."
        await env.recorder.record(found, "DrillStarted", message, kind="Normal")
    if plan.make_job and active is not None:
        await _make(env, found, schedule, around, seen, active.job)
    if plan.ended is not None:
        if plan.ended.passed:
            await env.recorder.record(found, "DrillPassed", plan.ended.message, kind="Normal")
        else:
            await env.recorder.record(found, "DrillFailed", plan.ended.message, kind="Warning")
        env.enqueue(OF_CLUSTER, around.namespace, schedule.spec.cluster)  # its objectives may be met now, or missed


async def _make(env: Env, found: Object, schedule: BackupSchedule, around: Around, seen: DrillSeen, name: str) -> None:
    place = drill_task.place_of(Backup.model_validate(seen.backup)) if seen.backup is not None else None
    try:
        if seen.backup is None or place is None:
            raise Refused("The Backup that was to be drilled is gone.", reason="MissingBackup")
        wish, drill = drill_task.wish(env, schedule, around, seen.backup, place, name, found)
        await env.kube.create(drill_job(wish, drill))
    except Conflict as e:
        if not e.exists:
            raise
    except (Forbidden, Invalid, Refused) as e:  # a quota, a policy: said, and tried again for a while
        await env.recorder.record(found, "JobRefused", f"The drill's Job cannot be made: {e}", kind="Warning")

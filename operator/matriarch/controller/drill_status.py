"""What a schedule's status says of its drills. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matriarch.api.backup_schedule import BackupSchedule
from matriarch.backup import jobresult
from matriarch.backup.drillspec import DrillResult
from matriarch.controller import drill_task
from matriarch.controller.backup_around import Around
from matriarch.controller.backup_status import parse_time, rfc3339
from matriarch.decide.drill import DrillPlan, Ended
from matriarch.decide.objectives import ARCHIVE_DELAY
from matriarch.kube.client import Object

KEPT = 10
"""Records of drills in a status."""


def drill_status(
    found: Object, plan: DrillPlan, around: Around, report: jobresult.Result | None, backup: Object | None
) -> dict[str, Any]:
    """`drill`, `lastDrill` and `drills`. `backup` is the Backup of the drill that begins or is at work."""
    previous = found.get("status") or {}
    status = _present(found, plan, around, backup)
    records = list(previous.get("drills") or ())
    last = previous.get("lastDrill")
    if plan.ended is not None:
        active = (previous.get("drill") or {}).get("active") or {}
        figures = report.drill if report is not None and plan.ended.passed else None
        last = _record(plan.ended, around, figures, backup, active.get("archiveBehindSeconds"))
        records = [last, *records][:KEPT]
    made = {"drill": status or None, "lastDrill": last, "drills": records or None}
    return {key: value for key, value in made.items() if value is not None}


def _present(found: Object, plan: DrillPlan, around: Around, backup: Object | None) -> dict[str, Any]:
    schedule = BackupSchedule.model_validate(found)
    before = (found.get("status") or {}).get("drill") or {}
    active = None if plan.ended is not None else before.get("active")
    if active is not None and plan.job_seen:
        active = {**active, "jobSeen": True}
    if plan.begin is not None and backup is not None:
        active = {
            "backup": plan.begin.backup,
            "job": drill_task.name_of(schedule, backup["metadata"]["uid"], around.now.isoformat()),
            "startedAt": rfc3339(around.now),
            "scheduledFor": rfc3339(plan.begin.scheduled) if plan.begin.scheduled else None,
            "archiveBehindSeconds": drill_task.archive_behind(around)
            if drill_task.uses_archive(around, backup)
            else None,
        }
        active = {key: value for key, value in active.items() if value is not None}
    made = {
        "since": rfc3339(plan.since) if plan.since else None,
        "nextRun": rfc3339(plan.next_run) if plan.next_run else None,
        "lastRun": rfc3339(plan.last_run) if plan.last_run else None,
        "handled": plan.handled,
        "active": active,
    }
    return {key: value for key, value in made.items() if value is not None}


def _record(
    ended: Ended, around: Around, figures: DrillResult | None, backup: Object | None, behind: int | None
) -> dict[str, Any]:
    made: dict[str, Any] = {
        "backup": ended.backup,
        "backupId": ((backup or {}).get("status") or {}).get("id"),
        "result": "Passed" if ended.passed else "Failed",
        "reason": ended.reason or "Unknown",
        "message": ended.message[:1024],
        "startedAt": rfc3339(ended.started),
        "finishedAt": rfc3339(around.now),
        "scheduledFor": rfc3339(ended.scheduled) if ended.scheduled else None,
    }
    if figures is not None:
        newest = parse_time(figures.newest_transaction)
        made |= {
            "downloadSeconds": figures.download,
            "replaySeconds": figures.replay,
            "checkSeconds": figures.checks,
            "rtoSeconds": round(figures.recovery, 3),
            "rpoSeconds": _rpo(figures.age, behind),
            "newestTransactionAt": rfc3339(newest) if newest else None,
            "sizeBytes": figures.size,
            "tables": figures.tables,
            "queries": figures.queries,
            "lsn": figures.lsn,
            "timeline": figures.timeline,
        }
    return {key: value for key, value in made.items() if value is not None}


def _rpo(age: float, behind: int | None) -> float:
    """Two upper bounds of what was missing. An idle database's newest transaction is old though nothing is missing;
    its archive then has nothing waiting."""
    return age if behind is None else min(age, float(behind + ARCHIVE_DELAY))


def figures(status: Mapping[str, Any], *, overdue: bool) -> dict[str, float]:
    """Gauges of one schedule's drills by full name; what is not known is left out."""
    last, drills = status.get("lastDrill"), status.get("drills") or ()
    found: dict[str, float] = {}
    if last is not None or overdue or (status.get("drill") or {}).get("nextRun"):
        found["matriarch_drill_overdue"] = float(overdue)
    if last is not None:
        found["matriarch_drill_failed"] = float(last.get("result") != "Passed")
    good = next((d for d in drills if d.get("result") == "Passed"), None)
    if good is None:
        return found
    finished = parse_time(good.get("finishedAt"))
    if finished is not None:
        found["matriarch_drill_last_success_timestamp_seconds"] = finished.timestamp()
    for name, field in _FIELDS.items():
        if (value := good.get(field)) is not None:
            found[f"matriarch_drill_{name}_seconds"] = float(value)
    return found


_FIELDS = {
    "download": "downloadSeconds",
    "replay": "replaySeconds",
    "check": "checkSeconds",
    "rto": "rtoSeconds",
    "rpo": "rpoSeconds",
}

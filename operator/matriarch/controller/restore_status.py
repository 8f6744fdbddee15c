"""The status of a Restore as it is written: steps with their times, what the check found, what the comparison said."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from matriarch.api.restore import Restore
from matriarch.backup import jobresult
from matriarch.controller.backup_around import created
from matriarch.controller.backup_status import JOBS_OWN, one_shot_conditions, rfc3339
from matriarch.controller.restore_recovery import reached
from matriarch.decide.backups import Phase
from matriarch.decide.restore_facts import STEPS, Mode, RestorePlan, Step, StepState
from matriarch.kube.client import Object


def restore_status(
    restore: Object,
    plan: RestorePlan,
    mode: Mode,
    *,
    now: datetime,
    job: str | None,
    safety: str | None,
    report: jobresult.Result | None,
) -> dict[str, Any]:
    """The whole status that the controller applies. `report` is of the step that was at work before this plan."""
    previous = restore.get("status") or {}
    generation = restore["metadata"].get("generation", 0)
    status = {key: value for key, value in previous.items() if key not in JOBS_OWN}
    status.setdefault("startedAt", rfc3339(now))
    status |= {
        "observedGeneration": generation,
        "phase": str(plan.phase),
        "conditions": one_shot_conditions(previous, plan.phase, plan.verdict, generation, rfc3339(now)),
        "steps": _steps(previous.get("steps") or (), plan, mode, rfc3339(now)),
    }
    if plan.step is not None:
        status["step"] = str(plan.step)
    if plan.note_target is not None:
        status["targetUid"] = plan.note_target
    _job(status, plan, job)
    if safety is not None and plan.steps.get(Step.SAFETY) is not None:
        status["safetyBackup"] = safety
    if report is not None and report.ok:
        status |= _reported(restore, report)
    if plan.finished:
        status["finishedAt"] = rfc3339(now)
    if plan.phase is Phase.COMPLETE and mode in (Mode.RECOVER, Mode.REPLACE):
        status["rtoSeconds"] = round((now - created(restore)).total_seconds())
    if plan.phase is Phase.FAILED:
        status["error"] = {"reason": plan.verdict.reason, "message": plan.verdict.message[:4096]}
    return status


def _job(status: dict[str, Any], plan: RestorePlan, job: str | None) -> None:
    """`job` and `attempt` are of the step at work; the next step begins without."""
    if plan.jobs_made:
        status["attempt"] = plan.jobs_made
    elif not plan.finished:
        status.pop("attempt", None)
    if plan.job_noted and job is not None:
        status["job"] = job
    elif not plan.finished:
        status.pop("job", None)


def _steps(previous: Any, plan: RestorePlan, mode: Mode, now: str) -> list[dict[str, Any]]:
    before = {step["name"]: step for step in previous}
    made = []
    for name in STEPS[mode]:
        state = plan.steps.get(name, StepState.PENDING)
        step: dict[str, Any] = {**before.get(str(name), {}), "name": str(name), "state": str(state)}
        if state is not StepState.PENDING:
            step.setdefault("startedAt", now)
        if state in (StepState.DONE, StepState.FAILED):
            step.setdefault("finishedAt", now)
        if name is plan.step and plan.message:
            step["message"] = plan.message[:1024]
        elif state is StepState.DONE:
            step.pop("message", None)
        made.append(step)
    return made


def _reported(restore: Object, report: jobresult.Result) -> Mapping[str, Any]:
    if report.task == "recover" and report.recover is not None:
        return reached(Restore.model_validate(restore), report.recover)
    if report.task == "verify" and report.backup is not None:
        backup = report.backup
        largest = max(backup.databases, key=lambda d: d.size, default=None)
        checked = {
            "manifestSha256": backup.manifest_sha256,
            "postgresVersion": backup.server_version,
            "sizeBytes": backup.size,
            "database": largest.name if largest else None,
            "owner": largest.owner if largest else None,
        }
        return {
            "backupName": backup.name,
            "location": backup.location,
            "checked": {key: value for key, value in checked.items() if value is not None},
        }
    if report.task == "restore" and report.restore is not None:
        done = report.restore
        return {
            "verification": {
                "tables": done.tables,
                "rows": done.rows,
                "differing": [],
                "amcheck": "ok" if done.amcheck else "not run",
            }
        }
    return {}

"""The status of a Backup as it is written: what stays, what the plan adds, what the Job reported."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from matriarch.backup import jobresult
from matriarch.decide.backups import BackupPlan, Phase
from matriarch.decide.conditions import Condition, conditions, standing
from matriarch.decide.verdict import Verdict
from matriarch.kube.client import Object

JOBS_OWN = ("progress",)
"""Written by the Job under a field manager of its own: never part of what we apply."""


def rfc3339(time: datetime) -> str:
    """`2026-03-01T02:00:00Z`."""
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def parse_time(text: object) -> datetime | None:
    """The time in a status or in metadata; None for an absent one."""
    return datetime.fromisoformat(text) if isinstance(text, str) and text else None


def one_shot_conditions(
    previous: Mapping[str, Any], phase: Phase, verdict: Verdict, generation: int, now: str
) -> list[dict[str, Any]]:
    """Ready and its kin, and Complete or Failed, which `kubectl wait --for=condition=Complete` looks for."""
    wanted = standing(verdict)
    if phase is Phase.COMPLETE:
        wanted.append(Condition("Complete", "True", verdict.reason, verdict.message))
        if verdict.reason == "Suspect":
            wanted.append(Condition("Suspect", "True", "PageChecksums", verdict.message))
    elif phase is Phase.FAILED:
        wanted.append(Condition("Failed", "True", verdict.reason, verdict.message))
    return conditions(previous.get("conditions") or (), wanted, generation, now)


def backup_status(
    backup: Object,
    plan: BackupPlan,
    *,
    now: datetime,
    job: str | None,
    begun: Mapping[str, Any],
    report: jobresult.Result | None,
) -> dict[str, Any]:
    """The whole status that the controller applies. `begun` is what is chosen when the backup begins."""
    previous = backup.get("status") or {}
    generation = backup["metadata"].get("generation", 0)
    status = {key: value for key, value in previous.items() if key not in JOBS_OWN}
    status |= begun
    status |= {
        "observedGeneration": generation,
        "phase": str(plan.phase),
        "conditions": one_shot_conditions(previous, plan.phase, plan.verdict, generation, rfc3339(now)),
    }
    if plan.jobs_made:
        status["attempt"] = plan.jobs_made
    if plan.job_seen and job is not None:
        status["job"] = job
    elif not plan.finished:
        status.pop("job", None)  # the next Job was not seen yet
    if plan.finished:
        status["finishedAt"] = rfc3339(now)
    if plan.phase is Phase.COMPLETE and report is not None and report.backup is not None:
        status |= reported(report.backup)
    if plan.phase is Phase.FAILED:
        status["error"] = {"reason": plan.verdict.reason, "message": plan.verdict.message[:4096]}
    return status


def is_suspect(backup: Object) -> bool:
    """Complete, and pages failed their checksum: it never counts as a good backup."""
    return ((backup.get("status") or {}).get("physical") or {}).get("pages") == "suspect"


def reported(backup: jobresult.BackupResult) -> dict[str, Any]:
    """What the engine says of a complete backup, in the words of the resource."""
    found = {
        "id": backup.id,
        "backupName": backup.name,
        "location": backup.location,
        "manifestSha256": backup.manifest_sha256,
        "startedAt": _seconds(backup.started),
        "finishedAt": _seconds(backup.finished),
        "sizeBytes": backup.size,
        "storedBytes": backup.stored_size,
        "sha256": backup.sha256,
        "encrypted": backup.encrypted,
        "keyId": backup.key_id,
        "instance": backup.instance,
        "lsn": backup.snapshot_lsn,
        "timeline": backup.timeline,
        "systemIdentifier": backup.system_identifier,
        "postgresVersion": backup.server_version,
        "databases": len(backup.databases) or None,
        "tables": backup.tables if backup.physical is None else None,
        "rows": backup.rows if backup.physical is None else None,
        "physical": _physical(backup.physical) if backup.physical is not None else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _physical(found: jobresult.PhysicalResult) -> dict[str, Any]:
    said: dict[str, Any] = {
        "startLsn": found.start_lsn,
        "files": found.files,
        "pages": found.pages,
        "pagesChecked": found.pages_checked,
        "badPages": found.bad_pages,
        "type": found.type,
    }
    if found.parent is not None:
        said |= {"parent": found.parent, "increments": found.increments}
    if found.full_because is not None:
        said["fullBecause"] = found.full_because
    if found.whole_size is not None:
        said["wholeBytes"] = found.whole_size
    return said


def _seconds(text: str) -> str:
    return rfc3339(datetime.fromisoformat(text))

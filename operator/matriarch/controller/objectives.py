"""A cluster's recovery objectives beside what is known of its backups, its archive and its drills."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from matriarch.api.objectives import seconds
from matriarch.controller.backup_around import Around
from matriarch.controller.backup_status import is_suspect, parse_time, rfc3339
from matriarch.decide.backups import Phase
from matriarch.decide.conditions import Condition
from matriarch.decide.objectives import Compliance, Measured, ObjectiveFacts, comply, exposure
from matriarch.kube.client import Object


@dataclass(frozen=True, slots=True)
class Seen:
    """Conditions, `status.objectives`, and gauges by full name."""

    conditions: tuple[Condition, ...]
    status: dict[str, Any] | None
    figures: dict[str, float]


def look(around: Around) -> Seen:
    """Pure. Without objectives only the exposure is told, as a figure."""
    asked = around.cluster.spec.objectives if around.cluster is not None else None
    rpo = seconds(asked.rpo) if asked is not None and asked.rpo else None
    rto = seconds(asked.rto) if asked is not None and asked.rto else None
    facts = _facts(around, rpo, rto)
    lost = exposure(facts)
    figures = {} if lost is None else {"matriarch_rpo_exposure_seconds": lost}
    if rpo is None and rto is None:
        return Seen((), None, figures)
    found = comply(facts)
    figures["matriarch_objectives_missed"] = float(found.status == "False")
    if rpo is not None:
        figures["matriarch_objective_rpo_seconds"] = float(rpo)
    if rto is not None:
        figures["matriarch_objective_rto_seconds"] = float(rto)
    return Seen(
        (Condition("ObjectivesMet", found.status, found.reason, found.message),), _status(found, rpo, rto), figures
    )


def _status(found: Compliance, rpo: int | None, rto: int | None) -> dict[str, Any]:
    drill = found.drill
    made = {
        "rpoSeconds": rpo,
        "rtoSeconds": rto,
        "measuredRpoSeconds": None if drill is None or drill.rpo is None else round(drill.rpo),
        "measuredRtoSeconds": None if drill is None or drill.rto is None else round(drill.rto),
        "measuredAt": rfc3339(drill.finished) if drill is not None else None,
        "schedule": drill.schedule if drill is not None else None,
    }
    return {key: value for key, value in made.items() if value is not None}


def _facts(around: Around, rpo: int | None, rto: int | None) -> ObjectiveFacts:
    good = [b for b in around.backups if (b.get("status") or {}).get("phase") == Phase.COMPLETE and not is_suspect(b)]
    cluster = around.cluster
    conditions = {c.type: c.status for c in cluster.status.conditions} if cluster is not None else {}
    archive = cluster.status.wal_archive if cluster is not None else None
    wanted = around.defaults is not None and around.defaults.wal_archive is not None
    return ObjectiveFacts(
        now=around.now,
        rpo=rpo,
        rto=rto,
        covered_until=max((begun for b in good if (begun := _begun(b)) is not None), default=None),
        archive=wanted and any(b["spec"].get("method") == "physical" for b in good),
        archive_works=conditions.get("ArchivingWal") == "True",
        archive_waits=(archive.oldest_pending_seconds if archive is not None else None) or 0,
        drills=tuple(m for s in around.schedules if (m := _measured(s)) is not None),
    )


def _begun(backup: Object) -> datetime | None:
    return parse_time(backup["status"].get("startedAt"))


def _measured(schedule: Object) -> Measured | None:
    last = (schedule.get("status") or {}).get("lastDrill")
    finished = parse_time((last or {}).get("finishedAt"))
    if last is None or finished is None:
        return None
    return Measured(
        schedule=schedule["metadata"]["name"],
        finished=finished,
        passed=last.get("result") == "Passed",
        rto=last.get("rtoSeconds"),
        rpo=last.get("rpoSeconds"),
    )

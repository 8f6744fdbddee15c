"""What /metrics says of one cluster's backups and its WAL archive, read from statuses alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from matriarch.controller.backup_status import parse_time

_NOT_ASKED_FOR = ("", "NotConfigured", "NoBackup")  # reasons of BackupHealthy where nobody made a schedule or a Backup


def figures(
    status: Mapping[str, Any],
    summary: Mapping[str, Any],
    backups: Iterable[Mapping[str, Any]],
    healthy: tuple[str, str] = ("Unknown", ""),
    now: datetime | None = None,
    *,
    key_gone: bool | None = None,
) -> dict[str, float]:
    """Gauges by full name. `status` is the cluster's, `summary` its `status.backup`, `backups` its Backups,
    `healthy` status and reason of its condition BackupHealthy; `key_gone` None where no backup needs a key.

    A figure that is not known is left out, so that an alert on its absence can be told from one on its value.
    """
    phases = [(b.get("status") or {}).get("phase") for b in backups]
    found: dict[str, float] = {"matriarch_backup_failed": float(phases.count("Failed"))}
    if (success := parse_time(summary.get("lastSuccessAt"))) is not None:
        found["matriarch_backup_last_success_timestamp_seconds"] = success.timestamp()
    if (failure := parse_time(summary.get("lastFailureAt"))) is not None:
        found["matriarch_backup_last_failure_timestamp_seconds"] = failure.timestamp()
    if healthy[1] not in _NOT_ASKED_FOR:
        found["matriarch_backup_unhealthy"] = float(healthy[0] == "False")
    if key_gone is not None:
        found["matriarch_backup_key_gone"] = float(key_gone)
    condition = next((c for c in status.get("conditions") or () if c.get("type") == "ArchivingWal"), None)
    archive = status.get("walArchive")
    if condition is not None:  # Unknown, too: nobody says that it is stored
        found["matriarch_wal_archive_failing"] = float(condition.get("status") != "True")
    if condition is not None and archive is not None:
        found["matriarch_wal_archive_pending_files"] = float(archive.get("pending") or 0)
        found["matriarch_wal_archive_oldest_pending_seconds"] = float(archive.get("oldestPendingSeconds") or 0)
        if (stored := parse_time(archive.get("lastStoredAt"))) is not None:
            found["matriarch_wal_archive_last_stored_timestamp_seconds"] = stored.timestamp()
    behind = [b for i in status.get("instanceStatuses") or () if (b := i.get("summariesBehindBytes")) is not None]
    if behind:
        found["matriarch_wal_summaries_behind_bytes"] = float(max(behind))
    return found | _stores(summary.get("stores") or (), now)


def _stores(stores: Iterable[Mapping[str, Any]], now: datetime | None) -> dict[str, float]:
    stores = list(stores)
    if not stores:
        return {}
    found = {
        "matriarch_backup_store_lost": float(any(s.get("lost") for s in stores)),
        "matriarch_backup_store_look_failures": float(max(s.get("failures") or 0 for s in stores)),
    }
    archives = [s["wal"] for s in stores if s.get("wal")]
    if archives and now is not None:
        since = [t for wal in archives if (t := parse_time(wal.get("frozenSince"))) is not None]
        found["matriarch_wal_expiry_frozen_seconds"] = max(0.0, *((now - t).total_seconds() for t in since), 0.0)
    return found

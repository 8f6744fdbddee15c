"""What /metrics says of one cluster's backups and its WAL archive, read from statuses alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from matriarch.controller.backup_status import parse_time


def figures(
    status: Mapping[str, Any], summary: Mapping[str, Any], backups: Iterable[Mapping[str, Any]]
) -> dict[str, float]:
    """Gauges by full name. `status` is the cluster's, `summary` its `status.backup`, `backups` its Backups.

    A figure that is not known is left out, so that an alert on its absence can be told from one on its value.
    """
    phases = [(b.get("status") or {}).get("phase") for b in backups]
    found: dict[str, float] = {"matriarch_backup_failed": float(phases.count("Failed"))}
    if (success := parse_time(summary.get("lastSuccessAt"))) is not None:
        found["matriarch_backup_last_success_timestamp_seconds"] = success.timestamp()
    condition = next((c for c in status.get("conditions") or () if c.get("type") == "ArchivingWal"), None)
    archive = status.get("walArchive")
    if condition is not None and archive is not None:
        found["matriarch_wal_archive_failing"] = float(condition.get("status") == "False")
        found["matriarch_wal_archive_pending_files"] = float(archive.get("pending") or 0)
        found["matriarch_wal_archive_oldest_pending_seconds"] = float(archive.get("oldestPendingSeconds") or 0)
        if (stored := parse_time(archive.get("lastStoredAt"))) is not None:
            found["matriarch_wal_archive_last_stored_timestamp_seconds"] = stored.timestamp()
    return found

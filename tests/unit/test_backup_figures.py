"""Figures of backups and archive: those that are known, in the format that Prometheus reads."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from matriarch.controller.backup_figures import figures
from matriarch.controller.metrics import Metrics

STATUS = {
    "conditions": [{"type": "ArchivingWal", "status": "False"}],
    "walArchive": {"pending": 3, "oldestPendingSeconds": 70, "lastStoredAt": "2026-11-25T00:00:00Z"},
}
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
STORE = {"name": "offsite", "lost": ["x"], "failures": 2, "wal": {"frozenSince": "2026-11-25T00:00:00Z"}}
FAILED = {"status": {"phase": "Failed"}}


def test_what_is_known_is_said_and_nothing_else() -> None:
    assert figures({}, {}, []) == {"matriarch_backup_failed": 0}
    summary = {"lastSuccessAt": "2026-11-25T00:00:10Z", "lastFailureAt": "2026-11-25T00:00:20Z"}
    found = figures(STATUS, summary, [FAILED, {}, {"status": {"phase": "Complete"}}], ("False", "LastBackupFailed"))
    text = Metrics(clusters={("prod", "orders"): found, ("prod", "new"): figures({}, {}, [])}).text({}, {})
    of_orders = {line for line in text.splitlines() if 'cluster="orders"' in line}
    assert of_orders == {
        f'{name}{{namespace="prod",cluster="orders"}} {value}'
        for name, value in {
            "matriarch_backup_failed": 1,
            "matriarch_backup_last_success_timestamp_seconds": 1795564810,
            "matriarch_backup_last_failure_timestamp_seconds": 1795564820,
            "matriarch_backup_unhealthy": 1,
            "matriarch_wal_archive_failing": 1,
            "matriarch_wal_archive_pending_files": 3,
            "matriarch_wal_archive_oldest_pending_seconds": 70,
            "matriarch_wal_archive_last_stored_timestamp_seconds": 1795564800,
        }.items()
    }
    assert text.count("# TYPE matriarch_backup_failed gauge") == 1


def test_stores_that_were_looked_at() -> None:
    assert not any("store" in name or "expiry" in name for name in figures({}, {}, [], now=NOW))
    well = {"name": "main", "wal": {"step": "Nothing"}}
    found = figures({}, {"stores": [well]}, [], now=NOW)
    assert (found["matriarch_backup_store_lost"], found["matriarch_wal_expiry_frozen_seconds"]) == (0, 0)
    found = figures({}, {"stores": [well, STORE]}, [], now=NOW)
    assert found["matriarch_backup_store_lost"] == 1
    assert found["matriarch_backup_store_look_failures"] == 2
    assert found["matriarch_wal_expiry_frozen_seconds"] == 12 * 3600


def test_an_archiver_that_says_nothing_is_failing() -> None:
    unknown = {"conditions": [{"type": "ArchivingWal", "status": "Unknown", "reason": "NotStarted"}]}
    assert figures(unknown, {}, [])["matriarch_wal_archive_failing"] == 1


@pytest.mark.parametrize(
    ("status", "reason", "unhealthy"),
    [
        ("False", "LastBackupFailed", 1),
        ("False", "Overdue", 1),
        ("True", "BackedUp", 0),
        ("Unknown", "NoBackupYet", 0),
        ("False", "NoBackup", None),
        ("Unknown", "NotConfigured", None),
    ],
)
def test_backups_that_nobody_asked_for_raise_no_alert(status: str, reason: str, unhealthy: int | None) -> None:
    assert figures({}, {}, [], (status, reason)).get("matriarch_backup_unhealthy") == unhealthy


def test_the_instance_that_summarizes_worst_counts() -> None:
    instances = [{"name": "orders-1", "summariesBehindBytes": 5}, {"name": "orders-2", "summariesBehindBytes": 70}]
    found = figures({"instanceStatuses": [*instances, {"name": "orders-3"}]}, {}, [])
    assert found["matriarch_wal_summaries_behind_bytes"] == 70
    assert "matriarch_wal_summaries_behind_bytes" not in figures({"instanceStatuses": [{"name": "orders-3"}]}, {}, [])

"""For each alert: the value that means trouble, the nearest one that does not, and what the alert says.

Both lie on either side of the limit. Times are those of a Prometheus that began at 0, so a backup that is 26 hours old
at minute 0 ended at -93600, and one that stays that old ends a minute later each minute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.monitoring.engine import Value

NO, YES = Value(0), Value(1)
PLACE = {"namespace": "prod", "cluster": "orders"}
RESOURCE = {"kind": "Restore", "namespace": "prod", "name": "shop"}
SCHEDULE = {**PLACE, "schedule": "nightly"}


@dataclass(frozen=True, slots=True)
class Case:
    """`trouble` and `well`: figures by full name, None where it is not exported; `about`: the labels of the figures."""

    alert: str
    severity: str
    trouble: Mapping[str, Value | None]
    well: Mapping[str, Value | None]
    summary: str
    about: Mapping[str, str] = field(default_factory=lambda: PLACE)
    what: str = ""

    @property
    def name(self) -> str:
        return f"{self.alert}-{self.what}" if self.what else self.alert


def _flag(alert: str, severity: str, figure: str, summary: str, about: Mapping[str, str] = PLACE) -> Case:
    return Case(alert, severity, {figure: YES}, {figure: NO}, summary, about)


CASES = (
    Case(
        "MatriarchMetricsAbsent",
        "critical",
        {},
        {"matriarch_controller_active": YES},
        "No active Matriarch controller is seen: no other alert of Matriarch can fire.",
        {},
    ),
    Case(
        "MatriarchMetricsAbsent",
        "critical",
        {"matriarch_controller_active": NO},
        {"matriarch_controller_active": YES},
        "No active Matriarch controller is seen: no other alert of Matriarch can fire.",
        {},
        "standing-by",
    ),
    Case(
        "MatriarchReconcileFailing",
        "warning",
        {"matriarch_reconcile_failing_seconds": Value(901)},
        {"matriarch_reconcile_failing_seconds": Value(900)},
        "Restore prod/shop has not been looked at with success for 15 minutes: what its spec says is not made true.",
        RESOURCE,
    ),
    Case(
        "MatriarchBackupTooOld",
        "critical",
        {"matriarch_backup_last_success_timestamp_seconds": Value(-93601, 60)},
        {"matriarch_backup_last_success_timestamp_seconds": Value(-93600, 60)},
        "The newest backup of prod/orders is older than 26 hours.",
    ),
    Case(
        "MatriarchBackupFailed",
        "warning",
        {"matriarch_backup_last_failure_timestamp_seconds": Value(-3599, 60)},
        {"matriarch_backup_last_failure_timestamp_seconds": Value(-3600, 60)},
        "A backup of prod/orders failed within the last hour.",
    ),
    _flag(
        "MatriarchBackupUnhealthy",
        "critical",
        "matriarch_backup_unhealthy",
        "Backups of prod/orders fail, are late or were never made.",
    ),
    _flag(
        "MatriarchBackupKeyGone",
        "critical",
        "matriarch_backup_key_gone",
        "A Secret with the key of backups of prod/orders is gone.",
    ),
    _flag(
        "MatriarchWalArchiveFailing",
        "critical",
        "matriarch_wal_archive_failing",
        "WAL of prod/orders is not archived.",
    ),
    Case(
        "MatriarchWalArchiveBehind",
        "warning",
        {"matriarch_wal_archive_oldest_pending_seconds": Value(301)},
        {"matriarch_wal_archive_oldest_pending_seconds": Value(300)},
        "WAL of prod/orders waits for the store for over five minutes.",
    ),
    Case(
        "MatriarchWalSummariesBehind",
        "warning",
        {"matriarch_wal_summaries_behind_bytes": Value((256 << 20) + 1)},
        {"matriarch_wal_summaries_behind_bytes": Value(256 << 20)},
        "An instance of prod/orders has not summarized over 256 MiB of WAL for half an hour.",
    ),
    _flag(
        "MatriarchBackupStoreLost",
        "critical",
        "matriarch_backup_store_lost",
        "A store of prod/orders lacks backups or WAL that it had.",
    ),
    Case(
        "MatriarchWalExpiryFrozen",
        "warning",
        {"matriarch_wal_expiry_frozen_seconds": Value(259201), "matriarch_backup_store_look_failures": NO},
        {"matriarch_wal_expiry_frozen_seconds": Value(259200), "matriarch_backup_store_look_failures": NO},
        "Old WAL of prod/orders is not deleted, or its store can't be looked at.",
        what="in-doubt",
    ),
    Case(
        "MatriarchWalExpiryFrozen",
        "warning",
        {"matriarch_wal_expiry_frozen_seconds": NO, "matriarch_backup_store_look_failures": Value(3)},
        {"matriarch_wal_expiry_frozen_seconds": NO, "matriarch_backup_store_look_failures": Value(2)},
        "Old WAL of prod/orders is not deleted, or its store can't be looked at.",
        what="not-seen",
    ),
    Case(
        "MatriarchWalExpiryFrozen",
        "warning",
        {"matriarch_wal_expiry_frozen_seconds": Value(259201), "matriarch_backup_store_look_failures": Value(3)},
        {"matriarch_wal_expiry_frozen_seconds": Value(259200), "matriarch_backup_store_look_failures": Value(2)},
        "Old WAL of prod/orders is not deleted, or its store can't be looked at.",
        what="both-and-still-one-alert",
    ),
    _flag(
        "MatriarchDrillFailed",
        "critical",
        "matriarch_drill_failed",
        "The newest backup of prod/orders by schedule nightly failed its restore drill.",
        SCHEDULE,
    ),
    _flag(
        "MatriarchDrillOverdue",
        "warning",
        "matriarch_drill_overdue",
        "A restore drill of prod/orders by schedule nightly was not made at its time.",
        SCHEDULE,
    ),
    _flag(
        "MatriarchObjectiveMissed",
        "critical",
        "matriarch_objectives_missed",
        "prod/orders could not be recovered within its RPO and RTO.",
    ),
)

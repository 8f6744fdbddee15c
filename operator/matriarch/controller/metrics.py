"""The controller's own figures and those of each cluster's backups, in the text format that Prometheus reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from matriarch.controller.queue import Key

FORMAT = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of what `text` gives; Prometheus 3 takes nothing whose format is not named."""
HELP: Mapping[str, str] = {
    "matriarch_controller_active": "1 on the one controller that acts, 0 on those that stand by.",
    "matriarch_controller_events_total": "Watch events seen, by kind.",
    "matriarch_controller_oldest_reconcile_seconds": "How long the oldest reconcile that runs has been running.",
    "matriarch_controller_queue_length": "Resources that wait for a reconcile.",
    "matriarch_controller_reconciles_total": "Reconciles by kind and result (ok, conflict, unavailable, error).",
    "matriarch_reconcile_failing_seconds": "For how long every reconcile of a resource has failed.",
    "matriarch_backup_failed": "Failed Backups that are still there.",
    "matriarch_backup_key_gone": "1: a Secret with the key of a backup that is still kept is gone.",
    "matriarch_backup_last_failure_timestamp_seconds": "When the newest failed backup ended.",
    "matriarch_backup_last_success_timestamp_seconds": "When the newest complete backup ended.",
    "matriarch_backup_store_look_failures": "How many looks at a store failed in a row; of the worst store.",
    "matriarch_backup_store_lost": "1: a store lacks backups or WAL that it had.",
    "matriarch_backup_unhealthy": "1: the condition BackupHealthy is False.",
    "matriarch_wal_archive_failing": "1: the condition ArchivingWal is not True.",
    "matriarch_wal_archive_last_stored_timestamp_seconds": "When the newest file of WAL was stored.",
    "matriarch_wal_archive_oldest_pending_seconds": "How long the oldest file of WAL has waited for the store.",
    "matriarch_wal_archive_pending_files": "Files of WAL that are finished and not stored yet.",
    "matriarch_wal_expiry_frozen_seconds": "For how long no old WAL has been deleted though it should be; 0: it is.",
    "matriarch_wal_summaries_behind_bytes": "WAL not summarized for incremental backups; of the worst instance.",
    "matriarch_drill_check_seconds": "How long the checks of the latest good drill took.",
    "matriarch_drill_download_seconds": "How long the download of the latest good drill took.",
    "matriarch_drill_failed": "1: the latest drill failed.",
    "matriarch_drill_last_success_timestamp_seconds": "When the latest good drill ended.",
    "matriarch_drill_overdue": "1: a drill was not made at its time.",
    "matriarch_drill_replay_seconds": "How long the replay of WAL of the latest good drill took.",
    "matriarch_drill_rpo_seconds": "What the latest good drill would have lost.",
    "matriarch_drill_rto_seconds": "How long the latest good drill took until its data could be used.",
    "matriarch_objective_rpo_seconds": "The RPO that the spec asks for.",
    "matriarch_objective_rto_seconds": "The RTO that the spec asks for.",
    "matriarch_objectives_missed": "1: the condition ObjectivesMet is False.",
    "matriarch_rpo_exposure_seconds": "What would be lost if the cluster and its volumes were lost now.",
}
"""What each figure is. Whoever adds one adds its line here; without one it is shown all the same."""


@dataclass(slots=True)
class Metrics:
    """Counts since the process started."""

    reconciles: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By kind and result (ok, conflict, unavailable, error)."""
    events: Counter[str] = field(default_factory=Counter)
    """Watch events seen, by kind."""
    clusters: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    """By namespace and name: gauges by full name, as the cluster's backups were last looked at (once a minute)."""

    schedules: dict[tuple[str, str, str], dict[str, float]] = field(default_factory=dict)
    """By namespace, cluster and schedule: what its drills say."""

    def forget_schedule(self, namespace: str, name: str) -> None:
        """The resource is gone; which cluster it was of is not known then."""
        for key in [k for k in self.schedules if (k[0], k[2]) == (namespace, name)]:
            del self.schedules[key]

    def text(self, gauges: dict[str, float], failing: Mapping[Key, float]) -> str:
        """All figures; `gauges`: values of this moment by full name; `failing`: seconds by kind, namespace and name."""
        lines = _lines(
            "matriarch_controller_reconciles_total",
            ((f'{{kind="{kind}",result="{result}"}}', n) for (kind, result), n in sorted(self.reconciles.items())),
            "counter",
        )
        lines += _lines(
            "matriarch_controller_events_total",
            ((f'{{kind="{kind}"}}', n) for kind, n in sorted(self.events.items())),
            "counter",
        )
        for name, value in sorted(gauges.items()):
            lines += _lines(name, [("", value)])
        lines += _lines(
            "matriarch_reconcile_failing_seconds",
            (
                (f'{{kind="{kind}",namespace="{namespace}",name="{name}"}}', seconds)
                for (kind, namespace, name), seconds in sorted(failing.items())
            ),
        )
        for name in sorted({n for figures in self.clusters.values() for n in figures}):
            lines += _lines(
                name,
                (
                    (f'{{namespace="{namespace}",cluster="{cluster}"}}', figures[name])
                    for (namespace, cluster), figures in sorted(self.clusters.items())
                    if name in figures
                ),
            )
        for name in sorted({n for figures in self.schedules.values() for n in figures}):
            lines += _lines(
                name,
                (
                    (f'{{namespace="{space}",cluster="{cluster}",schedule="{schedule}"}}', figures[name])
                    for (space, cluster, schedule), figures in sorted(self.schedules.items())
                    if name in figures
                ),
            )
        return "\n".join(lines) + "\n"


def _lines(name: str, samples: Iterable[tuple[str, float]], kind: str = "gauge") -> list[str]:
    """One metric: its help, its type, and its samples by the text of their labels."""
    about = [f"# HELP {name} {HELP[name]}"] if name in HELP else []
    return [*about, f"# TYPE {name} {kind}", *(f"{name}{labels} {value:.15g}" for labels, value in samples)]


METRICS = Metrics()

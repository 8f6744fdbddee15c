"""The contract of the conditions, row by row: what stands in a status, and what Flux, Helm and Argo CD make of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]


def condition(type_: str, status: str, reason: str, message: str = "", seen: int = 2) -> Object:
    """One entry of status.conditions."""
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": seen,
        "lastTransitionTime": "2026-11-23T00:00:00Z",
    }


@dataclass(frozen=True)
class Row:
    """One state of a resource whose generation is 2."""

    what: str
    status: Object | None
    kstatus: str
    argo: str
    message: str
    """Argo's."""
    kind: str = "DatabaseCluster"
    metadata: Object = field(default_factory=dict)

    def object(self) -> Object:
        """The whole resource."""
        made: Object = {
            "apiVersion": "matriarch.dev/v1alpha1",
            "kind": self.kind,
            "metadata": {"name": "orders", "namespace": "prod", "generation": 2, **self.metadata},
            "spec": {},
        }
        if self.status is not None:
            made["status"] = copy.deepcopy(self.status)
        return made


def _seen(*conditions: Object, generation: int = 2) -> Object:
    return {"observedGeneration": generation, "conditions": list(conditions)}


NOT_YET = "The operator has not looked at it yet"
ROWS: tuple[Row, ...] = (
    Row("just created", {"observedGeneration": -1}, "InProgress", "Progressing", NOT_YET),
    Row(
        "changed, not seen yet",
        _seen(condition("Ready", "True", "AllInstancesReady", "fine", seen=1), generation=1),
        "InProgress",
        "Progressing",
        NOT_YET,
    ),
    Row(
        "working, first time",
        _seen(
            condition("Ready", "False", "Creating", "Making three instances."),
            condition("Reconciling", "True", "Creating", "Making three instances."),
        ),
        "InProgress",
        "Progressing",
        "Making three instances.",
    ),
    Row(
        "working, nothing known yet",
        _seen(
            condition("Ready", "Unknown", "Creating", "Starting."),
            condition("Reconciling", "True", "Creating", "Starting."),
        ),
        "InProgress",
        "Progressing",
        "Starting.",
    ),
    Row(
        "healthy",
        _seen(
            condition("Ready", "True", "AllInstancesReady", "orders-1 is primary."),
            condition("Available", "True", "PrimaryServes"),
        ),
        "Current",
        "Healthy",
        "orders-1 is primary.",
    ),
    Row(
        "rolling change, still serving",
        _seen(
            condition("Ready", "False", "RollingUpdate", "Restarting orders-2."),
            condition("Available", "True", "PrimaryServes", "orders-1 takes writes."),
            condition("Reconciling", "True", "RollingUpdate", "Restarting orders-2."),
        ),
        "InProgress",
        "Progressing",
        "Restarting orders-2.",
    ),
    Row(
        "failover running",
        _seen(
            condition("Ready", "False", "FailingOver", "orders-1 does not serve."),
            condition("Available", "False", "FailingOver", "orders-1 does not serve."),
            condition("Reconciling", "True", "FailingOver", "orders-1 does not serve."),
        ),
        "InProgress",
        "Progressing",
        "orders-1 does not serve.",
    ),
    Row(
        "needs a person",
        _seen(
            condition("Ready", "False", "UnknownParameter", "parameter wrok_mem does not exist."),
            condition("Available", "True", "PrimaryServes"),
            condition("Stalled", "True", "UnknownParameter", "parameter wrok_mem does not exist."),
        ),
        "Failed",
        "Degraded",
        "parameter wrok_mem does not exist.",
    ),
    Row(
        "suspended by the user",
        _seen(
            condition("Ready", "True", "Suspended", "No backups."),
            condition("Suspended", "True", "BySpec", "No backups."),
        ),
        "Current",
        "Suspended",
        "No backups.",
        kind="BackupSchedule",
    ),
    Row(
        "backup overdue",
        _seen(
            condition("Ready", "True", "AllInstancesReady", "orders-1 is primary."),
            condition("BackupHealthy", "False", "Overdue", "No backup for 25 h."),
        ),
        "Current",
        "Healthy",
        "orders-1 is primary. No backup for 25 h.",
    ),
    Row(
        "degraded synchronization",
        _seen(
            condition("Ready", "True", "AllInstancesReady", "orders-1 is primary."),
            condition("SyncDegraded", "False", "Synchronous", "Commits wait for 1 of 2 replicas."),
            condition("InstanceWarnings", "True", "SeeMessage", "orders-2: disk 91 % full"),
        ),
        "Current",
        "Healthy",
        "orders-1 is primary. orders-2: disk 91 % full",
    ),
    Row(
        "backup complete",
        _seen(condition("Ready", "True", "Complete", "Stored."), condition("Complete", "True", "Complete", "Stored.")),
        "Current",
        "Healthy",
        "Stored.",
        kind="Backup",
    ),
    Row(
        "backup failed",
        _seen(
            condition("Ready", "False", "NoSuchBucket", "There is no such bucket."),
            condition("Failed", "True", "NoSuchBucket", "There is no such bucket."),
            condition("Stalled", "True", "NoSuchBucket", "There is no such bucket."),
        ),
        "Failed",
        "Degraded",
        "There is no such bucket.",
        kind="Backup",
    ),
    Row(
        "restore at work",
        _seen(
            condition("Ready", "False", "Restoring", "Loading."),
            condition("Reconciling", "True", "Restoring", "Loading."),
        ),
        "InProgress",
        "Progressing",
        "Loading.",
        kind="Restore",
    ),
    Row(
        "being deleted",
        _seen(condition("Ready", "True", "AllInstancesReady", "fine")),
        "Terminating",
        "Healthy",  # Argo CD itself says Progressing for what is being deleted, before it asks the script
        "fine",
        metadata={"deletionTimestamp": "2026-11-23T00:00:00Z"},
    ),
)

"""BackupSchedule: when backups are made and which of them stay."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from matriarch.api.backup_rules import CRON
from matriarch.api.drill import Drill, DrillRecord, DrillStatus
from matriarch.api.incremental import INCREMENTAL, Incremental
from matriarch.api.model import LIST_ATOMIC, ClusterName, Column, Kind, Model, Resource, Rule, Time
from matriarch.api.status import AGE, MESSAGE, READY, Status
from matriarch.api.stores import StoreName

TimeZone = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$")]


class Retention(Model):
    """Which backups stay in the store. A backup stays while any rule keeps it. The newest good one always stays, so do
    the newest that a restore or drill has proven, what increments build on, and Backups with the label
    `matriarch.dev/pinned: "true"`."""

    days: Annotated[int, Field(ge=1, le=36_500)] | None = None
    """Keeps what is at most this old; 30 if no rule is set."""
    count: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Keeps the newest so many good ones."""
    daily: Annotated[int, Field(ge=1, le=3660)] | None = None
    """Keeps the newest good one of each of the latest so many days that have one, in UTC."""
    weekly: Annotated[int, Field(ge=1, le=1040)] | None = None
    """The same by ISO weeks."""
    monthly: Annotated[int, Field(ge=1, le=1200)] | None = None
    """The same by months."""
    yearly: Annotated[int, Field(ge=1, le=100)] | None = None
    """The same by years."""
    grace_hours: Annotated[int, Field(ge=0, le=8760)] | None = None
    """A backup that no rule keeps any more is announced in the status, and deleted by the first pass so long after; 0
    if absent: by the pass that finds it."""
    dry_run: bool | None = None
    """True deletes nothing; the status says what would go."""


class History(Model):
    """How many finished Backup objects stay in Kubernetes. What lies in the store is retention's business."""

    successful: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Complete ones; 7 if absent."""
    failed: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Failed ones; 3 if absent."""


class BackupScheduleSpec(Model):
    """When to back up, what, and what to keep."""

    cluster: ClusterName
    """The DatabaseCluster, in the same namespace."""
    cron: Annotated[str, Field(min_length=1, max_length=120)]
    """Five fields: minute, hour, day of the month, month, day of the week, such as `0 2 * * *`."""
    time_zone: TimeZone | None = None
    """A name such as `Europe/Berlin`; `UTC` if absent."""
    suspend: bool | None = None
    """True starts no more backups; running ones go on."""
    method: Literal["logical", "physical"] | None = None
    """`logical` (SQL; if absent) or `physical`: the files of an instance, for large databases."""
    incremental: Incremental | None = None
    """Of physical backups only what changed since the one before; `{}` for the defaults. Full ones if absent."""
    store: StoreName | None = None
    """One of the cluster's `spec.backup.stores`; the first if absent."""
    target: Literal["prefer-replica", "primary"] | None = None
    """The instance to read from; `prefer-replica` if absent."""
    retention: Retention | None = None
    """30 days if absent."""
    history: History | None = None
    concurrency: Literal["Forbid", "Allow"] | None = None
    """`Forbid` (if absent) skips a run while the one before is still at work."""

    starting_deadline_seconds: Annotated[int, Field(ge=10, le=86_400)] | None = None
    """A run that could not start in time is skipped after this long; if absent, after half of the time to the next."""

    drill: Drill | None = None
    """Restores the newest good backup into a throwaway instance; if absent, only when the annotation
    `matriarch.dev/drill` asks for it."""

    rules: ClassVar[tuple[Rule, ...]] = (*CRON, INCREMENTAL)


class Expiring(Model):
    """A backup that no rule keeps any more."""

    backup: Annotated[str, Field(max_length=256)]
    """Its name in the store."""
    after: Time
    """The first pass from then on deletes it; in a dry run it would."""


class RetentionStatus(Model):
    """What the latest pass of retention did."""

    after: str | None = None
    """The Backup that it ran after."""
    finished_at: Time | None = None
    kept: int | None = None
    deleted: int | None = None
    frozen: Annotated[str, Field(max_length=1024)] | None = None
    """Why nothing may be deleted now; absent when all is well."""
    expiring: Annotated[list[Expiring], Field(max_length=20, json_schema_extra=LIST_ATOMIC)] | None = None
    """What goes next, soonest first, 20 at most."""
    expiring_total: int | None = None


class BackupScheduleStatus(Status):
    """The schedule as it was last seen."""

    next_run: Time | None = None
    last_run: Time | None = None
    """The latest time that a backup was due and started."""
    last_backup: str | None = None
    last_success: Time | None = None
    last_failure: Time | None = None
    active: Annotated[list[str], Field(max_length=100, json_schema_extra=LIST_ATOMIC)] | None = None
    """Backups at work."""
    retention: RetentionStatus | None = None
    drill: DrillStatus | None = None
    last_drill: DrillRecord | None = None
    drills: Annotated[list[DrillRecord], Field(max_length=10, json_schema_extra=LIST_ATOMIC)] | None = None
    """The latest drills, newest first."""


class BackupSchedule(Resource):
    """Backs a DatabaseCluster up by the clock and removes what is no longer wanted."""

    about: ClassVar[Kind] = Kind(
        kind="BackupSchedule",
        plural="backupschedules",
        short="bks",
        longest_name=48,  # its Backups are called `<schedule>-<14 digits>`
        columns=(
            READY,
            Column("Cluster", ".spec.cluster"),
            Column("Cron", ".spec.cron"),
            Column("Next", ".status.nextRun"),
            Column("Last Success", ".status.lastSuccess", "date"),
            AGE,
            Column("Restorable", ".status.conditions[?(@.type=='Restorable')].status", priority=1),
            Column("Suspended", ".spec.suspend", "boolean", 1),
            Column("Time Zone", ".spec.timeZone", priority=1),
            MESSAGE,
        ),
    )

    spec: BackupScheduleSpec
    status: BackupScheduleStatus = Field(default_factory=BackupScheduleStatus)

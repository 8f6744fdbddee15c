"""The drill of a BackupSchedule: what it asks of a restored backup, and what the latest ones found."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from matriarch.api.backup_rules import CRON
from matriarch.api.model import Int64, Model, ObjectName, Quantity, Rule, Time, int_or_string, list_map

Amount = Annotated[str, *int_or_string(32)]

ANNOTATION = "matriarch.dev/drill"
"""On a BackupSchedule: another value makes one drill now."""


class DrillQuery(Model):
    """A question whose answer shows that the right data came back: read-only, as a role that reads everything."""

    name: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    """What a failure calls it."""
    sql: Annotated[str, Field(min_length=1, max_length=2000)]
    """One statement, with qualified names, such as `SELECT count(*) > 0 FROM shop.orders`."""
    database: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """The application's database (`spec.bootstrap.database` of the cluster) if absent."""
    expect: Annotated[str, Field(max_length=256)] | None = None
    """The one value that comes back, as text. If absent, the statement must not fail, and when it gives one column of
    booleans, there must be rows, and all of them true."""
    timeout_seconds: Annotated[int, Field(ge=1, le=3600)] | None = None
    """60 if absent."""


class DrillStorage(Model):
    """The volume of the throwaway instance, which goes with it."""

    size: Quantity | None = None
    """If absent, twice a physical backup or four times a logical one, and 2Gi for WAL."""
    storage_class_name: ObjectName | None = None
    """A volume of this class is made for each drill; if absent, the node's own disk is used (an emptyDir)."""


class DrillResources(Model):
    """What the drill's container asks for, as in a Pod."""

    requests: Annotated[dict[str, Amount], Field(max_length=16)] | None = None
    """`cpu: 100m` and `memory: 512Mi` if absent."""
    limits: Annotated[dict[str, Amount], Field(max_length=16)] | None = None
    """`memory: 1Gi` if absent."""


class Drill(Model):
    """When to restore the newest good backup of this schedule for a proof, and what to ask of it."""

    cron: Annotated[str, Field(min_length=1, max_length=120)]
    """Five fields, in the schedule's time zone, such as `0 5 * * 0` for every Sunday at five."""
    queries: Annotated[list[DrillQuery], Field(max_length=16, json_schema_extra=list_map("name"))] | None = None
    """What to ask; pg_amcheck runs in any case."""
    amcheck: Literal["structure", "heapallindexed"] | None = None
    """`structure` (if absent) of every table and index; `heapallindexed` also looks up every row in every index."""
    timeout_seconds: Annotated[int, Field(ge=60, le=604_800)] | None = None
    """A drill that takes longer has failed; 14400 (4 h) if absent."""
    resources: DrillResources | None = None
    storage: DrillStorage | None = None

    rules: ClassVar[tuple[Rule, ...]] = CRON


class ActiveDrill(Model):
    """The drill at work. It is written down before its Job exists."""

    backup: str
    """The Backup."""
    job: str
    job_seen: bool | None = None
    started_at: Time
    scheduled_for: Time | None = None
    """Absent when it was asked for."""
    archive_behind_seconds: Int64 | None = None
    """How long WAL waited for the store when it began; absent when nothing reliable was known."""


class DrillStatus(Model):
    """When drills are made."""

    since: Time | None = None
    """Times before this are not made up for."""
    next_run: Time | None = None
    last_run: Time | None = None
    """The latest scheduled time that a drill was begun for."""
    handled: Annotated[str, Field(max_length=256)] | None = None
    """Value of the annotation `matriarch.dev/drill` that was carried out last."""
    active: ActiveDrill | None = None


class DrillRecord(Model):
    """One drill that is over. Durations are in seconds."""

    backup: str | None = None
    """The Backup; absent when there was none."""
    backup_id: str | None = None
    result: Annotated[str, Field(max_length=16)]
    """Passed or Failed."""
    reason: Annotated[str, Field(max_length=128)]
    message: Annotated[str, Field(max_length=1024)] = ""
    started_at: Time
    finished_at: Time
    scheduled_for: Time | None = None
    download_seconds: float | None = None
    """To fetch, decrypt and check the backup."""
    replay_seconds: float | None = None
    """To replay WAL, or to load SQL."""
    check_seconds: float | None = None
    """For the comparison, pg_amcheck and the queries."""
    rto_seconds: float | None = None
    """From nothing to a server that takes writes: `downloadSeconds` and `replaySeconds`."""
    rpo_seconds: float | None = None
    """At most so much was missing: the age of the newest transaction that came back when the drill began, or, when that
    is less, how far the WAL archive was behind."""
    newest_transaction_at: Time | None = None
    size_bytes: Int64 | None = None
    tables: Int64 | None = None
    queries: int | None = None
    lsn: str | None = None
    """Where replay ended."""
    timeline: Int64 | None = None

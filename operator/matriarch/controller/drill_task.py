"""The Job of a drill from a schedule and the Backup that it restores."""

from __future__ import annotations

import hashlib

from matriarch.api.backup import Backup
from matriarch.api.backup_schedule import BackupSchedule
from matriarch.api.drill import Drill
from matriarch.backup import jobspec
from matriarch.backup.drillspec import DrillQuery, DrillTask
from matriarch.controller import backup_store
from matriarch.controller.backup_around import Around
from matriarch.controller.backup_store import Place
from matriarch.controller.backup_task import identity, job_wish
from matriarch.controller.env import Env
from matriarch.errors import Refused
from matriarch.kube.client import Object
from matriarch.resources.drilljob import FOLDER, DrillVolume, DrillWish
from matriarch.resources.job import JobWish, job_name

TIMEOUT = 14_400
"""Seconds, where the spec says nothing."""
QUERY_TIMEOUT = 60
WAL = 2 << 30
"""Bytes of room for WAL and for what it makes grow, beyond the data's own."""
PHYSICAL_ROOM, LOGICAL_ROOM = 2, 4
"""Times the backup's size: files stay what they are, SQL comes back with its indexes."""
TASK_LIMIT = 100_000
"""Bytes of a task, which is one environment variable: the kernel takes 128 KiB."""
_DRILL = Drill(cron="0 0 1 1 *")  # the defaults of a drill that is asked for without a spec


def name_of(schedule: BackupSchedule, backup: str, begun: str) -> str:
    """One for each drill; it is written down before the Job is made, so that making it twice is making it once."""
    digest = hashlib.sha256("\0".join((schedule.metadata.uid, backup, begun)).encode()).hexdigest()
    return job_name(schedule.spec.cluster, "drill", digest, 1)


def place_of(backup: Backup) -> Place | None:
    """Where a complete Backup lies: the store as it was then."""
    status = backup.status
    if status.store is None:
        return None
    return Place(store=status.store, folder=status.folder or "", key=status.key_secret, cluster=backup.spec.cluster)


def wish(
    env: Env, schedule: BackupSchedule, around: Around, backup: Object, place: Place, name: str, owner: Object
) -> tuple[JobWish, DrillWish]:
    """Raises Refused for a drill that no Job can be told."""
    drill, parsed = schedule.spec.drill or _DRILL, Backup.model_validate(backup)
    timeout = drill.timeout_seconds or TIMEOUT
    task = jobspec.JobSpec(
        task="drill",
        cluster=identity(around),
        store=backup_store.spec(place),
        keys=backup_store.key_names(place),
        drill=_task(drill, around, parsed, place, timeout),
    )
    if len(text := task.to_json()) > TASK_LIMIT:
        raise Refused(
            f"spec.drill.queries make a task of {len(text)} bytes, more than {TASK_LIMIT}: shorten them, or put them "
            "into views of the database.",
            reason="QueriesTooLong",
        )
    made = job_wish(env, around, place, name=name, owner=owner, purpose="drill", task=task, tls=None)
    asked = drill.resources
    return made, DrillWish(
        timeout=timeout,
        volume=_volume(drill, parsed),
        requests=dict((asked.requests if asked else None) or {}),
        limits=dict((asked.limits if asked else None) or {}),
    )


def _task(drill: Drill, around: Around, backup: Backup, place: Place, timeout: int) -> DrillTask:
    physical = backup.spec.method == "physical"
    archive = physical and _archive_is_beside(around, place)
    database = around.defaults.database if around.defaults is not None else "app"
    return DrillTask(
        backup=backup.status.backup_name or "",
        method="physical" if physical else "logical",
        folder=FOLDER,
        manifest_sha256=backup.status.manifest_sha256,
        archive=archive,
        archived_to=_archived_to(around) if archive else None,
        queries=tuple(
            DrillQuery(
                name=q.name,
                sql=q.sql,
                database=q.database or database,
                expect=q.expect,
                timeout=float(q.timeout_seconds or QUERY_TIMEOUT),
            )
            for q in drill.queries or ()
        ),
        amcheck=drill.amcheck or "structure",
        timeout=float(timeout),
        allow_unencrypted=place.key is None,
    )


def _archive_is_beside(around: Around, place: Place) -> bool:
    """The archive is looked for where the backup lies: a Job mounts one store's Secret."""
    archive = around.defaults.wal_archive if around.defaults is not None else None
    if archive is None or place.store.local is not None:
        return False
    above = Place(store=archive.store, folder=place.folder, key=None, cluster=place.cluster)
    return backup_store.address(above) == backup_store.address(place)


def _archived_to(around: Around) -> str | None:
    told = around.cluster.status.wal_archive if around.cluster is not None else None
    return told.last_lsn if told is not None else None


def archive_behind(around: Around) -> int | None:
    """Seconds that WAL waits for the store; None while the archive does not work or says nothing."""
    cluster = around.cluster
    if cluster is None or cluster.status.wal_archive is None:
        return None
    if not any(c.type == "ArchivingWal" and c.status == "True" for c in cluster.status.conditions):
        return None
    return cluster.status.wal_archive.oldest_pending_seconds or 0


def uses_archive(around: Around, backup: Object) -> bool:
    """Whether a drill of this Backup replays the WAL archive."""
    parsed = Backup.model_validate(backup)
    place = place_of(parsed)
    return parsed.spec.method == "physical" and place is not None and _archive_is_beside(around, place)


def _volume(drill: Drill, backup: Backup) -> DrillVolume:
    size = backup.status.size_bytes or 0
    room = size * (PHYSICAL_ROOM if backup.spec.method == "physical" else LOGICAL_ROOM) + WAL
    asked = drill.storage
    return DrillVolume(
        size=(asked.size if asked else None) or str(room),
        needed=size,
        storage_class=asked.storage_class_name if asked else None,
    )

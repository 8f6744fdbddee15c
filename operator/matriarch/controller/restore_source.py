"""What a Restore is to bring back: where it lies, what is wrong with it, and whose it was."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from matriarch.api.backup import Backup
from matriarch.api.database_cluster import DatabaseCluster
from matriarch.api.restore import Restore
from matriarch.api.stores import BackupStore
from matriarch.backup import jobspec
from matriarch.controller.backup_status import is_suspect
from matriarch.controller.backup_store import Place
from matriarch.controller.backup_task import SCHEDULE_LABEL
from matriarch.controller.env import Env
from matriarch.decide.backups import Phase
from matriarch.decide.verdict import Standing, Verdict
from matriarch.kube.client import Object
from matriarch.postgres.lsn import parse_lsn

_FOLDER = re.compile(r"(?:(?P<namespace>[^/]+)/)?(?P<cluster>[^/]+?)-(?P<system>\d{10,20})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The source of one Restore as it stands now."""

    verdict: Verdict | None = None
    """What is wrong with it; None: it can be looked at."""
    place: Place | None = None
    backup: str = "latest"
    """The backup's name in the store, or another form that a person gave."""
    manifest_sha256: str | None = None
    """What its manifest has to be, where a Backup remembers that."""
    version: str | None = None
    """Major version of PostgreSQL, where it is known."""
    cluster: DatabaseCluster | None = None
    """The backed-up cluster, if it still exists."""
    identity: jobspec.ClusterIdentity | None = None
    physical: bool = False
    size: int = 0
    """Bytes of its files, where that is known."""


async def source_of(restore: Restore, env: Env) -> Source:
    """Read the source of a Restore."""
    namespace, asked = restore.metadata.namespace, restore.spec.source
    if asked.backup is not None:
        return await _from_backup(restore, asked.backup.name, env)
    if asked.schedule is not None:
        return await _from_schedule(restore, asked.schedule.name, env)
    store = asked.store
    assert store is not None  # the schema asks for exactly one
    match = _FOLDER.fullmatch(store.cluster or "")
    return Source(
        place=Place(
            store=BackupStore(name="source", s3=store.s3, gcs=store.gcs, local=store.local),
            folder=(store.cluster or "").strip("/"),
            key=store.key_secret,
            cluster=restore.spec.target.cluster,
            as_of=store.as_of,
        ),
        backup=store.backup_id or "latest",
        physical=store.method == "physical" or (store.method is None and restore.spec.recovery_target is not None),
        identity=jobspec.ClusterIdentity(
            namespace=(match["namespace"] if match else None) or namespace,
            name=match["cluster"] if match else restore.spec.target.cluster,
            uid="",
            system_identifier=match["system"] if match else None,
        ),
    )


async def _from_schedule(restore: Restore, name: str, env: Env) -> Source:
    """The newest good physical Backup that ended before the target; once one was checked, that one."""
    namespace, wanted = restore.metadata.namespace, restore.spec.recovery_target
    found = await env.kube.list("Backup", namespace, {SCHEDULE_LABEL: name})
    good = [b for b in found if b["spec"].get("method") == "physical" and _is_good(b)]
    if (chosen := restore.status.backup_name) is not None:
        good = [b for b in good if b["status"].get("backupName") == chosen]
    elif wanted is not None and wanted.time is not None:
        moment = datetime.fromisoformat(wanted.time)
        # The status has whole seconds, cut off.
        good = [b for b in good if datetime.fromisoformat(b["status"]["finishedAt"]) + timedelta(seconds=1) <= moment]
    elif wanted is not None and wanted.lsn is not None:
        good = [b for b in good if parse_lsn(b["status"].get("lsn") or "0/0") <= parse_lsn(wanted.lsn)]
    if not good:
        message = (
            f"BackupSchedule {name} has no good physical Backup in this namespace that ended before the recovery "
            "target. Name an earlier Backup or a store, or choose a later target, in a new Restore."
        )
        return Source(verdict=Verdict(Standing.WORKING, "MissingBackup", message), physical=True)
    newest = max(good, key=lambda b: (b["status"]["finishedAt"], b["metadata"]["name"]))
    return await _from_backup(restore, newest["metadata"]["name"], env)


def _is_good(backup: Object) -> bool:
    status = backup.get("status") or {}
    return status.get("phase") == Phase.COMPLETE and bool(status.get("finishedAt")) and not is_suspect(backup)


async def _from_backup(restore: Restore, name: str, env: Env) -> Source:
    namespace = restore.metadata.namespace
    found = await env.kube.get("Backup", namespace, name)
    if found is None:
        message = f"There is no Backup {name} in this namespace. Create it, or make a new Restore with another source."
        return Source(verdict=Verdict(Standing.WORKING, "MissingBackup", message))
    backup = Backup.model_validate(found)
    status = backup.status
    if status.phase == Phase.FAILED:
        message = f"Backup {name} failed and holds nothing to restore. Make a new Restore with another source."
        return Source(verdict=Verdict(Standing.STALLED, "BackupFailed", message))
    if status.phase != Phase.COMPLETE or status.store is None or not status.backup_name:
        message = f"Backup {name} is not complete yet."
        return Source(verdict=Verdict(Standing.WORKING, "BackupNotComplete", message))
    cluster = await env.kube.get("DatabaseCluster", namespace, backup.spec.cluster)
    physical = backup.spec.method == "physical"
    return Source(
        verdict=_unfit(restore, found, cluster, physical=physical),
        physical=physical,
        size=status.size_bytes or 0,
        place=Place(store=status.store, folder=status.folder or "", key=status.key_secret, cluster=backup.spec.cluster),
        backup=status.backup_name,
        manifest_sha256=status.manifest_sha256,
        version=major(status.postgres_version),
        cluster=DatabaseCluster.model_validate(cluster) if cluster is not None else None,
        identity=jobspec.ClusterIdentity(
            namespace=namespace,
            name=backup.spec.cluster,
            uid=cluster["metadata"]["uid"] if cluster is not None else "",
            system_identifier=status.system_identifier,
        ),
    )


def _unfit(restore: Restore, backup: Object, cluster: Object | None, *, physical: bool) -> Verdict | None:
    """Why a complete Backup does not do for what is asked."""
    name, wanted = backup["metadata"]["name"], restore.spec.recovery_target
    if not physical:
        if wanted is None:
            return None
        message = f"Backup {name} is logical, and WAL is replayed onto physical ones only: leave recoveryTarget out."
        return Verdict(Standing.STALLED, "LogicalBackup", message)
    if is_suspect(backup):
        message = f"Pages of Backup {name} failed their checksum. Make a new Restore from another Backup."
        return Verdict(Standing.STALLED, "Suspect", message)
    archive = ((((cluster or {}).get("spec") or {}).get("backup") or {}).get("walArchive") or {}).get("store")
    store = (backup["status"].get("store") or {}).get("name")
    if wanted is not None and wanted.to != "immediate" and archive not in (None, store):
        message = (
            f"Backup {name} is in store {store} and the WAL archive in {archive}, and a recovery reads one store. Make "
            f"a new Restore from a Backup in {archive}, or without recoveryTarget."
        )
        return Verdict(Standing.STALLED, "ArchiveElsewhere", message)
    return None


def major(version: str | None) -> str | None:
    """`17.11 (Debian 17.11-1)` → `17`."""
    match = re.match(r"\d+", version or "")
    return match[0] if match else None

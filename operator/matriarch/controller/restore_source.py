"""What a Restore is to bring back: where it lies, what is wrong with it, and whose it was."""

from __future__ import annotations

import re
from dataclasses import dataclass

from matriarch.api.backup import Backup
from matriarch.api.database_cluster import DatabaseCluster
from matriarch.api.restore import Restore
from matriarch.api.stores import BackupStore
from matriarch.backup import jobspec
from matriarch.controller.backup_store import Place
from matriarch.controller.env import Env
from matriarch.decide.backups import Phase
from matriarch.decide.verdict import Standing, Verdict

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


async def source_of(restore: Restore, env: Env) -> Source:
    """Read the source of a Restore."""
    namespace, asked = restore.metadata.namespace, restore.spec.source
    if asked.backup is not None:
        return await _from_backup(namespace, asked.backup.name, env)
    store = asked.store
    assert store is not None  # the schema asks for exactly one
    match = _FOLDER.fullmatch(store.cluster or "")
    return Source(
        place=Place(
            store=BackupStore(name="source", s3=store.s3, local=store.local),
            folder=(store.cluster or "").strip("/"),
            key=store.key_secret,
            cluster=restore.spec.target.cluster,
            as_of=store.as_of,
        ),
        backup=store.backup_id or "latest",
        identity=jobspec.ClusterIdentity(
            namespace=(match["namespace"] if match else None) or namespace,
            name=match["cluster"] if match else restore.spec.target.cluster,
            uid="",
            system_identifier=match["system"] if match else None,
        ),
    )


async def _from_backup(namespace: str, name: str, env: Env) -> Source:
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
    if backup.spec.method == "physical":
        message = (
            f"Backup {name} is physical, which only the command line restores so far, into a directory: make a new "
            "Restore from a logical Backup, or see docs/backup.md."
        )
        return Source(verdict=Verdict(Standing.STALLED, "PhysicalBackup", message))
    cluster = await env.kube.get("DatabaseCluster", namespace, backup.spec.cluster)
    return Source(
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


def major(version: str | None) -> str | None:
    """`17.11 (Debian 17.11-1)` → `17`."""
    match = re.match(r"\d+", version or "")
    return match[0] if match else None

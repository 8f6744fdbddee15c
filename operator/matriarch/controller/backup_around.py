"""One cluster and everything that its backups and restores touch, read at one time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from matriarch.api.database_cluster import DatabaseCluster
from matriarch.api.defaults import ClusterDefaults, fill
from matriarch.api.stores import BackupStore
from matriarch.controller import backup_key, backup_store
from matriarch.controller.backup_status import parse_time
from matriarch.controller.backup_store import Place
from matriarch.controller.env import Env
from matriarch.decide.backups import Phase
from matriarch.kube.client import Object
from matriarch.kube.errors import Conflict
from matriarch.resources.job import labels

PINNED_LABEL = "matriarch.dev/pinned"
OF_CLUSTER = "ClusterBackups"
"""Kind of the queue's keys for all Backups of one cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """One cluster and everything that its backups touch, read at one time."""

    namespace: str
    name: str
    now: datetime
    cluster_object: Object | None
    cluster: DatabaseCluster | None
    defaults: ClusterDefaults | None
    backups: tuple[Object, ...]
    """Of this cluster, oldest first."""
    restores: tuple[Object, ...]
    """Into this cluster."""
    schedules: tuple[Object, ...]
    proven: tuple[str, ...]
    """ids of backups of this cluster that a Restore or a drill has brought back whole."""

    @property
    def open(self) -> tuple[Object, ...]:
        """Backups that are not over, oldest first."""
        return tuple(b for b in self.backups if not over(b) and not b["metadata"].get("deletionTimestamp"))

    @property
    def restoring(self) -> Object | None:
        """The Restore that is replacing or loading this cluster's data."""
        return next((r for r in self.restores if (r.get("status") or {}).get("phase") == Phase.RUNNING), None)


async def gather(namespace: str, name: str, env: Env) -> Around:
    """Read what one run needs; Jobs and Secrets are read for each Backup that asks for them."""
    now = env.now()
    found = await env.kube.get("DatabaseCluster", namespace, name)
    cluster = DatabaseCluster.model_validate(found) if found is not None else None
    backups = await env.kube.list("Backup", namespace)
    restores = await env.kube.list("Restore", namespace)
    schedules = await env.kube.list("BackupSchedule", namespace)
    ours = tuple(sorted((b for b in backups if b["spec"]["cluster"] == name), key=order))
    return Around(
        namespace=namespace,
        name=name,
        now=now,
        cluster_object=found,
        cluster=cluster,
        defaults=fill(name, cluster.spec) if cluster is not None else None,
        backups=ours,
        restores=tuple(r for r in restores if r["spec"]["target"]["cluster"] == name),
        schedules=tuple(s for s in schedules if s["spec"]["cluster"] == name),
        proven=tuple(sorted({*_proven(ours, restores), *_drilled(schedules)})),
    )


def is_pinned(backup: Object) -> bool:
    """Somebody wants it to stay: its data in the store, and so its record."""
    return (backup["metadata"].get("labels") or {}).get(PINNED_LABEL) == "true"


def _proven(backups: Iterable[Object], restores: Iterable[Object]) -> tuple[str, ...]:
    restored = {
        (r.get("status") or {}).get("backupName")
        for r in restores
        if (r.get("status") or {}).get("phase") == Phase.COMPLETE
    }
    statuses = [b.get("status") or {} for b in backups]
    return tuple(sorted(s["id"] for s in statuses if s.get("id") and s.get("backupName") in restored))


def _drilled(schedules: Iterable[Object]) -> set[str]:
    """A drill proves a backup as a Restore does."""
    drills = [d for s in schedules for d in (s.get("status") or {}).get("drills") or ()]
    return {d["backupId"] for d in drills if d.get("result") == "Passed" and d.get("backupId")}


def cluster_place(around: Around, wanted: str | None) -> Place | None:
    """The store of this name, or the first, as the cluster's spec has it now."""
    cluster, defaults = around.cluster, around.defaults
    if cluster is None or defaults is None or cluster.spec.backup is None:
        return None
    stores: Iterable[BackupStore] = cluster.spec.backup.stores
    store = next((s for s in stores if wanted in (None, s.name)), None)
    if store is None:
        return None
    identifier = cluster.status.system_identifier
    return Place(
        store=store,
        folder=backup_store.folder(around.namespace, around.name, identifier) if identifier else "",
        key=backup_store.key_of(defaults),
        cluster=around.name,
    )


async def prepare(env: Env, around: Around, place: Place) -> None:
    """Make what is the operator's to make: the key, and the claim of a local store."""
    await backup_key.ensure(env.kube, around.namespace, around.name, place, around.backups)
    wanted = backup_store.wanted_claim(place, around.namespace, labels(around.name, "store"))
    if wanted is not None and await env.kube.get(wanted["kind"], around.namespace, wanted["metadata"]["name"]) is None:
        try:
            await env.kube.create(wanted)
        except Conflict as e:
            if not e.exists:
                raise


def over(backup: Object) -> bool:
    """A Backup or Restore that never changes again."""
    phase = (backup.get("status") or {}).get("phase")
    return phase in (Phase.COMPLETE, Phase.FAILED)


def created(backup: Object) -> datetime:
    """When the object was made."""
    time = parse_time(backup["metadata"]["creationTimestamp"])
    assert time is not None
    return time


def order(backup: Object) -> tuple[datetime, str]:
    """The queue's order: by creation."""
    return created(backup), backup["metadata"]["name"]

"""The DatabaseCluster that a Restore makes: like the backed-up one, with what the Restore wants otherwise."""

from __future__ import annotations

from typing import Any

from matriarch.api.database_cluster import DatabaseCluster
from matriarch.api.restore import CheckedBackup, Overrides, Restore
from matriarch.api.rules import quantity
from matriarch.controller.restore_source import major
from matriarch.errors import Refused
from matriarch.kube.client import Object
from matriarch.resources import names

RESTORED_BY = "matriarch.dev/restored-by"
"""Annotation on a cluster that a Restore made: the Restore's uid. A cluster without it is never restored into."""
RESTORED_FROM = "matriarch.dev/restored-from"

_GIB = 1024**3
_OWN = ("primary", "replica")
"""Fields that belong to the backed-up cluster's life and not to its shape."""


def wanted_cluster(
    restore: Restore, source: DatabaseCluster | None, checked: CheckedBackup, *, physical: bool = False
) -> Object:
    """The resource to create.

    Without the backed-up cluster's own spec (it is gone) it has one instance, room for three times the data, and the
    database and owner of the backup, wherever `overrides` says nothing else. `physical`: it waits for this Restore to
    fill its first volume, and is of the backup's version of PostgreSQL.

    Raises:
        Refused: it is not known which version of PostgreSQL the backup is of, or its files would not fit.
    """
    spec = _base(source, checked)
    if physical:
        spec["version"] = major(checked.postgres_version) or spec["version"]
    if restore.spec.target.overrides is not None:
        _override(spec, restore.spec.target.overrides)
    _fit(spec, restore.spec.target.cluster)
    notes = {RESTORED_BY: restore.metadata.uid, RESTORED_FROM: restore.status.backup_name or ""}
    if physical:
        _has_room(spec, checked)
        notes[names.FILLED_BY] = f"{restore.metadata.name}/{restore.metadata.uid}"
    return {
        "kind": "DatabaseCluster",
        "metadata": {
            "name": restore.spec.target.cluster,
            "namespace": restore.metadata.namespace,
            "annotations": notes,
        },
        "spec": spec,
    }


def _has_room(spec: dict[str, Any], checked: CheckedBackup) -> None:
    size, files = str(spec["storage"]["size"]), checked.size_bytes or 0
    if quantity(size) < files:
        raise Refused(
            f"The backup's files take {-(-files // 1024**2)} MiB and the volumes of {spec['storage']['size']} are "
            "smaller: set target.overrides.storage.size to at least that, with room for WAL.",
            reason="TargetTooSmall",
        )


def _base(source: DatabaseCluster | None, checked: CheckedBackup) -> dict[str, Any]:
    if source is not None:
        spec: dict[str, Any] = source.spec.model_dump(by_alias=True, exclude_none=True)
        return {key: value for key, value in spec.items() if key not in _OWN}
    version = major(checked.postgres_version)
    if version is None:
        raise Refused("The backup does not say which version of PostgreSQL it is of.", reason="UnknownVersion")
    spec = {
        "version": version,
        "instances": 1,
        "storage": {"size": f"{1 + -(-3 * (checked.size_bytes or 0) // _GIB)}Gi"},
    }
    born = {"database": checked.database, "owner": checked.owner}
    if any(born.values()):
        spec["bootstrap"] = {key: value for key, value in born.items() if value}
    return spec


def _override(spec: dict[str, Any], overrides: Overrides) -> None:
    given = overrides.model_dump(by_alias=True, exclude_none=True)
    for field in ("instances", "resources", "scheduling", "backup", "image"):
        if field in given:
            spec[field] = given[field]
    for field in ("storage", "parameters"):
        if field in given:
            spec[field] = {**spec.get(field, {}), **given[field]}


def _fit(spec: dict[str, Any], name: str) -> None:
    """Rules made for the backed-up cluster's instances become this cluster's; those that no longer fit go, so that
    the defaults hold."""
    replication = dict(spec.pop("replication", {}))
    sync = dict(replication.pop("sync", {}))
    if sync.get("number", 0) >= spec["instances"]:
        sync.pop("number")
    numbered = [(int(p["instance"].rpartition("-")[2]), p) for p in replication.pop("priorities", ())]
    kept = [{**p, "instance": f"{name}-{n}"} for n, p in numbered if n <= spec["instances"]]
    replication.pop("delayed", None)  # a copy to look at starts with what there is
    replication |= {key: value for key, value in (("sync", sync), ("priorities", kept)) if value}
    if replication:
        spec["replication"] = replication

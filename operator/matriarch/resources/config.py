"""The ConfigMap by which agents learn what the spec wants, with every default filled in (docs/architecture.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from matriarch.decide.conditions import FORGET_REPLACED
from matriarch.postgres.preload import DOOR, SYNC_WAIT
from matriarch.resources import archive, names
from matriarch.resources.blueprint import Blueprint, Object

KEY = "cluster.json"
PRELOAD = (SYNC_WAIT, DOOR, "pg_stat_statements")


def config(b: Blueprint, bootstrap: str, published: Mapping[str, Any] | None = None, *, closed_by: str = "") -> Object:
    """`bootstrap` is the instance that the Lease was created for; `published` is the document as it is now.
    `closed_by`: uid of the Restore in place for which instances refuse clients.

    Its generation is the resource's, or one more than the published one where that says something else: agents can
    tell two documents apart although the resource did not change between them.
    """
    d, meta = b.defaults, b.cluster.metadata
    document: Object = {
        "cluster": b.name,
        "namespace": b.namespace,
        "uid": meta.uid,
        "version": d.version,
        "instances": list(b.instances),
        "sync": {"mode": d.sync.mode, "number": d.sync.number, "durability": d.sync.durability},
        "priorities": d.priorities,
        "delays": d.delays,
        "reads": d.reads,
        "parameters": d.parameters,
        "extensions_preload": list(PRELOAD),
        "database": d.database,
        "owner": d.owner,
        "superuser_access": d.superuser_access,
        "bootstrap": bootstrap,
        "pooler_pause": d.pooler.pause_timeout_milliseconds if d.pooler is not None else None,
    }
    if (wal := archive.document(b)) is not None:
        document["archive"] = wal
    if d.replica is not None:
        document["replica"] = {
            "enabled": d.replica.enabled,
            "host": d.replica.host,
            "port": d.replica.port,
            "user": d.replica.user,
            "ssl_mode": d.replica.ssl_mode,
            "promotion_token": d.replica.token,
            "promotion": "forced" if d.replica.forced else None,
        }
    if forget := meta.annotations.get(FORGET_REPLACED):
        document["forget_replaced"] = sorted({uid.strip() for uid in forget.split(",") if uid.strip()})
    if closed_by:
        document["closed_by"] = closed_by
    document["generation"] = meta.generation
    if published is not None and published.get("uid") == meta.uid:
        last = int(published.get("generation") or 0)
        unchanged = {k: v for k, v in published.items() if k != "generation"} == {
            k: v for k, v in document.items() if k != "generation"
        }
        document["generation"] = last if unchanged else max(meta.generation, last + 1)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": b.metadata(names.config(b.name)),
        "data": {KEY: json.dumps(document, sort_keys=True, indent=1)},
    }


def generation_of(config_map: Object) -> int:
    """The generation in a ConfigMap that `config` made."""
    return int(json.loads(config_map["data"][KEY])["generation"])

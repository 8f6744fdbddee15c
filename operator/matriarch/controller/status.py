"""The status of a DatabaseCluster: one server-side apply, and only when something is new.

The figures that move all the time (LSN, lag) are reported every `syncIntervalMilliseconds`; anything else at once.
"""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

from matriarch.api.defaults import PoolerDefaults
from matriarch.controller import facts_of
from matriarch.controller.env import MANAGER, Env
from matriarch.controller.view import View
from matriarch.decide import archive, replica_cluster
from matriarch.decide.actions import Plan
from matriarch.decide.conditions import Condition, conditions, describe, of_cluster
from matriarch.decide.facts import Facts, Instance, Memory
from matriarch.decide.verdict import Standing, Verdict
from matriarch.kube.client import Object
from matriarch.kube.errors import NotFound
from matriarch.resources import names

_OTHERS = frozenset({"backup"})  # parts of the status that have another writer
_VOLATILE = ("lsn", "lagBytes", "lagSeconds", "summariesBehindBytes")
OWN_CONDITIONS = frozenset(
    {
        "Ready",
        "Reconciling",
        "Stalled",
        "Available",
        "SyncDegraded",
        "PoolerAvailable",
        "ReplicasHealthy",
        "PossibleLoss",
        "ReplacedDataKept",
        "VolumePressure",
        "ArchivingWal",
        "Advice",
        "InstanceWarnings",
        "FollowsSource",
    }
)


async def report(view: View, plan: Plan, memory: Memory, env: Env, *, failed: Verdict | None = None) -> bool:
    """Write the status if it says anything new, and say whether. `failed` is said in place of the plan's verdict."""
    resource = view.resource
    before = _mine(resource.get("status") or {})
    wanted = status_of(view, failed or plan.verdict, memory)
    interval = timedelta(milliseconds=view.blueprint.defaults.sync_interval_milliseconds)
    reported = facts_of.instant(before.get("reportedAt"))
    fresh = reported is not None and view.now - reported < interval
    if _still(before) == _still(wanted) and (fresh or _moving(before) == _moving(wanted)):
        return False
    await write(resource, wanted, env)
    return True


async def refuse(resource: Object, verdict: Verdict, env: Env) -> None:
    """Say why nothing is done about a resource of which no view could be made."""
    before = resource.get("status") or {}
    wanted = _mine(before)
    wanted.pop("observedGeneration", None)
    stands = [Condition("Ready", "False", verdict.reason, verdict.message)]
    kind = "Stalled" if verdict.standing is Standing.STALLED else "Reconciling"
    stands.append(Condition(kind, "True", verdict.reason, verdict.message))
    generation, now = resource["metadata"]["generation"], facts_of.timestamp(env.now()) or ""
    wanted["conditions"] = conditions(before.get("conditions") or (), stands, generation, now)
    wanted |= {"observedGeneration": generation, "phase": verdict.reason}
    if wanted != _mine(before):
        await write(resource, wanted, env)


async def write(resource: Object, status: Object, env: Env) -> None:
    """Apply the whole of our part; a resource that is gone needs none."""
    metadata = {"name": resource["metadata"]["name"], "namespace": resource["metadata"]["namespace"]}
    made = {"kind": resource["kind"], "apiVersion": resource["apiVersion"], "metadata": metadata, "status": status}
    try:
        await env.kube.apply_status(made, manager=MANAGER)
    except NotFound:
        return


def status_of(view: View, verdict: Verdict, memory: Memory) -> Object:
    """The status as it should be."""
    b, facts = view.blueprint, view.facts
    metadata, before = view.resource["metadata"], view.resource.get("status") or {}
    lease = facts.lease
    now = facts_of.timestamp(view.now) or ""
    mine = [i for i in facts.instances if i.pod is not None or i.claim is not None or i.name in b.instances]
    holder = view.answers.get(facts.holder or "")
    status: Object = {
        "observedGeneration": metadata["generation"],
        "phase": "Ready" if verdict.standing is Standing.READY else verdict.reason,
        "conditions": conditions(
            before.get("conditions") or (), _conditions(facts, verdict), metadata["generation"], now
        ),
        "instances": sum(i.pod is not None for i in mine),
        "readyInstances": sum(_ready(i) for i in mine),
        "selector": names.selector_text(b.name),
        "instanceStatuses": [_instance(i, view) for i in mine],
        "effective": _effective(view),
        "endpoints": _endpoints(view),
        "reportedAt": now,
        "primary": facts.holder if facts.serving and not facts.follows else None,
        "replica": _replica(facts),
        "demotionToken": lease.site.demoted or None if lease is not None and lease.site is not None else None,
        "walArchive": _wal_archive(facts),
        "systemIdentifier": memory.system_identifier or None,
        "timeline": (holder or {}).get("timeline"),
        "postgresVersion": (holder or {}).get("postgres_version") or before.get("postgresVersion"),
        "lastFailoverAt": facts_of.timestamp(memory.failed_over),
        "switchover": _switchover(memory),
        "handled": _present({"primary": memory.primary_handled, "switchover": memory.request_handled}) or None,
        "pendingRestart": sorted({p for i in mine if i.agent is not None for p in i.agent.pending}) or None,
    }
    if lease is not None:
        status["leadership"] = _present(
            {
                "epoch": lease.epoch,
                "holder": memory.holder or facts.holder,
                "mode": lease.mode,
                "voters": [v.instance for v in lease.voters],
                "number": lease.k,
            }
        )
    return _present(status)


def _conditions(facts: Facts, verdict: Verdict) -> list[Condition]:
    mine = of_cluster(facts, verdict)
    if (wal := archive.condition(facts)) is not None:
        mine.append(wal)
    return [*mine, *replica_cluster.conditions(facts)] if facts.follows else mine


def _replica(facts: Facts) -> Object | None:
    lease = facts.lease
    if lease is None or (lease.site is None and not facts.follows):
        return None
    holder = facts.get(facts.holder) if facts.holder is not None else None
    site = holder.agent.site if holder is not None and holder.agent is not None else None
    said = (site.message or site.problem)[:1024] if site is not None else ""
    found = {
        "source": facts.wish.source if facts.follows else None,
        "designatedPrimary": facts.holder if facts.follows else None,
        "streaming": site is not None and site.streaming if facts.follows else None,
        "message": said or None,
        "forcedAt": (lease.site.forced if lease.site is not None else "") or None,
    }
    return _present(found) or None


def _wal_archive(facts: Facts) -> Object | None:
    holder = facts.get(facts.holder) if facts.holder is not None and facts.wish.archives else None
    told = holder.agent.archive if holder is not None and holder.agent is not None else None
    if told is None:
        return None
    stored = datetime.fromtimestamp(told.last_stored, UTC) if told.last_stored is not None else None
    return _present(
        {
            "lastSegment": told.last_segment or None,
            "lastLsn": told.last_lsn or None,
            "lastStoredAt": facts_of.timestamp(stored),
            "pending": told.pending,
            "oldestPendingSeconds": int(told.oldest_pending),
            "message": told.error[:1024] or None,
        }
    )


def _endpoints(view: View) -> Object:
    b = view.blueprint
    doors = b.defaults.pooler.doors if b.defaults.pooler is not None else ()
    return _present(
        {
            "write": names.write_host(b.name, b.namespace),
            "read": f"{b.name}-ro.{b.namespace}.svc",
            "any": f"{b.name}-r.{b.namespace}.svc",
            "pooledWrite": names.pooler_host(b.name, b.namespace, "rw") if "rw" in doors else None,
            "pooledRead": names.pooler_host(b.name, b.namespace, "ro") if "ro" in doors else None,
            "secret": names.app_secret(b.name),
        }
    )


def _ready(i: Instance) -> bool:
    return i.pod is not None and i.pod.ready and not i.pod.terminating


def _instance(i: Instance, view: View) -> Object:
    answer = view.answers.get(i.name) or {}
    lease = view.facts.lease
    named = lease is not None and answer.get("incarnation") in {
        v.incarnation for v in lease.voters if v.instance == i.name
    }
    found = {
        "name": i.name,
        "role": answer.get("role") or "none",
        "state": answer.get("state") or "unreachable",
        "ready": _ready(i),
        "timeline": answer.get("timeline"),
        "lsn": answer.get("lsn"),
        "lagBytes": answer.get("lag_bytes"),
        "lagSeconds": answer.get("lag_seconds"),
        "summariesBehindBytes": answer.get("summaries_behind_bytes"),
        "epoch": answer.get("epoch"),
        "incarnation": answer.get("incarnation") or None,
        "voter": named,
        "node": (i.pod.node if i.pod is not None else "") or None,
        "pendingRestart": bool(i.agent is not None and i.agent.pending),
        "message": _message(i) or None,
    }
    return _present(found)


def _message(i: Instance) -> str:
    if _ready(i) and i.agent is not None:
        return i.agent.reason[:1024]
    return describe(i)[:1024]


def _effective(view: View) -> Object:
    d = view.blueprint.defaults
    return _present(
        {
            "engine": d.engine,
            "version": d.version,
            "image": view.blueprint.image or None,
            "mode": d.mode,
            "sync": {"mode": d.sync.mode, "number": d.sync.number, "durability": d.sync.durability},
            "reads": d.reads,
            "healthCheck": {
                "intervalMilliseconds": d.health_interval_milliseconds,
                "timeoutMilliseconds": d.health_timeout_milliseconds,
            },
            "syncIntervalMilliseconds": d.sync_interval_milliseconds,
            "deletionPolicy": d.deletion_policy,
            "database": d.database,
            "owner": d.owner,
            "backupStore": d.backup_store,
            "backupKeySecret": d.backup_key_secret,
            "pooler": _effective_pooler(d.pooler),
        }
    )


def _effective_pooler(d: PoolerDefaults | None) -> Object | None:
    if d is None:
        return None
    return {
        "mode": "both" if len(d.doors) > 1 else d.doors[0],
        "instances": d.instances,
        "poolMode": d.pool_mode,
        "minConnections": d.min_connections,
        "maxConnections": d.max_connections,
        "maxClients": d.max_clients,
        "acquireTimeoutMilliseconds": d.acquire_timeout_milliseconds,
        "connectTimeoutMilliseconds": d.connect_timeout_milliseconds,
        "idleTimeoutMilliseconds": d.idle_timeout_milliseconds,
        "lifetimeMilliseconds": d.lifetime_milliseconds,
        "pauseTimeoutMilliseconds": d.pause_timeout_milliseconds,
    }


def _switchover(memory: Memory) -> Object | None:
    s = memory.switchover
    if s is None:
        return None
    return _present(
        {
            "to": s.to,
            "state": s.state,
            "startedAt": facts_of.timestamp(s.started),
            "finishedAt": facts_of.timestamp(s.finished),
            "why": s.why or None,
            "message": s.message[:1024] or None,
        }
    )


def _present(values: Object) -> Object:
    return {k: v for k, v in values.items() if v is not None}


def _mine(status: Object) -> Object:
    """Our part of a status as it was read."""
    found: Object = copy.deepcopy({k: v for k, v in status.items() if k not in _OTHERS})
    if "conditions" in found:
        found["conditions"] = [c for c in found["conditions"] if c.get("type") in OWN_CONDITIONS]
    return found


def _still(status: Object) -> Object:
    """Without what moves all the time, and with lists that are maps in one order."""
    found = {k: v for k, v in status.items() if k not in ("reportedAt", "walArchive")}
    instances = [{k: v for k, v in i.items() if k not in _VOLATILE} for i in status.get("instanceStatuses") or ()]
    found["instanceStatuses"] = sorted(instances, key=lambda i: str(i["name"]))
    found["conditions"] = sorted(status.get("conditions") or (), key=lambda c: str(c["type"]))
    return found


def _moving(status: Object) -> Any:
    moving = {i["name"]: [i.get(k) for k in _VOLATILE] for i in status.get("instanceStatuses") or ()}
    return moving, status.get("walArchive")

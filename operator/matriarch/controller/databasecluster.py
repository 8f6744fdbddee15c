"""Reconciles a DatabaseCluster: gather → decide → execute → report."""

from __future__ import annotations

import logging

from matriarch.controller import archive_key, backup_health, doors
from matriarch.controller.backup_around import OF_CLUSTER
from matriarch.controller.env import Env
from matriarch.controller.execute import execute
from matriarch.controller.gather import gather, resource_of
from matriarch.controller.queue import Key
from matriarch.controller.reconcile import reconciles
from matriarch.controller.spec import Unreadable
from matriarch.controller.status import refuse, report
from matriarch.controller.sweep import sweep
from matriarch.decide.topology import decide
from matriarch.decide.verdict import Standing, Verdict
from matriarch.errors import Corrupt, MatriarchError, Refused
from matriarch.kube.errors import ApiError, Conflict, Forbidden, Invalid

log = logging.getLogger(__name__)


@reconciles("DatabaseCluster")
async def reconcile_cluster(key: Key, env: Env) -> float | None:
    """Look at one cluster and do what it needs next."""
    resource = await resource_of(key, env)
    if resource is None or "deletionTimestamp" in resource["metadata"]:
        return await sweep(key, env)
    closed_by = await doors.settle(key.namespace, key.name, env)
    try:
        view = await gather(resource, env, closed_by=closed_by)
    except Unreadable as e:
        await refuse(resource, Verdict(Standing.STALLED, "InvalidSpec", str(e)), env)
        return None
    backup_health.wake(env, resource)
    plan = decide(view.facts, view.now)
    try:
        await archive_key.ensure(view, env)
        memory = await execute(plan, view, env)
    except Conflict:
        raise  # somebody was faster; nothing to tell anybody about
    except (ApiError, Corrupt, Refused) as e:
        await report(view, plan, view.facts.memory, env, failed=_failure(e))
        raise
    if await report(view, plan, memory, env):
        env.enqueue(OF_CLUSTER, key.namespace, key.name)  # how its backups stand is told beside it
    return plan.requeue


def _failure(error: MatriarchError) -> Verdict:
    """A step that the API server or a check refused: it is tried again, and people can read why."""
    if isinstance(error, Forbidden):
        reason = "Forbidden"
    elif isinstance(error, Invalid):
        reason = "ObjectRefused"
    else:
        reason = getattr(error, "reason", "") or "StepFailed"
    return Verdict(Standing.WORKING, reason, f"{error}. It is tried again; correct what the message names.")

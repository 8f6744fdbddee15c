"""Carries out a plan: one small, repeatable step after the other, stopping at the first that fails.

Whatever was done stays done; the next round sees it and derives the rest. Every deletion names the uid that was looked
at, every change of the Lease the version it was read at.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby

from matriarch.controller import certify
from matriarch.controller.env import MANAGER, Env
from matriarch.controller.pki import new_password
from matriarch.controller.view import ERASING, View
from matriarch.controller.wanted import credentials
from matriarch.decide import following, leasetext
from matriarch.decide import lease as transitions
from matriarch.decide.actions import (
    Action,
    Announce,
    Apply,
    BeginSwitchover,
    Certify,
    CreateClaim,
    CreateLease,
    CreatePod,
    DeleteClaim,
    DeletePod,
    FinishErasure,
    ForgetErasure,
    GrowClaim,
    MakePassword,
    MoveBootstrap,
    NotePolicy,
    Plan,
    Remove,
    RestartPostgres,
    RestoreLease,
    Resume,
    SetLeaving,
)
from matriarch.decide.facts import Memory, Ref
from matriarch.decide.lease import LeaseState
from matriarch.errors import Refused, Unavailable
from matriarch.kube.client import Object
from matriarch.kube.errors import Conflict
from matriarch.resources import names
from matriarch.resources.claim import claim
from matriarch.resources.pod import pod

log = logging.getLogger(__name__)


async def execute(plan: Plan, view: View, env: Env) -> Memory:
    """Carry out all actions; returns the plan's memory, corrected by what the agents said.

    Raises whatever stopped it; what was done before stands.
    """
    memory = plan.memory
    for independent, group in groupby(plan.actions, key=lambda a: isinstance(a, Apply | CreateClaim | CreatePod)):
        if independent:
            await _side_by_side(list(group), view, env)
            continue
        for action in group:
            memory = await _step(action, view, env, memory)
    return memory


async def _side_by_side(actions: list[Action], view: View, env: Env) -> None:
    """Objects that do not need each other are written at once; a binding needs its Role, a Pod all before it."""

    def rank(action: Action) -> int:
        match action:
            case Apply(Ref("RoleBinding", _)):
                return 1
            case CreateClaim():
                return 2
            case CreatePod():
                return 3
        return 0

    for _, group in groupby(sorted(actions, key=rank), key=rank):
        results = await asyncio.gather(*(_step(a, view, env, Memory()) for a in group), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result


async def _step(action: Action, view: View, env: Env, memory: Memory) -> Memory:
    namespace = view.blueprint.namespace
    if not isinstance(action, Announce | Apply):
        log.info("%s/%s: %s", namespace, view.blueprint.name, action)
    match action:
        case Apply(ref):
            view.existing[ref] = await env.kube.apply(view.wanted[ref], manager=MANAGER)
        case Remove(Ref(kind, name)):
            there = view.existing.get(action.ref)
            uid = there["metadata"]["uid"] if there is not None else None
            await env.kube.delete(kind, namespace, name, uid=uid)
        case Certify(certificates):
            await certify.carry_out(certificates, view, env)
        case MakePassword(secret):
            made = credentials(view, secret, new_password())
            view.existing[Ref("Secret", secret)] = await env.kube.apply(made, manager=MANAGER)
        case CreateLease(bootstrap, follow, restore):
            begun = following.initial(bootstrap) if follow else transitions.initial(bootstrap, restore)
            await _create_lease(begun, view, env)
        case RestoreLease(state):
            await _restore_lease(state, view, env)
        case Resume(restore):
            await _swap(lambda state: transitions.resumed(state, restore), view, env)
        case NotePolicy():
            note = {names.DELETION_POLICY: view.blueprint.defaults.deletion_policy}
            await env.kube.patch("Lease", namespace, view.blueprint.name, {"metadata": {"annotations": note}})
        case MoveBootstrap(instance):
            await _swap(lambda state: replace(state, bootstrap=instance), view, env)
        case SetLeaving(instances):
            await _swap(lambda state: transitions.leaving_set(state, instances), view, env)
        case ForgetErasure():
            await _mark_lease(view, env, None)
        case FinishErasure():
            await _finish_erasure(view, env)
        case CreateClaim(instance):
            # created, not applied: the apply that later keeps its annotations would drop the spec with it
            made = await env.kube.create(claim(view.blueprint, instance))
            view.existing[Ref("PersistentVolumeClaim", instance)] = made
        case GrowClaim(instance):
            size = view.blueprint.cluster.spec.storage.size
            merge = {"spec": {"resources": {"requests": {"storage": size}}}}
            await env.kube.patch("PersistentVolumeClaim", namespace, instance, merge)
        case CreatePod(instance):
            with suppress(Conflict):  # made by an earlier round whose answer was lost; the next look tells
                uid = view.existing[Ref("PersistentVolumeClaim", instance)]["metadata"]["uid"]
                await env.kube.create(pod(view.blueprint, instance, uid))
        case DeletePod(instance, uid, why):
            with suppress(Conflict):  # it is another one by now
                await env.kube.delete("Pod", namespace, instance, uid=uid)
            await env.recorder.record(view.resource, "PodDeleted", f"Pod {instance}: {why}.", kind="Normal")
        case DeleteClaim(instance, uid):
            await _delete_claim(instance, uid, view, env)
        case RestartPostgres(instance, in_place):
            await _restart(instance, view, env, in_place=in_place)
        case BeginSwitchover():
            return await _switchover(action, view, env, memory)
        case Announce(reason, message, warning):
            await env.recorder.record(view.resource, reason, message, kind="Warning" if warning else "Normal")
    return memory


async def _create_lease(begun: LeaseState, view: View, env: Env) -> None:
    view.lease = leasetext.from_manifest(await env.kube.create(_lease(begun, view)))


async def _restore_lease(state: LeaseState, view: View, env: Env) -> None:
    """In place of the very object that was looked at, or of none: what was written meanwhile makes this a conflict."""
    made = _lease(state, view)
    if (old := view.lease_object) is None:
        view.lease = leasetext.from_manifest(await env.kube.create(made))
        return
    meta = old["metadata"]
    made["metadata"] |= {k: meta[k] for k in ("uid", "resourceVersion", "finalizers", "ownerReferences") if meta.get(k)}
    made["metadata"]["labels"] = {**(meta.get("labels") or {}), **made["metadata"]["labels"]}
    made["metadata"]["annotations"] = {**(meta.get("annotations") or {}), **made["metadata"]["annotations"]}
    view.lease = leasetext.from_manifest(await env.kube.replace(made))


def _lease(state: LeaseState, view: View) -> Object:
    made = leasetext.to_manifest(
        state,
        cluster=view.blueprint.name,
        namespace=view.blueprint.namespace,
        renew_time=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z",
        labels=names.labels(view.blueprint.name),
        resource_version="",
    )
    made["metadata"]["annotations"][names.DELETION_POLICY] = view.blueprint.defaults.deletion_policy
    return made


async def _swap(derive: Callable[[LeaseState], LeaseState], view: View, env: Env) -> None:
    """Once: on a conflict the next round decides again, by what the Lease says then."""
    read = view.lease
    assert read is not None
    state = transitions.revised(read.state, derive(read.state))
    manifest = {**read.manifest, "metadata": {**read.manifest["metadata"]}}
    annotations = manifest["metadata"].get("annotations") or {}
    manifest["metadata"]["annotations"] = {**annotations, leasetext.ANNOTATION: leasetext.encode(state)}
    view.lease = leasetext.from_manifest(await env.kube.replace(manifest))


async def _mark_lease(view: View, env: Env, value: str | None) -> None:
    merge: Object = {"metadata": {"annotations": {ERASING: value}}}
    await env.kube.patch("Lease", view.blueprint.namespace, view.blueprint.name, merge)


async def _finish_erasure(view: View, env: Env) -> None:
    """The data is gone, as was asked: what belonged to it follows. The backup key stays, for the backups do."""
    namespace, cluster = view.blueprint.namespace, view.blueprint.name
    for secret in kept_secrets(cluster):
        await env.kube.delete("Secret", namespace, secret)
    await env.kube.delete("Lease", namespace, cluster)


def kept_secrets(cluster: str) -> tuple[str, ...]:
    """Secrets that outlive the resource, but not its data."""
    return names.app_secret(cluster), names.superuser_secret(cluster), names.authority(cluster)


async def _delete_claim(instance: str, uid: str, view: View, env: Env) -> None:
    """Data: so the Lease is read once more, at the last moment."""
    namespace, cluster = view.blueprint.namespace, view.blueprint.name
    lease = await env.kube.get("Lease", namespace, cluster)
    state = leasetext.from_manifest(lease).state if lease is not None else None
    if state is None or state.names_instance(instance) or instance not in state.leaving:
        raise Unavailable(f"the Lease {cluster} changed: the volume of {instance} stays for now")
    with suppress(Conflict):
        await env.kube.delete("PersistentVolumeClaim", namespace, instance, uid=uid)
    message = f"Volume {instance} deleted: the instance was removed and the cluster does not need its copy."
    await env.recorder.record(view.resource, "VolumeDeleted", message, kind="Normal")


async def _restart(instance: str, view: View, env: Env, *, in_place: bool) -> None:
    door, ip = view.door, _address(view, instance)
    if door is None or not ip:
        raise Unavailable(f"{instance} has no address")
    try:
        await env.agents.restart(door, instance, ip, in_place=in_place)
    except Refused as e:
        message = f"{instance} did not restart: {e}"
        await env.recorder.record(view.resource, "RestartRefused", message, kind="Warning")
        return
    await env.recorder.record(view.resource, "Restarting", f"{instance} restarts PostgreSQL.", kind="Normal")


async def _switchover(action: BeginSwitchover, view: View, env: Env, memory: Memory) -> Memory:
    door, ip = view.door, _address(view, action.holder)
    started = memory.switchover
    assert started is not None
    problem: Exception
    try:
        if door is None or not ip:
            raise Unavailable(f"{action.holder} has no address")
        await env.agents.switchover(door, action.holder, ip, action.to)
    except Refused as e:
        problem = e
    except Unavailable as e:
        problem = e
        if "did not answer" in str(e):  # it may have begun: the next looks will tell
            return memory
    else:
        message = f"Switching over from {action.holder} to {action.to} ({action.why})."
        await env.recorder.record(view.resource, "SwitchingOver", message, kind="Normal")
        return memory
    text = f"Switchover to {action.to} ({action.why}) was not begun: {problem}"
    await env.recorder.record(view.resource, "SwitchoverRefused", text, kind="Warning")
    failed = replace(started, state="aborted", finished=view.now, message=str(problem))
    return replace(memory, switchover=failed)


def _address(view: View, instance: str) -> str:
    found = view.facts.get(instance)
    return found.pod.ip if found is not None and found.pod is not None else ""

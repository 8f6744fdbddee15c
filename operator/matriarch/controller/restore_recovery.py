"""What is particular to Restores of physical backups: the held cluster, the Jobs, the moment that is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from matriarch.api.restore import CheckedBackup, Restore
from matriarch.api.rules import quantity
from matriarch.backup import jobresult, jobspec
from matriarch.controller import backup_store, restore_check
from matriarch.controller.backup_around import Around
from matriarch.controller.backup_status import parse_time
from matriarch.controller.backup_task import job_wish
from matriarch.controller.env import Env
from matriarch.controller.restore_check import report_to
from matriarch.controller.restore_source import Source
from matriarch.controller.view import door_of
from matriarch.decide import lease as transitions
from matriarch.decide import leasetext
from matriarch.decide.lease import LeaseState
from matriarch.decide.pitr import Target
from matriarch.decide.restore_facts import Door, HoldFacts
from matriarch.decide.verdict import Standing, Verdict
from matriarch.errors import MatriarchError, Refused
from matriarch.kube.client import Object
from matriarch.resources import names
from matriarch.resources.job import MEMBER_PATH, JobWish

COMMAND = ("python", "-m", "matriarch.recovery.job")
ANSWER = 3.0  # seconds that an agent has to say how much room there is
MEMORY = "1Gi"
"""At least: the engine's 256 MiB, the archive's reader with four segments in memory, and PostgreSQL's replay."""


def moment(restore: Restore) -> jobspec.Moment:
    """How far the backup is to be replayed."""
    wanted = restore.spec.recovery_target
    if wanted is None:
        return jobspec.Moment()
    if wanted.to is not None:
        return jobspec.Moment(kind=wanted.to)
    if wanted.time is not None:
        return jobspec.Moment(kind="time", value=wanted.time)
    if wanted.lsn is not None:
        return jobspec.Moment(kind="lsn", value=wanted.lsn)
    if wanted.xid is not None:
        return jobspec.Moment(kind="xid", value=wanted.xid)
    return jobspec.Moment(kind="name", value=wanted.name or "")


def wrong_moment(restore: Restore) -> Verdict | None:
    """What the schema cannot see, such as a 31st of June."""
    wanted = moment(restore)
    try:
        if wanted.kind != "backup":
            Target(wanted.kind, wanted.value)
    except ValueError as error:
        return Verdict(Standing.STALLED, "InvalidTarget", f"recoveryTarget: {error}. Make a new Restore with another.")
    return None


async def look_hold(env: Env, namespace: str, cluster: str) -> HoldFacts | None:
    """The Lease of the cluster, and whether the volume of the instance that begins is there."""
    found = await env.kube.get("Lease", namespace, cluster)
    if found is None:
        return None
    try:
        state = leasetext.from_manifest(found).state
    except ValueError:
        return HoldFacts(restore=None, lifted=False, volume=False)
    filling, others = state.filling, [v.instance for v in state.voters]
    instance = state.bootstrap if filling is not None or state.holder is None else state.holder.instance
    volume = await _has_volume(env, namespace, instance)
    lost = filling is not None and filling.done and state.epoch > 0 and not volume
    while lost and others and not volume:  # another one will do: they all have what was acknowledged
        instance = others.pop(0)
        volume = await _has_volume(env, namespace, instance)
    return HoldFacts(
        restore=filling.restore if filling is not None else None,
        lifted=filling is not None and filling.done,
        volume=volume,
        instance=instance,
        system=state.system_identifier,
        begins=state.bootstrap,
        lost=lost,
    )


async def _has_volume(env: Env, namespace: str, instance: str) -> bool:
    claim = await env.kube.get("PersistentVolumeClaim", namespace, instance)
    return claim is not None and "deletionTimestamp" not in claim["metadata"]


async def lift(env: Env, around: Around, restore: Restore) -> None:
    """Let the instances start: one swap of the Lease, which for a new cluster also says from now on what becomes of the
    data when the resource is deleted. Raises Conflict when the Lease is another one by now."""
    found = await env.kube.get("Lease", around.namespace, around.name)
    if found is None or around.defaults is None:
        return  # the next look says what there is
    read = leasetext.from_manifest(found)
    filling = read.state.filling
    if filling is None or filling.done or filling.restore != restore.metadata.uid:
        return
    state = transitions.filled(read.state, restore.metadata.uid)
    notes = {names.DELETION_POLICY: around.defaults.deletion_policy} if read.state.epoch == 0 else {}
    await _swap(env, found, read.state, state, notes)


async def suspend(env: Env, around: Around, restore: Restore, instance: str) -> None:
    """Hold the running cluster up by one swap of its Lease, to be restored onto the volume of `instance`. Raises
    Conflict when the Lease is another one by now, Refused for one that no restore may hold up."""
    if around.cluster is not None and around.cluster.spec.replica is not None and around.cluster.spec.replica.enabled:
        raise Refused("It has become a replica cluster, with its source's data.", reason="ReplicaCluster")
    found = await env.kube.get("Lease", around.namespace, around.name)
    if found is None:
        return
    read = leasetext.from_manifest(found)
    try:
        state = transitions.suspended(read.state, restore.metadata.uid, instance)
    except ValueError as error:
        raise Refused(f"{error}. Nothing was changed.", reason="NotInPlace") from None
    await _swap(env, found, read.state, state, {})


async def _swap(env: Env, found: Object, before: LeaseState, after: LeaseState, notes: Mapping[str, str]) -> None:
    metadata, text = found["metadata"], leasetext.encode(transitions.revised(before, after))
    annotations = {**(metadata.get("annotations") or {}), leasetext.ANNOTATION: text, **notes}
    await env.kube.replace({**found, "metadata": {**metadata, "annotations": annotations}})


@dataclass(frozen=True, slots=True)
class Pods:
    """The Pods of a cluster's instances, and what their agents say. `old`: of a version that refuses no clients for a
    Restore; `silent`: no answer; `room`: bytes that are free on the volume to be restored onto."""

    there: tuple[str, ...] = ()
    stopping_since: datetime | None = None
    old: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    room: int | None = None
    doors: Mapping[str, Door] = field(default_factory=dict)


async def look_pods(env: Env, around: Around, instance: str, *, ask: bool) -> Pods:
    """`ask`: also the agents."""
    found = await env.kube.list("Pod", around.namespace, names.selector(around.name))
    pods = {p["metadata"]["name"]: p for p in found if names.INSTANCE_LABEL in (p["metadata"].get("labels") or {})}
    asked = [parse_time(p["metadata"].get("deletionTimestamp")) for p in pods.values()]
    since = max((a for a in asked if a is not None), default=None) if all(asked) else None
    answers = (
        dict(zip(pods, await asyncio.gather(*(_ask(env, around, p) for p in pods.values())), strict=True))
        if ask
        else {}
    )
    disk = (answers.get(instance) or {}).get("disk") or {}
    return Pods(
        there=tuple(sorted(pods)),
        stopping_since=since,
        old=tuple(sorted(n for n, a in answers.items() if a is not None and "closed_by" not in a)),
        silent=tuple(sorted(n for n, a in answers.items() if a is None)),
        room=int(disk["free_bytes"]) if disk.get("total_bytes") else None,
        doors={n: _door(a) for n, a in answers.items() if a is not None and "closed_by" in a},
    )


def _door(answer: Mapping[str, Any]) -> Door:
    told = str(answer.get("told_closed_by") or "")
    return Door(told=told, closed_by=str(answer["closed_by"]), lets_in=bool(answer.get("lets_in")))


async def _ask(env: Env, around: Around, pod: Object) -> Mapping[str, Any] | None:
    authority = await env.kube.get("Secret", around.namespace, names.authority(around.name))
    door, ip = door_of(around.namespace, around.name, authority), (pod.get("status") or {}).get("podIP")
    if door is None or not ip:
        return None
    try:
        return await env.agents.status(door, pod["metadata"]["name"], ip, limit=ANSWER)
    except MatriarchError:
        return None


def check_job(env: Env, found: Object, restore: Restore, around: Around, source: Source, name: str) -> JobWish:
    """Says whether the backup is there and leads to the moment."""
    assert source.place is not None
    verify = jobspec.VerifyTask(
        backup=source.backup,
        method="physical",
        allow_unencrypted=source.place.key is None,
        moment=moment(restore),
        manifest_sha256=source.manifest_sha256,
    )
    wish = restore_check.check_job(env, found, restore, around, source, name, verify)
    return replace(wish, command=COMMAND, image=_image(restore, source) or wish.image)


async def recover_job(env: Env, found: Object, restore: Restore, around: Around, source: Source, name: str) -> JobWish:
    """Fills the volume of the instance that begins. It asks for what that instance will ask for, so that the volume is
    made where there is room for both."""
    assert source.place is not None
    assert source.identity is not None
    status, cluster = restore.status, around.cluster
    if cluster is None:
        raise Refused(f"DatabaseCluster {around.name} is gone.", reason="TargetDeleted")
    lease = await env.kube.get("Lease", around.namespace, around.name)
    if lease is None:
        raise Refused(f"The Lease {around.name} is gone.", reason="TargetDeleted")
    checked = status.checked or CheckedBackup()
    task = jobspec.JobSpec(
        task="recover",
        cluster=source.identity,
        store=backup_store.spec(source.place),
        keys=backup_store.key_names(source.place),
        report=report_to(restore),
        recover=jobspec.RecoverTask(
            backup=status.backup_name or source.backup,
            restore_id=restore.metadata.uid,
            volume=MEMBER_PATH,
            moment=moment(restore),
            manifest_sha256=checked.manifest_sha256 or source.manifest_sha256,
            allow_unencrypted=source.place.key is None,
            replaces=restore.spec.in_place is not None,
        ),
    )
    wish = job_wish(env, around, source.place, name=name, owner=found, purpose="restore", task=task, tls=None)
    asked = cluster.spec.resources
    limit = (asked.limits or {}).get("memory") if asked is not None else None
    memory = str(limit) if limit is not None and quantity(str(limit)) > quantity(MEMORY) else MEMORY
    wanted = (asked.requests if asked is not None else None) or {}
    requests = {key: str(wanted.get(key, least)) for key, least in (("cpu", "100m"), ("memory", "256Mi"))}
    if quantity(requests["memory"]) > quantity(memory):
        memory = requests["memory"]
    return replace(
        wish,
        command=COMMAND,
        fills=leasetext.from_manifest(lease).state.bootstrap,
        requests=requests,
        memory=memory,
    )


def _image(restore: Restore, source: Source) -> str | None:
    """That of the cluster to be made, where it has one of its own: the check is about what will read the data. In place
    that is the present one, whose image the Jobs have anyhow."""
    if restore.spec.in_place is not None:
        return None
    overrides = restore.spec.target.overrides
    if overrides is not None and overrides.image:
        return overrides.image
    return source.cluster.spec.image if source.cluster is not None else None


def reached(restore: Restore, report: jobresult.RecoverResult) -> dict[str, object]:
    """What the Job did, in the words of the resource."""
    found = {
        "lsn": report.lsn,
        "timeline": report.timeline,
        "lastCommit": report.last_commit,
        "archivedUntil": report.archived_until,
        "systemIdentifier": report.system_identifier,
        "sizeBytes": report.size,
        "walBytes": report.wal,
        "reusedBytes": report.reused or None,
    }
    status: dict[str, object] = {"recovered": {k: v for k, v in found.items() if v is not None}}
    created = datetime.fromisoformat(restore.metadata.creation_timestamp or "")
    kind = moment(restore).kind
    if kind == "time":
        status["rpoSeconds"] = 0
    elif kind == "latest":
        newest = datetime.fromisoformat(report.last_commit or report.archived_until)
        status["rpoSeconds"] = max(0, round((created - newest).total_seconds()))
    return status

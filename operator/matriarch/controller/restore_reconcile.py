"""Restores: gathered, decided, carried out, each once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from matriarch.api.restore import CheckedBackup, Restore
from matriarch.backup import jobspec
from matriarch.controller import (
    application,
    backup_jobs,
    backup_store,
    restore_access,
    restore_check,
    restore_in_place,
    restore_recovery,
)
from matriarch.controller.backup_around import OF_CLUSTER, Around, created, gather, order, over
from matriarch.controller.backup_status import parse_time
from matriarch.controller.backup_task import RESTORE, job_wish
from matriarch.controller.env import MANAGER, Env
from matriarch.controller.queue import Key
from matriarch.controller.reconcile import reconciles
from matriarch.controller.restore_check import report_to
from matriarch.controller.restore_cluster import RESTORED_BY, wanted_cluster
from matriarch.controller.restore_source import Source, source_of
from matriarch.controller.restore_status import restore_status
from matriarch.decide.backups import JobState, Need, Phase
from matriarch.decide.restore import plan_restore
from matriarch.decide.restore_facts import (
    NO_JOB,
    STEPS,
    Mode,
    RestoreFacts,
    RestorePlan,
    SafetyFacts,
    Step,
    StepJob,
    StepState,
    TargetFacts,
)
from matriarch.decide.verdict import Standing, Verdict
from matriarch.errors import Refused
from matriarch.kube.client import Object
from matriarch.kube.errors import Conflict, Forbidden, Invalid
from matriarch.resources import names
from matriarch.resources.job import JobWish, job, job_name

_JOB_STEPS = (Step.VERIFY, Step.RESTORE)


@reconciles("Restore")
async def reconcile_restore(key: Key, env: Env) -> float | None:
    """Look at one Restore and do its next step."""
    found = await env.kube.get("Restore", key.namespace, key.name)
    if found is None or found["metadata"].get("deletionTimestamp"):
        await _let_go(key, env)
        return None
    target = found["spec"]["target"]["cluster"]
    if over(found):
        await restore_access.revoke(env, found, target)
        if found["spec"].get("inPlace"):
            await application.start_again(env, key.namespace)
        return None
    restore = Restore.model_validate(found)
    around = await gather(key.namespace, target, env)
    source = await source_of(restore, env)
    mode = _mode(restore, source)
    step = _current(restore, mode)
    name = job_name(target, str(step), restore.metadata.uid, restore.status.attempt or 1)
    looked = backup_jobs.ABSENT
    if step in _JOB_STEPS:
        looked = await backup_jobs.look(env.kube, key.namespace, name, restore.metadata.uid, around.now)
    facts = await _facts(restore, mode, around, source, name if step in _JOB_STEPS else None, looked, env)
    plan = plan_restore(facts)
    status = restore_status(found, plan, mode, now=around.now, job=name, safety=facts.safety_name, report=looked.report)
    await _write(env, found, status)
    await _tell(env, found, plan, step)
    try:
        await _act(env, found, restore, mode, around, source, plan, name)
    except (Forbidden, Invalid, Refused) as e:  # a quota, a rule, no image: a person has to mend it
        plan = plan_restore(replace(facts, refused=str(e)))
        status = restore_status(found, plan, mode, now=around.now, job=name, safety=facts.safety_name, report=None)
        await _write(env, found, status)
        await _tell(env, found, plan, step)
    if plan.finished:
        await restore_access.revoke(env, found, target)
        if plan.phase is Phase.FAILED and looked.job is not None and looked.job.state is JobState.ACTIVE:
            await env.kube.delete("Job", key.namespace, name)  # its cluster is gone: nobody wants what it would make
    if plan.step is not step or plan.finished:
        env.enqueue(OF_CLUSTER, key.namespace, target)
        env.enqueue("DatabaseCluster", key.namespace, target)
    if plan.finished and mode.in_place:  # last: one workload that cannot be started keeps nothing else back
        await application.start_again(env, key.namespace, done=restore.metadata.uid)
    return plan.requeue.total_seconds() if plan.requeue is not None else None


async def _let_go(key: Key, env: Env) -> None:
    """Whatever a Restore that is gone had stopped goes on; which cluster that was is not known any more."""
    await application.start_again(env, key.namespace)
    for cluster in await env.kube.list("DatabaseCluster", key.namespace):
        env.enqueue("DatabaseCluster", key.namespace, cluster["metadata"]["name"])


def _mode(restore: Restore, source: Source) -> Mode:
    """What was begun goes on, also when the Backup that said so is gone by now."""
    if restore.spec.in_place is not None:
        stops = any(step.name == Step.STOP for step in restore.status.steps)
        checked = any(step.name == Step.CHECK and step.state == "done" for step in restore.status.steps)
        return Mode.REPLACE if (stops if checked else source.physical) else Mode.IN_PLACE
    begun = any(step.name == Step.CHECK and step.state == "done" for step in restore.status.steps)
    recovers = any(step.name == Step.PREPARE for step in restore.status.steps) if begun else source.physical
    return Mode.RECOVER if recovers else Mode.NEW


def _current(restore: Restore, mode: Mode) -> Step | None:
    known = restore_in_place.steps_of(restore, mode)
    return next((s for s in STEPS[mode] if known.get(s) is not StepState.DONE), None)


async def _facts(
    restore: Restore,
    mode: Mode,
    around: Around,
    source: Source,
    job_of_step: str | None,
    looked: backup_jobs.Seen,
    env: Env,
) -> RestoreFacts:
    status, namespace = restore.status, around.namespace
    step = _current(restore, mode)
    checking = step is Step.CHECK
    needs: tuple[Need, ...] = ()
    if checking and source.place is not None:
        needs = await backup_store.needs(env.kube, namespace, source.place)
    safety_name = _safety_name(restore)
    safety = next((b for b in around.backups if b["metadata"]["name"] == safety_name), None)
    started = next((s.started_at for s in status.steps if s.state == "running"), None)
    made = parse_time(restore.metadata.creation_timestamp)
    assert made is not None
    verdict = source.verdict
    if checking and mode in (Mode.RECOVER, Mode.REPLACE):
        verdict = restore_recovery.wrong_moment(restore) or verdict
    skips = _skips_safety(restore)
    if checking and mode.in_place:
        verdict = verdict or _not_in_place(around, safety=not skips)
    seen = await restore_in_place.look(env, restore, around, mode, step)
    work = NO_JOB
    if job_of_step is not None:
        work = StepJob(
            made=status.attempt or 0,
            noted=status.job == job_of_step,
            job=looked.job,
            suspended=looked.suspended,
            result=looked.result,
        )
    return RestoreFacts(
        name=restore.metadata.name,
        uid=restore.metadata.uid,
        now=around.now,
        created=made,
        mode=mode,
        confirmation=restore.spec.in_place.confirm if restore.spec.in_place else None,
        target_name=around.name,
        phase=Phase(status.phase) if status.phase else None,
        steps=restore_in_place.steps_of(restore, mode),
        step_started=parse_time(started),
        source=verdict,
        needs=needs,
        target=_target(around),
        target_uid=status.target_uid,
        leftover=await _leftover(around, env) if checking and not mode.in_place else None,
        rival=_rival(restore, around),
        busy=_busy(around, safety_name),
        safety_name=safety_name,
        safety=_safety(safety),
        work=work,
        hold=seen.hold,
        system=status.recovered.system_identifier if status.recovered is not None else None,
        skip_safety=skips,
        pods=seen.pods.there,
        stopping_since=seen.pods.stopping_since,
        unaware=seen.unaware,
        doors=seen.pods.doors,
        selects=seen.selects,
        workloads=seen.workloads,
        room=seen.pods.room,
        refused=seen.refused,
        size=max((status.checked.size_bytes or 0) if status.checked is not None else 0, source.size),
    )


def _skips_safety(restore: Restore) -> bool:
    return restore.spec.in_place is not None and bool(restore.spec.in_place.skip_safety_backup)


def _not_in_place(around: Around, *, safety: bool) -> Verdict | None:
    """A replica cluster has its source's data. Without a store there is no safety backup, and without that nothing is
    replaced."""
    cluster = around.cluster
    if cluster is not None and cluster.spec.replica is not None and cluster.spec.replica.enabled:
        message = (
            f"DatabaseCluster {around.name} is a replica cluster, and its data is that of "
            f"{cluster.spec.replica.source.host}: restore the source, or promote this cluster first."
        )
        return Verdict(Standing.STALLED, "ReplicaCluster", message)
    if not safety or cluster is None or (cluster.spec.backup is not None and cluster.spec.backup.stores):
        return None
    message = (
        f"DatabaseCluster {around.name} has no backup store, and its data is replaced only after a safety backup: set "
        "its spec.backup.stores, or restore into a new cluster."
    )
    return Verdict(Standing.STALLED, "NoStore", message)


def _target(around: Around) -> TargetFacts | None:
    if around.cluster is None:
        return None
    metadata, status = around.cluster.metadata, around.cluster.status
    available = any(c.type == "Available" and c.status == "True" for c in status.conditions)
    return TargetFacts(
        uid=metadata.uid,
        deleting=metadata.deletion_timestamp is not None,
        ready=available and status.system_identifier is not None,
        made_by=metadata.annotations.get(RESTORED_BY),
        system=status.system_identifier,
    )


async def _leftover(around: Around, env: Env) -> str | None:
    """What a deleted cluster of the target's name left: its data would be adopted, not restored into."""
    for kind in ("PersistentVolumeClaim", "Lease"):
        found = await env.kube.list(kind, around.namespace, {names.CLUSTER_LABEL: around.name})
        if found:
            return f"{kind} {found[0]['metadata']['name']}"
    return None


def _rival(restore: Restore, around: Around) -> str | None:
    """The first come is served; the others are refused rather than kept for later: the world has changed by then."""
    mine = parse_time(restore.metadata.creation_timestamp), restore.metadata.name
    for other in sorted(around.restores, key=order):
        if other["metadata"]["uid"] == restore.metadata.uid or over(other):
            continue
        if (created(other), other["metadata"]["name"]) < mine or (other.get("status") or {}).get(
            "phase"
        ) == Phase.RUNNING:
            return str(other["metadata"]["name"])
    return None


def _busy(around: Around, safety_name: str) -> str | None:
    for backup in around.open:
        name = str(backup["metadata"]["name"])
        if name != safety_name and (backup.get("status") or {}).get("backupName"):
            return name
    return None


def _safety_name(restore: Restore) -> str:
    return f"{restore.spec.target.cluster}-before-{restore.metadata.uid.replace('-', '')[:10]}"


def _safety(backup: Object | None) -> SafetyFacts | None:
    if backup is None:
        return None
    status = backup.get("status") or {}
    error = status.get("error") or {}
    phase = Phase(status.get("phase") or Phase.PENDING)
    ready: Object = next((c for c in status.get("conditions") or () if c.get("type") == "Ready"), {})
    idle = phase is Phase.PENDING or ready.get("reason") in ("PodWaiting", "NoMember")
    return SafetyFacts(
        phase=phase,
        reason=error.get("reason") or "",
        message=error.get("message") or "",
        waiting=(ready.get("message") or "It is not begun.") if idle else "",
    )


async def _act(
    env: Env,
    found: Object,
    restore: Restore,
    mode: Mode,
    around: Around,
    source: Source,
    plan: RestorePlan,
    name: str,
) -> None:
    namespace = around.namespace
    if plan.create_cluster:
        checked = restore.status.checked or CheckedBackup()
        await _create(env, wanted_cluster(restore, source.cluster, checked, physical=mode is Mode.RECOVER))
    elif plan.create_safety:
        await _create(env, _safety_backup(restore, around, mode))
    elif plan.make_job is not None and source.place is not None:
        recovers = mode in (Mode.RECOVER, Mode.REPLACE)
        if recovers and plan.make_job is Step.VERIFY:
            wish = restore_recovery.check_job(env, found, restore, around, source, name)
        elif recovers:
            wish = await restore_recovery.recover_job(env, found, restore, around, source, name)
        elif plan.make_job is Step.VERIFY:
            wish = _verify_job(env, found, restore, around, source, name)
        else:
            await restore_access.grant(env, found, around.name, around.now)
            wish = _restore_job(env, found, restore, mode, around, source, name)
        await _create(env, job(wish))
    elif plan.resume_job:
        await env.kube.patch("Job", namespace, name, {"spec": {"suspend": False}})
    elif plan.suspend:
        await restore_recovery.suspend(env, around, restore, plan.suspend)
    elif plan.lift:
        await restore_recovery.lift(env, around, restore)
    elif plan.start:
        await application.start_again(env, namespace, done=restore.metadata.uid)
    for workload in plan.scale:
        await application.stop(env, namespace, workload, restore.metadata.uid)


async def _create(env: Env, obj: Object) -> None:
    """Whether one of that name is ours is seen in the next round."""
    try:
        await env.kube.create(obj)
    except Conflict as e:
        if not e.exists:
            raise


def _safety_backup(restore: Restore, around: Around, mode: Mode) -> Object:
    return {
        "kind": "Backup",
        "metadata": {
            "name": _safety_name(restore),
            "namespace": around.namespace,
            "labels": {"matriarch.dev/backup-of": around.name},
            "annotations": {RESTORE: restore.metadata.name},
        },
        "spec": {
            "cluster": around.name,
            "target": "primary",  # a replica may not have replayed all that was acknowledged
            **({"method": "physical"} if mode is Mode.REPLACE else {}),
        },
    }


def _verify_job(env: Env, found: Object, restore: Restore, around: Around, source: Source, name: str) -> JobWish:
    assert source.place is not None
    verify = jobspec.VerifyTask(backup=source.backup, method="logical", allow_unencrypted=source.place.key is None)
    return restore_check.check_job(env, found, restore, around, source, name, verify)


def _restore_job(
    env: Env, found: Object, restore: Restore, mode: Mode, around: Around, source: Source, name: str
) -> JobWish:
    """Made suspended, and kept until the Restore goes: nobody may take its absence for `never ran`."""
    assert source.place is not None
    assert source.identity is not None
    status = restore.status
    checked = status.checked or CheckedBackup()
    task = jobspec.JobSpec(
        task="restore",
        cluster=source.identity,
        store=backup_store.spec(source.place),
        keys=backup_store.key_names(source.place),
        server=jobspec.ServerSpec(hosts=(f"{around.name}-rw",), user="postgres", prefer="primary"),
        report=report_to(restore),
        restore=jobspec.RestoreTask(
            backup=status.backup_name or source.backup,
            mode="in-place" if mode is Mode.IN_PLACE else "new",
            restore_id=restore.metadata.uid,
            manifest_sha256=checked.manifest_sha256 or source.manifest_sha256,
            allow_unencrypted=source.place.key is None,
        ),
    )
    superuser = around.defaults is not None and around.defaults.superuser_access
    return job_wish(
        env,
        around,
        source.place,
        name=name,
        owner=found,
        purpose="restore",
        task=task,
        tls=restore_access.secret_name(around.name),
        password=names.superuser_secret(around.name) if superuser else None,
        suspended=True,
        keep=True,
    )


async def _write(env: Env, restore: Object, status: Mapping[str, Any]) -> None:
    previous = {k: v for k, v in (restore.get("status") or {}).items() if k != "progress"}
    if status == previous:
        return
    metadata = {"name": restore["metadata"]["name"], "namespace": restore["metadata"]["namespace"]}
    await env.kube.apply_status({"kind": "Restore", "metadata": metadata, "status": dict(status)}, manager=MANAGER)


async def _tell(env: Env, restore: Object, plan: RestorePlan, step: Step | None) -> None:
    if plan.phase is Phase.FAILED:
        await env.recorder.record(restore, plan.verdict.reason, plan.verdict.message, kind="Warning")
    elif plan.phase is Phase.COMPLETE:
        await env.recorder.record(restore, "RestoreComplete", plan.verdict.message, kind="Normal")
    elif plan.step is not step and plan.step is not None:
        await env.recorder.record(restore, "StepBegins", f"Step {plan.step} begins.", kind="Normal")

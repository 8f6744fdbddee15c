"""The commands that speak to Kubernetes: they read status and write resources, and nothing else.

What a cluster's health is has been decided by the controller; here its conditions are only shown.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from matriarch.backup.progress import size
from matriarch.cli import terminal
from matriarch.cli.terminal import Exit, ago, note, show, show_json, table
from matriarch.decide.pitr import Target
from matriarch.errors import Refused, Unavailable
from matriarch.kube.client import Kube, Object
from matriarch.kube.errors import Conflict, Forbidden, NotFound

T = TypeVar("T")
API = "matriarch.dev/v1alpha1"
WAIT_EVERY = 2.0  # seconds


def call(work: Callable[[Kube, str], Awaitable[T]], namespace: str | None) -> T:
    """Connect, run, and say in one sentence what Kubernetes had against it."""

    async def whole() -> T:
        kube = Kube.connect(timeout=15.0)
        try:
            return await work(kube, namespace or kube.namespace)
        except NotFound as error:
            raise Refused(f"Kubernetes does not have it: {error} Is Matriarch installed?", reason="NotFound") from error
        except Forbidden as error:
            raise Refused(f"You may not do this in Kubernetes: {error}", reason="Forbidden") from error
        except Conflict as error:
            raise Refused(f"Somebody else changed it at the same time: {error}", reason="Conflict") from error
        finally:
            await kube.close()

    return terminal.run(whole())


def condition(obj: Object, kind: str) -> Mapping[str, Any]:
    conditions = obj.get("status", {}).get("conditions") or []
    return next((c for c in conditions if c.get("type") == kind), {})


def is_true(obj: Object, kind: str) -> bool:
    return condition(obj, kind).get("status") == "True"


async def _cluster(kube: Kube, namespace: str, name: str) -> Object:
    found = await kube.get("DatabaseCluster", namespace, name)
    if found is None:
        raise Refused(f"There is no DatabaseCluster {name} in namespace {namespace}.", reason="NotFound")
    return found


def _word(obj: Object) -> str:
    """READY, or the reason why not."""
    ready = condition(obj, "Ready")
    if is_true(obj, "Stalled"):
        return f"STALLED ({condition(obj, 'Stalled').get('reason', '?')})"
    if ready.get("status") == "True":
        return "READY"
    return f"NOT READY ({ready.get('reason', 'Unknown')})"


def list_clusters(namespace: str | None, *, all_namespaces: bool, as_json: bool) -> None:
    async def work(kube: Kube, here: str) -> list[Object]:
        return await kube.list("DatabaseCluster", None if all_namespaces else here)

    found = call(work, namespace)
    if as_json:
        show_json(found)
        return
    rows = []
    for obj in sorted(found, key=lambda o: (o["metadata"]["namespace"], o["metadata"]["name"])):
        status = obj.get("status", {})
        rows.append(
            (
                obj["metadata"]["namespace"],
                obj["metadata"]["name"],
                _word(obj),
                str(status.get("primary") or "-"),
                f"{status.get('readyInstances', 0)}/{obj['spec'].get('instances', '?')}",
                ago(status.get("backup", {}).get("lastSuccessAt") or "-"),
            )
        )
    show(table(("NAMESPACE", "NAME", "STATE", "PRIMARY", "READY", "LAST BACKUP"), rows))


def status(name: str, namespace: str | None, *, as_json: bool) -> None:
    async def work(kube: Kube, here: str) -> Object:
        return await _cluster(kube, here, name)

    obj = call(work, namespace)
    if as_json:
        show_json(obj)
    else:
        show(render_status(obj, datetime.now(UTC)))
    if not is_true(obj, "Ready") or condition(obj, "BackupHealthy").get("status") == "False":
        raise SystemExit(Exit.DEGRADED)


def render_status(obj: Object, now: datetime) -> str:
    """The page that answers: is it well, who leads, when was it backed up, what needs me."""
    meta, spec, state = obj["metadata"], obj["spec"], obj.get("status", {})
    seen, generation = state.get("observedGeneration", -1), meta.get("generation")
    lines = [
        f"{meta['name']} ({meta['namespace']})   PostgreSQL {state.get('postgresVersion') or spec.get('version')}   "
        f"{_word(obj)}   {state.get('readyInstances', 0)}/{spec.get('instances')}   "
        + (f"gen {generation} seen" if seen == generation else f"gen {generation}, seen {seen}")
    ]
    for each in state.get("instanceStatuses") or ():
        role, ready = each.get("role") or "none", "ready" if each.get("ready") else "not ready"
        parts = [f"{role:<9}", each["name"], each.get("node") or "-", ready, each.get("state") or ""]
        if role == "primary":
            parts.append(f"timeline {each.get('timeline')}")
        elif each.get("lagBytes") is not None:
            lag = f"lag {size(each['lagBytes'])}"
            if each.get("lagSeconds") is not None:
                lag += f" / {each['lagSeconds']:.1f} s"
            parts.append(lag)
        if each.get("message"):
            parts.append(each["message"])
        lines.append("   ".join(parts))
    lines.append("backup      " + _backup_line(obj, now))
    switchover = state.get("switchover") or {}
    if switchover.get("state") == "running":
        lines.append(f"switchover  to {switchover.get('to')} is running")
    if not is_true(obj, "Ready"):
        lines.append(f"why         {condition(obj, 'Ready').get('message', 'nothing is known yet')}")
    others = [c for c in state.get("conditions") or () if c["type"] not in ("Ready", "Reconciling", "Stalled")]
    lines += [f"warning     {c['type']}: {c.get('message', '')}" for c in others if c.get("status") == "False"]
    return "\n".join(terminal.printable(line).rstrip() for line in lines)


def _backup_line(obj: Object, now: datetime) -> str:
    last = obj.get("status", {}).get("backup") or {}
    healthy = condition(obj, "BackupHealthy")
    word = {"True": "ok", "False": "NOT OK"}.get(healthy.get("status", ""), "unknown")
    when = f"last {ago(last['lastSuccessAt'], now)}" if last.get("lastSuccessAt") else "none yet"
    return f"{word}   {when}" + (f"   {healthy['message']}" if healthy.get("status") == "False" else "")


def list_backups(name: str, namespace: str | None, *, as_json: bool) -> None:
    async def work(kube: Kube, here: str) -> list[Object]:
        await _cluster(kube, here, name)
        return [b for b in await kube.list("Backup", here) if b["spec"].get("cluster") == name]

    found = call(work, namespace)
    found.sort(key=lambda b: b["metadata"].get("creationTimestamp") or "", reverse=True)
    if as_json:
        show_json(found)
        return
    rows = [
        (
            b["metadata"]["name"],
            b.get("status", {}).get("phase") or "Pending",
            ago(b.get("status", {}).get("finishedAt") or "-"),
            size(b["status"]["storedBytes"]) if b.get("status", {}).get("storedBytes") else "-",
            b.get("status", {}).get("backupName") or "-",
        )
        for b in found
    ]
    show(table(("NAME", "STATE", "FINISHED", "STORED", "FILE"), rows))


def make_backup(
    name: str, namespace: str | None, *, store: str | None, method: str, max_increments: int | None, wait: bool,
    timeout: float,
) -> None:  # fmt: skip
    how: Object = {} if max_increments is None else {"incremental": {"maxIncrements": max_increments}}
    obj: Object = {
        "apiVersion": API,
        "kind": "Backup",
        "metadata": {"name": f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"},
        "spec": {"cluster": name, "method": method, **how, **({"store": store} if store else {})},
    }

    async def work(kube: Kube, here: str) -> Object:
        await _cluster(kube, here, name)
        obj["metadata"]["namespace"] = here
        made = await kube.create(obj)
        note(f"backup {made['metadata']['name']} is requested")
        return await wait_for(kube, made, timeout) if wait else made

    _conclude(call(work, namespace), wait=wait)


def recovery_target(moment: Target) -> Object:
    """As a Restore has it: the kinds that take no value are said in `to`."""
    return {moment.kind: moment.value} if moment.value else {"to": moment.kind}


def make_restore(
    backup_name: str, namespace: str | None, *, to: str, in_place: bool, skip_safety: bool, moment: Target | None,
    application: Mapping[str, str], wait: bool, timeout: float,
) -> None:  # fmt: skip
    """From a Backup, into the new cluster `to`, or over the present one of that name. `moment`: of the WAL archive.
    `application`: labels of the workloads that are stopped meanwhile; none if empty."""
    confirmed: Object = {
        "confirm": to,
        **({"skipSafetyBackup": True} if skip_safety else {}),
        **({"applicationSelector": {"matchLabels": dict(application)}} if application else {}),
    }
    obj: Object = {
        "apiVersion": API,
        "kind": "Restore",
        "metadata": {"name": f"{to}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"},
        "spec": {
            "source": {"backup": {"name": backup_name}},
            "target": {"cluster": to},
            **({"inPlace": confirmed} if in_place else {}),
            **({"recoveryTarget": recovery_target(moment)} if moment is not None else {}),
        },
    }

    async def work(kube: Kube, here: str) -> Object:
        if await kube.get("Backup", here, backup_name) is None:
            raise Refused(f"There is no Backup {backup_name} in namespace {here}.", reason="NotFound")
        if not in_place and await kube.get("DatabaseCluster", here, to) is not None:
            raise Refused(
                f"DatabaseCluster {to} exists: give another name by --as, or --in-place to replace its data.",
                reason="TargetNotEmpty",
            )
        obj["metadata"]["namespace"] = here
        made = await kube.create(obj)
        note(f"restore {made['metadata']['name']} is requested")
        return await wait_for(kube, made, timeout) if wait else made

    _conclude(call(work, namespace), wait=wait)


async def wait_for(kube: Kube, obj: Object, timeout: float) -> Object:
    """Until the one-shot object is complete or has failed; tells each new step. An API server that is away for a while
    is waited for, too. Raises Unavailable at `timeout`."""
    kind, meta = obj["kind"], obj["metadata"]
    said, end = "", time.monotonic() + timeout
    while time.monotonic() < end:
        try:
            found = await kube.get(kind, meta["namespace"], meta["name"])
        except Unavailable as error:
            if said != str(error):
                said = str(error)
                note(terminal.printable(f"{said}; it goes on without this command, which looks again"))
            await asyncio.sleep(WAIT_EVERY)
            continue
        if found is None:
            raise Refused(f"{kind} {meta['name']} was deleted.", reason="NotFound")
        if is_true(found, "Complete") or is_true(found, "Failed"):
            return found
        progress = found.get("status", {}).get("progress") or {}
        percent = f"{progress['percent']} %" if progress.get("percent") is not None else ""
        message = progress.get("message") or condition(found, "Ready").get("message", "")
        text = terminal.printable(" ".join(t for t in (progress.get("step"), percent, message) if t))
        if text and text != said:
            said = text
            note(text)
        await asyncio.sleep(WAIT_EVERY)
    raise Unavailable(f"{kind} {meta['name']} is not done after {timeout:.0f} s; it goes on without this command.")


def _conclude(obj: Object, *, wait: bool) -> None:
    show(obj["metadata"]["name"])
    if not wait:
        return
    verdict = condition(obj, "Failed") if is_true(obj, "Failed") else condition(obj, "Complete")
    note(terminal.printable(f"{verdict.get('reason', '')}: {verdict.get('message', '')}"))
    if is_true(obj, "Failed"):
        raise SystemExit(Exit.DEGRADED)


def switchover(name: str, to: str | None, namespace: str | None) -> None:
    """Ask the controller for another primary, by the annotation it carries out once."""

    async def work(kube: Kube, here: str) -> str:
        obj = await _cluster(kube, here, name)
        target = to or _best_replica(obj)
        known = [i["name"] for i in obj.get("status", {}).get("instanceStatuses") or ()]
        if target not in known:
            raise Refused(
                f"{name} has no instance {target}; it has {', '.join(known) or 'none yet'}.", reason="NotFound"
            )
        if obj.get("status", {}).get("primary") == target:
            raise Refused(f"{target} is the primary already.", reason="AlreadyPrimary")
        # One shot each: the time makes a second wish for the same instance another one.
        wish = f"{target}@{int(time.time())}"
        await kube.patch(
            "DatabaseCluster", here, name, {"metadata": {"annotations": {"matriarch.dev/switchover": wish}}}
        )
        return target

    target = call(work, namespace)
    show(f"switchover to {target} is requested; see `matriarch status {name}`")


def _best_replica(obj: Object) -> str:
    """The ready replica that is least behind."""
    replicas = [
        i for i in obj.get("status", {}).get("instanceStatuses") or () if i.get("role") == "replica" and i.get("ready")
    ]
    if not replicas:
        raise Refused("No replica is ready to become the primary.", reason="NoReplica")
    return str(min(replicas, key=lambda i: (i.get("lagBytes") or 0, i["name"]))["name"])

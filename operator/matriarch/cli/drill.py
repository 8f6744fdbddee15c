"""`matriarch drill`: asks the controller for a restore drill of a schedule's newest backup, and tells what it found; or
makes one here, of a store."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matriarch.backup.drillspec import DrillQuery, DrillResult, DrillTask
from matriarch.backup.jobspec import ClusterIdentity, JobSpec
from matriarch.backup.jsonclass import encode
from matriarch.backup.restore import find_trusted
from matriarch.backup.stop import Stop
from matriarch.backup.store import open_store
from matriarch.cli import terminal
from matriarch.cli.bare import line, parse_store, read_keys
from matriarch.cli.cluster import call
from matriarch.cli.terminal import Exit, note, show, show_json
from matriarch.drill import drill as engine
from matriarch.drill.job import sentence
from matriarch.errors import Refused, Unavailable
from matriarch.kube.client import Kube, Object

ANNOTATION = "matriarch.dev/drill"
_EVERY = 2.0  # seconds between looks


def drill(name: str, namespace: str | None, *, wait: bool, timeout: float, as_json: bool) -> None:
    """Exit code 1 when the drill failed."""

    async def work(kube: Kube, here: str) -> Mapping[str, Any] | None:
        if await kube.get("BackupSchedule", here, name) is None:
            raise Refused(
                f"There is no BackupSchedule {name} in namespace {here}: a drill restores the newest backup of one.",
                reason="NotFound",
            )
        wish = f"{time.time_ns() // 1_000_000}"  # another value for each wish
        await kube.patch("BackupSchedule", here, name, {"metadata": {"annotations": {ANNOTATION: wish}}})
        note(f"a drill of {name} is requested")
        return await _wait(kube, here, name, wish, timeout) if wait else None

    found = call(work, namespace)
    if found is None:
        show(name)
        return
    if as_json:
        show_json(dict(found))
    else:
        show(terminal.printable(f"{found['result']}: {found.get('message') or found['reason']}"))
    if found["result"] != "Passed":
        raise SystemExit(Exit.DEGRADED)


async def _wait(kube: Kube, namespace: str, name: str, wish: str, timeout: float) -> Mapping[str, Any]:
    """The record of this drill. Raises Unavailable at `timeout` (seconds)."""
    end, said = time.monotonic() + timeout, False
    while time.monotonic() < end:
        found = await kube.get("BackupSchedule", namespace, name)
        if found is None:
            raise Refused(f"BackupSchedule {name} was deleted.", reason="NotFound")
        if (record := record_of(found, wish)) is not None:
            return record
        active = ((found.get("status") or {}).get("drill") or {}).get("active")
        if active and not said:
            note(f"Job {active['job']} restores Backup {active['backup']}")
            said = True
        await asyncio.sleep(_EVERY)
    raise Unavailable(f"The drill of {name} is not done after {timeout:.0f} s; it goes on without this command.")


def record_of(schedule: Object, wish: str) -> Mapping[str, Any] | None:
    """What became of the drill that was wished for; None until it is over. Pure."""
    status = schedule.get("status") or {}
    drills = status.get("drill") or {}
    if drills.get("handled") != wish or drills.get("active"):
        return None
    record: Mapping[str, Any] | None = status.get("lastDrill")
    return record


def by_hand(
    store: str, backup_id: str, *, endpoint: str | None, key_files: list[Path], folder: Path | None, archive: bool,
    queries: list[str], database: str, heapallindexed: bool, allow_unencrypted: bool, timeout: float, as_json: bool,
) -> None:  # fmt: skip
    """Of a backup in a store, where PostgreSQL's programs are. `queries` are as in a resource without `expect`."""
    stop, clock = Stop(), engine.Clock()

    async def work() -> tuple[DrillResult, str]:
        spec, keys = parse_store(store, endpoint), read_keys(key_files)
        place = open_store(spec, stop)
        found = await asyncio.to_thread(find_trusted, place, backup_id, keys, allow_unencrypted, None)
        task = DrillTask(
            backup=found.body.name,  # by its own name from here on: another one may become the newest
            method=found.body.kind,
            folder=str((folder or Path(tempfile.gettempdir())).absolute()),
            manifest_sha256=found.manifest.sha256,
            archive=archive,
            queries=tuple(
                DrillQuery(name=str(number), sql=text, database=database) for number, text in enumerate(queries, 1)
            ),
            amcheck="heapallindexed" if heapallindexed else "structure",
            timeout=timeout,
            allow_unencrypted=allow_unencrypted,
        )
        whole = JobSpec(
            task="drill", cluster=ClusterIdentity(namespace="", name="", uid=""), store=spec, drill=task
        )  # nothing is stored
        return await engine.drill(whole, task, place, keys, clock, stop), task.method

    done, method = terminal.run(work(), line=lambda: line(clock), stop=stop.set)
    if as_json:
        show_json(encode(done))
        return
    show(terminal.printable(sentence(done, method)))

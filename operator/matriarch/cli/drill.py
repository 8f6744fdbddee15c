"""`matriarch drill`: asks the controller for a restore drill of a schedule's newest backup, and tells what it found."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from matriarch.cli import terminal
from matriarch.cli.cluster import call
from matriarch.cli.terminal import Exit, note, show, show_json
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

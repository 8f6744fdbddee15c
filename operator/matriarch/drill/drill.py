"""A drill: a backup is restored where nothing depends on it, replayed, checked, timed, and thrown away.

Checking      the manifest; the archive's way to its end
Restoring     files, or an empty server and SQL
Replaying     archived WAL (physical), or the comparison with the manifest's counts and hashes (logical)
Amcheck       pg_amcheck over all of it
Querying      the user's questions

Nothing is written but below the task's folder. The store is only read, and the cluster is never asked.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from matriarch.backup import names, restore
from matriarch.backup.drillspec import DrillResult, DrillTask
from matriarch.backup.jobspec import JobSpec, Reason, RestoreTask
from matriarch.backup.keys import Kek
from matriarch.backup.manifest import Opened
from matriarch.backup.names import timestamp
from matriarch.backup.progress import Tracker
from matriarch.backup.stop import Stop
from matriarch.backup.store import Store
from matriarch.drill import checks, physical
from matriarch.drill.server import Throwaway
from matriarch.errors import Corrupt, MatriarchError, Refused
from matriarch.postgres.lsn import format_lsn

_CHECKS = ("Comparing", "Amcheck", "Querying")  # steps that a restore in need would leave out
_REPLAYS = ("Roles", "Loading", "Replaying")
_SWEEPS = 20


@dataclass(slots=True)
class Clock(Tracker):
    """Also counts the seconds of each step."""

    spent: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=time.monotonic)

    def step(self, name: str, *, bytes_total: int | None = None, tables_total: int | None = None) -> None:
        self.settle()
        Tracker.step(self, name, bytes_total=bytes_total, tables_total=tables_total)

    def settle(self) -> None:
        """Book the time so far on the step that is at work."""
        now = time.monotonic()
        self.spent[self.current] = self.spent.get(self.current, 0.0) + now - self._since
        self._since = now

    def parts(self) -> tuple[float, float, float]:
        """Download, replay, checks."""
        found = [0.0, 0.0, 0.0]
        for name, seconds in self.spent.items():
            found[2 if name in _CHECKS else 1 if name in _REPLAYS else 0] += seconds
        return found[0], found[1], found[2]


async def drill(
    spec: JobSpec, task: DrillTask, store: Store, keys: tuple[Kek, ...], clock: Clock, stop: Stop
) -> DrillResult:
    """Raises MatriarchError with what is wrong with the backup, or with the drill. Leaves nothing, however it ends."""
    place = _make_place(task)  # no thread: whoever is told to stop meanwhile would leave its folders
    end = time.monotonic() + task.timeout
    # Threads look at the flag alone, and the loop waits for them.
    bell = asyncio.get_running_loop().call_later(task.timeout, stop.set)
    try:
        async with asyncio.timeout(task.timeout):
            return await _drill(place, spec, task, store, keys, clock, stop)
    except (TimeoutError, MatriarchError) as error:
        if time.monotonic() < end:
            raise
        raise Refused(
            f"The drill was not done after {task.timeout:g} s, in its step {clock.current}: a restore takes longer. "
            "Raise the drill's timeoutSeconds, give it more resources, or back up physically.",
            reason=Reason.TIMED_OUT,
        ) from error
    finally:
        bell.cancel()
        await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(_throw_away, place)))


def _make_place(task: DrillTask) -> Throwaway:
    folder = Path(task.folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The sockets elsewhere: their paths must be short.
    return Throwaway(Path(tempfile.mkdtemp(prefix="drill-", dir=folder)), Path(tempfile.mkdtemp(prefix="drill-")))


def _throw_away(place: Throwaway) -> None:
    place.stop()
    for path in (place.folder, place.sockets):
        for _ in range(_SWEEPS):  # a file that was being fetched may still arrive
            shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                break
            time.sleep(0.2)


async def _drill(
    place: Throwaway, spec: JobSpec, task: DrillTask, store: Store, keys: tuple[Kek, ...], clock: Clock, stop: Stop
) -> DrillResult:
    began = datetime.now(UTC)
    clock.step("Checking")
    opened = await asyncio.to_thread(
        restore.find_trusted, store, task.backup, keys, task.allow_unencrypted, task.method
    )
    _check_manifest(opened, task)
    if task.method == "physical":
        way = await physical.lay_down(place, spec, task, store, opened, keys, clock, stop)
        clock.step("Replaying")
        replayed = await physical.replay(place, spec, way, keys, stop)
        newest = replayed.newest
        lsn, timeline = format_lsn(replayed.end), replayed.timeline
        clock.step("Comparing")
        held = await checks.holds(place)
        size = opened.body.size
    else:
        newest, lsn, timeline = None, None, None
        held = await _load(place, spec, task, store, opened, keys, clock, stop)
        size = opened.body.object.text_size
    clock.step("Amcheck")
    await checks.amcheck(place, task.amcheck, stop)
    clock.step("Querying")
    await checks.ask(place, task.queries)
    clock.settle()
    # A snapshot holds all that was committed when the backup began; WAL holds what came after it.
    made = names.parse_timestamp(opened.body.started)
    newest = max(newest or made, made)
    download, replay, checking = clock.parts()
    return DrillResult(
        backup_id=opened.body.id,
        backup_name=opened.body.file,
        started=timestamp(began),
        download=round(download, 3),
        replay=round(replay, 3),
        checks=round(checking, 3),
        size=size,
        databases=held.databases,
        tables=held.tables,
        queries=len(task.queries),
        newest_transaction=timestamp(newest),
        age=round(max((began - newest).total_seconds(), 0.0), 3),
        lsn=lsn,
        timeline=timeline,
    )


def _check_manifest(opened: Opened, task: DrillTask) -> None:
    if task.manifest_sha256 is not None and opened.manifest.sha256 != task.manifest_sha256:
        raise Corrupt(
            f"The manifest of {opened.body.name} is not the one that was written when the backup was made; the store "
            "was altered or rolled back.",
            reason=Reason.MANIFEST_CORRUPT,
        )
    if opened.body.suspect:
        raise Refused(
            f"{opened.body.name} is Suspect: pages failed their checksum when it was made.", reason=Reason.SUSPECT
        )
    if task.method == "logical" and opened.details.tables == 0:
        raise Corrupt(
            f"{opened.body.name} holds no table: an empty server was backed up, or what was in it was lost before. "
            "Look at the cluster, and at the backups before this one.",
            reason=Reason.EMPTY_BACKUP,
        )


async def _load(
    place: Throwaway,
    spec: JobSpec,
    task: DrillTask,
    store: Store,
    opened: Opened,
    keys: tuple[Kek, ...],
    clock: Clock,
    stop: Stop,
) -> checks.Holds:
    """By the restore's own code, which compares every count and hash with the manifest."""
    clock.step("Loading")
    await place.create()
    await place.start()
    wanted = RestoreTask(
        backup=opened.body.name,
        mode="new",
        restore_id=place.folder.name,
        manifest_sha256=opened.manifest.sha256,
        allow_unencrypted=task.allow_unencrypted,
        amcheck=False,  # of all databases, later
    )
    done = await restore.restore(
        restore.Request(store=store, servers=[place.server], keys=keys, task=wanted, tracker=clock, stop=stop)
    )
    clock.step("Comparing")
    await checks.holds(place)
    return checks.Holds(len(done.databases), done.tables)

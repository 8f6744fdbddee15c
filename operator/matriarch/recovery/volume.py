"""Fills the volume of an instance: of a new cluster's first one, or in place.

    lock ▸ pgdata.new emptied ▸ backup laid down ▸ WAL replayed, promoted, stopped ▸ new identifier ▸ mark ▸ renamed

`pgdata.new` is what an agent throws away when it starts, and `pgdata` appears whole, by one rename, with the mark
inside that names the Restore. So a run that is killed anywhere leaves nothing that could pass as data, the next one
begins with an empty folder, and one that finds the mark of its own Restore tells what the finished run did.

In place there is a `pgdata`, which is read (a delta restore takes from it what is the same) and not touched: what is
made appears as `pgdata.restored-UID`, and an agent lets it take the place of the other when the Lease says so.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from matriarch.archive.config import ArchiveConfig
from matriarch.backup.children import find_tool
from matriarch.backup.jobresult import RecoverResult
from matriarch.backup.jobspec import ClusterIdentity, JobSpec, Moment, Reason, RecoverTask
from matriarch.backup.jsonclass import decode, encode
from matriarch.backup.keys import Kek
from matriarch.backup.names import timestamp
from matriarch.backup.physical import restore as filling
from matriarch.backup.physical.recovery import settings
from matriarch.backup.progress import Tracker
from matriarch.backup.stop import Stop, in_thread
from matriarch.backup.store import Store
from matriarch.decide.pitr import LATEST
from matriarch.errors import Corrupt, Refused, Unavailable
from matriarch.postgres.controldata import ControlData, parse_controldata
from matriarch.postgres.lsn import format_lsn, parse_lsn
from matriarch.postgres.restored import MARK, RESTORED, restored_by
from matriarch.postgres.volumelock import VolumeLock
from matriarch.recovery import identity
from matriarch.recovery.replay import NotReached, Replayed, replay, restore_command, serving_wal
from matriarch.recovery.way import Way, find_way

_LOCK_WAIT = 120.0  # seconds: a run before this one may still be ending
_AUTO_CONF = "postgresql.auto.conf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`key_folder`: where the keys that `spec` names are files."""

    spec: JobSpec
    task: RecoverTask
    store: Store
    keys: tuple[Kek, ...]
    key_folder: str
    tracker: Tracker = field(default_factory=Tracker)
    stop: Stop = field(default_factory=Stop)

    @property
    def volume(self) -> Path:
        return Path(self.task.volume)

    @property
    def pgdata(self) -> Path:
        """What is there, or nothing yet."""
        return self.volume / "pgdata"

    @property
    def made(self) -> Path:
        """Where what was recovered appears."""
        return self.pgdata.with_name(f"pgdata.{RESTORED}{self.task.restore_id}") if self.task.replaces else self.pgdata


async def recover(request: Request) -> RecoverResult:
    """Fill the volume, or tell what an earlier run of the same Restore put there. Raises MatriarchError."""
    async with _locked(request):
        if (done := _done(request)) is not None:
            return done
        request.tracker.step("Checking")
        way = await asyncio.to_thread(_look, request)
        new = request.pgdata.with_name("pgdata.new")
        await in_thread(lambda: _begin_anew(new))
        await in_thread(lambda: _lay_down(request, way, new))
        replayed = await _replay(request, way, new)
        return await in_thread(lambda: _finish(request, way, new, replayed))


@asynccontextmanager
async def _locked(request: Request) -> AsyncIterator[None]:
    """The lock that an agent's supervisor takes as well: never two at one volume."""
    try:
        lock = VolumeLock(str(request.volume / "lock"))
    except OSError as error:
        raise Unavailable(
            f"The volume cannot be written to ({error.strerror}).", reason=Reason.TARGET_UNAVAILABLE
        ) from None
    end = time.monotonic() + _LOCK_WAIT
    while not lock.take():
        if time.monotonic() > end:
            raise Unavailable("Another Pod works on this volume.", reason=Reason.TARGET_UNAVAILABLE)
        await asyncio.sleep(1.0)
    try:
        yield
    finally:
        lock.drop()


def _done(request: Request) -> RecoverResult | None:
    """Raises Refused for data that is not this Restore's where there should be none: it is never touched."""
    try:
        text = (request.made / MARK).read_text()
    except FileNotFoundError:
        text = ""
    if restored_by(text) == request.task.restore_id:
        return decode(RecoverResult, json.loads(text)["result"])
    if request.task.replaces:
        return None
    other = (request.pgdata, *(request.pgdata.with_name(f"pgdata.{word}") for word in ("ready", "old")))
    found = [path for path in other if path.exists()]
    if found:
        raise Refused(
            f"The volume holds data already ({found[0].name}) that is not of this restore; it was not changed.",
            reason=Reason.TARGET_NOT_EMPTY,
        )
    return None


def _look(request: Request) -> Way:
    task = request.task
    return find_way(
        request.store,
        task.backup,
        request.keys,
        task.moment,
        allow_unencrypted=task.allow_unencrypted,
        manifest_sha256=task.manifest_sha256,
    )


def _begin_anew(new: Path) -> None:
    """What a run before this one left: half a backup, or a copy that was not renamed."""
    try:
        if new.exists():
            shutil.rmtree(new)
            _sync(new.parent)
    except OSError as error:
        raise Unavailable(
            f"What an earlier attempt left cannot be removed: {error.strerror}.", reason=Reason.TARGET_UNAVAILABLE
        ) from None


def _lay_down(request: Request, way: Way, new: Path) -> None:
    command = restore_command(_socket(request)) if way.route is not None else None
    timeline = way.route.timeline if way.route is not None else None
    filling.restore(
        filling.Request(
            store=request.store,
            keys=request.keys,
            backup=way.opened.body.file,
            directory=new,
            target=way.target,
            restore_command=command,
            timeline=timeline,
            reuse=request.pgdata if request.task.replaces and request.pgdata.is_dir() else None,
            allow_unencrypted=request.task.allow_unencrypted,
            tracker=request.tracker,
            stop=request.stop,
        )
    )
    # What the source's ALTER SYSTEM said is not for this server, nor for the agent's, which writes the file anew.
    (new / _AUTO_CONF).write_text(settings(way.target, command, timeline), encoding="utf-8")


def _socket(request: Request) -> Path:
    """Short, and on no volume."""
    return Path(tempfile.gettempdir()) / f"wal-{request.task.restore_id[:8]}.sock"


async def _replay(request: Request, way: Way, new: Path) -> Replayed:
    tracker, body = request.tracker, way.opened.body
    assert body.physical is not None
    begin = parse_lsn(body.physical.start_lsn)
    floors = (await asyncio.to_thread(_control, new)).critical
    tracker.step("Replaying", bytes_total=way.wal)

    async def run() -> Replayed:
        with tempfile.TemporaryDirectory(prefix="pg-") as folder:
            return await replay(new, Path(folder), floors, begin, tracker)

    if way.route is not None:
        async with serving_wal(_archive(request, new)):
            return await _or_at_once(request.task.moment, new, run)
    return await _or_at_once(request.task.moment, new, run)


async def _or_at_once(moment: Moment, new: Path, run: Callable[[], Awaitable[Replayed]]) -> Replayed:
    """`immediate` of a server that was idle while it was backed up: there is no WAL after the point at which the copy
    is consistent, so PostgreSQL never gets past it. All of that WAL is the same moment."""
    try:
        return await run()
    except NotReached:
        if moment.kind != "immediate":
            raise
    await asyncio.to_thread((new / _AUTO_CONF).write_text, settings(LATEST, None), encoding="utf-8")
    return await run()


def _archive(request: Request, new: Path) -> ArchiveConfig:
    return ArchiveConfig(
        cluster=ClusterIdentity(namespace="", name="", uid=""),  # nothing is stored
        store=request.spec.store,
        pgdata=str(new),
        keys=request.spec.keys,
        key_folder=request.key_folder,
        socket=str(_socket(request)),
        spool=str(request.volume / "archive-spool"),
        mode="fetch",
    )


def _finish(request: Request, way: Way, new: Path, replayed: Replayed) -> RecoverResult:
    request.tracker.step("Finishing")
    control, physical = _control(new), way.opened.body.physical
    assert physical is not None
    if control.state != "shut down":
        raise Unavailable(f"The copy is {control.state!r} and was to be stopped.", reason=Reason.TARGET_UNAVAILABLE)
    system = identity.renew(new, identity.new_identifier())
    (new / "recovery.signal").unlink(missing_ok=True)
    until = timestamp(way.route.until) if way.route is not None else way.opened.body.finished
    result = RecoverResult(
        backup_name=way.opened.body.file,
        system_identifier=system,
        timeline=replayed.timeline,
        lsn=format_lsn(replayed.lsn),
        last_commit=timestamp(replayed.last_commit) if replayed.last_commit is not None else None,
        archived_until=until,
        size=way.opened.body.size,
        wal=max(0, replayed.lsn - parse_lsn(physical.start_lsn)),
        reused=request.tracker.reused,
    )
    if control.timeline != replayed.timeline or _control(new).timeline != replayed.timeline:
        raise Corrupt(
            f"The copy is on timeline {control.timeline} and not on {replayed.timeline}.", reason=Reason.RESTORE_FAILED
        )
    mark = new / MARK
    mark.write_text(json.dumps({"restore": request.task.restore_id, "result": encode(result)}, sort_keys=True))
    mark.chmod(0o600)
    _sync(mark)
    for folder in (new, new / "global", new / "pg_wal"):
        _sync(folder)
    new.rename(request.made)
    _sync(request.volume)
    return result


def _control(pgdata: Path) -> ControlData:
    done = subprocess.run(
        [find_tool("pg_controldata"), "-D", str(pgdata)],
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return parse_controldata(done.stdout)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def answered(result: RecoverResult, moment: Moment) -> str:
    """For people."""
    what = "its end" if moment.kind in ("backup", "latest") else f"{moment.kind} {moment.value}".strip()
    last = f", last commit {result.last_commit}" if result.last_commit else ""
    return f"{result.backup_name} is replayed to {what}: {result.lsn}{last}, timeline {result.timeline}."

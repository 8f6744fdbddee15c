"""A physical backup brought back: laid down, then the archived WAL replayed to its end, and the proof that it was.

The archive is read while the cluster writes to it, by uploads in parallel: a hole at its end may be filled a moment
later, and counts as one only when it stays.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import asyncpg

from matriarch.archive.config import ArchiveConfig
from matriarch.archive.door import serve
from matriarch.archive.fetching import Fetched, Fetcher
from matriarch.archive.listing import histories, read_listing
from matriarch.archive.main import make_vault
from matriarch.archive.restorable import base_of
from matriarch.archive.walfolder import WalFolder
from matriarch.backup.drillspec import DrillTask
from matriarch.backup.jobspec import JobSpec, Reason
from matriarch.backup.keys import Kek
from matriarch.backup.manifest import Opened
from matriarch.backup.physical import recovery, restore
from matriarch.backup.progress import Tracker
from matriarch.backup.stop import Stop, in_thread
from matriarch.backup.store import Store
from matriarch.decide.pitr import LATEST, Archive, Route, route
from matriarch.decide.verdict import Verdict
from matriarch.drill.server import Throwaway
from matriarch.errors import Corrupt, Refused
from matriarch.postgres.lsn import SEGMENT_SIZE, format_lsn, parse_lsn, segment_name

CLIENT = "/usr/local/bin/matriarch-wal"  # of the postgres image
_GAP_EVERY = 5.0  # seconds between looks at a hole
_FETCH_WITHIN = 360  # seconds that PostgreSQL waits for one file: longer than the fetcher's patience with the store
_PREFETCH = 128 << 20  # bytes beside the instance


@dataclass(frozen=True, slots=True)
class Replayed:
    """`newest` is the last commit that replay met; None: there was none."""

    newest: datetime | None
    end: int
    timeline: int


def find_route(
    store: Store, opened: Opened, keys: tuple[Kek, ...], task: DrillTask, stop: Stop, every: float = _GAP_EVERY
) -> Route:
    """To the archive's end. Raises Refused (WalMissing) for a hole that stays, and for an end before what the cluster
    says to have stored; nothing was restored yet."""
    until = time.monotonic() + task.gap_patience
    while True:
        stop.check()
        listing = read_listing(store)
        lines, unread = histories(store, listing, keys)
        for error in unread.values():
            raise error  # it may be the one that counts
        found = route(base_of(opened.body), Archive(histories=lines, segments=listing.segments), LATEST)
        wrong = found.message if isinstance(found, Verdict) else _too_short(found, task.archived_to)
        if not isinstance(found, Verdict) and wrong is None:
            return found
        if time.monotonic() >= until:
            raise Refused(wrong or "", reason=found.reason if isinstance(found, Verdict) else Reason.WAL_MISSING)
        stop.sleep(min(every, task.gap_patience))


def _too_short(found: Route, archived_to: str | None) -> str | None:
    if archived_to is None or found.end >= parse_lsn(archived_to):
        return None
    missing = segment_name(found.timeline, found.end // SEGMENT_SIZE * SEGMENT_SIZE)
    return (
        f"The archive ends at {format_lsn(found.end)} on timeline {found.timeline}, and the cluster says to have "
        f"stored WAL up to {archived_to}: {missing} is missing, and what follows it."
    )


async def lay_down(
    place: Throwaway,
    spec: JobSpec,
    task: DrillTask,
    store: Store,
    opened: Opened,
    keys: tuple[Kek, ...],
    tracker: Tracker,
    stop: Stop,
) -> Route | None:
    """The files, and the settings of the recovery. None: without the archive. Raises MatriarchError."""
    way = None
    if task.archive:
        way = await in_thread(lambda: find_route(store, opened, keys, task, stop))
    request = restore.Request(
        store=store,
        keys=keys,
        backup=opened.body.name,
        directory=place.data,
        allow_unencrypted=task.allow_unencrypted,
        tracker=tracker,
        stop=stop,
    )
    await in_thread(lambda: restore.restore(request))
    client = shutil.which(Path(CLIENT).name) or CLIENT
    command = f"{client} --socket {_socket(place)} --timeout {_FETCH_WITHIN} fetch %f %p" if way is not None else None
    # In place of the source's own: whatever ALTER SYSTEM had set there has no say here.
    text = recovery.settings(LATEST, command, way.timeline if way is not None else None)
    await asyncio.to_thread((place.data / "postgresql.auto.conf").write_text, text)
    return way


def _socket(place: Throwaway) -> Path:
    return place.sockets / "wal"


async def replay(place: Throwaway, spec: JobSpec, way: Route | None, keys: tuple[Kek, ...], stop: Stop) -> Replayed:
    """Start it, with the archive beside it. Raises Corrupt (RestoreFailed, ObjectCorrupt)."""
    said: list[str] = []
    server: asyncio.Server | None = None
    if way is not None:
        place.sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        server = await serve(_socket(place), None, _fetcher(place, spec, keys, stop, said))
    try:
        await _started(place.start, said)
    finally:
        if server is not None:
            server.close()
    found = await _look(place)
    if way is not None and found.end < way.end - SEGMENT_SIZE:
        # Up to the last segment, in which a switch may lie anywhere.
        raise Corrupt(
            f"Replay ended at {format_lsn(found.end)} although the archive reaches {format_lsn(way.end)} on timeline "
            f"{way.timeline}: the WAL in between is damaged. PostgreSQL says: {place.complaint()}",
            reason=Reason.OBJECT_CORRUPT,
        )
    return found


async def _started(start: Callable[[], Awaitable[None]], said: list[str]) -> None:
    try:
        await start()
    except Corrupt as error:
        if not said:
            raise
        # The archive's own words: PostgreSQL only knows that its command failed.
        raise Corrupt(f"The WAL archive could not be replayed: {said[-1]}.", reason=Reason.OBJECT_CORRUPT) from error


def _fetcher(place: Throwaway, spec: JobSpec, keys: tuple[Kek, ...], stop: Stop, said: list[str]) -> Fetcher:
    config = ArchiveConfig(
        cluster=spec.cluster,  # nothing is stored
        store=spec.store,
        pgdata=str(place.data),
        socket=str(_socket(place)),
        spool=str(place.folder / "wal-ahead"),
        prefetch=_PREFETCH,
        mode="fetch",
    )
    folder = WalFolder(place.data)
    listening = _Listening(
        lambda: make_vault(config, folder.own_system(), stop, keys),
        folder.own_system,
        Path(config.spool),
        prefetch=config.prefetch,
    )
    listening.said = said
    return listening


class _Listening(Fetcher):
    """Keeps why a file could not be given."""

    said: list[str]

    async def fetch(self, text: str) -> Fetched:
        found = await super().fetch(text)
        if found.word == "no":
            self.said.append(f"{text}: {found.text.rstrip('.')}")
        return found


async def _look(place: Throwaway) -> Replayed:
    """What recovery left: it keeps its last values as long as the server runs."""
    session = await place.server.connect("postgres", name="matriarch drill")
    try:
        (row,) = await session.fetch(
            "SELECT pg_catalog.pg_last_xact_replay_timestamp() AS newest, "
            "pg_catalog.pg_last_wal_replay_lsn()::text AS lsn, "
            "(SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()) AS timeline"
        )
    except (asyncpg.PostgresError, OSError) as error:
        raise Corrupt(f"The throwaway instance cannot be asked: {error}", reason=Reason.RESTORE_FAILED) from error
    finally:
        await session.close(timeout=5)
    return Replayed(newest=row["newest"], end=parse_lsn(row["lsn"] or "0/0"), timeline=row["timeline"])

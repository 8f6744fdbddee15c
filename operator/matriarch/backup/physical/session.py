"""The server's side of a physical backup: from pg_backup_start to pg_backup_stop, in one session.

The session holds everything: when it ends, for whatever reason, the server leaves backup mode and drops the temporary
slot that keeps the WAL. So nothing of a failed backup stays in the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import asyncpg

from matriarch.backup.jobspec import Reason
from matriarch.backup.physical import wal
from matriarch.backup.physical.control import SIZE, is_whole, system_identifier
from matriarch.backup.physical.exclude import CONTROL
from matriarch.backup.physical.pages import PAGE
from matriarch.backup.server import Facts, Server, Session, look
from matriarch.errors import Refused, Unavailable
from matriarch.postgres.lsn import parse_lsn

T = TypeVar("T")

_OLDEST = 150000  # pg_backup_start with this signature
_PATIENCE = 60.0  # seconds in which a standby may cancel a query again and again
_EVERY = 5.0  # seconds between looks for a checkpoint
_KEPT = ("reserved", "extended", "unreserved")  # pg_replication_slots.wal_status


@dataclass(frozen=True, slots=True)
class Begun:
    """LSNs in bytes."""

    facts: Facts
    start_lsn: int
    checksums: bool
    segment_size: int  # of WAL, bytes
    segment_blocks: int  # pages in one file of a relation


@dataclass(frozen=True, slots=True)
class Ended:
    stop_lsn: int
    label: str


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Session]:
    session = await server.connect("postgres", name="matriarch physical backup")
    try:
        yield session
    finally:
        with contextlib.suppress(Exception):
            await session.close(timeout=5)


async def begin(session: Session, pgdata: Path, label: str, waits: Callable[[], None] = lambda: None) -> Begun:
    """Look, then keep the WAL, then start: in this order no segment between slot and start can go.

    `waits` is called while a standby that follows a new timeline has no checkpoint of it.

    Raises Refused (VersionUnsupported, BadSpec, PermissionDenied) and Unavailable (SourceChanged).
    """
    with explained():
        facts = await patient(lambda: look(session))
        if facts.version_number < _OLDEST:
            raise Refused(
                f"Physical backups need PostgreSQL 15 or later, the server is {facts.version}.",
                reason=Reason.VERSION_UNSUPPORTED,
            )
        await asyncio.to_thread(_is_its_directory, pgdata, facts.system_identifier, await _identity(session))
        (init,) = await patient(
            lambda: session.fetch(
                "SELECT database_block_size AS page, blocks_per_segment AS blocks, bytes_per_wal_segment AS wal, "
                "data_page_checksum_version AS checksums FROM pg_catalog.pg_control_init()"
            )
        )
        if init["page"] != PAGE:
            raise Refused(f"The server's pages have {init['page']} bytes, not {PAGE}.", reason=Reason.BAD_SPEC)
        await session.execute("SET idle_session_timeout = 0")
        await patient(
            lambda: session.fetch(
                "SELECT pg_catalog.pg_create_physical_replication_slot($1, true, true)",
                f"matriarch_backup_{secrets.token_hex(4)}",
            )
        )
        if facts.role == "standby":
            # The restartpoint may take long, and here it needs no snapshot for which replay would cancel it.
            await _of_its_timeline(session, pgdata, init["wal"], waits)
        start = await patient(lambda: session.fetchval("SELECT pg_catalog.pg_backup_start($1, true)::text", label))
        # Again: the checkpoint may have brought a standby onto another timeline.
        facts = await patient(lambda: look(session))
    return Begun(facts, parse_lsn(start), init["checksums"] != 0, init["wal"], init["blocks"])


async def _of_its_timeline(session: Session, pgdata: Path, segment_size: int, waits: Callable[[], None]) -> None:
    """A restartpoint, on the timeline that is replayed.

    Right after a promotion elsewhere a standby has the old timeline's checkpoint only. A backup from there would end at
    the switch, without what was committed since. The new primary ends its restartpoint before its first checkpoint, and
    each of them takes up to checkpoint_timeout.
    """
    limit = await patient(
        lambda: session.fetchval("SELECT setting::int FROM pg_catalog.pg_settings WHERE name = 'checkpoint_timeout'")
    )
    until = time.monotonic() + 2 * limit + _PATIENCE
    while True:
        await patient(lambda: session.execute("CHECKPOINT"))
        of = await patient(lambda: session.fetchval("SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()"))
        replayed = parse_lsn(await _replayed(session))
        follows = await asyncio.to_thread(wal.timeline_of, pgdata, replayed, segment_size)
        if follows is None or follows == of:
            return
        if time.monotonic() > until:
            raise Unavailable(
                f"The standby follows timeline {follows} and has a checkpoint of timeline {of} only: a backup would "
                "lack what came since. Try again after the primary's next checkpoint.",
                reason=Reason.SOURCE_CHANGED,
            )
        waits()
        await asyncio.sleep(_EVERY)


async def _replayed(session: Session) -> str:
    return str(await patient(lambda: session.fetchval("SELECT pg_catalog.pg_last_wal_replay_lsn()::text")))


async def end(session: Session, begun: Begun) -> Ended:
    """Stop, and see that it still is the server of the start. Raises Unavailable (SourceChanged)."""
    with explained():
        (row,) = await patient(
            lambda: session.fetch(
                "SELECT lsn::text AS lsn, labelfile, spcmapfile "
                "FROM pg_catalog.pg_backup_stop(wait_for_archive => false)"
            )
        )
        stop_lsn = parse_lsn(row["lsn"])
        if begun.facts.role == "standby":
            # Its own answer is where the newest page on the disk ends, which may be long before what it has replayed:
            # nothing that it had shown may be missing in the backup.
            stop_lsn = max(stop_lsn, parse_lsn(await _replayed(session)))
        facts = await patient(lambda: look(session))
        kept = await patient(
            lambda: session.fetchval(
                "SELECT wal_status FROM pg_catalog.pg_replication_slots WHERE slot_name LIKE 'matriarch_backup_%' "
                "AND active_pid = pg_catalog.pg_backend_pid()"
            )
        )
    first = int(_field(row["labelfile"], "START TIMELINE"))
    if facts.role != begun.facts.role or {facts.timeline, first} != {begun.facts.timeline}:
        raise Unavailable(
            f"The server went from {begun.facts.role} on timeline {begun.facts.timeline} to {facts.role} on timeline "
            f"{facts.timeline} while it was read: a backup across that is not completed. Try again.",
            reason=Reason.SOURCE_CHANGED,
        )
    if kept not in _KEPT:
        raise Unavailable(
            f"The server did not keep the WAL of the backup (slot: {kept}); raise max_slot_wal_keep_size or try again.",
            reason=Reason.SOURCE_CHANGED,
        )
    if (row["spcmapfile"] or "").strip():
        raise Refused("A tablespace was made during the backup; they are not supported.", reason=Reason.BAD_SPEC)
    return Ended(stop_lsn, row["labelfile"])


async def patient(ask: Callable[[], Awaitable[T]]) -> T:
    """A standby cancels whatever has a snapshot when replay has to remove rows: then again, for a while."""
    end, pause = time.monotonic() + _PATIENCE, 0.0
    while True:
        try:
            return await ask()
        except asyncpg.SerializationError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(pause)
            pause = min(pause + 0.1, 2.0)


def _field(label: str, name: str) -> str:
    return next((line.partition(": ")[2] for line in label.splitlines() if line.startswith(f"{name}:")), "0")


async def _identity(session: Session) -> str:
    """The server's own lock file: process, directory, time of start. No other server has the same."""
    return str(await patient(lambda: session.fetchval("SELECT pg_catalog.pg_read_file('postmaster.pid')")))


def _is_its_directory(pgdata: Path, system: str, lock_file: str) -> None:
    try:
        mine = (pgdata / "postmaster.pid").read_text()
        control = read_control(pgdata)
    except OSError as error:
        raise Refused(
            f"{pgdata} can't be read as the data directory of a running server ({error.strerror}); run where the "
            "server's files are, as a user that may read them.",
            reason=Reason.BAD_SPEC,
        ) from error
    if system_identifier(control) != system or mine.splitlines()[:3] != lock_file.splitlines()[:3]:
        raise Refused(
            f"{pgdata} is not the data directory of the server that the connection reaches; give the right one.",
            reason=Reason.BAD_SPEC,
        )


def read_control(pgdata: Path) -> bytes:
    """pg_control, whole. Raises Unavailable (SourceChanged) when every look finds it half written."""
    for _ in range(50):
        data = (pgdata / CONTROL).read_bytes()
        if len(data) == SIZE and is_whole(data):
            return data
    raise Unavailable("pg_control fails its checksum at every look; is the disk well?", reason=Reason.SOURCE_CHANGED)


@contextmanager
def explained() -> Iterator[None]:
    """PostgreSQL's errors as ours."""
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as error:
        raise Refused(
            f"A physical backup needs a superuser of the server, or the rights of matriarch_backup: {error}",
            reason=Reason.PERMISSION_DENIED,
        ) from error
    except asyncpg.ConfigurationLimitExceededError as error:
        raise Refused(
            f"The server has no replication slot left for the backup ({error}); raise max_replication_slots.",
            reason=Reason.BAD_SPEC,
        ) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise Unavailable(f"The server ended the backup: {text}", reason=Reason.SOURCE_CHANGED) from error

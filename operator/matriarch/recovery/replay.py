"""PostgreSQL on a restored directory, without network and without clients: replays to its target, is promoted, and is
stopped in order.

Nothing of the source's configuration is in force: it may name files, libraries and memory that are not here. What the
data itself asks for (`floors`: room for prepared transactions and their locks) comes from pg_control. Commit timestamps
are kept by having them on: a server without them throws away those that are there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import asyncpg

from matriarch.archive.config import ENVIRONMENT, ArchiveConfig
from matriarch.backup.children import find_tool
from matriarch.backup.jobspec import Reason
from matriarch.backup.progress import Tracker
from matriarch.errors import Corrupt, MatriarchError, Refused, Unavailable
from matriarch.postgres.lsn import segment_start
from matriarch.postgres.timeline import Switch, parse_history

log = logging.getLogger(__name__)

CLIENT = "/usr/local/bin/matriarch-wal"
FETCH_LIMIT = 600  # seconds that one file may take, the store's outage included
_LOOK = 0.2  # seconds
_STOP = 1800.0  # seconds for the checkpoint of a large cache on a slow disk
_BEGINS = 60.0  # seconds for the archive's reader to listen
_READY = 30.0  # seconds from "ready" to an answer
_NOT_REACHED = "recovery ended before configured recovery target was reached"
_LAST = re.compile(r"last completed transaction was at log time (\S+ \S+)")
_REPLAYS = re.compile(rb"recovering ([0-9A-F]{24})")


@dataclass(frozen=True, slots=True)
class Replayed:
    """`lsn`: where the copy left the source's line, in bytes."""

    timeline: int
    lsn: int
    last_commit: datetime | None
    line: tuple[Switch, ...]


class NotReached(Refused):
    """All WAL that there is was replayed, and the target did not come. `last_commit` in PostgreSQL's words."""

    def __init__(self, last_commit: str) -> None:
        super().__init__(
            "All WAL that leads on from the backup was replayed, and the target did not come: its last transaction was "
            f"committed at {last_commit or 'a time before the backup'}. Take an earlier target, or `latest`.",
            reason=Reason.TARGET_NOT_REACHED,
        )


def restore_command(socket: Path) -> str:
    return f"{CLIENT} --socket {socket} --timeout {FETCH_LIMIT} fetch %f %p"


@asynccontextmanager
async def serving_wal(config: ArchiveConfig) -> AsyncIterator[None]:
    """The archive, for the recovery of `config.pgdata`; what it read ahead is removed at the end."""
    socket = Path(config.socket)
    fetcher = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "matriarch.archive.main", env={**os.environ, ENVIRONMENT: config.to_json()},
        stdin=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(int(_BEGINS / _LOOK)):
            if socket.exists() or fetcher.returncode is not None:  # noqa: ASYNC240 - in memory
                break
            await asyncio.sleep(_LOOK)
        if not socket.exists():  # noqa: ASYNC240 - the same
            raise Unavailable("The archive's reader did not start; see the Job's log.", reason=Reason.INTERNAL)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            fetcher.kill()
        await fetcher.wait()
        shutil.rmtree(config.spool, ignore_errors=True)
        socket.unlink(missing_ok=True)  # noqa: ASYNC240 - the same


async def replay(pgdata: Path, run: Path, floors: Mapping[str, int], begin: int, tracker: Tracker) -> Replayed:
    """Everything from start to stop. `run`: an empty folder for the socket; `begin`: LSN where the WAL begins.

    Raises NotReached, Corrupt (RestoreFailed) for what no repetition mends, Unavailable for the rest. Whatever comes,
    no process of it is left.
    """
    (run / "pg_hba.conf").write_text("local all all trust\n")  # the folder is this process's alone
    (run / "pg_ident.conf").write_text("")
    (run / "postgresql.conf").write_text("")
    said: deque[str] = deque(maxlen=200)
    process = await asyncio.create_subprocess_exec(
        find_tool("postgres"), "-D", str(pgdata), *_settings(run, floors),
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "TZ": "UTC"},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    listening = asyncio.create_task(_listen(process, said))
    try:
        while not _is_ready(pgdata):
            if process.returncode is not None:
                await listening
                raise _why(said)
            if (at := await asyncio.to_thread(_replaying, pgdata)) is not None:
                tracker.bytes_done = max(tracker.bytes_done, min(at - begin, tracker.bytes_total or at))
            await asyncio.sleep(_LOOK)
        last = await _last_commit(run)
        replayed = _end(pgdata, last)
        tracker.step("Finishing")
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(_STOP):
            await process.wait()
    except TimeoutError:
        raise Unavailable("PostgreSQL did not stop in time.", reason=Reason.TARGET_UNAVAILABLE) from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its children are in sessions of their own and end with it
        await process.wait()
        await listening
    if process.returncode != 0:
        raise _why(said)
    return replayed


def _settings(run: Path, floors: Mapping[str, int]) -> list[str]:
    """On the command line they count more than any file."""
    values = {
        "config_file": str(run / "postgresql.conf"),
        "hba_file": str(run / "pg_hba.conf"),
        "ident_file": str(run / "pg_ident.conf"),
        "listen_addresses": "",
        "unix_socket_directories": str(run),
        "unix_socket_permissions": "0700",
        "port": "5432",
        "shared_preload_libraries": "",
        "session_preload_libraries": "",
        "ssl": "off",
        "archive_mode": "off",
        # Nobody reads meanwhile, so the source's limits need not be reached, and no query holds up the replay.
        "hot_standby": "off",
        "track_commit_timestamp": "on",
        "shared_buffers": "128MB",
        "max_wal_size": "2GB",
        "checkpoint_timeout": "30min",
        "autovacuum": "off",
        "synchronous_standby_names": "",
        "fsync": "on",
        "full_page_writes": "on",
        "jit": "off",
        "logging_collector": "off",
        "log_destination": "stderr",
        "log_min_messages": "warning",
        "lc_messages": "C",
        "log_timezone": "UTC",
        **{name: str(value) for name, value in floors.items()},
        "max_prepared_transactions": str(max(floors.get("max_prepared_transactions", 0), 256)),
    }
    return [word for name, value in values.items() for word in ("-c", f"{name}={value}")]


async def _listen(process: asyncio.subprocess.Process, said: deque[str]) -> None:
    assert process.stderr is not None
    while True:
        try:
            line = await process.stderr.readline()
        except ValueError:  # longer than the buffer
            continue
        if not line:
            return
        text = line.decode(errors="replace").rstrip()
        said.append(text)
        log.info("postgres: %s", text)


def _is_ready(pgdata: Path) -> bool:
    """The postmaster's own word; without hot standby it says so at the end of the recovery and not before."""
    try:
        lines = (pgdata / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[7].strip() == "ready"


def _replaying(pgdata: Path) -> int | None:
    """LSN of the segment that the startup process has in its title; it works in the data directory, as all do."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            found = _REPLAYS.search((entry / "cmdline").read_bytes())
            if found is not None and (entry / "cwd").samefile(pgdata):
                return segment_start(found[1].decode())
    return None


async def _last_commit(run: Path) -> datetime | None:
    try:
        async with asyncio.timeout(_READY):
            session = await asyncpg.connect(host=str(run), port=5432, user="postgres", database="template1")
            try:
                found = await session.fetchval("SELECT pg_catalog.pg_last_xact_replay_timestamp()")
            finally:
                await session.close(timeout=5)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError) as error:
        raise Unavailable(f"The recovered copy does not answer: {error}", reason=Reason.TARGET_UNAVAILABLE) from None
    assert found is None or isinstance(found, datetime)
    return found


def _end(pgdata: Path, last: datetime | None) -> Replayed:
    """By the newest history, which the promotion wrote."""
    found: dict[int, tuple[Switch, ...]] = {}
    for path in (pgdata / "pg_wal").glob("*.history"):
        with contextlib.suppress(ValueError):
            number = int(path.name.removesuffix(".history"), 16)
            if line := parse_history(number, path.read_text()):
                found[number] = line
    if not found:
        raise Corrupt("The recovered copy began no timeline of its own.", reason=Reason.RESTORE_FAILED)
    timeline = max(found)
    return Replayed(timeline, found[timeline][-1].lsn, last, found[timeline])


def _why(said: deque[str]) -> MatriarchError:
    text = "\n".join(said)
    if _NOT_REACHED in text:
        last = _LAST.findall(text)
        return NotReached(last[-1] if last else "")
    wrong = [line for line in said if "FATAL:" in line or "PANIC:" in line]
    word = " ".join((wrong or list(said) or ["it said nothing"])[-1].split())[:300]
    if "PANIC:" in text or "incorrect resource manager" in text or "is not a child of" in text:
        return Corrupt(f"PostgreSQL could not replay the WAL: {word}", reason=Reason.RESTORE_FAILED)
    return Unavailable(f"PostgreSQL ended before it was there: {word}", reason=Reason.TARGET_UNAVAILABLE)

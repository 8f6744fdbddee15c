"""The throwaway instance: made or filled by others, started here on a local socket, stopped without mercy."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from matriarch.backup.children import find_tool
from matriarch.backup.jobspec import Reason
from matriarch.backup.server import Server
from matriarch.drill.settings import HBA, PORT, last_word, settings
from matriarch.errors import Corrupt, Refused, Unavailable
from matriarch.postgres.controldata import parse_controldata

LOOK_EVERY = 0.2  # seconds
STOP_WITHIN = 15.0  # seconds for an immediate stop, of a grace period of 60
_TOOL_WITHIN = 120.0  # seconds for initdb and the like
_LOG_END = 20_000  # bytes of the log that are looked at


@dataclass(slots=True)
class Throwaway:
    """`folder` holds all of it: data, log, settings. `sockets` is short: a socket's path has at most 107 bytes."""

    folder: Path
    sockets: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _working: subprocess.Popen[str] | None = field(default=None, repr=False)  # initdb or another tool
    _stopped: bool = False
    _starting: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def server(self) -> Server:
        """As the superuser."""
        return Server({"host": str(self.sockets), "port": str(PORT), "user": "postgres", "dbname": "postgres"})

    async def create(self) -> None:
        """An empty one, for a logical backup. Raises Unavailable (TargetUnavailable)."""
        arguments = ["-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-k",
                     "--no-instructions"]  # fmt: skip
        await asyncio.to_thread(self._tool, "initdb", arguments)

    async def start(self) -> None:
        """Until it takes writes: after its recovery, if it has one. It has no end of its own, so bound it.

        Raises Corrupt (RestoreFailed) with PostgreSQL's words when it does not come up.
        """
        control = parse_controldata(await asyncio.to_thread(self._tool, "pg_controldata", ["-D", str(self.data)]))
        for name, text in (("drill.conf", ""), ("hba", HBA), ("ident", "")):
            (self.folder / name).write_text(text)
        self.sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        prepared = control.critical.get("max_prepared_transactions", 0)
        chosen = settings(str(self.sockets), str(self.folder / "hba"), str(self.folder / "ident"), prepared)
        arguments = [find_tool("postgres"), "-D", str(self.data), "-c", f"config_file={self.folder / 'drill.conf'}"]
        for name, value in chosen.items():
            arguments += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - waited for below, and asyncio's would end with its loop
                arguments,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC", "HOME": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while not await self._answers():
            if self._process.poll() is not None:
                raise Corrupt(
                    f"PostgreSQL does not come up on what was restored: {self.complaint()}",
                    reason=Reason.RESTORE_FAILED,
                )
            await asyncio.sleep(LOOK_EVERY)

    async def _answers(self) -> bool:
        try:
            session = await asyncpg.connect(host=str(self.sockets), port=PORT, user="postgres", database="postgres",
                                            timeout=5.0)  # fmt: skip
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            return False
        try:
            return await session.fetchval("SELECT pg_catalog.pg_is_in_recovery()") is False
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            return False
        finally:
            with contextlib.suppress(Exception):
                await session.close(timeout=2)

    def complaint(self) -> str:
        try:
            with (self.folder / "log").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_END))
                return last_word(file.read().decode(errors="replace"))
        except OSError:
            return "it left no log"

    def stop(self) -> None:
        """Gone when this returns, and nothing starts later; what it wrote is thrown away: nothing is flushed. Blocks.

        A tool is started by a thread that a cancelled task has left behind: it may be about to.
        """
        with self._starting:
            self._stopped = True
            working, process, self._process = self._working, self._process, None
        if working is not None:
            _end_group(working)
        if process is None:
            return
        for number, within in ((signal.SIGQUIT, STOP_WITHIN), (signal.SIGKILL, STOP_WITHIN)):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(within)
                return

    def _tool(self, name: str, arguments: list[str]) -> str:
        environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC", "HOME": str(self.folder)}
        pipe = subprocess.PIPE
        program = find_tool(name)
        try:
            with self._starting:
                if self._stopped:
                    raise Unavailable("The drill was stopped.", reason=Reason.CANCELLED)
                self._working = process = subprocess.Popen(
                    [program, *arguments],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=pipe,
                    stderr=pipe,
                    text=True,
                    start_new_session=True,  # initdb has children of its own
                )
        except OSError as error:
            raise Refused(f"{name} can't be started ({error.strerror}).", reason=Reason.VERSION_UNSUPPORTED) from None
        try:
            said, complaint = process.communicate(timeout=_TOOL_WITHIN)
        except subprocess.TimeoutExpired:
            _end_group(process)
            process.communicate()
            raise Unavailable(
                f"{name} did not end within {_TOOL_WITHIN:.0f} s.", reason=Reason.TARGET_UNAVAILABLE
            ) from None
        finally:
            self._working = None
        if process.returncode != 0:
            text = " ".join((complaint or said).split())[-300:]
            raise Unavailable(f"{name} failed in the throwaway instance: {text}", reason=Reason.TARGET_UNAVAILABLE)
        return said


def _end_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_WITHIN)

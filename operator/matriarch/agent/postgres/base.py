"""What all parts of `Server` share: where things are, who we are, the settings, the postmaster, the sessions."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import asyncpg

from matriarch.agent.postgres import files, processes, streamkey
from matriarch.agent.postgres.session import Sessions
from matriarch.errors import Unavailable
from matriarch.postgres.settings import STREAM_FILE, ServerSettings, StreamSettings, parse_stream, render_stream

if TYPE_CHECKING:
    from matriarch.agent.postgres.facts import Identity, Paths
    from matriarch.agent.supervisor_client import SupervisorClient

log = logging.getLogger(__name__)

DISK = 5.0  # seconds for small files; a disk that takes longer is a reason to fail over


class ServerBase:
    def __init__(self, paths: Paths, identity: Identity, supervisor: SupervisorClient) -> None:
        self.paths = paths
        self.identity = identity
        self._supervisor = supervisor
        self._sessions = Sessions(paths.socket_dir)
        self._settings: ServerSettings | None = None
        self.held_up = False  # a standby's files hold more than is wanted: to be written again, see settings.held_up
        self._stream: StreamSettings | None = None  # as in the file; None: not read yet
        self._stream_turn = asyncio.Lock()
        self._stream_files = threading.Lock()
        self._stream_sequence = 0
        self._process: processes.Process | None = None
        self._version_checked = False
        self._static: tuple[processes.Process | None, asyncpg.Record] | None = None
        self._as_primary = False  # how the running server was started, or became
        # The postmaster whose new sessions show these names, and the names.
        self._shown: tuple[processes.Process | None, str] | None = None
        # The postmaster, and whether its clients wait at a closed door.
        self._doorkeeper: tuple[processes.Process | None, bool] | None = None
        self._timeline: int | None = None  # canonical timeline of the last WAL, as last seen

    @property
    def leads(self) -> bool:
        """Whether the running server was started as a primary, or became one."""
        return self._as_primary

    def postmaster(self) -> int | None:
        """Its pid, or None when it is not there. Looks at the kernel, never at the disk."""
        if self._process is not None and not processes.alive(self._process):
            self._process = None
        return None if self._process is None else self._process.pid

    async def reload(self) -> None:
        """Makes the postmaster read its files again. Nothing happens when none runs."""
        if (pid := self.postmaster()) is not None:
            os.kill(pid, signal.SIGHUP)

    async def close(self) -> None:
        """Ends the agent's own sessions; the server runs on."""
        await self._sessions.close()

    def _tool(self, name: str) -> str:
        return str(self.paths.bin / name)

    def _running(self, what: str) -> int:
        pid = self.postmaster()
        if pid is None:
            msg = f"PostgreSQL does not run, and cannot {what}"
            raise Unavailable(msg)
        return pid

    async def _stream_settings(self) -> StreamSettings:
        """As they are on disk. A damaged file counts as the strictest one: nobody is followed, nobody suffices."""
        if self._stream is None:
            try:
                text = await files.in_thread(DISK, (self.paths.pgdata / STREAM_FILE).read_text)
                self._stream = parse_stream(text)
            except FileNotFoundError:
                self._stream = StreamSettings(self._settings.standby_names) if self._settings else StreamSettings()
            except ValueError as error:
                log.warning("settings of the stream were lost, starting from none: %s", error)
                self._stream = StreamSettings()
        return self._stream

    async def _change_stream(
        self, change: Callable[[StreamSettings], StreamSettings], *, key: bool | None = None
    ) -> bool:
        """Changes the stream's settings, and puts (`key`=True) or takes away what a receiver needs to connect.

        True if the settings changed. Nothing is reloaded. Not flushed: each start writes them anew, and an election
        has no time for a disk.
        """
        async with self._stream_turn:
            wanted = change(await self._stream_settings())
            self._stream = None  # unknown until it is written
            self._stream_sequence += 1
            changed = await files.in_thread(DISK, self._write_stream, self._stream_sequence, wanted, key)
            self._stream = wanted
            return changed

    def _write_stream(self, sequence: int, wanted: StreamSettings, key: bool | None) -> bool:
        # A write that hung while its caller gave up must not come after a newer one: a promise would be undone.
        with self._stream_files:
            if sequence != self._stream_sequence:
                return False
            if key is True:
                streamkey.put(self.paths)
            elif key is False:
                streamkey.take_away(self.paths)
            return files.write_durably(self.paths.pgdata / STREAM_FILE, render_stream(wanted), flush=False)

    async def _wait_gone(self, process: processes.Process, timeout: float) -> bool:
        """True once it is gone; False after `timeout` seconds."""
        end = asyncio.get_running_loop().time() + timeout
        while processes.alive(process):
            if asyncio.get_running_loop().time() >= end:
                return False
            await asyncio.sleep(0.01)
        return True

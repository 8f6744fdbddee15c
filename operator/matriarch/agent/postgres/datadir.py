"""The data directory while no server runs on it: made, completed after a crash, read.

A directory called `pgdata` is always whole. It is made as `pgdata.new`, a finished clone waits as `pgdata.ready`,
and what it replaces is `pgdata.old` for a moment. `pgdata.rewinding` marks one that pg_rewind was let loose on.
"""

from __future__ import annotations

import logging
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Literal

from matriarch.agent.postgres import files, processes, tools, walfiles
from matriarch.agent.postgres.base import DISK, ServerBase
from matriarch.errors import Corrupt, Refused, Unavailable
from matriarch.postgres.controldata import ControlData, parse_controldata
from matriarch.postgres.timeline import Switch

log = logging.getLogger(__name__)

_INITDB = (
    "--username=postgres",
    "--encoding=UTF8",
    # Sort order by code point and case rules of Unicode, from PostgreSQL itself: an index never depends on the
    # version of the image's C library or ICU. Other collations remain available by name.
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C.UTF-8",
    "--data-checksums",
    "--auth-local=peer",
    "--auth-host=reject",
    "--no-instructions",
)


class DataDirectory(ServerBase):
    async def settle(self, *, timeout: float = 600.0) -> None:
        """The first call after the agent's start: finishes or undoes what a crash left half done.

        A postmaster that outlived the agent is found again; then nothing else is touched.
        """
        if await files.in_thread(DISK, self._find_postmaster):
            return
        await self._end_strays()
        await files.in_thread(timeout, self._complete_renames)

    async def initdb(self, *, timeout: float = 120.0) -> str:
        """A new, empty data directory; its system identifier. Refused where there is one."""
        if await files.in_thread(DISK, self._anything_here):
            msg = f"{self.paths.pgdata} holds a database already; it is never initialised again"
            raise Refused(msg, reason="DataDirectoryExists")
        new = self._folder("new")
        await self._end_strays()
        await files.in_thread(timeout, files.remove_tree, new)
        done = await tools.run([self._tool("initdb"), "-D", str(new), *_INITDB], timeout=timeout)
        if done.status != 0:
            msg = f"initdb failed: {done.complaint}"
            raise Unavailable(msg)
        # initdb has synced all below it; the rename is the moment at which there is a database
        await files.in_thread(DISK, files.rename_durably, new, self.paths.pgdata)
        self._stream = None
        control = await self.control_data()
        assert control is not None
        return control.system_identifier

    async def control_data(self, *, timeout: float = 10.0) -> ControlData | None:
        """What the control file says; None without a data directory. Corrupt when it cannot be read."""
        if not await files.in_thread(DISK, (self.paths.pgdata / "global" / "pg_control").exists):
            if await files.in_thread(DISK, self.paths.pgdata.exists):
                msg = f"{self.paths.pgdata} has no control file: it is damaged and must be cloned or restored"
                raise Corrupt(msg)
            return None
        done = await tools.run([self._tool("pg_controldata"), "-D", str(self.paths.pgdata)], timeout=timeout)
        if done.status != 0:
            msg = f"the control file cannot be read: {done.complaint}"
            raise Corrupt(msg)
        return parse_controldata(done.out)

    async def kind(self) -> Literal["none", "primary", "standby", "broken"]:
        """What the directory would start as; `broken`: a rewind did not finish, it must be cloned anew."""
        return await files.in_thread(DISK, self._kind)

    def _kind(self) -> Literal["none", "primary", "standby", "broken"]:
        if not (self.paths.pgdata / "PG_VERSION").exists():
            return "none"
        if self._folder("rewinding").exists():
            return "broken"
        signs = ("standby.signal", "backup_label")
        return "standby" if any((self.paths.pgdata / s).exists() for s in signs) else "primary"

    async def history(self, *, timeout: float = 5.0) -> list[Switch]:
        """The line of the newest real timeline in pg_wal, oldest first; empty on timeline 1."""
        return list(await files.in_thread(timeout, walfiles.newest_line, self._pg_wal))

    async def former_segments(self) -> int:
        """How many WAL files of timelines that were left lie here."""
        return await files.in_thread(DISK, walfiles.former_segments, self._pg_wal)

    async def prune_tombstones(self, newest_real: int | None = None) -> None:
        """Removes tombstones above the newest real history: a server that starts with one never gets consistent.

        Every start does it; `newest_real` may name a higher one than lies here.
        """
        pruned = await files.in_thread(DISK, walfiles.prune, self._pg_wal, newest_real)
        if pruned:
            log.info("removed the tombstones of timelines %s", ", ".join(map(str, pruned)))

    @property
    def _pg_wal(self) -> Path:
        return self.paths.pgdata / "pg_wal"

    def _folder(self, suffix: str) -> Path:
        return self.paths.pgdata.with_name(f"{self.paths.pgdata.name}.{suffix}")

    def _anything_here(self) -> bool:
        return any(p.exists() for p in (self.paths.pgdata, self._folder("ready"), self._folder("old")))

    def _complete_renames(self) -> None:
        files.remove_tree(self._folder("new"))
        ready, old, marker = self._folder("ready"), self._folder("old"), self._folder("rewinding")
        if ready.exists():
            if self.paths.pgdata.exists():
                files.remove_tree(old)
                files.rename_durably(self.paths.pgdata, old)
            files.remove_durably(marker)  # it spoke of what is `old` now
            files.rename_durably(ready, self.paths.pgdata)
            log.info("a finished clone took its place")
        elif old.exists() and not self.paths.pgdata.exists():
            files.rename_durably(old, self.paths.pgdata)
        files.remove_tree(old)

    def _find_postmaster(self) -> bool:
        """Finds the postmaster that runs on the directory, whoever started it."""
        try:
            pid = int((self.paths.pgdata / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return False
        process = processes.look(pid)
        if process is None or process.state in "ZX" or pid not in processes.working_in(self.paths.pgdata):
            return False
        self._process = process
        self._as_primary = not (self.paths.pgdata / "standby.signal").exists()
        return True

    async def _end_strays(self) -> None:
        """Ends the tools of an agent that died: two of them must never write to one folder."""
        for pid in processes.strays(self.paths.pgdata):
            log.warning("ending process %s, which an agent before this one left behind", pid)
            stray = processes.look(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if stray is not None and not await self._wait_gone(stray, DISK):
                msg = f"process {pid} still writes below {self.paths.volume} and cannot be ended"
                raise Unavailable(msg)

    async def _assert_stopped(self, what: str) -> None:
        """Raises Refused while a server, or a process of one that crashed, still works on the directory."""
        orphans = await files.in_thread(DISK, processes.working_in, self.paths.pgdata)
        if self.postmaster() is not None or orphans:
            msg = f"processes of PostgreSQL still work on {self.paths.pgdata}; end them before you {what}"
            raise Refused(msg, reason="StillRunning")

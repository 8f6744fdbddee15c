"""Configured, started, stopped: the server as a process.

Whether it runs as a primary or a standby is decided by the caller at every start and by nothing that lies on the
disk: the signal file, the upstream and the rule for commits are all written anew before the postmaster exists.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Literal

from matriarch.agent.postgres import files, processes, streamkey, tools, walfiles
from matriarch.agent.postgres.base import DISK
from matriarch.agent.postgres.replacing import Replacing
from matriarch.errors import Refused, Unavailable
from matriarch.postgres.conninfo import SERVICE_FILE, Upstream
from matriarch.postgres.controldata import ControlData
from matriarch.postgres.hba import render_hba, render_ident
from matriarch.postgres.outside import receiver_conninfo
from matriarch.postgres.preload import CLOSED, DOOR, Door
from matriarch.postgres.settings import (
    MAIN_FILE,
    ServerSettings,
    StreamSettings,
    held_up,
    include_main,
    render_main,
)
from matriarch.postgres.timeline import Switch, WalPosition, dead_branches
from matriarch.postgres.version import check_version, parse_version

log = logging.getLogger(__name__)

_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_LAST_LOOK = 0.02  # s, between two looks at who keeps a stop from its end
_AUTO_CONF = "# ALTER SYSTEM is switched off.\n"


class Lifecycle(Replacing):
    async def configure(self, settings: ServerSettings, *, timeout: float = 10.0) -> bool:
        """Writes the files for `settings` and has a running server read them again; True if something changed.

        While none runs it remembers them for the start, which cannot be without. `settings.standby_names` is what the
        next start begins with; the rule that a running server follows is changed by set_standby_names() alone.
        """
        self._settings = settings
        self._sessions.port = settings.port
        if self.postmaster() is None:
            return False
        floors = await self._floors()
        changed = await files.in_thread(timeout, self._write_files, floors)
        self.held_up = held_up(settings.parameters, floors)
        if changed:
            await self.reload()
        return changed

    async def set_door(self, door: Door, *, timeout: float = 5.0) -> None:
        """Whether anybody but the cluster itself may get in from here on: a part of configure().

        Sessions that are there stay. Whoever logs in at a closed door waits, or is refused where the image lacks the
        library for it. Refused before the first configure().
        """
        if self._settings is None:
            msg = "the settings of PostgreSQL are not known yet; call configure() first"
            raise Refused(msg, reason="NotConfigured")
        self._settings = replace(self._settings, door=door)
        if self.postmaster() is not None and await files.in_thread(timeout, self._write_door):
            await self.reload()

    async def reload_tls(self) -> bool:
        """Copies the mounted certificate where it differs, and reloads; True if so."""
        changed = await files.in_thread(DISK, streamkey.copy_tls, self.paths)
        if changed:
            await self.reload()
        return changed

    async def start_primary(self, *, timeout: float = 60.0) -> None:
        """Starts as a primary, with crash recovery if needed; returns when it accepts connections.

        Refused for a copy that was never completed. Unavailable when it ended, or is not ready in time: then it
        goes on starting.
        """
        await self._prepare(primary=True, timeout=timeout)
        if await files.in_thread(DISK, (self.paths.pgdata / "backup_label").exists):
            msg = "this copy has not replayed what makes it consistent and must not lead; let it follow a primary first"
            raise Refused(msg, reason="NotConsistent")
        await files.in_thread(DISK, self._write_signal, standby=False)
        slots = self._settings.standby_slots if self._settings else ()
        await self._change_stream(lambda s: StreamSettings(self._first_names(s), standby_slots=slots), key=False)
        await self._launch(timeout)

    async def start_standby(
        self, upstream: Upstream | None, *, line: Sequence[Switch] = (), timeout: float = 60.0
    ) -> None:
        """Starts as a standby of `upstream` or of nobody; returns when it is consistent and accepts connections.

        `line`: the line of the timeline to follow. Histories outside it that no WAL file here belongs to are removed:
        they may be anybody's, and PostgreSQL would take the newest as its own target.
        Unavailable when it ended, or is not ready in time: then it goes on starting.
        """
        await self._prepare(primary=False, timeout=timeout, line=line)
        await files.in_thread(DISK, self._write_signal, standby=True)
        await self._follow(upstream)
        await self._launch(timeout)

    async def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast", timeout: float = 60.0) -> bool:
        """False: it still runs after `timeout` seconds. True also when none ran."""
        await self._sessions.close()
        if self.postmaster() is None:
            return True
        process = self._process
        assert process is not None
        with suppress(ProcessLookupError):
            os.kill(process.pid, _SIGNALS[mode])
        if mode != "fast":
            return await self._wait_gone(process, timeout)
        end = asyncio.get_running_loop().time() + timeout
        while not await self._wait_gone(process, min(_LAST_LOOK, timeout)):
            if asyncio.get_running_loop().time() >= end:
                return False
            self._end_rejected(process)
        return True

    def _end_rejected(self, postmaster: processes.Process) -> None:
        """Ends whoever is only there to be told that the server stops, once nobody else is.

        PostgreSQL waits for them too, up to `authentication_timeout`: clients that connect again and again keep it up,
        and one that says nothing holds up a switchover for a minute. The checkpointer and the WAL senders are gone by
        then, so the data is final. A child has its parent's title until it knows what it is.
        """
        unnamed = processes.title(postmaster.pid)
        children = [p.pid for p in processes.children(postmaster.pid)]
        if all(processes.title(pid) in (unnamed, "") for pid in children):
            for pid in children:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)

    async def _prepare(self, *, primary: bool, timeout: float, line: Sequence[Switch] = ()) -> None:
        if self._settings is None:
            msg = "the settings of PostgreSQL are not known yet; call configure() first"
            raise Refused(msg, reason="NotConfigured")
        if not await files.in_thread(DISK, (self.paths.pgdata / "PG_VERSION").exists):
            msg = f"there is no database in {self.paths.pgdata}"
            raise Refused(msg, reason="NoDataDirectory")
        if await files.in_thread(DISK, self._folder("rewinding").exists):
            msg = "a rewind of this data directory did not finish, so it must never be started; clone it anew"
            raise Refused(msg, reason="RewindUnfinished")
        await self._assert_stopped("start another")
        await self._check_version(timeout)
        await self._sessions.close()
        self._as_primary = primary
        self._timeline = None
        control = await self.control_data()
        assert control is not None
        await files.in_thread(DISK, self._forget_foreign_histories, control, tuple(line))
        await self.prune_tombstones()
        await files.in_thread(timeout, self._write_files, {} if primary else control.critical)
        # Stale for certain: no process works here. In a container their pid may be anybody's by now, also a thread's,
        # and PostgreSQL refuses to start while there is one. The socket's lies outside the volume, and outlives a
        # container in its Pod.
        await files.in_thread(DISK, files.remove_durably, self.paths.pgdata / "postmaster.pid")
        await files.in_thread(DISK, self._remove_sockets)

    def _remove_sockets(self) -> None:
        for left in self.paths.socket_dir.glob(".s.PGSQL.*"):
            left.unlink(missing_ok=True)

    async def _check_version(self, timeout: float) -> None:
        if not self._version_checked:
            check_version(parse_version((await tools.run([self._tool("postgres"), "--version"], timeout=timeout)).out))
            self._version_checked = True

    async def _floors(self) -> Mapping[str, int]:
        """What the shared settings must reach at the next start of what runs now."""
        control = None if self._as_primary else await self.control_data()
        return {} if control is None else control.critical

    def _forget_foreign_histories(self, control: ControlData, line: tuple[Switch, ...]) -> None:
        newest = max(
            control.timeline, control.minimum_recovery_timeline, walfiles.newest_segment_timeline(self._pg_wal)
        )
        dead = dead_branches(walfiles.histories(self._pg_wal), WalPosition(newest, 0), line)
        if dead:
            log.info("removed the histories of timelines %s, of which nothing is here", ", ".join(map(str, dead)))
        walfiles.remove_histories(self._pg_wal, dead)

    async def _launch(self, timeout: float) -> None:
        environment = tools.ENVIRONMENT | {
            "LC_ALL": "C.UTF-8",
            "PGSERVICEFILE": str(self.paths.stream / SERVICE_FILE),
        }
        pid = await self._supervisor.start_postgres([self._tool("postgres"), "-D", str(self.paths.pgdata)], environment)
        self._process = processes.look(pid)
        end = asyncio.get_running_loop().time() + timeout
        while (left := end - asyncio.get_running_loop().time()) > 0:
            if self.postmaster() is None:
                msg = "PostgreSQL ended while it started; its log says why"
                raise Unavailable(msg)
            if await files.in_thread(DISK, self._says_ready):
                with suppress(Unavailable):
                    await self._sessions.fetch("is it up", "SELECT 1", timeout=left)
                    return
            await asyncio.sleep(0.01)
        msg = f"PostgreSQL is still starting after {timeout:g} s"
        raise Unavailable(msg)

    def _says_ready(self) -> bool:
        """The postmaster's own word in postmaster.pid, as pg_ctl reads it: asking by connecting fills the log."""
        try:
            lines = (self.paths.pgdata / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready"

    async def _follow(self, upstream: Upstream | None) -> None:
        if upstream is None:
            await self._change_stream(lambda s: StreamSettings(self._first_names(s)), key=False)
            return
        await self._change_stream(
            lambda s: StreamSettings(self._first_names(s), receiver_conninfo(upstream), upstream.slot), key=True
        )

    def _first_names(self, present: StreamSettings) -> str:
        """What an instance starts with is what its settings say, never what a crash or a copy left (I5)."""
        return present.standby_names if self._settings is None else self._settings.standby_names

    def _write_signal(self, *, standby: bool) -> None:
        signal_file = self.paths.pgdata / "standby.signal"
        files.remove_durably(self.paths.pgdata / "recovery.signal")
        if standby:
            files.write_durably(signal_file, "")
        else:
            files.remove_durably(signal_file)

    def _write_door(self) -> bool:
        """True when a running server must read its files again. Nothing is flushed: each start writes it anew."""
        assert self._settings is not None
        door, closed = self._settings.door, self.paths.pgdata / CLOSED
        kept = self.clients_wait()  # by the library, in place of pg_hba.conf
        shut = kept and door != "open"
        if shut:
            files.write_durably(closed, door if door in ("refuses", "closed") else "", flush=False)
        text = render_hba(superuser_access=self._settings.superuser_access, clients=door == "open" or kept)
        changed = files.write_durably(self.paths.pgdata / "pg_hba.conf", text, flush=False)
        if not shut:
            closed.unlink(missing_ok=True)
        return changed

    def clients_wait(self) -> bool:
        """Whether the server that runs, or the next one, keeps clients at a closed door. What runs may be older than
        the settings, so it is asked for what it has loaded."""
        pid = self.postmaster()
        if pid is None:
            return self._settings is not None and DOOR in self._settings.preload
        if self._doorkeeper is None or self._doorkeeper[0] != self._process:
            self._doorkeeper = (self._process, processes.has_loaded(pid, DOOR))
        return self._doorkeeper[1]

    def _write_files(self, floors: Mapping[str, int]) -> bool:
        assert self._settings is not None
        pgdata = self.paths.pgdata
        self.paths.socket_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        streamkey.copy_tls(self.paths)
        main = render_main(
            self._settings,
            instance=self.identity.instance,
            socket_dir=str(self.paths.socket_dir),
            tls_folder=str(self.paths.tls),
            floors=floors,
        )
        changed = [
            self._write_door(),
            files.write_durably(
                pgdata / "pg_ident.conf", render_ident(self.identity.cluster, self._settings.system_user)
            ),
            files.write_durably(pgdata / MAIN_FILE, main),
            files.write_durably(pgdata / "postgresql.auto.conf", _AUTO_CONF),
            # last: until it is here, nothing of the above is in force
            files.write_durably(pgdata / "postgresql.conf", include_main((pgdata / "postgresql.conf").read_text())),
        ]
        return any(changed)

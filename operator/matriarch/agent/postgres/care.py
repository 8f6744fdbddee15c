"""What a replica doctor looks at and the light remedies: the receiver's and the startup process, replay, kept WAL."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import asyncpg

from matriarch.agent.postgres import files, processes, walfiles
from matriarch.agent.postgres.base import DISK
from matriarch.agent.postgres.logical import Logical
from matriarch.errors import Unavailable

_FAILED = """
SELECT EXISTS (SELECT FROM pg_stat_activity
                WHERE backend_type = 'walsummarizer' AND wait_event = 'WalSummarizerError') AS failed
"""

_REPLAY = """
SELECT pg_get_wal_replay_pause_state() <> 'not paused' AS paused,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'max_standby_streaming_delay') AS patience
"""


@dataclass(frozen=True, slots=True)
class Replay:
    """`patience_ms`: how long a reader may hold up replay; None for ever."""

    paused: bool
    patience_ms: int | None


class Care(Logical):
    async def replay(self, *, timeout: float = 2.0) -> Replay:
        """How replay goes on. Only on a standby."""
        row = await self._sessions.fetchrow("replay", _REPLAY, timeout=timeout)
        return Replay(row["paused"], None if row["patience"] < 0 else row["patience"])

    async def resume_replay(self, *, timeout: float = 5.0) -> None:
        """Ends a pause; nothing happens where there is none."""
        await self._sessions.fetch("resume replay", "SELECT pg_wal_replay_resume()", timeout=timeout)

    async def restart_receiver(self, *, timeout: float = 2.0) -> bool:
        """Ends the WAL receiver, which PostgreSQL starts again; False when it is left after `timeout` seconds."""
        found = [processes.look(pid) for pid in self._children(processes.is_walreceiver)]
        for process in found:
            if process is not None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGTERM)
        end = asyncio.get_running_loop().time() + timeout
        while any(processes.alive(p) for p in found):
            if asyncio.get_running_loop().time() >= end:
                return False
            await asyncio.sleep(0.02)
        return True

    def startup_title(self) -> str:
        """What the startup process works on, without asking a server that may not answer; empty when there is none."""
        postmaster = self.postmaster()
        found = self._children(processes.is_startup) if postmaster is not None else []
        return processes.title(found[0]) if found else ""

    async def free_kept_wal(self, *, timeout: float = 60.0) -> None:
        """On a standby: gives up WAL that is kept for members and summaries, and recycles it by a restartpoint.

        While `summarize_wal` is on, PostgreSQL removes no WAL that is not summarized yet (its manual on that setting).
        """
        for slot in await self.slots():
            if not slot.active:
                async with self._sessions.new("drop a slot", timeout) as session:
                    with suppress(asyncpg.ObjectInUseError, asyncpg.UndefinedObjectError):
                        await session.fetch("SELECT pg_drop_replication_slot($1)", slot.name)
        settings = self._settings
        if settings is not None:
            await self.configure(replace(settings, summarize=False))  # the next increment is a full backup then
        try:
            await self._await_no_summaries()
            await self.checkpoint(timeout=timeout)
        finally:
            if settings is not None:
                await self.configure(settings)

    async def _await_no_summaries(self) -> None:
        """A new session shows what the checkpointer was told before it. What takes longer is no reason to wait."""
        for _ in range(50):
            async with self._sessions.new("whether WAL is kept for summaries", 5.0) as session:
                if await session.fetchval("SELECT current_setting('summarize_wal')") == "off":
                    return
            await asyncio.sleep(0.1)

    async def summarizer_failed(self, *, timeout: float = 2.0) -> bool:
        """Whether the WAL summarizer sleeps after an error."""
        row = await self._sessions.fetchrow("WAL summarizer", _FAILED, timeout=timeout)
        return bool(row["failed"])

    async def summarizer_gone(self, *, timeout: float = 12.0) -> None:
        """Once configure() switched it off. It may sleep for ten seconds first. Unavailable when it stays."""
        end = asyncio.get_running_loop().time() + timeout
        while self._children(processes.is_summarizer):
            if asyncio.get_running_loop().time() >= end:
                msg = f"the WAL summarizer did not end within {timeout:g} s"
                raise Unavailable(msg)
            await asyncio.sleep(0.05)

    async def oldest_wal(self) -> int:
        """The LSN of the first byte of WAL here; what came before is gone."""
        return await files.in_thread(DISK, walfiles.oldest_lsn, self._pg_wal)

    def _children(self, wanted: Callable[[str], bool]) -> list[int]:
        postmaster = self.postmaster()
        if postmaster is None:
            return []
        return [p.pid for p in processes.children(postmaster) if wanted(processes.title(p.pid))]

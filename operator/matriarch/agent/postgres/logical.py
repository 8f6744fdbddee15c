"""Logical slots that survive a failover: their copies on standbys, and whose flush their consumers wait for.

A standby's worker copies the slots that were made with `failover`; the copy is usable once the standby holds the WAL
and the catalogue's rows that it needs. PostgreSQL's documentation: 29.3 and 47.2.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import asyncpg

from matriarch.agent.postgres import processes
from matriarch.agent.postgres.facts import LogicalSlot
from matriarch.agent.postgres.slots import Slots
from matriarch.errors import Unavailable

log = logging.getLogger(__name__)

_POLL = 0.005

_LOGICAL = """
SELECT slot_name AS name, active_pid AS pid, synced, temporary, invalidation_reason AS lost,
       (confirmed_flush_lsn - '0/0')::bigint AS confirmed
  FROM pg_replication_slots
 WHERE slot_type = 'logical' AND failover
"""


class Logical(Slots):
    async def logical_slots(self, *, timeout: float = 2.0) -> list[LogicalSlot]:
        """Those that are to survive failovers: on a primary the slots themselves, on a standby the copies."""
        rows = await self._sessions.fetch("logical slots", _LOGICAL, timeout=timeout)
        return [
            LogicalSlot(
                name=r["name"],
                pid=r["pid"],
                copy=r["synced"],
                whole=not r["temporary"] and r["lost"] is None,
                confirmed_lsn=r["confirmed"] or 0,
            )
            for r in rows
        ]

    async def every_logical_slot(self, *, timeout: float = 2.0) -> list[str]:
        """Names, also of those that end with this server."""
        query = "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'logical' ORDER BY 1"
        return [str(r["slot_name"]) for r in await self._sessions.fetch("all logical slots", query, timeout=timeout)]

    async def set_standby_slots(self, names: Sequence[str], *, timeout: float = 5.0) -> None:
        """Consumers wait for the flush of these physical slots, which must exist; returns when new sessions show it.

        Also where the file says so already: a server that lacked a slot when it read the file kept its old list.
        """
        await self._change_stream(lambda s: replace(s, standby_slots=tuple(names)))
        if self.postmaster() is None:
            return
        await self.reload()
        end = asyncio.get_running_loop().time() + timeout
        while True:
            async with self._sessions.new("slots to wait for", timeout) as session:
                shown = await session.fetchval("SELECT current_setting('synchronized_standby_slots')")
            if shown == ",".join(names):
                return
            if asyncio.get_running_loop().time() >= end:
                msg = f"new sessions wait for the slots {shown!r} and not for {','.join(names)!r} after {timeout:g} s"
                raise Unavailable(msg)
            await asyncio.sleep(0.02)

    async def end_consumers(self, *, timeout: float = 5.0) -> int:
        """Ends who reads from a logical slot that survives failovers, and sees them gone; how many. They come back."""
        users = [s.pid for s in await self.logical_slots(timeout=timeout) if s.pid is not None]
        found = [p for pid in users if (p := processes.look(pid)) is not None]
        for pid in users:
            await self._sessions.fetch("end a consumer", "SELECT pg_terminate_backend($1)", pid, timeout=timeout)
        end = asyncio.get_running_loop().time() + timeout
        while any(processes.alive(p) for p in found):
            if asyncio.get_running_loop().time() >= end:
                msg = f"a consumer of a logical slot did not end within {timeout:g} s"
                raise Unavailable(msg)
            await asyncio.sleep(_POLL)
        return len(users)

    async def wake_slot_worker(self) -> None:
        """On a standby whose worker ended: the postmaster starts another when something wakes it (measured: 60 s)."""
        postmaster = self.postmaster()
        if postmaster is None or not (await self._stream_settings()).primary_conninfo:
            return
        if not any(processes.is_slot_worker(processes.title(p.pid)) for p in processes.children(postmaster)):
            await self.reload()

    async def drop_leftovers(self, *, timeout: float = 5.0) -> list[str]:
        """On a standby: its own slots of a time as primary, which keep the worker from copying those of that name.

        A slot with `failover` can only be made on a primary, so on a standby whatever is no copy is such a remnant.
        """
        left = [s.name for s in await self.logical_slots(timeout=timeout) if not s.copy and s.pid is None]
        dropped = []
        for name in left:
            async with self._sessions.new("drop a slot", timeout) as session:
                with suppress(asyncpg.ObjectInUseError, asyncpg.UndefinedObjectError):
                    await session.fetch("SELECT pg_drop_replication_slot($1) WHERE pg_is_in_recovery()", name)
                    dropped.append(name)
        return dropped

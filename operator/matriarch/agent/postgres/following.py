"""A standby's part in an election: whom it follows, how it stops, and how far its WAL reaches.

A promise means that no byte of an older epoch is received, and so acknowledged, any more. That is a statement about
processes and keys; neither the setting nor the view can make it (S4, measured).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from matriarch.agent.postgres import files, processes, walfiles
from matriarch.agent.postgres.base import DISK
from matriarch.agent.postgres.lifecycle import Lifecycle
from matriarch.agent.postgres.session import AGENT_APPLICATION
from matriarch.errors import Unavailable
from matriarch.postgres.conninfo import Upstream
from matriarch.postgres.outside import receiver_conninfo
from matriarch.postgres.timeline import Switch, WalPosition, dead_branches

log = logging.getLogger(__name__)

_POLL = 0.005
_RELOADS = 0.05  # seconds in which a postmaster reads its files again

# The startup process waits like this when it has replayed all WAL that is here; with a receiver it waits for that.
_END = ("RecoveryRetrieveRetryInterval", "RecoveryWalStream")

_POSITION = """
SELECT pg_is_in_recovery() AS in_recovery,
       CASE WHEN NOT pg_is_in_recovery() THEN (pg_current_wal_flush_lsn() - '0/0')::bigint END AS flushed,
       (pg_last_wal_receive_lsn() - '0/0')::bigint AS received,
       (pg_last_wal_replay_lsn() - '0/0')::bigint AS replayed,
       (SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup') AS startup
"""

_END_SESSIONS = f"""
SELECT count(pg_terminate_backend(pid)) AS ended
  FROM pg_stat_activity
 WHERE backend_type = 'client backend' AND NOT (application_name = '{AGENT_APPLICATION}' AND client_addr IS NULL
       AND usename = 'postgres')
"""  # noqa: S608 - a constant of ours


_SEND_AWAY = """
SELECT pid, CASE WHEN backend_type IN ('client backend', 'walsender') AND datid IS NOT NULL
                  AND coalesce(usename, '') <> 'postgres' AND coalesce(usename, '') !~ '^matriarch_'
                 THEN pg_terminate_backend(pid) END AS ended
  FROM pg_stat_activity
"""  # a walsender of a database can run statements, one of none can't


@dataclass(frozen=True, slots=True)
class _Position:
    in_recovery: bool
    lsn: int
    received: bool
    at_end: bool


class Following(Lifecycle):
    async def attach(self, upstream: Upstream, *, line: Sequence[Switch] = (), timeout: float = 30.0) -> None:
        """Follows `upstream` from now on, without a restart.

        `line`: the line of the timeline to follow, where it is known. A history here that is neither of it nor of
        any WAL here is taken away, and that does restart the standby.
        """
        self._running("follow anybody")
        async with files.ends_within(timeout, f"PostgreSQL was not told to follow {upstream.instance}"):
            if line and (end := await self._end_of_wal()) is not None:
                await self._drop_dead_branches(end, line, timeout)
            await self._change_stream(
                lambda s: replace(s, primary_conninfo=receiver_conninfo(upstream), primary_slot_name=upstream.slot),
                key=True,
            )
            await self.reload()

    async def cut_stream(self, *, timeout: float = 2.0) -> None:
        """Nothing is received, and no receiver can begin to, when this returns; Unavailable if that is not so.

        A restart decides anew whom to follow, by the promise.
        """
        await self._change_stream(lambda s: replace(s, primary_conninfo="", primary_slot_name=""), key=False)
        if (postmaster := self.postmaster()) is None:
            return
        await self.reload()
        # A child that was forked before the key went may have read it, also one that has not yet said what it is.
        # Those forked later cannot connect, but are ended too, so that the last look finds none at all.
        unnamed = processes.title(postmaster)
        suspects = [p for p in processes.children(postmaster) if processes.title(p.pid) in (unnamed, "")]
        end = asyncio.get_running_loop().time() + timeout
        while True:
            suspects = [p for p in suspects if processes.alive(p) and processes.title(p.pid) in (unnamed, "")]
            titles = {p.pid: processes.title(p.pid) for p in processes.children(postmaster)}
            receivers = [pid for pid, title in titles.items() if processes.is_walreceiver(title)]
            # The worker acknowledges nothing, but one that waits for a dead primary would hold up a promotion.
            workers = [pid for pid, title in titles.items() if processes.is_slot_worker(title)]
            for pid in (*receivers, *workers):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            if not suspects and not receivers:
                return
            if asyncio.get_running_loop().time() >= end:
                msg = f"a WAL receiver did not end within {timeout:g} s, so this instance may still acknowledge writes"
                raise Unavailable(msg)
            await asyncio.sleep(_POLL)

    async def vote_position(self, *, timeout: float = 10.0) -> WalPosition:
        """How far the WAL reaches that this instance holds, received or replayed, on its canonical timeline.

        After a start without an upstream nothing counts as received, so the WAL here is replayed to its end first.
        Call it after cut_stream(): a history of which nothing arrived is taken away, with a restart.
        Unavailable when it is not known in time, as on an instance that is not consistent yet.
        """
        self._running("say how far its WAL reaches")
        async with files.ends_within(timeout, "the WAL that is here was not replayed"):
            end = await self._await_end()
            if not self._as_primary and await self._drop_dead_branches(end, (), timeout):
                end = await self._await_end()
            return end

    async def end_client_sessions(self, *, timeout: float = 2.0) -> int:
        """Ends everybody's sessions but the agent's; how many. A reader can hold up replay, and with it a promotion."""
        row = await self._sessions.fetchrow("end client sessions", _END_SESSIONS, timeout=timeout)
        return int(row["ended"])

    async def send_clients_away(self, *, timeout: float = 2.0) -> None:
        """At a closed door: returns when no session is left but the cluster's own. Nothing to do for a server that does
        not run.

        A session is in pg_stat_activity only after it has passed the door, so whoever was forked before it closed and
        is not there yet is waited for. Raises Unavailable when somebody did not end in time.
        """
        if (postmaster := self.postmaster()) is None:
            return
        await asyncio.sleep(_RELOADS)
        coming = {p.pid: p for p in processes.children(postmaster) if not processes.is_logger(processes.title(p.pid))}
        async with files.ends_within(timeout, "a client's session did not end"):
            while True:
                rows = await self._sessions.fetch("send clients away", _SEND_AWAY, timeout=timeout)
                known = {row["pid"] for row in rows}
                coming = {pid: p for pid, p in coming.items() if pid not in known and processes.alive(p)}
                if not coming and not any(row["ended"] is not None for row in rows):
                    return
                await asyncio.sleep(_POLL)

    async def _await_end(self) -> WalPosition:
        while True:
            if (end := await self._end_of_wal()) is not None:
                return end
            await asyncio.sleep(_POLL)

    async def _end_of_wal(self) -> WalPosition | None:
        """None while it cannot be known: WAL that is here was neither received since the start nor replayed yet."""
        row = await self._position()
        if not row.in_recovery:
            return await self._locate(row.lsn)
        if not row.received:
            # twice the same, for the wait is also entered between two tries
            await asyncio.sleep(_POLL)
            again = await self._position()
            if not (row.at_end and again.at_end and row.lsn == again.lsn):
                return None
        return await self._locate(row.lsn)

    async def _locate(self, lsn: int) -> WalPosition:
        return await files.in_thread(DISK, walfiles.end_of_wal, self._pg_wal, lsn)

    async def _position(self) -> _Position:
        row = await self._sessions.fetchrow("position", _POSITION, timeout=2.0)
        if not row["in_recovery"]:
            return _Position(in_recovery=False, lsn=row["flushed"] or 0, received=True, at_end=True)
        received, replayed = row["received"], row["replayed"]
        return _Position(
            in_recovery=True,
            lsn=max(received or 0, replayed or 0),
            received=received is not None,
            at_end=row["startup"] in _END,
        )

    async def _drop_dead_branches(self, here: WalPosition, line: Sequence[Switch], timeout: float) -> bool:
        """Removes histories that neither the WAL here nor `line` has anything of; True if that took a restart.

        PostgreSQL may have chosen such a timeline as its target while it ran, and forgets it only by a restart.
        `here` must be the end of all WAL that is here.
        """
        dead = dead_branches(await files.in_thread(DISK, walfiles.histories, self._pg_wal), here, line)
        if not dead:
            return False
        log.info("timelines %s are dead branches; restarting without them", ", ".join(map(str, dead)))
        if not await self.stop("fast", timeout):
            msg = "PostgreSQL did not stop, and knows of a timeline that must not be followed"
            raise Unavailable(msg)
        await files.in_thread(DISK, walfiles.remove_histories, self._pg_wal, dead)
        await self.start_standby(None, line=line, timeout=timeout)
        return True

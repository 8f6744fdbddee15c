"""A standby becomes the primary, on the timeline number that its election claimed and no other.

PostgreSQL takes the first number that no history file in pg_wal has. Numbers below the claim belong to elections
that may have left a timeline somewhere, so they get tombstones first (S8).
"""

from __future__ import annotations

import asyncio
import logging

from matriarch.agent.postgres import files, walfiles
from matriarch.agent.postgres.base import DISK
from matriarch.agent.postgres.facts import Promotion
from matriarch.agent.postgres.following import Following
from matriarch.errors import Corrupt, Refused
from matriarch.postgres.lsn import format_lsn

log = logging.getLogger(__name__)

_POLL = 0.005  # pg_promote(true) looks every 100 ms
_HINT = 0.5  # s

_STATE = """
SELECT pg_is_in_recovery() AS in_recovery,
       CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_insert_lsn()) END AS file,
       CASE WHEN NOT pg_is_in_recovery() THEN (pg_current_wal_insert_lsn() - '0/0')::bigint END AS lsn
"""


class Promoting(Following):
    async def promote(self, claim: int, *, timeout: float = 10.0) -> Promotion:
        """Promotes on timeline `claim`; returns once writes are possible. Repeatable: done already is done.

        Refused, with nothing changed, where the number cannot be had from here. Unavailable when it is not through in
        time: it may still promote, and asking again tells. Corrupt when it came out on another timeline: fence it.
        The rule for commits must have been set before (I5); no checkpoint is waited for.
        """
        self._running("be promoted")
        async with files.ends_within(timeout, "PostgreSQL was not promoted"):
            state = await self._sessions.fetchrow("promote", _STATE, timeout=timeout)
            if state["in_recovery"]:
                await self._reserve(claim, timeout)
                await self._sessions.fetch("promote", "SELECT pg_promote(false)", timeout=timeout)
                await self._recovery_ends()
            while state["in_recovery"]:
                state = await self._sessions.fetchrow("promote", _STATE, timeout=timeout)
                await asyncio.sleep(_POLL if state["in_recovery"] else 0)
        self._as_primary = True
        timeline = int(state["file"][:8], 16)
        self._timeline = timeline
        if timeline != claim:
            msg = f"PostgreSQL promoted itself to timeline {timeline} instead of {claim}; it must not take writes"
            raise Corrupt(msg)
        line = await files.in_thread(DISK, walfiles.line_of, self._pg_wal, claim)
        if not line:
            msg = f"PostgreSQL runs on timeline {claim} and has no history of it; it must not take writes"
            raise Corrupt(msg)
        log.info("promoted: timeline %s left %s at %s", claim, line[-1].parent, format_lsn(line[-1].lsn))
        return Promotion(timeline, line[-1].parent, line[-1].lsn, state["lsn"], line)

    async def _recovery_ends(self) -> None:
        """Until PostgreSQL removed standby.signal, which it does shortly before it is a primary: looking at a file is
        cheaper than asking, and what the machine has to spare is wanted elsewhere now. A hint and no more."""
        signal_file = self.paths.pgdata / "standby.signal"
        end = asyncio.get_running_loop().time() + _HINT
        while signal_file.exists() and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(_POLL)

    async def _reserve(self, claim: int, timeout: float) -> None:
        """Makes `claim` the number that PostgreSQL will take. A streaming heir keeps streaming until it promotes."""
        end = await self._await_end()
        if claim <= end.timeline:
            msg = (
                f"timeline {claim} cannot follow timeline {end.timeline}, which the WAL here is on; claim a higher one"
            )
            raise Refused(msg, reason="TimelineTaken")
        await self._drop_dead_branches(end, (), timeout)
        await files.in_thread(DISK, walfiles.bury, self._pg_wal, end.timeline, claim)

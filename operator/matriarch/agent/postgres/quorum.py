"""The primary's side of replication: who must have flushed a commit, and whether that rule is really in force.

What SHOW says is not what backends do: they look at a flag that the checkpointer sets, and every WAL sender counts by
the rule it last read (S5, S6, measured). So a change is proved by what happens, not by what is shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace

import asyncpg

from matriarch.agent.postgres import files, processes
from matriarch.agent.postgres.facts import WalSender
from matriarch.agent.postgres.looking import Looking
from matriarch.decide.fork import vouches
from matriarch.errors import Refused, Unavailable
from matriarch.postgres.lsn import SEGMENT_SIZE, format_lsn

_POLL = 0.005
_BREATH = 0.3  # seconds
_PATIENCE = 0.5  # seconds in which a healthy stream flushes a record

_RECORD = "SELECT (pg_logical_emit_message(false, 'matriarch', '', true) - '0/0')::bigint AS lsn"

_NEXT_SEGMENT = "SELECT pg_logical_emit_message(false, 'matriarch', '', true), pg_switch_wal()"

_KEPT = "SELECT setting::int AS megabytes FROM pg_settings WHERE name = 'wal_keep_size'"

_FAR = "SELECT count(*) AS far FROM pg_replication_slots WHERE restart_lsn < pg_current_wal_lsn() - $1::numeric"

_WAITS = "SELECT wait_event = 'SyncRep' AS waits FROM pg_stat_activity WHERE pid = $1"


class Quorum(Looking):
    async def set_standby_names(self, value: str, *, slots: Sequence[str] | None = None, timeout: float = 5.0) -> None:
        """Writes `value`, and waits until a new session shows it: then every later child has it.

        `slots`: what consumers of logical slots wait for, where that changes with it.

        Other processes may still follow the old rule; barrier() and probe_sync_rep() end that. Where no server runs,
        it is what the next start begins with.
        """
        changed = await self._change_stream(
            lambda s: replace(s, standby_names=value, standby_slots=s.standby_slots if slots is None else tuple(slots))
        )
        if self._settings is not None:
            self._settings = replace(self._settings, standby_names=value)
        if self.postmaster() is None:
            return
        known = self._shown == (self._process, value)
        if changed or not known:
            await self.reload()
        if not known:
            self._shown = None
            await self._await_shown(value, timeout)
            self._shown = (self._process, value)

    async def barrier(self, voters: Sequence[str], k: int, *, also: Sequence[str] = (), timeout: float = 10.0) -> None:
        """Returns when no commit can be acknowledged by an older rule than the one last set (S6).

        `voters` are the application names of the new rule, of which `k` must take part; `also` those of the old one.
        A record is flushed by k voters, so that each of their WAL senders went round its loop and read the rule; every
        other sender of those names is ended, and must be gone. Only then is a second record written, and flushed by k
        voters: what a slow sender let go by the old rule until its end lies below it. Unavailable otherwise: the change
        must not be relied upon.
        """
        if k > len(set(voters)):
            msg = f"{k} of {len(set(voters))} voters can never pass a barrier"
            raise Refused(msg, reason="InvalidQuorum")
        value = (await self._stream_settings()).standby_names
        async with files.ends_within(timeout, "the new rule for commits was not in force everywhere"):
            await self._await_shown(value, timeout)
            named = set(voters) | set(also)
            before = {s.pid for s in await self.replication(timeout=timeout) if s.application_name in named}
            lsn = await self.write_record(timeout=timeout)
            await self.confirm_flushed(lsn, voters, k, timeout=timeout)
            passed = await self._passers(lsn, before, timeout)
            senders = await self.replication(timeout=timeout)
            await self._end_senders([s for s in senders if s.application_name in named and s.pid not in passed])
            await self.confirm_flushed(await self.write_record(timeout=timeout), voters, k, timeout=timeout)

    async def _passers(self, lsn: int, senders: set[int], timeout: float) -> set[int]:
        """Which of `senders` have seen `lsn` flushed. The slower ones get a moment, for ending a healthy stream costs
        its member more than that."""
        end = asyncio.get_running_loop().time() + min(_PATIENCE, timeout)
        while True:
            now = await self.replication(timeout=timeout)
            passed = {s.pid for s in now if s.pid in senders and s.flush_lsn >= lsn}
            if passed == senders or asyncio.get_running_loop().time() >= end:
                return passed
            await asyncio.sleep(_POLL)

    async def probe_sync_rep(self, *, timeout: float = 5.0) -> bool:
        """Whether a commit waits for standbys: tried again until one was seen waiting, for `timeout` seconds.

        Meant for a rule that nobody can satisfy. False: commits are acknowledged by nobody, the rule is not in force.
        """
        end = asyncio.get_running_loop().time() + timeout
        while (left := end - asyncio.get_running_loop().time()) > 0:
            with suppress(Unavailable):
                if await self._one_probe(left):
                    return True
            await asyncio.sleep(0.02)
        return False

    async def write_record(self, *, timeout: float = 2.0) -> int:
        """The end of a WAL record that is flushed here. Needs no transaction and waits for no standby."""
        row = await self._sessions.fetchrow("write a record", _RECORD, timeout=timeout)
        return int(row["lsn"])

    async def pass_segment(self, *, timeout: float = 2.0) -> None:
        """Goes on in the next WAL segment.

        A standby that has the first part of a record which ran over the end of a segment asks for the next one, and
        is sent away until the primary is there: after a promotion that cut the record off nobody else would write.
        """
        await self._sessions.fetch("next segment", _NEXT_SEGMENT, timeout=timeout)

    async def pass_kept_segments(self) -> None:
        """Goes on so far ahead that a checkpoint may remove the present segment, whatever wal_keep_size holds back.

        One by one, with a pause: commits wait behind the zeros of a segment, and behind twenty of them for a second.
        """
        for _ in range(await self.kept_bytes() // SEGMENT_SIZE):
            await self.pass_segment()
            await asyncio.sleep(_BREATH)

    async def kept_bytes(self) -> int:
        """WAL that a server has to go on for before its present segment may be removed."""
        row = await self._sessions.fetchrow("what is kept", _KEPT, timeout=2.0)
        return (int(row["megabytes"]) << 20) + 2 * SEGMENT_SIZE

    async def slots_are_near(self) -> bool:
        """Whether no slot holds back more than the segment before the present one."""
        row = await self._sessions.fetchrow("slots", _FAR, 2 * SEGMENT_SIZE, timeout=2.0)
        return int(row["far"]) == 0

    async def confirm_flushed(self, lsn: int, voters: Sequence[str], k: int, *, timeout: float = 10.0) -> list[str]:
        """The voters, at least `k`, that have flushed `lsn`. Unavailable when fewer have in time."""
        end = asyncio.get_running_loop().time() + timeout
        while True:
            names = await self.flushed_by(lsn, voters, timeout=timeout)
            if len(names) >= k:
                return names
            if asyncio.get_running_loop().time() >= end:
                msg = f"{len(names)} of the {k} voters needed have {format_lsn(lsn)} after {timeout:g} s"
                raise Unavailable(msg)
            await asyncio.sleep(_POLL)

    async def flushed_by(self, lsn: int, voters: Collection[str], *, fork: int = 0, timeout: float = 1.0) -> list[str]:
        """Which of them have flushed `lsn` now, and all before it. `fork`: LSN of a promotion just before (see
        decide/fork.py); 0: there was none."""
        senders = await self.replication(timeout=timeout)
        return sorted(
            {
                s.application_name
                for s in senders
                if s.application_name in voters
                and vouches(record=lsn, fork=fork, sent=s.sent_lsn, flushed=s.flush_lsn, replayed=s.replay_lsn)
            }
        )

    async def checkpoint(self, *, timeout: float = 300.0) -> None:
        """As before a planned stop. It goes on in the server when the time is over."""
        async with self._sessions.new("checkpoint", timeout) as session:
            await session.execute("CHECKPOINT")

    async def _await_shown(self, value: str, timeout: float) -> None:
        end = asyncio.get_running_loop().time() + timeout
        while True:
            async with self._sessions.new("the rule for commits", timeout) as session:
                if await session.fetchval("SELECT current_setting('synchronous_standby_names')") == value:
                    return
            if asyncio.get_running_loop().time() >= end:
                msg = f"new sessions do not follow the rule {value!r} after {timeout:g} s"
                raise Unavailable(msg)
            await asyncio.sleep(_POLL)

    async def _end_senders(self, senders: Sequence[WalSender]) -> None:
        """Ends them and waits until each is gone, for as long as the caller's time limit lasts."""
        found = [p for s in senders if (p := processes.look(s.pid)) is not None]
        for sender in senders:
            await self._sessions.fetch("end a sender", "SELECT pg_terminate_backend($1)", sender.pid, timeout=2.0)
        while any(processes.alive(p) for p in found):  # noqa: ASYNC110 - processes raise no event
            await asyncio.sleep(_POLL)

    async def _one_probe(self, timeout: float) -> bool:
        async with self._sessions.new("probe", timeout, synchronous_commit="on") as session:
            pid = session.get_server_pid()
            commit = asyncio.create_task(_commit(session))
            try:
                while not commit.done():
                    rows = await self._sessions.fetch("probe", _WAITS, pid, timeout=timeout)
                    if rows and rows[0]["waits"]:
                        return True
                    await asyncio.sleep(_POLL)
                return False
            finally:
                # the commit is local already; ending its session only ends the wait
                with suppress(Unavailable):
                    await self._sessions.fetch("probe", "SELECT pg_terminate_backend($1)", pid, timeout=1.0)
                session.terminate()
                commit.cancel()
                await asyncio.gather(commit, return_exceptions=True)


async def _commit(session: asyncpg.Connection[asyncpg.Record]) -> None:
    await session.fetch("SELECT pg_logical_emit_message(true, 'matriarch', 'probe')")

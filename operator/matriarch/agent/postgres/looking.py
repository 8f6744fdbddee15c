"""What the running server says about itself. One small question, never a disk, never longer than asked for."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import asyncpg

from matriarch.agent.postgres.facts import PendingRestart, ReceiverStatus, ServerStatus, WalSender
from matriarch.agent.postgres.promotion import Promoting
from matriarch.errors import Unavailable
from matriarch.postgres.version import from_number

_STATIC = """
SELECT system_identifier::text AS system_identifier, current_setting('server_version_num')::int AS version,
       pg_postmaster_start_time() AS started
  FROM pg_control_system()
"""

# A setting's text in the files is looked up only for those that wait for a restart: that is rare, and reads the disk.
_STATUS = """
SELECT pg_is_in_recovery() AS in_recovery,
       CASE WHEN NOT pg_is_in_recovery() THEN (pg_current_wal_flush_lsn() - '0/0')::bigint END AS flushed,
       CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_lsn()) END AS file,
       (pg_last_wal_receive_lsn() - '0/0')::bigint AS received,
       (pg_last_wal_replay_lsn() - '0/0')::bigint AS replayed,
       extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float AS replay_age,
       current_setting('synchronous_standby_names') AS standby_names,
       r.status, r.sender_host, r.received_tli, (r.flushed_lsn - '0/0')::bigint AS receiver_flushed,
       r.last_msg_receipt_time,
       (SELECT array_agg(ARRAY[s.name, current_setting(s.name),
                coalesce((SELECT f.setting FROM pg_file_settings f WHERE f.name = s.name ORDER BY seqno DESC LIMIT 1),
                         s.boot_val, '')])
          FROM pg_settings s WHERE s.pending_restart) AS pending
  FROM (SELECT 1) AS one LEFT JOIN pg_stat_wal_receiver r ON true
"""

_SENDERS = """
SELECT a.pid, a.usename AS role, a.application_name, host(a.client_addr) AS address, a.state,
       (a.sent_lsn - '0/0')::bigint AS sent, (a.flush_lsn - '0/0')::bigint AS flushed,
       (a.replay_lsn - '0/0')::bigint AS replayed, s.slot_name AS slot, a.backend_start AS started
  FROM pg_stat_replication a LEFT JOIN pg_replication_slots s ON s.active_pid = a.pid
 ORDER BY a.application_name, a.backend_start
"""

# What the summarizer has read, and not what it has written: it writes a summary for each checkpoint only. It may read
# what is flushed here, on a standby what was received or replayed. Before its first look at pg_wal it has no timeline.
_UNSUMMARIZED = """
SELECT greatest(0, CASE WHEN pg_is_in_recovery() THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
                   ELSE pg_current_wal_flush_lsn() END - pending_lsn)::bigint AS behind
  FROM pg_get_wal_summarizer_state() WHERE current_setting('summarize_wal')::bool AND summarized_tli > 0
"""

# A standby cannot commit: there the connection alone is what is tried.
_CANARY = """
SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_logical_emit_message(true, 'matriarch', 'canary') END
"""


class Looking(Promoting):
    async def status(self, *, timeout: float = 1.0) -> ServerStatus | None:
        """One look; None when the server is not there or does not answer in time."""
        if self.postmaster() is None:
            return None
        try:
            async with asyncio.timeout(timeout):
                static = await self._facts_of_this_start(timeout)
                row = await self._sessions.fetchrow("status", _STATUS, timeout=timeout)
                return await self._status_of(row, static)
        except (Unavailable, TimeoutError):
            return None

    async def replication(self, *, timeout: float = 1.0) -> list[WalSender]:
        """All connections that receive WAL from here, base backups included."""
        rows = await self._sessions.fetch("replication", _SENDERS, timeout=timeout)
        return [
            WalSender(
                pid=row["pid"],
                role=row["role"] or "",
                application_name=row["application_name"] or "",
                address=row["address"],
                state=row["state"] or "",
                sent_lsn=row["sent"] or 0,
                flush_lsn=row["flushed"] or 0,
                replay_lsn=row["replayed"] or 0,
                slot=row["slot"],
                started=row["started"],
            )
            for row in rows
        ]

    async def unsummarized(self, *, timeout: float = 5.0) -> int | None:
        """Bytes of WAL here that PostgreSQL's summarizer has not read yet; None where it is off."""
        async with self._sessions.new("WAL summaries", timeout) as session:
            behind = await session.fetchval(_UNSUMMARIZED)
        return None if behind is None else int(behind)

    async def canary(self, deadline: float = 2.0) -> bool:
        """Whether a new connection can be made and, on a primary, a commit reach the disk within `deadline` seconds.

        It never waits for standbys. A server that is full of connections answers, and so is not hung.
        """
        connection = None
        try:
            async with asyncio.timeout(deadline):
                connection = await self._sessions.open()
                await connection.execute(_CANARY)  # one round, and nothing prepared: it comes twice a second
                return True
        except asyncpg.TooManyConnectionsError:
            return True
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            return False
        finally:
            if connection is not None:
                with suppress(OSError):
                    connection.terminate()

    async def _facts_of_this_start(self, timeout: float) -> asyncpg.Record:
        process = self._process
        if self._static is None or self._static[0] != process:
            self._static = (process, await self._sessions.fetchrow("status", _STATIC, timeout=timeout))
        return self._static[1]

    async def _status_of(self, row: asyncpg.Record, static: asyncpg.Record) -> ServerStatus:
        received, replayed = row["received"], row["replayed"] or 0
        return ServerStatus(
            in_recovery=row["in_recovery"],
            timeline=await self._timeline_of(row),
            flushed_lsn=row["flushed"] or 0,
            received_lsn=received if row["in_recovery"] else None,
            replayed_lsn=replayed if row["in_recovery"] else 0,
            lag_seconds=_lag(row) if row["in_recovery"] else None,
            system_identifier=static["system_identifier"],
            version=str(from_number(static["version"])),
            started=static["started"],
            receiver=_receiver(row),
            pending_restart={name: PendingRestart(old, new) for name, old, new in row["pending"] or ()},
            standby_names=row["standby_names"],
        )

    async def _timeline_of(self, row: asyncpg.Record) -> int:
        """Looked up in pg_wal once per change of the receiver's timeline, and while there is no receiver."""
        if not row["in_recovery"]:
            return int(row["file"][:8], 16)
        if self._timeline is None or row["received_tli"] != self._timeline:
            try:
                self._timeline = (await self._locate(max(row["received"] or 0, row["replayed"] or 0))).timeline
            except (Unavailable, OSError):
                return self._timeline or row["received_tli"] or 0
        return self._timeline


def _receiver(row: asyncpg.Record) -> ReceiverStatus | None:
    if row["status"] is None:
        return None
    return ReceiverStatus(
        status=row["status"],
        sender_host=row["sender_host"] or "",
        timeline=row["received_tli"] or 0,
        flushed_lsn=row["receiver_flushed"] or 0,
        last_message=row["last_msg_receipt_time"],
    )


def _lag(row: asyncpg.Record) -> float | None:
    if row["replay_age"] is None or (row["received"] is not None and row["received"] <= (row["replayed"] or 0)):
        return None
    return float(max(0.0, row["replay_age"]))

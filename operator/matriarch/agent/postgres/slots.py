"""Who receives WAL from here, and who may: slots that keep it for members, senders that nobody should have.

Every member, standbys too, keeps a slot for each other member: whoever is elected then still has the WAL that the
others lack. Slots are capped by max_slot_wal_keep_size: a member that stays away is cloned anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress

import asyncpg

from matriarch.agent.postgres.facts import Slot, WalSender
from matriarch.agent.postgres.quorum import Quorum
from matriarch.postgres.conninfo import SLOT_PREFIX, STREAM_ROLE, slot_name

log = logging.getLogger(__name__)

_SLOTS = """
SELECT slot_name AS name, active, (restart_lsn - '0/0')::bigint AS restart, wal_status = 'lost' AS lost,
       pg_is_in_recovery() AND (xmin IS NOT NULL OR catalog_xmin IS NOT NULL) AS stale
  FROM pg_replication_slots
 WHERE slot_type = 'physical' AND NOT temporary AND starts_with(slot_name, $1)
"""

# Never beyond what this server has replayed or flushed itself: it could not serve what comes after.
_ADVANCE = """
SELECT pg_replication_slot_advance($1, least('0/0'::pg_lsn + $2::bigint::numeric,
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END))
"""


class Slots(Quorum):
    async def slots(self, *, timeout: float = 2.0) -> list[Slot]:
        """The physical slots of members."""
        rows = await self._sessions.fetch("slots", _SLOTS, SLOT_PREFIX, timeout=timeout)
        return [Slot(r["name"], r["active"], r["restart"], bool(r["lost"]), bool(r["stale"])) for r in rows]

    async def ensure_slots(self, wanted: Mapping[str, int | None], *, timeout: float = 5.0) -> None:
        """Makes the slots named in `wanted`, advances idle ones to the LSN given, drops ours that are not named.

        The LSN is how far the slot's member has flushed; None where that is not known. A slot in use moves by itself
        and is left alone. One that lost its WAL is made anew, for a member that is cloned.
        So is one of a standby that remembers rows for its member's readers (hot_standby_feedback) from a time as
        primary: by this server's own feedback it would hold up vacuum on the present primary, for ever.
        """
        present = {slot.name: slot for slot in await self.slots(timeout=timeout)}
        idle = all(n in wanted and not (slot.lost or slot.stale) for n, slot in present.items() if not slot.active)
        if idle and all(name in present and lsn is None for name, lsn in wanted.items()):
            return
        async with self._sessions.new("slots", timeout) as session:
            for name, slot in present.items():
                if not slot.active and (name not in wanted or slot.lost or slot.stale):
                    with suppress(asyncpg.ObjectInUseError, asyncpg.UndefinedObjectError):
                        await session.fetch("SELECT pg_drop_replication_slot($1)", name)
            for name, lsn in wanted.items():
                known = present.get(name)
                if known is None or ((known.lost or known.stale) and not known.active):
                    with suppress(asyncpg.DuplicateObjectError):
                        await session.fetch("SELECT pg_create_physical_replication_slot($1, true)", name)
                elif lsn is not None and not known.active and (known.restart_lsn or lsn) < lsn:
                    # taken by its member meanwhile, or overtaken: it moves by itself
                    with suppress(asyncpg.ObjectInUseError, asyncpg.PostgresError):
                        await session.fetch(_ADVANCE, name, lsn)

    async def terminate_foreign_walsenders(
        self, allowed: Mapping[str, str], *, timeout: float = 2.0
    ) -> list[WalSender]:
        """Ends every sender that could be counted as a voter and is not that member's; those ended (S7).

        `allowed`: application name → the pod's IP.
        """
        found = foreign(await self.replication(timeout=timeout), allowed)
        for sender in found:
            log.warning("ending the stream of %s from %s", sender.application_name, sender.address)
            await self._sessions.fetch("end a sender", "SELECT pg_terminate_backend($1)", sender.pid, timeout=timeout)
        return found


def foreign(senders: Iterable[WalSender], allowed: Mapping[str, str]) -> list[WalSender]:
    """Senders under a voter's name or role that are not that voter's only stream.

    PostgreSQL counts by name alone: two connections of one name would be two voters. Of two that are both in order the
    newer stays, for the older is what its member has given up.
    """
    wrong: list[WalSender] = []
    newest: dict[str, WalSender] = {}
    for sender in senders:
        name = sender.application_name
        if name not in allowed and sender.role != STREAM_ROLE:
            continue  # clones, backups: nobody counts them
        if allowed.get(name) != sender.address or sender.role != STREAM_ROLE or not _own_slot(sender):
            wrong.append(sender)
        elif name not in newest:
            newest[name] = sender
        elif newest[name].started < sender.started:
            wrong.append(newest[name])
            newest[name] = sender
        else:
            wrong.append(sender)
    return wrong


def _own_slot(sender: WalSender) -> bool:
    if sender.slot is None:
        return True
    try:
        return sender.slot == slot_name(sender.application_name.rpartition("-")[0])
    except ValueError:
        return False

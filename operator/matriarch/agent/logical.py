"""The primary's care for logical slots: which voters their consumers wait for, and no gap when those change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from matriarch.agent.clock import SECOND, boottime
from matriarch.agent.instance import Instance
from matriarch.decide.lease import LeaseState
from matriarch.decide.logical import ends_consumers, missing_slots, waited_for, waited_for_after
from matriarch.decide.member import Member
from matriarch.decide.voters import Change
from matriarch.errors import MatriarchError, Refused, Unavailable
from matriarch.postgres.conninfo import slot_name

log = logging.getLogger(__name__)

AGAIN = 5 * SECOND
COPIES_WAIT = 10 * SECOND
"""A planned switchover waits so long for the heir's copies of logical slots."""


class Consumers:
    """What consumers of logical slots wait for, during one leadership."""

    def __init__(self, instance: Instance, lease: LeaseState) -> None:
        self._instance = instance
        # Promotion and start set this list, before anybody could connect (`agent/settings.py`, `loop._promote`). What
        # was in force before an agent restarted is not known: the first stricter rule ends all consumers.
        self._present = waited_for(lease)
        self._known = False
        self._used: set[Member] = set(self._present)
        self._number = 0
        self._again_at = 0

    async def keep(self, lease: LeaseState, streaming: Collection[Member]) -> None:
        """Follow the voters that stream: a voter that is away must hold up no consumer. Tried again after a while."""
        wanted = waited_for(lease, streaming, self._present)
        if (self._known and wanted == self._present) or boottime() < self._again_at:
            return
        self._again_at = boottime() + AGAIN
        await self._set(wanted)
        self._again_at = 0

    async def before(self, change: Change, streaming: Collection[Member]) -> None:
        """The list comes before the names, as every rule that becomes stricter; the barrier that follows covers both.

        Raises Unavailable when a consumer under an older list is left: then the Lease must not follow.
        """
        await self._set(waited_for_after(change, streaming, self._present))
        if ends_consumers(change, self._used, self._number):
            ended = await self._instance.server.end_consumers()
            if ended:
                log.info("ended %d consumers of logical slots, for they may have seen what new voters lack", ended)
            self._used, self._number = set(self._present), len(self._present)

    async def _set(self, wanted: tuple[Member, ...]) -> None:
        if self._known and wanted == self._present:
            return
        self._known = False
        self._used |= set(wanted)
        self._number = min(self._number, len(wanted))
        await self._instance.server.set_standby_slots([slot_name(m.instance) for m in wanted], timeout=2.0)
        self._present, self._known = wanted, True


async def await_copies(instance: Instance, heir: Member) -> None:
    """Before a switchover: the heir gets a moment to copy the logical slots. Never an error: a slot whose consumer is
    away may not be copied for days, and must not hold up a rollout."""
    end = boottime() + COPIES_WAIT
    while True:
        try:
            here = [s.name for s in await instance.server.logical_slots() if s.whole]
            told = await instance.peers.get(heir.instance, "/v1/status", timeout=2.0) if here else {}
        except (Unavailable, Refused, MatriarchError) as e:
            log.warning("logical slots of %s are not known: %s", heir.instance, e)
            return
        missing = missing_slots(here, told.get("logical_slots") or [])
        if not missing:
            return
        if boottime() >= end:
            log.warning("%s has no copy of the logical slots %s", heir.instance, ", ".join(missing))
            return
        await asyncio.sleep(0.2)

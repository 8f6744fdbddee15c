"""Lets go of WAL of former timelines before it fills a small volume; `decide.space.sheds` says when and why."""

from __future__ import annotations

import asyncio
import logging

from matriarch.agent.instance import Instance
from matriarch.decide.space import sheds
from matriarch.errors import MatriarchError

log = logging.getLogger(__name__)

EVERY = 20.0
LONGEST = 600.0
"""Seconds: where a slot or the archive holds the files back, trying again soon would only write more."""
BACKLOG = 2
"""So many finished files may wait for the archive."""


class FormerWal:
    """`keep` runs beside the loop."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._pause = EVERY
        self._in_vain = 0

    async def keep(self) -> None:
        """Until cancelled. What fails is said in the log and tried again, each time a little later."""
        while True:
            try:
                await self.look()
            except (MatriarchError, OSError) as e:
                log.warning("WAL of former timelines: %s", e)
                self._pause = min(2 * self._pause, LONGEST)
            await asyncio.sleep(self._pause)

    async def look(self) -> None:
        """One look, and a checkpoint when it is time. PostgreSQL removes at a checkpoint what lies so far below it that
        nothing keeps it, so a primary goes on some segments first; a standby follows with a restartpoint."""
        instance = self._instance
        role, total = instance.server_role, instance.space.total_bytes
        if role not in ("primary", "standby") or not total or instance.busy:
            return
        former = await instance.server.former_segments()
        if not sheds(former, total):
            self._pause, self._in_vain = EVERY, 0
            return
        if role == "primary" and former != self._in_vain:
            await self._go_on()
        await instance.server.checkpoint()
        left = await instance.server.former_segments()
        log.info("WAL of former timelines: %d segments, %d after a checkpoint", former, left)
        # What did not help is not done again before there is more: it writes, and others have to keep that.
        self._in_vain = 0 if left < former else left
        self._pause = EVERY if left < former else min(2 * self._pause, LONGEST)

    async def _go_on(self) -> None:
        """Only where that helps, and costs nobody his slot: consumers and archive are near, and there is room."""
        instance = self._instance
        pending = int((instance.archive or {}).get("pending") or 0)
        needed = await instance.server.kept_bytes()
        if instance.door != "open" or pending > BACKLOG or instance.space.free_bytes < 3 * needed:
            return
        if not await instance.server.slots_are_near():
            return
        await instance.server.pass_kept_segments()

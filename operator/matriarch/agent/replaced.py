"""Clears the volume of what Restores in place left: copies that were given up, and replaced data that is confirmed."""

from __future__ import annotations

import asyncio
import logging

from matriarch.agent.instance import Instance
from matriarch.errors import MatriarchError

log = logging.getLogger(__name__)

EVERY = 10.0


class ReplacedData:
    """`keep` runs beside the loop: removing much takes its time."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    async def keep(self) -> None:
        """Until cancelled. What fails is said in the log and tried again."""
        while True:
            try:
                await self.look()
            except (MatriarchError, OSError) as e:
                log.warning("data of before a Restore: %s", e)
            await asyncio.sleep(EVERY)

    async def look(self) -> None:
        """One look. Nothing is removed by a copy on the volume: Lease and configuration must have been read anew."""
        instance = self._instance
        instance.kept_data = kept = await instance.server.kept()
        lease, config = instance.lease, instance.config
        if lease is None or config is None or not instance.leases.fresh or not instance.config_fresh:
            return
        if lease.filling is not None or lease.epoch == 0:
            return  # what lies here is wanted, or may be
        waiting = await instance.server.brought()
        confirmed = sorted(set(kept) & set(config.forget))
        if not waiting and not confirmed:
            return
        for uid in confirmed:
            log.warning("removing the data that Restore %s replaced, as was confirmed", uid)
        await instance.server.forget(confirmed, waiting)
        instance.kept_data = await instance.server.kept()

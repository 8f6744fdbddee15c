"""PostgreSQL's WAL summarizer, where it fails: it is switched off for a while, and before a planned stop.

After an error it sleeps for ten seconds and hears no signal (walsummarizer.c of 17), and a fast stop waits for it: a
switchover took six seconds by that. And what made it fail may stay. It begins with the oldest timeline of which there
is WAL, so that one segment that a member lacks, after failovers in quick succession, keeps it there. It then goes on
beyond the end of that timeline, for it remembers the end of another from before the error, fails at each try, and no
WAL is removed until the volume is full. Switched off, it keeps nothing, checkpoints take the old WAL away, and it
begins anew behind it. What it missed costs a full backup in place of an incremental one, as its failing does.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack

from matriarch.agent.clock import SECOND, boottime
from matriarch.agent.instance import Instance
from matriarch.agent.settings import apply_config
from matriarch.errors import MatriarchError

log = logging.getLogger(__name__)

EVERY = 30.0  # s
FIRST_REST, LONGEST_REST = 360 * SECOND, 3600 * SECOND
"""The first is a little more than PostgreSQL's default time between two checkpoints, which remove the WAL."""
CALM = 600 * SECOND
"""After so long without an error the next rest is a first one again."""


_DUTY = "summaries"
_SAID = (
    "the WAL summarizer fails again and again, and keeps WAL by that, so it is off for a while; the next incremental "
    "backup of this instance is a full one"
)


class Summarizer:
    """`keep` runs beside the loop."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._failed = False
        self._rest = FIRST_REST
        self._until = 0  # boot-time instant at which it is switched on again
        self._on_since = 0

    async def keep(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.look()
            except (MatriarchError, OSError) as e:
                log.info("WAL summarizer: %s", e)
            await asyncio.sleep(EVERY)

    async def look(self) -> None:
        """Off when it failed at two looks in a row, and on again when its rest is over."""
        instance, now = self._instance, boottime()
        if self._until:
            if now >= self._until:
                self._until, self._on_since, instance.summarizes = 0, now, True
                instance.warnings.pop(_DUTY, None)
                log.info("the WAL summarizer is switched on again")
                instance.nudge()
            else:
                instance.warnings[_DUTY] = _SAID  # again: an end of PostgreSQL clears them
            return
        if instance.server_role not in ("primary", "standby") or instance.busy or not instance.summarizes:
            return  # in the last case a planned stop is under way
        before, self._failed = self._failed, await instance.server.summarizer_failed()
        if not (before and self._failed and instance.summarizes):
            return
        again = self._on_since and now - self._on_since < CALM
        self._rest = min(2 * self._rest, LONGEST_REST) if again else FIRST_REST
        self._until, self._failed, instance.summarizes = now + self._rest, False, False
        instance.warnings[_DUTY] = _SAID
        log.warning("%s (for %d s)", _SAID, self._rest // SECOND)
        instance.nudge()


async def quiet(instance: Instance, names: str, stopping: ExitStack) -> None:
    """Before a planned stop: a summarizer that sleeps after an error is switched off, and gone when this returns.

    With `stopping`, when the server has stopped or the stop was given up, it may run again. What fails here is logged,
    and costs the stop some seconds.
    """
    try:
        if instance.summarizes:
            if not await instance.server.summarizer_failed():
                return
            log.info("the WAL summarizer failed and would hold up the stop: it is switched off first")
            instance.summarizes = False
            stopping.callback(_again, instance)
            await apply_config(instance, names, door="open" if instance.door == "open" else "waits")
        await instance.server.summarizer_gone()
    except (MatriarchError, OSError) as e:
        log.warning("WAL summarizer: %s", e)


def _again(instance: Instance) -> None:
    instance.summarizes = True

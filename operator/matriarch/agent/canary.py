"""A new connection that commits, twice a second, on the primary: whether PostgreSQL still does its work."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from matriarch.agent import stepdown
from matriarch.agent.clock import SECOND, boottime
from matriarch.agent.instance import Instance
from matriarch.agent.rhythm import TURN, next_turn
from matriarch.decide import canary
from matriarch.decide.canary import DEADLINE, EVERY, MOST_WAITING, STARVED, Seen
from matriarch.errors import MatriarchError

log = logging.getLogger(__name__)

ON_TIME = int(TURN * SECOND) // 2
"""A turn comes a moment early or late; half of one more or less is still the one that was meant."""


class Canary:
    """Watches for as long as the agent lives; says nothing while this instance has no clients."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._attempts: dict[asyncio.Task[bool], int] = {}
        self._succeeded = self._begun = boottime()
        self._failed = self._starved = 0

    async def watch(self) -> None:
        instance = self._instance
        try:
            while True:
                before, turns = boottime(), 1 if self._attempts else 5
                await next_turn(turns)
                now = boottime()
                if now - before - int(turns * TURN * SECOND) > STARVED:
                    self._starved = now
                if instance.server_role != "primary" or not instance.is_holder or instance.door != "open":
                    await self._forget(now)
                    continue
                self._collect(now)
                if now - self._begun >= EVERY - ON_TIME and len(self._attempts) < MOST_WAITING:
                    self._begun = now
                    self._attempts[asyncio.create_task(instance.server.canary(DEADLINE / SECOND))] = now
                await self._act(now)
        finally:
            await self._forget(boottime())

    def _collect(self, now: int) -> None:
        for task in [t for t in self._attempts if t.done()]:
            del self._attempts[task]
            if task.cancelled() or task.exception() is not None or not task.result():
                self._failed += 1
            else:
                self._succeeded, self._failed = now, 0

    async def _act(self, now: int) -> None:
        instance = self._instance
        seen = Seen(now, self._succeeded, tuple(self._attempts.values()), self._failed, self._starved)
        match canary.verdict(seen):
            case "good":
                instance.warnings.pop("canary", None)
            case "late":
                instance.warnings["canary"] = f"no commit ended for {(now - self._succeeded) / SECOND:.1f} s"
            case "hung" if stepdown.enough_voters(instance):
                await self._forget(now)
                with contextlib.suppress(MatriarchError):
                    await stepdown.fence(instance, "PostgreSQL does not commit any more")
            case "hung":
                instance.warnings["canary"] = "PostgreSQL does not commit, and too few voters answer to elect another"

    async def _forget(self, now: int) -> None:
        """What is under way belongs to a time that is over."""
        attempts = list(self._attempts)
        self._attempts.clear()
        self._succeeded = self._begun = now
        self._failed = 0
        for task in attempts:
            task.cancel()
        if attempts:
            await asyncio.wait(attempts, timeout=1.0)

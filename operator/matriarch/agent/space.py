"""Looks after the volume's room: the ballast, when writes stop, and who should lead instead."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from matriarch.agent import stepdown
from matriarch.agent.clock import SECOND, boottime
from matriarch.agent.events import Notices
from matriarch.agent.instance import Instance
from matriarch.agent.reserve import Reserve
from matriarch.decide import space as rules
from matriarch.decide.space import Space
from matriarch.errors import MatriarchError, Refused, Unavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

DISK = 5.0
HAND_OVER_EVERY = 60 * SECOND
ENDED_WITHIN = 300 * SECOND


class Volume:
    """`keep` runs beside the loop: a disk that hangs holds up nobody else."""

    def __init__(self, instance: Instance, reserve: Reserve, notices: Notices) -> None:
        self._instance = instance
        self._reserve = reserve
        self._notices = notices
        self._handed_over = 0
        self._crumb = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="volume")
        self._stuck: asyncio.Future[Any] | None = None

    async def keep(self) -> None:
        """Until cancelled. What fails is said in the log and tried again."""
        while True:
            try:
                await self.look()
            except (MatriarchError, OSError) as e:
                log.warning("the volume's room: %s", e)
                await asyncio.sleep(DISK)
            await asyncio.sleep(rules.next_look(self._instance.space))

    async def look(self) -> None:
        """One look, and what follows from it. Raises Unavailable, OSError."""
        instance, before = self._instance, self._instance.space
        now = rules.seen(before, *await self._disk(self._reserve.look))
        ended = instance.server.postmaster() is None and any(
            boottime() - end < ENDED_WITHIN for end, _ in instance.ends
        )
        if rules.releases(now, ended=ended, leads=instance.is_holder):
            await self._disk(self._reserve.release)
            log.warning("the volume is full: its ballast of %d MiB is released", now.ballast_bytes >> 20)
            now = rules.seen(now, *await self._disk(self._reserve.look))
        elif rules.remakes(now):
            with contextlib.suppress(OSError):
                await self._disk(self._reserve.make, rules.ballast(now.total_bytes), timeout=120.0)
            now = rules.seen(now, *await self._disk(self._reserve.look))
        if now.state == "ok" and before.state != "ok":
            self._crumb = False
        if now.state == "ok" and not self._crumb:
            await self._disk(self._reserve.keep_crumb)
            self._crumb = True
        instance.space = now
        await self._tell(before, now)
        if now.writes_stopped and instance.is_holder and instance.server_role == "primary":
            await self._hand_over()

    async def _disk(self, call: Callable[..., T], *args: Any, timeout: float = DISK) -> T:
        """In a thread of its own, so that a disk that hangs takes no other's; Unavailable while it hangs."""
        if self._stuck is not None and not self._stuck.done():
            raise Unavailable("the volume does not answer")
        self._stuck = asyncio.get_running_loop().run_in_executor(self._thread, partial(call, *args))
        await asyncio.wait({self._stuck}, timeout=timeout)
        if not self._stuck.done():
            raise Unavailable(f"the volume did not answer within {timeout:g} s")
        found: T = self._stuck.result()
        return found

    async def _tell(self, before: Space, now: Space) -> None:
        instance = self._instance
        said = rules.advice(now, leads=instance.is_holder)
        if said:
            instance.warnings["volume"] = said
        else:
            instance.warnings.pop("volume", None)
        if now.writes_stopped == before.writes_stopped and now.state == before.state:
            return
        instance.nudge()  # the loop writes the settings that follow
        log.warning("the volume: %s", said or "there is room again")
        name = instance.env.instance
        if now.state == "full" and before.state != "full":
            await self._notices.warn("VolumeFull", f"{name}: {said}")
        elif before.writes_stopped and not now.writes_stopped:
            await self._notices.tell("VolumeHasRoom", f"{name} takes writes again: its volume has room.")

    async def _hand_over(self) -> None:
        """To a voter that has room; else writes stay stopped here."""
        instance = self._instance
        lease = instance.lease
        if lease is None or lease.mode == "alone" or instance.door != "open" or instance.busy:
            return
        if instance.switchover.get("state") == "running" or boottime() - self._handed_over < HAND_OVER_EVERY:
            return
        found = await asyncio.gather(*(self._room_of(v.instance) for v in lease.voters))
        to = rules.successor(dict(zip((v.instance for v in lease.voters), found, strict=True)))
        if to is None:
            return
        self._handed_over = boottime()
        try:
            heir = await stepdown.check_heir(instance, to)
            message = f"{instance.env.instance}: its volume is full, so {to}, which has room, takes over."
            log.warning("%s", message)
            await self._notices.warn("VolumeFull", message)
            await stepdown.switchover(instance, heir, writes_stopped=True)
        except MatriarchError as e:
            log.warning("%s could not take over: %s", to, e)

    async def _room_of(self, other: str) -> Space | None:
        try:
            told = (await self._instance.peers.get(other, "/v1/status", timeout=2.0)).get("disk") or {}
            return Space(int(told["total_bytes"]), int(told["free_bytes"]))
        except (Unavailable, Refused, KeyError, ValueError):
            return None

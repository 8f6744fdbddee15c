"""Holds clients back while the primary changes, and lets them go on with the new one.

    open --pause asked--------------> held, until another server (or another life of this one) takes writes
    open --sentinel lost------------> held, until any server takes writes
    open --the Service moved--------> held likewise, and whoever waits for an answer of the old primary is cut off

Held means PAUSE: connections are closed as their transactions end, and whatever clients send waits. Every hold has an
end: at its limit PgBouncer is resumed whatever the state, and its own time limits decide for each client.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

from matriarch.agent.pooler.console import Console
from matriarch.agent.pooler.primary import Identity, Sentinel
from matriarch.errors import MatriarchError, Refused, Unavailable

log = logging.getLogger(__name__)

HOLD = 30.0
"""Seconds after which a hold ends by itself. A failover that takes longer is no failover any more."""
AGAIN, LATER, PATIENCE = 0.03, 0.25, 2.0
"""Seconds between two looks for the successor, first and after `PATIENCE` seconds."""
SHORTEST, LONGEST = 0.25, 2.0
"""Seconds for one look: short at first, for what was sent to an address that is gone is lost; then ever longer, for a
machine at its limit takes long to answer."""
RECOVER = 1.0
"""Seconds between two attempts to meet the primary while nothing is held."""


class Gate:
    """`meet` opens a session with the server that takes writes within so many seconds, or raises Unavailable."""

    def __init__(self, socket: Path, meet: Callable[[float], Awaitable[Sentinel]]) -> None:
        self.console = Console(socket)
        self._pausing = Console(socket)
        self._meet = meet
        self._sentinel: Sentinel | None = None
        self._held: asyncio.Task[None] | None = None
        self._released = asyncio.Event()
        self._problem = ""

    @property
    def held(self) -> bool:
        return self._held is not None and not self._held.done()

    @property
    def sees(self) -> str | None:
        """The instance that the sentinel is with."""
        return self._sentinel.identity.instance if self._sentinel is not None else None

    async def run(self) -> None:
        """Keeps the sentinel. Ends only by cancellation."""
        while True:
            if self.held:
                assert self._held is not None
                await asyncio.wait([self._held])
            if self._sentinel is None:
                try:
                    self._keep(await self._meet(LONGEST))
                except Unavailable as e:
                    if str(e) != self._problem:
                        log.warning("no session with the primary: %s", e)
                    self._problem = str(e)
                    await asyncio.sleep(RECOVER)
                continue
            sentinel = self._sentinel
            await sentinel.lost.wait()
            if self._sentinel is sentinel and not self.held:
                log.info("the primary %s is lost", sentinel.identity.instance)
                self._hold(None)
            if self._sentinel is sentinel:
                self._sentinel = None

    async def pause(self, seconds: float) -> bool:
        """Before the primary stops: True once no transaction runs; False when some still do after `seconds`."""
        if self._sentinel is None and not self.held:
            with contextlib.suppress(Unavailable):  # who must be another before anybody goes on
                self._keep(await self._meet(seconds))
        if not self.held:
            self._hold(self._sentinel.identity if self._sentinel is not None else None)
        end = asyncio.get_running_loop().time() + seconds
        while self.held and (left := end - asyncio.get_running_loop().time()) > 0:
            try:
                if not await self._busy(timeout=left):
                    return True
            except MatriarchError as e:
                log.warning("pausing: %s", e)
            await asyncio.sleep(0.01)
        return False

    def resume(self) -> None:
        """The change was called off."""
        self._released.set()

    async def close(self) -> None:
        """Let go of everything: whoever is held goes on."""
        if self._held is not None:
            self._held.cancel()
            await asyncio.wait([self._held])
        self._forget()
        self._pausing.close()
        self.console.close()

    async def moved(self, addresses: Collection[str]) -> None:
        """The write Service leads to `addresses` now: nobody gets an answer of the old primary any more."""
        if self._sentinel is not None and not self._sentinel.lost.is_set() and self._sentinel.address in addresses:
            return  # late news: clients are with the new one already
        self._forget()
        if not self.held:
            self._hold(None)
        try:
            await self._drop_servers()
        except MatriarchError as e:
            log.warning("connections of the old primary: %s", e)

    async def _drop_servers(self) -> None:
        clients = {row["ptr"]: row for row in await self.console.query("SHOW CLIENTS")}
        servers = await self.console.query("SHOW SERVERS")
        await self.console.query("RECONNECT")
        for server in servers:
            client = clients.get(server["link"])
            if client is not None:
                with contextlib.suppress(Refused):  # it is gone by itself
                    await self.console.query(f"KILL_CLIENT {client['id']}")

    async def _busy(self, *, timeout: float) -> bool:
        """Whether it is not paused yet, or a connection to the server is still in a transaction."""
        state = {row["key"]: row["value"] for row in await self.console.query("SHOW STATE", timeout=timeout)}
        return state.get("paused") != "yes" or bool(await self.console.query("SHOW SERVERS", timeout=timeout))

    def _hold(self, before: Identity | None) -> None:
        self._released.clear()
        self._held = asyncio.create_task(self._until_served(before))

    async def _until_served(self, before: Identity | None) -> None:
        pause = asyncio.create_task(self._pause())
        loop = asyncio.get_running_loop()
        began = loop.time()
        limit = SHORTEST
        try:
            while loop.time() - began < HOLD and not self._released.is_set():
                asked = loop.time()
                try:
                    found = await self._meet(limit)
                except Unavailable:
                    if loop.time() - asked >= limit:
                        limit = min(limit * 2, LONGEST)
                else:
                    if found.identity != before and not found.lost.is_set():
                        self._forget()
                        self._sentinel = found
                        break
                    found.close()
                await asyncio.sleep(AGAIN if loop.time() - began < PATIENCE else LATER)
            if loop.time() - began >= HOLD:
                log.warning("nobody took over within %.0f s", HOLD)
        finally:
            pause.cancel()
            self._pausing.close()
            await self._resume()
            log.info("clients were held for %.0f ms", (loop.time() - began) * 1000)

    async def _pause(self) -> None:
        try:
            await self._pausing.query("PAUSE", timeout=HOLD)
        except MatriarchError as e:
            log.warning("PAUSE: %s", e)

    async def _resume(self) -> None:
        for _ in range(50):
            try:
                await self.console.query("RESUME")
            except Refused:
                return  # it was not paused
            except Unavailable as e:
                log.warning("RESUME: %s", e)
                await asyncio.sleep(0.1)
            else:
                return

    def _keep(self, found: Sentinel) -> None:
        if self._sentinel is None:
            self._sentinel = found
        else:  # somebody else here met it first
            found.close()

    def _forget(self) -> None:
        if self._sentinel is not None:
            self._sentinel.close()
            self._sentinel = None

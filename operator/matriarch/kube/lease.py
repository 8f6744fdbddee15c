"""Which of several processes is the active one: a `coordination.k8s.io` Lease.

Nothing but work that may run twice hangs on it: failover is decided by the agents' own Leases. Still only one
controller should act at a time, so:

- whoever stands by measures on its own clock how long the Lease went unchanged (clocks are never compared);
- the holder counts its time from before the renewal was sent, and a thread of its own ends the process at two thirds
  of the Lease's length, whatever the event loop is doing;
- on a clean exit the holder lets go, and the one that stands by, which watches, takes over at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

from matriarch.errors import Unavailable
from matriarch.kube.client import Kube, Object
from matriarch.kube.errors import ApiError, Conflict

log = logging.getLogger(__name__)

EXIT_CODE = 75  # EX_TEMPFAIL: start again


class Leadership:
    """One candidate for one Lease. `duration` in seconds is how long a dead holder blocks the others."""

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        name: str,
        identity: str,
        *,
        duration: float = 10.0,
        labels: dict[str, str] | None = None,
        give_up: Callable[[], None] = lambda: os._exit(EXIT_CODE),
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self.identity = identity
        self._duration = duration
        self._labels = dict(labels or {})
        self._give_up = give_up
        self._lease: Object | None = None
        self._renewed = float("-inf")  # monotonic, before the request that succeeded was sent
        self._stale = False  # somebody else wrote since our last renewal: renew at once
        self.written = ""  # spec.renewTime of the last successful renewal

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Wait until this process is the active one, stay it inside the block, let go at its end.

        A renewal that fails for two thirds of `duration` ends the process from inside (`give_up`), since by then
        another may soon act.
        """
        await self._acquire()
        log.info("active: %s holds the Lease %s/%s", self.identity, self._namespace, self._name)
        stopped = threading.Event()
        guard = threading.Thread(target=self._guard, args=(stopped,), name="lease-guard", daemon=True)
        guard.start()
        renewal = asyncio.create_task(self._renew_for_ever(), name="lease-renewal")
        try:
            yield
        finally:
            renewal.cancel()
            with suppress(asyncio.CancelledError):
                await renewal
            stopped.set()
            await self._release()

    async def _acquire(self) -> None:
        """Poll and watch: the watch makes a clean hand-over immediate, the poll finds a holder that died."""
        seen: tuple[str, float] | None = None  # the Lease's version, and since when it is the same by our clock
        wake = asyncio.Event()
        watcher = asyncio.create_task(self._wake_on_change(wake), name="lease-watch")
        try:
            while True:
                wake.clear()
                try:
                    lease = await self._kube.get("Lease", self._namespace, self._name, timeout=self._duration / 3)
                    now = time.monotonic()
                    if lease is None:
                        if await self._take(None):
                            return
                        continue
                    spec = lease.get("spec") or {}
                    version = lease["metadata"]["resourceVersion"]
                    if seen is None or seen[0] != version:
                        seen = (version, now)
                    length = float(spec.get("leaseDurationSeconds") or self._duration)
                    holder = spec.get("holderIdentity")
                    # our own name: an earlier life of this pod's container, which cannot be alive beside us
                    if (not holder or holder == self.identity or now - seen[1] > length) and await self._take(lease):
                        return
                except (ApiError, Unavailable) as e:
                    log.warning("cannot read or take the Lease %s/%s: %s", self._namespace, self._name, e)
                with suppress(TimeoutError):
                    await asyncio.wait_for(wake.wait(), random.uniform(0.7, 1.0))  # noqa: S311 - spreads polls
                await asyncio.sleep(0.05)  # a Lease that changes all the time must not make this loop spin
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)  # closes its connection before anybody goes on

    async def _wake_on_change(self, wake: asyncio.Event) -> None:
        async for _ in self._kube.watch("Lease", self._namespace, name=self._name):
            wake.set()

    async def _take(self, lease: Object | None) -> bool:
        started = time.monotonic()
        now = _timestamp()
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": round(self._duration),
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": int(((lease or {}).get("spec") or {}).get("leaseTransitions") or 0) + 1,
        }
        try:
            if lease is None:
                metadata = {"name": self._name, "namespace": self._namespace, "labels": self._labels}
                made = {"kind": "Lease", "metadata": metadata, "spec": spec}
                self._lease = await self._kube.create(made, timeout=self._duration / 3)
            else:
                labels = {**(lease["metadata"].get("labels") or {}), **self._labels}
                changed = {**lease, "metadata": {**lease["metadata"], "labels": labels}, "spec": spec}
                self._lease = await self._kube.replace(changed, timeout=self._duration / 3)
        except Conflict:
            return False
        self._renewed, self.written = started, now
        return True

    async def _renew_for_ever(self) -> None:
        while True:
            if not self._stale:
                await asyncio.sleep(self._duration / 5)
            started = time.monotonic()
            lease, self._stale = self._lease, False
            assert lease is not None
            try:
                now = _timestamp()
                wanted = {**lease, "spec": {**lease["spec"], "renewTime": now}}
                self._lease = await self._kube.replace(wanted, timeout=self._duration / 5)
                self._renewed, self.written = started, now
            except Conflict:
                with suppress(ApiError, Unavailable):
                    await self._after_conflict()
            except (ApiError, Unavailable) as e:
                log.warning("the Lease %s/%s was not renewed: %s", self._namespace, self._name, e)

    async def _after_conflict(self) -> None:
        """Our own earlier write whose answer was lost, a foreign hand on the labels, or another holder."""
        lease = await self._kube.get("Lease", self._namespace, self._name, timeout=self._duration / 5)
        if lease is not None and (lease.get("spec") or {}).get("holderIdentity") == self.identity:
            self._lease, self._stale = lease, True
            return
        log.error("the Lease %s/%s is held by another: ending at once", self._namespace, self._name)
        self._give_up()

    def _guard(self, stopped: threading.Event) -> None:
        while not stopped.wait(0.1):
            if time.monotonic() - self._renewed > self._duration * 2 / 3:
                log.critical("the Lease %s/%s could not be renewed: ending at once", self._namespace, self._name)
                self._give_up()
                return

    async def _release(self) -> None:
        lease = self._lease
        if lease is None:
            return
        wanted = {**lease, "spec": {**lease["spec"], "holderIdentity": "", "renewTime": _timestamp()}}
        try:
            await self._kube.replace(wanted, timeout=2.0)
        except (ApiError, Unavailable) as e:
            log.warning("the Lease %s/%s was not let go and will run out instead: %s", self._namespace, self._name, e)


def _timestamp() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"

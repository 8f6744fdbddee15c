"""Liveness and figures over plain HTTP: a controller that looks alive but sees nothing must be restarted.

`/healthz` fails when the event loop lags, when a run is far over its deadline, or when a renewal of our own Lease
that we wrote has not come back on our own watch for a minute: behind load balancers a watch can die without a word.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from matriarch.controller.metrics import FORMAT, METRICS
from matriarch.controller.queue import WorkQueue
from matriarch.controller.reconcile import DEADLINE

STALLED_WATCH = 60.0  # seconds
LAG = 10.0  # seconds that the loop may be late


@dataclass(slots=True)
class Health:
    """Collects what `/healthz` and `/readyz` say. `echo` gives the seconds since our own Lease was last seen back."""

    queue: WorkQueue
    active: bool = False
    echo: Callable[[], float] | None = None
    _beat: float = field(default_factory=time.monotonic)
    _runner: web.AppRunner | None = None
    _pulse: asyncio.Task[None] | None = None

    def problems(self) -> list[str]:
        """Why this process should be restarted; empty when it should not."""
        found = []
        lag = time.monotonic() - self._beat
        if lag > LAG:
            found.append(f"the event loop is {lag:.0f} s late")
        run = self.queue.oldest_run()
        if run > DEADLINE * 2:
            found.append(f"a reconcile has been running for {run:.0f} s")
        if self.active and self.echo is not None and (silence := self.echo()) > STALLED_WATCH:
            found.append(f"our own Lease was not seen on the watch for {silence:.0f} s")
        return found

    async def serve(self, port: int) -> None:
        """Listen until `close`."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, None, port).start()
        self._pulse = asyncio.create_task(self._beat_for_ever(), name="loop-lag")

    async def close(self) -> None:
        """Stop listening."""
        if self._pulse is not None:
            self._pulse.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _beat_for_ever(self) -> None:
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(1.0)

    async def _healthz(self, _: web.Request) -> web.Response:
        problems = self.problems()
        return web.Response(status=503 if problems else 200, text="; ".join(problems) or "ok")

    async def _readyz(self, _: web.Request) -> web.Response:
        """A replica that stands by is ready too: ready to take over."""
        return web.Response(text="active" if self.active else "standing by")

    async def _metrics(self, _: web.Request) -> web.Response:
        gauges = {
            "matriarch_controller_active": float(self.active),
            "matriarch_controller_queue_length": float(self.queue.waiting),
            "matriarch_controller_oldest_reconcile_seconds": self.queue.oldest_run(),
        }
        return web.Response(body=METRICS.text(gauges, self.queue.failing()).encode(), headers={"Content-Type": FORMAT})

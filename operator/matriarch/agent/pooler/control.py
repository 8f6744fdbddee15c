"""What others may ask of a pooler: agents a pause before a switchover (mutual TLS), the kubelet how it is."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable

from aiohttp import web

from matriarch.agent.pooler.gate import Gate
from matriarch.agent.tls import Tls, common_name

CONTROL, PROBES = 7443, 7080
MOST = 30.0


class Control:
    """`ready` says whether new clients should come here."""

    def __init__(self, cluster: str, gate: Gate | None, tls: Tls, ready: Callable[[], bool]) -> None:
        self._cluster = cluster
        self._gate = gate
        self._tls = tls
        self._ready = ready
        self._runners: list[web.AppRunner] = []

    async def start(self) -> None:
        app = web.Application(client_max_size=4096)
        app.add_routes([web.post("/v1/pause", self.pause), web.post("/v1/resume", self.resume)])
        await self._serve(app, CONTROL, self._tls.server)
        probes = web.Application()
        probes.add_routes([web.get("/readyz", self.readyz), web.get("/livez", self.livez)])
        await self._serve(probes, PROBES, None)

    async def close(self) -> None:
        for runner in self._runners:
            await runner.cleanup()

    async def _serve(self, app: web.Application, port: int, tls: ssl.SSLContext | None) -> None:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._runners.append(runner)
        await web.TCPSite(runner, port=port, ssl_context=tls, reuse_address=True).start()

    def _may(self, request: web.Request) -> bool:
        transport = request.transport
        name = common_name(transport.get_extra_info("peercert") if transport is not None else None)
        cluster, _, number = name.rpartition("-")
        return cluster == self._cluster and number.isdecimal()

    async def pause(self, request: web.Request) -> web.StreamResponse:
        """`{"seconds": 3}` → `{"paused": true}`; false when transactions still run after so long."""
        if not self._may(request):
            return web.json_response({"reason": "Forbidden"}, status=403)
        try:
            seconds = min(float(json.loads(await request.read())["seconds"]), MOST)
        except (KeyError, TypeError, ValueError) as e:
            return web.json_response({"reason": "BadRequest", "message": str(e)}, status=400)
        paused = await self._gate.pause(seconds) if self._gate is not None else True
        return web.json_response({"paused": paused})

    async def resume(self, request: web.Request) -> web.StreamResponse:
        if not self._may(request):
            return web.json_response({"reason": "Forbidden"}, status=403)
        if self._gate is not None:
            self._gate.resume()
        return web.json_response({})

    async def readyz(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self._ready() else 503)

    async def livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

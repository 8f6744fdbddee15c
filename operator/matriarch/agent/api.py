"""The agent's API: mutual TLS on 7443 for the controller and the peers, plain HTTP on 7080 for probes.

A caller is who its certificate says: an instance of this cluster, or the controller.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from matriarch.agent import ahead, candidate, upstream, voting
from matriarch.agent.instance import Instance
from matriarch.agent.peers import PORT
from matriarch.agent.status import instance_status, is_ready
from matriarch.agent.stepdown import check_heir
from matriarch.agent.summaries import Summaries
from matriarch.agent.tls import Tls, common_name
from matriarch.decide.member import Member
from matriarch.errors import MatriarchError, Refused, Unavailable
from matriarch.kube.errors import Forbidden
from matriarch.postgres.conninfo import slot_name

log = logging.getLogger(__name__)

PROBES = 7080
CONTROLLER = "matriarch-controller"
MAX_BODY = 64 * 1024

Handler = Callable[[web.Request, dict[str, Any]], Awaitable[dict[str, Any]]]


class Api:
    """The calls; what they start goes on in the loop, named by an asyncio event or a field of the instance."""

    def __init__(
        self,
        instance: Instance,
        tls: Tls,
        *,
        elect: Callable[[], None],
        won: Callable[[candidate.Won], None],
        switchover: Callable[[Member], None],
        restart: Callable[[], None],
    ) -> None:
        self._instance = instance
        self._tls = tls
        self._elect, self._won, self._switchover, self._restart = elect, won, switchover, restart
        self._summaries = Summaries(instance.server.unsummarized)
        self._runners: list[web.AppRunner] = []

    async def start(self) -> None:
        app = web.Application(client_max_size=MAX_BODY)
        app.add_routes(
            [
                web.get("/v1/status", self._handle(self.status)),
                web.get("/v1/ping", self._handle(self.ping)),
                web.post("/v1/prevote", self._handle(self.prevote, peers_only=True)),
                web.post("/v1/promise", self._handle(self.promise, peers_only=True)),
                web.post("/v1/lead", self._handle(self.lead, peers_only=True)),
                web.post("/v1/expect", self._handle(self.expect, peers_only=True)),
                web.post("/v1/join", self._handle(self.join, peers_only=True)),
                web.post("/v1/upstream", self._handle(self.upstream, peers_only=True)),
                web.post("/v1/elect", self._handle(self.elect)),
                web.post("/v1/switchover", self._handle(self.switchover)),
                web.post("/v1/restart", self._handle(self.restart)),
            ]
        )
        await self._serve(app, PORT, self._tls.server)
        probes = web.Application()
        probes.add_routes([web.get("/readyz", self.readyz), web.get("/livez", self.livez)])
        await self._serve(probes, PROBES, None)

    async def _serve(self, app: web.Application, port: int, tls: ssl.SSLContext | None) -> None:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        self._runners.append(runner)
        await web.TCPSite(runner, port=port, ssl_context=tls, reuse_address=True).start()

    async def close(self) -> None:
        await self._summaries.close()
        for runner in self._runners:
            await runner.cleanup()

    def _handle(
        self, call: Handler, *, peers_only: bool = False
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handler(request: web.Request) -> web.StreamResponse:
            try:
                self._admit(request, peers_only)
                raw = await request.read()
                body = json.loads(raw) if raw else {}
                if not isinstance(body, dict):
                    raise TypeError("the body is not an object")
                return web.json_response(await call(request, body), status=202 if request.method == "POST" else 200)
            except Refused as e:
                return web.json_response({"reason": e.reason, "message": str(e)}, status=409)
            except Forbidden as e:
                return web.json_response({"reason": "Forbidden", "message": str(e)}, status=403)
            except (KeyError, ValueError, TypeError) as e:
                return web.json_response({"reason": "BadRequest", "message": f"{type(e).__name__}: {e}"}, status=400)
            except MatriarchError as e:
                return web.json_response({"reason": "Unavailable", "message": str(e)}, status=503)

        return handler

    def _admit(self, request: web.Request, peers_only: bool) -> None:
        name = _caller(request)
        cluster, _, number = name.rpartition("-")
        if cluster == self._instance.env.cluster and number.isdecimal():
            return
        if name == CONTROLLER and not peers_only:
            return
        raise Forbidden(f"{name or 'a caller without a certificate'} may not call this", status=403)

    # --- calls ------------------------------------------------------------------------------------------------

    async def status(self, request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
        found = await instance_status(self._instance)
        if _caller(request) == CONTROLLER and found["role"] != "none":
            found["summaries_behind_bytes"] = self._summaries.behind()
        return found

    async def prevote(self, _: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        return await voting.prevote(self._instance, int(body["epoch"]))

    async def promise(self, _: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        return await voting.promise(self._instance, int(body["epoch"]), to_another=True)

    async def lead(self, _: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        won = await candidate.taken_from_peer(self._instance, body)
        self._won(won)
        return {"epoch": won.epoch}

    async def expect(self, _: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        return await ahead.expect_clients(self._instance, int(body["epoch"]))

    async def ping(self, _: web.Request, __: dict[str, Any]) -> dict[str, Any]:
        return {}

    async def join(self, _: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        """A slot before the clone, so that no WAL is recycled meanwhile."""
        instance = self._instance
        member = Member(*body["member"])
        if not instance.feeds:
            raise Unavailable(f"{instance.env.instance} is not the primary")
        if instance.config is None or member.instance not in instance.config.instances:
            raise Refused(f"{member.instance} is not wanted by the spec", reason="NotWanted")
        if body.get("again"):
            upstream.permit(instance, member.instance)
        if body.get("done"):
            instance.permits.pop(member.instance, None)
        others = [i for i in instance.config.instances if i != instance.env.instance]
        await instance.server.ensure_slots({slot_name(i): None for i in others})
        return {"slot": slot_name(member.instance)}

    async def upstream(self, _: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        return await upstream.tell(self._instance, str(body["instance"]))

    async def elect(self, _: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        log.info("asked to look for an election: %s", body.get("reason"))
        self._elect()
        return {}

    async def switchover(self, _: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        if self._instance.switchover.get("state") == "running":
            raise Refused(f"a switchover to {self._instance.switchover['to']} runs; wait for its end", reason="Running")
        heir = await check_heir(self._instance, str(body["to"]))
        self._switchover(heir)
        return {"to": heir.instance}

    async def restart(self, _: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        instance = self._instance
        if instance.is_holder and not body.get("in_place"):
            raise Refused(
                f"{instance.env.instance} is the primary; switch over first, or restart it in place", reason="Primary"
            )
        if instance.busy or instance.server_role in ("stopped", "starting"):
            raise Refused(f"{instance.env.instance} is {instance.busy or instance.server_role}", reason="Busy")
        self._restart()
        return {}

    # --- probes -----------------------------------------------------------------------------------------------

    async def readyz(self, _: web.Request) -> web.Response:
        ready = is_ready(self._instance)
        return web.Response(status=200 if ready else 503, text=self._instance.reason or self._instance.door_reason)

    async def livez(self, _: web.Request) -> web.Response:
        await asyncio.sleep(0)  # the event loop turns
        return web.Response(text="ok")


def _caller(request: web.Request) -> str:
    """Who its certificate says it is; empty without one."""
    transport = request.transport
    return common_name(transport.get_extra_info("peercert") if transport is not None else None)

"""Calls from the controller to the agents in a cluster's pods: mutual TLS, short time limits, no retries.

The controller has no certificate on disk: for each cluster it issues itself one from the cluster's authority, in
memory, and makes a new one before it runs out.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp

from matriarch.controller import pki
from matriarch.errors import Refused, Unavailable
from matriarch.resources import names

COMMON_NAME = "matriarch-controller"
PORT = 7443
_LIFE = timedelta(hours=24)
_CLUSTERS = 2000  # contexts that are kept


@dataclass(frozen=True, slots=True)
class Door:
    """How to reach the agents of one cluster: its Secret `…-ca` decoded, and what they are called."""

    namespace: str
    cluster: str
    authority: pki.Pair
    bundle: str

    def host(self, instance: str) -> str:
        """The name in the certificate of that instance."""
        return f"{instance}.{names.members_service(self.cluster)}.{self.namespace}.svc"


@dataclass(slots=True)
class Agents:
    """For one event loop. Keeps a TLS context per cluster; connections are not kept: pods come and go."""

    _contexts: dict[tuple[str, str], tuple[str, float, ssl.SSLContext]] = field(default_factory=dict)
    _session: aiohttp.ClientSession | None = None

    async def status(self, door: Door, instance: str, ip: str, *, limit: float) -> dict[str, Any]:
        """`GET /v1/status`. Raises Unavailable when the agent does not answer within `limit` seconds."""
        return await self._call("GET /v1/status", door, instance, ip, limit=limit)

    async def switchover(self, door: Door, instance: str, ip: str, to: str, *, limit: float = 5.0) -> None:
        """Ask the holder to hand over to `to`. Raises Refused with the agent's reason."""
        await self._call("POST /v1/switchover", door, instance, ip, body={"to": to}, limit=limit)

    async def restart(self, door: Door, instance: str, ip: str, *, in_place: bool, limit: float = 5.0) -> None:
        """Ask an agent to restart its postgres. Raises Refused when it will not."""
        await self._call("POST /v1/restart", door, instance, ip, body={"in_place": in_place}, limit=limit)

    async def elect(self, door: Door, instance: str, ip: str, reason: str, *, limit: float = 1.0) -> None:
        """Tell a replica that its primary seems gone. It looks for itself."""
        await self._call("POST /v1/elect", door, instance, ip, body={"reason": reason}, limit=limit)

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()

    async def _call(
        self,
        call: str,
        door: Door,
        instance: str,
        ip: str,
        *,
        limit: float,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        method, path = call.split()
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        url = f"https://{f'[{ip}]' if ':' in ip else ip}:{PORT}{path}"
        try:
            async with (
                asyncio.timeout(limit),
                self._session.request(
                    method,
                    url,
                    json=body,
                    ssl=await self._context(door),
                    server_hostname=door.host(instance),
                    allow_redirects=False,
                ) as answer,
            ):
                parsed = await answer.json(content_type=None)
                if answer.status >= 500:
                    raise Unavailable(f"{instance}: {path} answered {answer.status}: {_message(parsed)}")
                if answer.status >= 400:
                    reason = parsed.get("reason") if isinstance(parsed, dict) else None
                    raise Refused(_message(parsed), reason=str(reason or "RefusedByAgent"))
                return parsed if isinstance(parsed, dict) else {}
        except TimeoutError as e:
            raise Unavailable(f"{instance}: {path} did not answer within {limit:g} s") from e
        except (aiohttp.ClientError, OSError, ValueError) as e:
            raise Unavailable(f"{instance}: {path}: {type(e).__name__} {e}".strip()) from e

    async def _context(self, door: Door) -> ssl.SSLContext:
        key = (door.namespace, door.cluster)
        material = door.authority.certificate + door.bundle
        known = self._contexts.get(key)
        if known is not None and known[0] == material and time.monotonic() < known[1]:
            return known[2]
        made = await asyncio.to_thread(_make_context, door)  # key generation would hold up the loop
        while len(self._contexts) >= _CLUSTERS:
            self._contexts.pop(next(iter(self._contexts)))
        self._contexts[key] = (material, time.monotonic() + _LIFE.total_seconds() / 2, made)
        return made


def _make_context(door: Door) -> ssl.SSLContext:
    mine = pki.issue(door.authority, COMMON_NAME, (), datetime.now(UTC), _LIFE, server=False)
    context = ssl.create_default_context(cadata=door.bundle)
    descriptor = os.memfd_create("client", os.MFD_CLOEXEC)  # the ssl module loads keys from files only
    try:
        os.write(descriptor, (mine.certificate + mine.key).encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context


def _message(parsed: object) -> str:
    if isinstance(parsed, dict):
        return str(parsed.get("message") or parsed.get("reason") or parsed)
    return str(parsed)

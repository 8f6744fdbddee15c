"""Calls to the agents of the other instances. Each has a time limit; a peer that does not answer is Unavailable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

from matriarch.agent.tls import Tls
from matriarch.errors import Refused, Unavailable

PORT = 7443


class Peers:
    """`address` gives an instance's IP or None; `hostname` the name in its certificate."""

    def __init__(self, tls: Tls, *, address: Callable[[str], str | None], hostname: Callable[[str], str]) -> None:
        self.tls = tls
        self._address = address
        self._hostname = hostname
        self._session: aiohttp.ClientSession | None = None

    async def get(self, instance: str, path: str, *, timeout: float = 1.0) -> dict[str, Any]:
        """Raises Unavailable, or Refused with the peer's own sentence."""
        return await self._call("GET", instance, path, None, timeout)

    async def post(self, instance: str, path: str, body: Mapping[str, Any], *, timeout: float = 1.0) -> dict[str, Any]:
        """Raises Unavailable, or Refused with the peer's own sentence."""
        return await self._call("POST", instance, path, body, timeout)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _call(
        self, method: str, instance: str, path: str, body: Mapping[str, Any] | None, timeout: float
    ) -> dict[str, Any]:
        address = self._address(instance)
        if address is None:
            raise Unavailable(f"no address of {instance} is known")
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self.tls.client, limit=0, keepalive_timeout=60)
            self._session = aiohttp.ClientSession(connector=connector)
        host = f"[{address}]" if ":" in address else address
        try:
            async with (
                asyncio.timeout(timeout),
                self._session.request(
                    method,
                    f"https://{host}:{PORT}{path}",
                    json=None if body is None else dict(body),
                    server_hostname=self._hostname(instance),
                    timeout=aiohttp.ClientTimeout(total=None),
                ) as answer,
            ):
                doc = await answer.json(content_type=None)
                if answer.status < 300:
                    return dict(doc)
                if answer.status in (400, 403, 404, 409):
                    raise Refused(str(doc.get("message") or answer.reason), reason=str(doc.get("reason") or "Refused"))
                raise Unavailable(f"{instance}: {doc.get('message') or answer.reason}")
        except TimeoutError:
            raise Unavailable(f"{instance} did not answer {path} within {timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError, AttributeError) as e:
            raise Unavailable(f"{instance}: {path}: {type(e).__name__} {e}") from e

"""The holder's word to the poolers: hold your clients, the primary is about to change.

A pooler that does not answer in time is no reason to wait longer: its clients then see what all others see. Each
resumes by itself as soon as a primary takes writes, and at the end of its own limit.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from matriarch.agent.instance import Instance

log = logging.getLogger(__name__)

PORT = 7443
ANSWER = 0.5
"""Seconds for the way there and back."""


async def pause(instance: Instance) -> None:
    """Returns when all poolers of the write Service hold their clients, or the time for it is over."""
    wait = instance.config.pooler_pause if instance.config is not None else None
    if wait is not None:
        await _tell_all(instance, "pause", {"seconds": wait}, wait + ANSWER)


async def resume(instance: Instance) -> None:
    """The switchover was called off while this instance still leads."""
    if instance.config is not None and instance.config.pooler_pause is not None:
        await _tell_all(instance, "resume", {}, ANSWER)


async def _tell_all(instance: Instance, what: str, body: dict[str, Any], timeout: float) -> None:
    addresses = sorted({a for found in instance.poolers.values() for a in found})
    if not addresses:
        return
    connector = aiohttp.TCPConnector(ssl=instance.peers.tls.client)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(_tell(instance, session, a, what, body, timeout) for a in addresses))


async def _tell(
    instance: Instance, session: aiohttp.ClientSession, address: str, what: str, body: dict[str, Any], timeout: float
) -> None:
    host = f"[{address}]" if ":" in address else address
    env = instance.env
    try:
        async with (
            asyncio.timeout(timeout),
            session.post(
                f"https://{host}:{PORT}/v1/{what}",
                json=body,
                server_hostname=f"{env.cluster}-pooler-rw.{env.namespace}.svc",
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=ANSWER),
            ) as answer,
        ):
            said = await answer.json(content_type=None)
            if answer.status != 200 or said.get("paused") is False:
                log.warning("pooler %s, %s: %s", address, what, said)
    except (TimeoutError, OSError, ValueError, AttributeError, aiohttp.ClientError) as e:
        log.warning("pooler %s, %s: %s %s", address, what, type(e).__name__, e)

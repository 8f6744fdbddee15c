"""Whom the Services for reading lead to: replicas that stream and let clients in.

A replica's door opens a moment after it streams, and later where it led before (`decide/standby_door.py`), so each is
asked when its stream begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from matriarch.agent.clock import SECOND, boottime
from matriarch.agent.instance import Instance
from matriarch.agent.postgres.facts import WalSender
from matriarch.decide.member import Member
from matriarch.errors import Refused, Unavailable
from matriarch.postgres.conninfo import STREAM_ROLE

ASK_EVERY = SECOND
ASK_WITHIN = 1.0  # seconds


class Readers:
    """What a primary knows of its replicas' doors."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._open: set[tuple[str, str]] = set()  # names and addresses that let clients in since their stream began
        self._doubtful: set[tuple[str, str]] = set()
        self._asking: asyncio.Task[None] | None = None
        self._next = 0

    def among(self, senders: Iterable[WalSender]) -> frozenset[str]:
        """Names of the replicas to lead readers to now."""
        config, addresses = self._instance.config, self._instance.addresses
        assert config is not None
        streaming = {
            (m.instance, addresses[m.instance])
            for s in senders
            if s.role == STREAM_ROLE
            and s.state == "streaming"
            and (m := Member.parse(s.application_name)) is not None
            and m.instance in config.instances
            and m.instance not in config.delays
            and m.instance in addresses
        }
        self._open &= streaming
        doubtful = streaming - self._open
        due = boottime() >= self._next or not doubtful <= self._doubtful
        if doubtful and due and (self._asking is None or self._asking.done()):
            self._next = boottime() + ASK_EVERY
            self._doubtful = doubtful
            self._asking = asyncio.create_task(self._ask(doubtful))  # beside the loop: it may not answer
        return frozenset(name for name, _ in self._open)

    async def _ask(self, doubtful: set[tuple[str, str]]) -> None:
        for name, address in sorted(doubtful):
            try:
                said = await self._instance.peers.get(name, "/v1/status", timeout=ASK_WITHIN)
            except (Unavailable, Refused):
                continue
            if said.get("lets_in", True):  # an older agent shuts nobody out
                self._open.add((name, address))

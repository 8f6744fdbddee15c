"""The agent's side of `/run/matriarch/heartbeat.sock`: it says what it is and hears what the heartbeat hears."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace

from matriarch.agent.beat import HeartbeatState, HeartbeatView
from matriarch.agent.beatcodec import MAX_MESSAGE, decode_view, encode_state
from matriarch.agent.clock import SECOND, boottime
from matriarch.agent.seqpacket import SeqpacketClient
from matriarch.errors import Unavailable

log = logging.getLogger(__name__)

SOCKET = "/run/matriarch/heartbeat.sock"
_STALE = SECOND


class HeartbeatClient:
    """Use `await HeartbeatClient.connect()`. Reconnects by itself and then sends the last state again.

    `view` is the newest view; its `sequence` is 0 until the heartbeat that is running now has taken a state from
    this client (an agent or a heartbeat that restarted is never mistaken for its forerunner). `received` is the
    boot-time instant at which that view was true: older than about half a second, and the heartbeat hangs.
    `changed` is notified with each view.
    """

    def __init__(self, path: str = SOCKET) -> None:
        self.view = HeartbeatView(sequence=0)
        self.received: int | None = None
        self.changed = asyncio.Condition()
        self._state: HeartbeatState | None = None
        self._connection = SeqpacketClient(
            path,
            on_open=self._opened,
            on_message=self._receive,
            on_lost=self._lost,
            max_message=MAX_MESSAGE,
            newest_only=True,
        )

    @classmethod
    async def connect(cls, path: str = SOCKET, *, timeout: float = 10.0) -> HeartbeatClient:
        """Raises Unavailable when nobody listens at `path` within `timeout` seconds."""
        client = cls(path)
        if not await client._connection.wait_open(timeout):
            await client.close()
            raise Unavailable(f"The heartbeat does not listen at {path}; this instance can neither lead nor vote.")
        return client

    async def send(self, state: HeartbeatState) -> None:
        """Make `state` the one that counts. Its `sequence` must be above every one sent before by this client.

        While the heartbeat is away the state is kept and sent when it is back: `in_force` tells.
        """
        if self._state is not None and state.sequence <= self._state.sequence:
            raise ValueError(f"sequence {state.sequence} does not follow {self._state.sequence}")
        self._state = state
        await self._connection.send(encode_state(state))

    async def in_force(self, sequence: int, timeout: float) -> bool:
        """Whether the heartbeat acts on the state `sequence` or a later one, after at most `timeout` seconds.

        Once true, no lease is granted any more that an older state would have granted, and `view` holds every grant
        made under an older one.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout), self.changed:
                await self.changed.wait_for(lambda: self.view.sequence >= sequence)
        return self.view.sequence >= sequence

    async def next_view(self, timeout: float) -> HeartbeatView:
        """The next view, or the one at hand after `timeout` seconds without a new one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout), self.changed:
                await self.changed.wait()
        return self.view

    async def close(self) -> None:
        await self._connection.close()

    async def _opened(self) -> None:
        if self._state is not None:
            await self._connection.send(encode_state(self._state))

    async def _receive(self, raw: bytes) -> None:
        try:
            view, at = decode_view(raw)
        except ValueError as error:
            log.warning("a view that cannot be read: %s", error)
            return
        if boottime() - at > _STALE:
            return  # from before a pause of this process: a fresh one follows
        async with self.changed:
            self.view, self.received = view, at
            self.changed.notify_all()

    async def _lost(self) -> None:
        async with self.changed:
            self.view = replace(self.view, sequence=0)
            self.changed.notify_all()

"""An asyncio client of a UNIX SEQPACKET socket that comes back by itself.

Supervisor and heartbeat both talk to the agent in whole messages; asyncio has no transport for that kind of socket,
so this is the loop's own socket calls with a reconnect around them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

_FIRST_RETRY = 0.02  # seconds; the other side is restarted in about a tenth of a second
_LAST_RETRY = 1.0


class SeqpacketClient:
    """Keeps one connection to `path` open until `close`.

    `on_open` runs after each connect, before anything is received; `on_message` with each message, in order;
    `on_lost` after each loss. None of them may raise or wait long. With `newest_only` a message that another one
    already follows is passed over.
    """

    def __init__(
        self,
        path: str,
        *,
        on_open: Callable[[], Awaitable[None]],
        on_message: Callable[[bytes], Awaitable[None]],
        on_lost: Callable[[], Awaitable[None]],
        max_message: int = 65536,
        newest_only: bool = False,
    ) -> None:
        self._path = path
        self._on_open, self._on_message, self._on_lost = on_open, on_message, on_lost
        self._max_message, self._newest_only = max_message, newest_only
        self._socket: socket.socket | None = None
        self._open = asyncio.Event()
        self._sending = asyncio.Lock()
        self._task = asyncio.create_task(self._run(), name=f"client of {path}")

    async def wait_open(self, timeout: float) -> bool:
        """Whether there is a connection, after at most `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._open.wait(), timeout)
        return self._open.is_set()

    async def send(self, message: bytes, timeout: float = 1.0) -> bool:
        """Hand one message to the kernel. False when there is no connection or it was just lost."""
        connection = self._socket
        if connection is None:
            return False
        try:
            async with asyncio.timeout(timeout), self._sending:
                # sock_sendall is whole messages here: a SEQPACKET send is all or nothing
                await asyncio.get_running_loop().sock_sendall(connection, message)
        except (OSError, TimeoutError):
            self._drop(connection)
            return False
        return True

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        delay = _FIRST_RETRY
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            connection.settimeout(0)
            try:
                await loop.sock_connect(connection, self._path)
                self._socket = connection
                await self._on_open()
                self._open.set()
                delay = _FIRST_RETRY
                while message := await loop.sock_recv(connection, self._max_message):
                    await self._on_message(self._newest(connection, message) if self._newest_only else message)
            except OSError as error:
                log.debug("no connection to %s: %s", self._path, error)
            finally:
                was_open = self._open.is_set()
                self._socket = None
                self._open.clear()
                connection.close()
                if was_open:
                    await self._on_lost()
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LAST_RETRY)

    def _newest(self, connection: socket.socket, message: bytes) -> bytes:
        """After a pause of this process the kernel holds messages of long ago; what they said holds no more."""
        with contextlib.suppress(BlockingIOError):
            while newer := connection.recv(self._max_message):
                message = newer
        return message

    def _drop(self, connection: socket.socket) -> None:
        if connection is self._socket:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # wakes the reader, which cleans up

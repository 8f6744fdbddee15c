"""PID 1's own TCP port: it accepts connections and holds them, nothing else.

The kernel closes them when PID 1 goes, and the whole PID namespace goes with it: that is how peers learn within
milliseconds that a Pod is dead while its node lives. So it is opened once and never closed in this process's life.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
from collections import deque

from matriarch.agent.console import Console

PORT = 7432
MAX_CONNECTIONS = 64
MAX_PER_ADDRESS = 4  # a peer keeps one, and a second while it renews it

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class PresencePort:
    """Listens on every address of `family`; OSError when the port is taken."""

    def __init__(self, selector: selectors.BaseSelector, console: Console, family: int, port: int = PORT) -> None:
        self._selector, self._console = selector, console
        self._held: dict[str, deque[socket.socket]] = {}
        self._count = 0
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.settimeout(0)
        self._listener.bind(("", port))  # every address: the kubelet asks too
        self._listener.listen(MAX_CONNECTIONS)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        for _ in range(8):  # a flood of connects must not hold up the loop
            try:
                connection, address = self._listener.accept()
            except OSError:
                return
            self._hold(connection, str(address[0]))

    def _hold(self, connection: socket.socket, address: str) -> None:
        connection.settimeout(0)
        mine = self._held.setdefault(address, deque())
        if len(mine) >= MAX_PER_ADDRESS:
            self._close(mine[0], address)  # a peer whose node vanished never said goodbye
        elif self._count >= MAX_CONNECTIONS:
            self._console.say(f"presence: {MAX_CONNECTIONS} connections are held; one from {address} is turned away")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            connection.close()
            if not mine:
                del self._held[address]
            return
        self._held.setdefault(address, mine).append(connection)
        self._count += 1
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._readable(connection, address))

    def _readable(self, connection: socket.socket, address: str) -> None:
        """The other side has closed, or says something: nobody has anything to say here."""
        with contextlib.suppress(BlockingIOError, InterruptedError):
            with contextlib.suppress(ConnectionError, TimeoutError):
                connection.recv(64)
            self._close(connection, address)

    def _close(self, connection: socket.socket, address: str) -> None:
        self._selector.unregister(connection)
        connection.close()
        self._count -= 1
        mine = self._held[address]
        mine.remove(connection)
        if not mine:
            del self._held[address]

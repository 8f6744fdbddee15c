"""The supervisor's socket for the agent: whole JSON messages, never a wait.

One object per message, `{"id", "op", …}` → `{"id", "ok", …}`, and events without an id. Only processes of the same
user get in. A connection that does not read is closed once its bounded outbox is full: the agent comes back and asks
for the state.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

from matriarch.agent.console import Console

MAX_MESSAGE = 65536  # bytes: argv and environment of postgres
MAX_CONNECTIONS = 8
MAX_OUTBOX = 64  # messages

_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid


class Connection:
    """One connection; `pid` of the process that made it."""

    def __init__(self, control: Control, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self._control, self._socket = control, connection
        self._outbox: deque[bytes] = deque()
        self._mask = selectors.EVENT_READ
        self.open = True

    def send(self, message: dict[str, Any]) -> None:
        if not self.open:
            return
        if len(self._outbox) >= MAX_OUTBOX:
            self._control.close(self, "it does not read")
            return
        self._outbox.append(json.dumps(message).encode())
        self._flush()

    @property
    def idle(self) -> bool:
        """Whether everything sent so far is in the kernel's hands."""
        return self.open and not self._outbox

    def keep_short(self) -> None:
        """Let the kernel hold few messages for a reader that does not read."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)

    def ready(self) -> None:
        """The selector says that it can be read or written."""
        if self._outbox:
            self._flush()
        if not self.open:
            return
        try:
            raw, _, flags, _ = self._socket.recvmsg(MAX_MESSAGE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._control.close(self, str(error))
            return
        if not raw:
            self._control.close(self, "")
            return
        try:
            message = json.loads(raw)
            if flags & socket.MSG_TRUNC or not isinstance(message, dict):
                raise ValueError("not one JSON object")
        except ValueError as error:
            self._control.close(self, f"its message cannot be read: {error}")
            return
        try:
            self._control.serve(self, message)
        except Exception as error:  # noqa: BLE001 - no request may end PID 1, whatever is in it
            self._control.close(self, f"its message could not be served: {error!r}")

    def _flush(self) -> None:
        try:
            while self._outbox:
                self._socket.send(self._outbox[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                self._outbox.popleft()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._control.close(self, str(error))
            return
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox else 0)
        if mask != self._mask:
            self._mask = mask
            self._control.selector.modify(self._socket, mask, self.ready)

    def shut(self) -> None:
        """Only for Control.close."""
        self.open = False
        with contextlib.suppress(KeyError, ValueError):
            self._control.selector.unregister(self._socket)
        self._socket.close()


class Control:
    """Listens at `path`. `greet` runs for each new connection, `serve` for each message."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        console: Console,
        path: str,
        *,
        greet: Callable[[Connection], None],
        serve: Callable[[Connection, dict[str, Any]], None],
    ) -> None:
        self.selector, self.serve = selector, serve
        self._console, self._greet = console, greet
        self._connections: list[Connection] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.settimeout(0)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - PID 1 does without pathlib
        self._listener.bind(path)
        self._listener.listen(MAX_CONNECTIONS)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def tell_all(self, event: dict[str, Any]) -> None:
        for connection in list(self._connections):
            connection.send(event)

    def close(self, connection: Connection, why: str) -> None:
        if connection.open:
            connection.shut()
            self._connections.remove(connection)
            if why:
                self._console.say(f"connection of process {connection.pid} closed: {why}")

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except OSError:
            return
        accepted.settimeout(0)
        raw = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(raw)
        if uid != os.getuid():
            self._console.say(f"process {pid} of user {uid} was turned away: only user {os.getuid()} may ask")
            accepted.close()
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            self.close(self._connections[0], f"more than {MAX_CONNECTIONS} connections")
        connection = Connection(self, accepted, pid)
        self._connections.append(connection)
        self.selector.register(accepted, selectors.EVENT_READ, connection.ready)
        self._greet(connection)

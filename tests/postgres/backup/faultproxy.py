"""Stands before a real server of objects and strikes one request, counted, or every one from it on.

What a request asked for has happened or has not, and its client is told the truth, something else or nothing: these are
all the ways in which a store and the network before it fail a client. Only the answer is ever changed, never data.
"""

from __future__ import annotations

import enum
import select
import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dev.gcs import GcsServer
from dev.s3 import S3Server

HELD = 30.0  # seconds that a stalled answer is held at most: longer than any client of a test waits


class Fault(enum.Enum):
    """What happens to a request. `passed on` means that the server has done what it asks for."""

    SLOW_DOWN = "503 SlowDown, not passed on"
    ERROR = "500, not passed on"
    LATE_ERROR = "500, passed on"
    RESET = "connection reset, not passed on"
    LOST = "passed on, and the connection closed before its answer"
    CUT = "passed on, and half of the answer: of its body, if it has one"
    CUT_HEAD = "passed on, and the first lines of the answer, which look like all of it"
    STALLED = "passed on, and no answer for longer than anybody waits"
    DENIED = "403, not passed on"
    ERROR_IN_200 = "200 with an error for a body, not passed on"  # CompleteMultipartUpload may answer so


PASSING = tuple(f for f in Fault if f not in (Fault.DENIED, Fault.ERROR_IN_200))
"""What goes away by itself: one of these must not be seen outside the store's client."""

_CODES = {
    Fault.SLOW_DOWN: ("503 Slow Down", "SlowDown"),
    Fault.ERROR: ("500 Internal Server Error", "InternalError"),
    Fault.LATE_ERROR: ("500 Internal Server Error", "InternalError"),
    Fault.DENIED: ("403 Forbidden", "AccessDenied"),
    Fault.ERROR_IN_200: ("200 OK", "InternalError"),
}


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    target: str

    def __str__(self) -> str:
        return f"{self.method} {self.target}"


class FaultProxy:
    """`server` is as its clients see it: the real one's keys behind this address. Counting is safe for threads."""

    def __init__(self, real: S3Server | GcsServer, port: int) -> None:
        self._real = real
        self.server: Any = replace(real, port=port)
        self._lock = threading.Lock()
        self._at, self._fault, self._for_good = 0, Fault.RESET, False
        self._of: Callable[[Request], bool] = lambda _: True
        self.seen: list[Request] = []
        self.struck: list[Request] = []
        self.ended = threading.Event()

    def strike(
        self, at: int, fault: Fault, *, for_good: bool = False, of: Callable[[Request], bool] = lambda _: True
    ) -> None:
        """Count anew; strike the `at`-th request (0: none) of those that `of` picks, and with `for_good` all after."""
        with self._lock:
            self._at, self._fault, self._for_good, self._of = at, fault, for_good, of
            self.seen, self.struck = [], []

    def calm(self) -> None:
        self.strike(0, Fault.RESET)

    def _judge(self, request: Request) -> Fault | None:
        with self._lock:
            if not self._of(request):
                return None
            self.seen.append(request)
            number = len(self.seen)
            if self._at and (number == self._at or (self._for_good and number > self._at)):
                self.struck.append(request)
                return self._fault
            return None

    def serve(self, client: socket.socket) -> None:
        """One request of a connection; the answer says that no other may follow."""
        with client.makefile("rb") as incoming:
            head = [line for line in iter(incoming.readline, b"\r\n") if line]
            if not head:
                return
            length, kept = 0, head[:1]
            for line in head[1:]:
                name, _, value = line.partition(b":")
                match name.lower():
                    case b"content-length":
                        length = int(value)
                        kept.append(line)
                    case b"expect":
                        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                    case b"connection":
                        pass
                    case _:
                        kept.append(line)
            body = incoming.read(length)
        method, target, _ = head[0].decode().split(" ")
        fault = self._judge(Request(method, target))
        answer = b""
        if fault in (None, Fault.LATE_ERROR, Fault.LOST, Fault.CUT, Fault.CUT_HEAD, Fault.STALLED):
            answer = self._pass_on(b"".join((*kept, b"Connection: close\r\n\r\n", body)))
        match fault:
            case Fault.RESET:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            case Fault.LOST:
                pass
            case Fault.STALLED:
                end = HELD
                while end > 0 and not self.ended.is_set() and not select.select([client], [], [], 0.1)[0]:
                    end -= 0.1
            case Fault.CUT:
                begin = answer.index(b"\r\n\r\n") + 4
                client.sendall(answer[: begin + (len(answer) - begin) // 2 if len(answer) > begin else 7])
            case Fault.CUT_HEAD:
                client.sendall(answer[: answer.index(b"\r\n") + 2])
            case None:
                client.sendall(answer)
            case _:
                client.sendall(_error(*_CODES[fault], bodiless=method == "HEAD"))

    def _pass_on(self, request: bytes) -> bytes:
        with socket.create_connection((self._real.address, self._real.port), timeout=60) as plain:
            if not self._real.tls:
                return _exchange(plain, request)
            with ssl.create_default_context(cafile=self._real.ca_file).wrap_socket(
                plain, server_hostname=self._real.address
            ) as secured:
                return _exchange(secured, request)


def _exchange(server: socket.socket, request: bytes) -> bytes:
    server.sendall(request)
    return b"".join(iter(lambda: server.recv(1 << 18), b""))


def _error(status: str, code: str, *, bodiless: bool) -> bytes:
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>struck by a test</Message></Error>"
    body = "" if bodiless else text
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
        f"Connection: close\r\n\r\n{body}"
    ).encode()


@contextmanager
def before(real: S3Server | GcsServer, kind: type[FaultProxy] = FaultProxy) -> Iterator[FaultProxy]:
    """A proxy on a port of its own; over TLS with the real server's certificate when that speaks TLS."""
    context = None
    if real.tls:
        pki = Path(real.folder) / "pki"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki / "server.crt", pki / "server.key")

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                if context is None:
                    proxy.serve(self.request)
                else:
                    with context.wrap_socket(self.request, server_side=True) as secured:
                        proxy.serve(secured)
            except (ConnectionError, ssl.SSLError):
                pass  # a client that went away

    class Server(socketserver.ThreadingTCPServer):
        request_queue_size = 64

    with Server((real.address, 0), Handler) as listening:
        proxy = kind(real, listening.server_address[1])
        thread = threading.Thread(target=listening.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy.ended.set()
            listening.shutdown()
            thread.join()

"""PgBouncer's console over its local socket: the simple query protocol, which is all that it speaks."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

from matriarch.errors import Refused, Unavailable
from matriarch.postgres.pgbouncer import CONSOLE_DATABASE, CONSOLE_USER

_PROTOCOL = 196608  # 3.0
_LONGEST = 1 << 24  # bytes of one message

Row = dict[str, str]


class Console:
    """One connection. Commands come one after the other; a failure closes it, and the next one opens another."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._turn = asyncio.Lock()

    async def query(self, command: str, *, timeout: float = 2.0) -> list[Row]:
        """The rows of one command.

        Raises:
            Refused: PgBouncer's own word against it.
            Unavailable: it does not answer within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout), self._turn:
                try:
                    return await self._ask(command)
                except Refused:
                    raise
                except BaseException:
                    self.close()
                    raise
        except (OSError, EOFError, TimeoutError, ValueError, struct.error) as e:
            raise Unavailable(f"PgBouncer's console: {command}: {type(e).__name__} {e}") from e

    def close(self) -> None:
        """Let go of the connection; a PAUSE that still waits on it is given up by PgBouncer."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].close()

    async def _ask(self, command: str) -> list[Row]:
        if self._streams is None:
            self._streams = await asyncio.open_unix_connection(self._socket)
            words = f"user\0{CONSOLE_USER}\0database\0{CONSOLE_DATABASE}\0\0".encode()
            self._send(b"", struct.pack("!i", _PROTOCOL) + words)
            await self._answer()
        self._send(b"Q", command.encode() + b"\0")
        return await self._answer()

    def _send(self, kind: bytes, body: bytes) -> None:
        assert self._streams is not None
        self._streams[1].write(kind + struct.pack("!i", len(body) + 4) + body)

    async def _answer(self) -> list[Row]:
        """Everything up to the next ReadyForQuery."""
        assert self._streams is not None
        reader = self._streams[0]
        columns: list[str] = []
        rows: list[Row] = []
        error = ""
        while True:
            kind, length = struct.unpack("!ci", await reader.readexactly(5))
            if not 4 <= length <= _LONGEST:
                raise ValueError(f"a message of {length} bytes")
            body = await reader.readexactly(length - 4)
            match kind:
                case b"R" if body[:4] != bytes(4):
                    raise ValueError("it asks for a password")
                case b"T":
                    columns = _columns(body)
                case b"D":
                    rows.append(dict(zip(columns, _values(body), strict=True)))
                case b"E":
                    error = _message(body)
                    if not rows and b"SFATAL" in body:
                        raise ValueError(error)
                case b"Z":
                    if error:
                        raise Refused(error, reason="PgBouncer")
                    return rows


def _columns(body: bytes) -> list[str]:
    (count,) = struct.unpack_from("!h", body)
    names, at = [], 2
    for _ in range(count):
        end = body.index(0, at)
        names.append(body[at:end].decode())
        at = end + 19  # the name's end and six numbers
    return names


def _values(body: bytes) -> list[str]:
    (count,) = struct.unpack_from("!h", body)
    values, at = [], 2
    for _ in range(count):
        (length,) = struct.unpack_from("!i", body, at)
        at += 4
        values.append("" if length < 0 else body[at : at + length].decode())
        at += max(length, 0)
    return values


def _message(body: bytes) -> str:
    fields = {part[:1]: part[1:] for part in body.split(b"\0") if part}
    return fields.get(b"M", b"").decode(errors="replace")

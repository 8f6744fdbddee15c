"""The socket at which PostgreSQL's commands and the agent ask. One line in, one line out.

    push <name> <device> <inode>    ok <name> | no <sentence>
    fetch <name>                    ok <name> <path> | missing <sentence> | no <sentence>
    status leads|follows            a Report as JSON; the word says what this member is now
    status                          the same, nothing is told

Whoever can reach the socket is of this Pod and of PostgreSQL's own user.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from pathlib import Path

from matriarch.archive.archiver import Archiver
from matriarch.archive.fetching import Fetcher
from matriarch.backup.jsonclass import encode

log = logging.getLogger(__name__)

_LINE = 512


async def serve(path: Path, archiver: Archiver | None, fetcher: Fetcher | None) -> asyncio.Server:
    """Listening when it returns. A socket that an earlier process left is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
            line = (await reader.readline()).decode("ascii", "replace").strip()
            answer = " ".join((await _answer(line, archiver, fetcher)).split("\n"))
            writer.write(answer.encode()[:4000] + b"\n" if not line.startswith("status") else answer.encode() + b"\n")
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()

    server = await asyncio.start_unix_server(handle, str(fresh), limit=_LINE, backlog=32)
    fresh.chmod(0o600)
    fresh.replace(path)  # nobody ever meets a socket at which nobody listens
    return server


async def _answer(line: str, archiver: Archiver | None, fetcher: Fetcher | None) -> str:
    match line.split():
        case ["push", name, device, inode] if archiver is not None and device.isdecimal() and inode.isdecimal():
            said = await archiver.push(name, int(device), int(inode))
            return f"ok {name}" if said.word == "ok" else f"no {said.why}"
        case ["fetch", name] if fetcher is not None:
            found = await fetcher.fetch(name)
            return f"ok {name} {found.text}" if found.word == "ok" else f"{found.word} {found.text}"
        case ["status", *role] if archiver is not None:
            if role:
                archiver.leads = role == ["leads"]
            return json.dumps(encode(archiver.report()))
    return "no this archiver does not do that"

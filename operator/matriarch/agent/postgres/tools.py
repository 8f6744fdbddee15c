"""PostgreSQL's own programs, run to their end or ended."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from matriarch.errors import Unavailable

_KEPT = 64 * 1024  # bytes of output that are kept for a message

# LC_ALL: messages are read by this code. No PG* variable of the agent's environment reaches a tool.
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "HOME": "/tmp", "TZ": "UTC"}  # noqa: S108 - PostgreSQL's tools look for ~/.pgpass; there is none


@dataclass(frozen=True, slots=True)
class Outcome:
    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The last line that tells what went wrong."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        wrong = [line for line in lines if "error" in line or "fatal" in line.lower()]
        return (wrong or lines or [f"exit status {self.status}"])[-1]


async def run(
    argv: Sequence[str],
    *,
    timeout: float | None = None,
    stall: float | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Outcome:
    """Runs `argv` in a session of its own. `on_line` gets each line of stderr.

    Raises Unavailable past `timeout` seconds in all, or `stall` seconds without a line; then, and when cancelled,
    the program and its children are killed before this returns.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = bytearray(), bytearray()
    try:
        async with asyncio.timeout(timeout), asyncio.TaskGroup() as group:
            group.create_task(_collect(process.stdout, out, None, None))
            group.create_task(_collect(process.stderr, err, stall, on_line))
            status = await process.wait()
    except TimeoutError:
        msg = f"{argv[0].rpartition('/')[2]} did not end within {timeout:g} s and was stopped"
        raise Unavailable(msg) from None
    except ExceptionGroup as group_error:
        msg = f"{argv[0].rpartition('/')[2]} did not go on for {stall} s and was stopped"
        raise Unavailable(msg) from group_error
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return Outcome(status, out.decode(errors="replace"), err.decode(errors="replace"))


async def _collect(
    stream: asyncio.StreamReader, kept: bytearray, stall: float | None, on_line: Callable[[str], None] | None
) -> None:
    while True:
        async with asyncio.timeout(stall):
            try:
                line = await stream.readuntil(b"\n")
            except asyncio.IncompleteReadError as error:
                line = error.partial
            except asyncio.LimitOverrunError as error:
                line = await stream.read(error.consumed or 1)
        if not line:
            return
        kept += line
        del kept[:-_KEPT]
        if on_line is not None:
            on_line(line.decode(errors="replace").strip())

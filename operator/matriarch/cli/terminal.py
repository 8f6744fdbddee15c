"""What the commands print: tables, a progress line, and errors with the exit code that fits them.

Data goes to stdout, everything else to stderr. Colour and a moving line only on a terminal, never with NO_COLOR; every
state is a word too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, NoReturn, TypeVar

from matriarch.errors import Corrupt, MatriarchError, Refused, Unavailable

T = TypeVar("T")


class Exit(IntEnum):
    """0 well, 1 not well (also: the command failed), 2 wrong usage, 3 not found, 4 the other side does not answer."""

    OK = 0
    DEGRADED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    INTERRUPTED = 130


_NOT_FOUND = {"BackupNotFound", "NotFound", "BucketMissing", "ManifestMissing"}
_USAGE = {"BackupAmbiguous", "BadSpec", "KeyMissing", "BadKey", "Usage"}


def exit_for(error: MatriarchError) -> Exit:
    reason = getattr(error, "reason", "")
    if isinstance(error, Unavailable):
        return Exit.UNREACHABLE
    if reason in _NOT_FOUND:
        return Exit.NOT_FOUND
    return Exit.USAGE if reason in _USAGE else Exit.DEGRADED


def fail(error: MatriarchError) -> NoReturn:
    reason = getattr(error, "reason", "")
    label = "damaged" if isinstance(error, Corrupt) else "error"
    note(f"{_paint(label, 31)}: {error}" + (f" [{reason}]" if reason else ""))
    raise SystemExit(exit_for(error))


def usage(message: str) -> NoReturn:
    fail(Refused(message, reason="Usage"))


def note(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def show(text: str) -> None:
    sys.stdout.write(text + "\n")


def show_json(value: Any) -> None:
    show(json.dumps(value, indent=2, ensure_ascii=False))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces between; control characters of names are made harmless."""
    cells = [list(head), *([printable(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def ago(moment: str, now: datetime | None = None) -> str:
    """`7h ago` of an RFC 3339 time; the text itself when it is none."""
    try:
        seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(moment)).total_seconds()
    except ValueError:
        return moment
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)}{unit} ago"
    return f"{max(int(seconds), 0)}s ago"


def colour() -> bool:
    return sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def _paint(text: str, code: int) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour() else text


def run(
    work: Coroutine[Any, Any, T], *, line: Callable[[], str] | None = None, stop: Callable[[], None] | None = None
) -> T:
    """Run to the end, with `line()` as progress after 2 s. Ctrl-C calls `stop` and ends it cleanly."""
    try:
        return asyncio.run(_watched(work, line, stop))
    except MatriarchError as error:
        fail(error)
    except asyncio.CancelledError:
        note("interrupted: nothing half done is left behind")
        raise SystemExit(Exit.INTERRUPTED) from None


async def _watched(work: Coroutine[Any, Any, T], line: Callable[[], str] | None, stop: Callable[[], None] | None) -> T:
    task = asyncio.ensure_future(work)

    def interrupt() -> None:
        if stop is not None:
            stop()
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    progress = asyncio.ensure_future(_progress(line)) if line is not None else None
    try:
        return await task
    finally:
        if progress is not None:
            progress.cancel()
            await asyncio.gather(progress, return_exceptions=True)


async def _progress(line: Callable[[], str]) -> None:
    """On a terminal one line that is written over; elsewhere a line every 10 s, for a log."""
    moving = sys.stderr.isatty()
    began = time.monotonic()
    await asyncio.sleep(2)
    try:
        while True:
            text = printable(line())
            seconds = int(time.monotonic() - began)
            if moving:
                width = os.get_terminal_size(sys.stderr.fileno()).columns
                sys.stderr.write("\r\x1b[K" + f"{text} ({seconds} s)"[: width - 1])
                sys.stderr.flush()
            else:
                note(f"{text} ({seconds} s)")
            await asyncio.sleep(0.5 if moving else 10)
    finally:
        if moving:
            with contextlib.suppress(OSError):
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()

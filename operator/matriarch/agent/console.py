"""Lines on stderr from processes that must never wait.

A container's stderr is a pipe to a log file on the node's disk. When that disk hangs the pipe fills, and a plain
print would hold up the deadline that is to end the database. Here a line that finds no room is lost and counted.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys


class Console:
    """Writes `name: text` lines to stderr, each in one piece of at most a page, or not at all."""

    def __init__(self, name: str) -> None:
        self._prefix = f"{name}: "
        self._lost = 0
        try:
            # a description of our own: O_NONBLOCK on the inherited one would hit postgres's log lines too
            self._descriptor = os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK | os.O_APPEND | os.O_CLOEXEC)
        except OSError:
            self._descriptor = 2
        self._room = select.poll()
        self._room.register(self._descriptor, select.POLLOUT)

    def say(self, text: str) -> None:
        line = f"{self._prefix}{text}" + (f" ({self._lost} lines were lost before this one)" if self._lost else "")
        raw = line.replace("\n", " ").encode("utf-8", "replace")[:4000] + b"\n"
        # where our own description could not be had, room for a page is the next best thing
        ready = bool(self._room.poll(0))
        sent = False
        if ready:
            with contextlib.suppress(OSError):
                sent = os.write(self._descriptor, raw) == len(raw)
        self._lost = 0 if sent else self._lost + 1

    @property
    def lost(self) -> int:
        """Lines lost since the last one that was written."""
        return self._lost


def refuse(name: str, text: str) -> None:
    """The last words of a process that does not start; it may wait for stderr."""
    sys.stderr.write(f"{name}: {text}\n")
    sys.stderr.flush()

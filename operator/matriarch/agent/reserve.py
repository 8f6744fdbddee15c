"""Room on a full volume that nobody but the agent can use: the ballast, and a crumb for the agent's own small files.

A promise must reach the disk also when PostgreSQL has taken the last block; without it a full replica could not vote.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

VOLUME = Path("/var/lib/matriarch")
CRUMB = 1 << 20  # bytes
TRIES = 3


class Reserve:
    """Two files on `volume`, outside of PGDATA. All methods wait for the disk."""

    def __init__(self, volume: Path = VOLUME) -> None:
        self.ballast = volume / "ballast"
        self._crumb = volume / "member" / ".crumb"

    def look(self) -> tuple[int, int, int]:
        """Bytes of the volume: all, free, and in the ballast."""
        found = os.statvfs(self.ballast.parent)
        try:
            kept = self.ballast.stat().st_size
        except FileNotFoundError:
            kept = 0
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize, kept

    def make(self, size: int) -> None:
        """A ballast of `size` bytes whose blocks are really taken. Raises OSError; then nothing is left of it."""
        try:
            _fill(self.ballast, size)
        except OSError:
            self.ballast.unlink(missing_ok=True)
            raise

    def release(self) -> None:
        """Give the ballast's room back."""
        self.ballast.unlink(missing_ok=True)

    def keep_crumb(self) -> None:
        """Take the room for the agent's own files, where there is room again."""
        try:
            _fill(self._crumb, CRUMB)
        except OSError as e:
            self._crumb.unlink(missing_ok=True)
            log.debug("no room for the agent's own files: %s", e)

    def with_room(self, write: Callable[[], T]) -> T:
        """`write`, again with the crumb's room when the volume is full. Raises what `write` raises in the end."""
        for left in reversed(range(TRIES)):
            try:
                return write()
            except OSError as e:
                if e.errno not in (errno.ENOSPC, errno.EDQUOT) or not left:
                    raise
                self._crumb.unlink(missing_ok=True)
                time.sleep(0.005)  # PostgreSQL may have been faster; what it cannot use it gives back
        raise AssertionError


def _fill(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size != size:
            os.ftruncate(descriptor, 0)
            os.posix_fallocate(descriptor, 0, size)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)

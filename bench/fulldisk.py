"""A volume that runs full under a primary: its free space is taken from outside while a client writes WAL.

PostgreSQL keeps some WAL segments ready, so a full volume alone stops nobody for minutes. What fills disks in practice
is a bulk load; here it is one session that logs a MiB at a time until it is thrown out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from typing import TYPE_CHECKING, Any

from bench.client import CLIENT_ERRORS
from dev.host import DevError

if TYPE_CHECKING:
    from dev.product import Database

BALLAST = "bench-ballast"
LIMIT = 600  # MiB of WAL, after which the session gives up: more than a small cluster keeps ready
_STEP = 1 << 30


def fill(folder: int, name: str = BALLAST) -> int:
    """Takes every free byte of the file system of an open folder into one file; how many there were.

    Halves its step whenever there is not that much, down to one block.
    """
    step, size = _STEP, 0
    file = os.open(name, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=folder)
    try:
        while step >= 4096:
            try:
                os.posix_fallocate(file, size, step)
                size += step
            except OSError as e:
                if e.errno != errno.ENOSPC:
                    raise
                step //= 2
    finally:
        os.close(file)
    return size


class FullDisk:
    """The data volume of a container, reached through its PID 1 (as this machine numbers it)."""

    def __init__(self, pid: int, mount: str, database: Database) -> None:
        # Open from now on: the container may be gone when the space is to be given back.
        try:
            self._folder = os.open(f"/proc/{pid}/root{mount}", os.O_RDONLY | os.O_DIRECTORY)
        except OSError as e:
            raise DevError(f"the volume {mount} of process {pid} is out of reach: {e}") from e
        self._database = database
        self._writer = threading.Thread(target=self._write, daemon=True)

    def fill(self) -> None:
        fill(self._folder)
        self._writer.start()

    def free(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(BALLAST, dir_fd=self._folder)
        os.close(self._folder)
        if self._writer.ident is not None:
            self._writer.join(timeout=30)

    def _write(self) -> None:
        async def load(connection: Any) -> None:
            for _ in range(LIMIT):
                await connection.execute("SELECT pg_logical_emit_message(false, 'bench', repeat('x', 1048576))")

        with contextlib.suppress(OSError, TimeoutError, *CLIENT_ERRORS):
            self._database.run(load, timeout=25)

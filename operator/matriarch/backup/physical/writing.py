"""A file that a restore fills: its name until all is on the disk, and the place of one piece in it."""

from __future__ import annotations

import os
from pathlib import Path

from matriarch.backup.physical import writeback
from matriarch.backup.physical.contents import File
from matriarch.backup.physical.exclude import CONTROL
from matriarch.backup.physical.merge import Span

UNFINISHED = ".restoring"  # ending of pg_control until all else is on the disk


def name(file: File) -> str:
    """Below the directory, while it is filled."""
    return file.path + (UNFINISHED if file.path == CONTROL else "")


def create(root: Path, file: File) -> None:
    os.close(_open(root, file))


class Writer:
    """One piece's place in its file."""

    def __init__(self, root: Path, file: File, where: list[Span]) -> None:
        self.fd = _open(root, file)
        self._where, self._next = where, 0

    def write(self, data: memoryview, position: int) -> None:
        """What of `data`, which is at `position` in the piece, belongs into the file. In the piece's order."""
        end = position + len(data)
        while self._next < len(self._where):
            span = self._where[self._next]
            begin, stop = max(span.at, position), min(span.at + span.size, end)
            if begin < stop:
                self._put(data[begin - position : stop - position], span.offset + begin - span.at)
            if span.at + span.size > end:
                return
            self._next += 1

    def _put(self, data: memoryview, offset: int) -> None:
        while data:
            count = os.pwrite(self.fd, data, offset)
            data, offset = data[count:], offset + count

    def close(self, *, good: bool = True) -> None:
        """Not `good`: it is written once more, so that the disk need not have it yet."""
        if good:
            writeback.begin(self.fd)
        os.close(self.fd)


def _open(root: Path, file: File) -> int:
    return os.open(root / name(file), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, file.mode | 0o600)

"""A number for the rows of a table, from their lines in COPY's text: the same for any order of the same rows.

A dump's own stream is what is summed up, while it passes: no row is read twice for it. Every line is hashed to 64 bits
and the sum of all, in two mixtures, is the table's (docs/backup-format.md has it to the bit). It tells of faults, of
lost, added or changed rows; that nobody altered a backup is what its HMAC says.

native.c does it where it was compiled. Elsewhere numpy does a step for all lines of a block at once, and lets go of the
interpreter's lock for that.
"""

from __future__ import annotations

import ctypes
import hashlib
from typing import Any

import numpy as np

from matriarch.backup.native import NATIVE

LONG = 1024  # bytes of a line; a longer one is hashed by SHA-256, whose first 8 bytes count
BLOCK = 1 << 19  # bytes that are looked at in one go; its vectors take 100 bytes a line, so 50 MiB at the very worst

_MASK = (1 << 64) - 1
_P, _Q, _R = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P64, _Q64 = np.uint64(_P), np.uint64(_Q)
_HALF = np.uint64(32)
_TAIL = np.array([_MASK, *((1 << 8 * k) - 1 for k in range(1, 8))], dtype=np.uint64)  # by size modulo 8
_NEWLINE = 10
_HEAD = b"COPY "
_HEAD_WORD, _FIVE = np.uint64(int.from_bytes(_HEAD, "little")), np.uint64((1 << 40) - 1)
_SLACK = 8  # bytes behind the text that a word's reading may touch

Words = np.ndarray[Any, np.dtype[np.uint64]]


class RowSum:
    """Fed with text in pieces of any size. Holds at most a block, however long a line is."""

    def __init__(self, library: ctypes.CDLL | None = NATIVE) -> None:
        self.rows = 0
        self.heads = 0  # lines that begin as a COPY command does
        self._library = library
        self._low = self._high = 0
        self._buffer = bytearray(BLOCK + _SLACK)
        self._bytes = np.frombuffer(self._buffer, dtype=np.uint8)
        # Every 8 bytes, from every byte on.
        self._words: Words = np.ndarray((BLOCK,), np.dtype("<u8"), self._buffer, 0, (1,))
        self._held = 0  # bytes of a line that has not ended yet
        self._long: Any = None  # of a line that is longer than LONG and has not ended yet

    def update(self, text: bytes | memoryview) -> None:
        view = memoryview(text)
        while view:
            if self._long is not None:
                view = self._go_on(view)
                continue
            part = view[: BLOCK - self._held]
            view = view[len(part) :]
            end = self._held + len(part)
            self._buffer[self._held : end] = part
            self._block(end)

    @property
    def at_line_start(self) -> bool:
        return self._held == 0 and self._long is None

    def digest(self) -> str:
        """32 hex digits. What is held of an unfinished line does not count."""
        return f"{self._low:016x}{self._high:016x}"

    def _go_on(self, view: memoryview) -> memoryview:
        """With a long line; what follows it."""
        at = bytes(view).find(b"\n")
        if at < 0:
            self._long.update(view)
            return view[len(view) :]
        self._long.update(view[:at])
        self._add(np.array([_first(self._long)], dtype=np.uint64))
        self._long = None
        return view[at + 1 :]

    def _block(self, end: int) -> None:
        """All lines of the buffer up to `end`; the rest of it begins the next block, or is a long line's."""
        done = self._vectors(end) if self._library is None else self._compiled(self._library, end)
        left = end - done
        if left > LONG:
            self.heads += self._buffer[done : done + 5] == _HEAD
            self._long = hashlib.sha256(self._buffer[done:end])
            left = 0
        elif done:
            self._buffer[:left] = self._buffer[done:end]
        self._held = left

    def _compiled(self, library: ctypes.CDLL, end: int) -> int:
        sums, count = (ctypes.c_uint64 * 4)(), ctypes.c_size_t()
        longs = (ctypes.c_uint64 * (2 * BLOCK // LONG))()
        address = self._bytes.ctypes.data
        done: int = library.matriarch_rowsum(address, end, sums, longs, ctypes.byref(count))
        self.rows += sums[0]
        self.heads += sums[3]
        self._low = (self._low + sums[1]) & _MASK
        self._high = (self._high + sums[2]) & _MASK
        self._add_long([(longs[2 * n], longs[2 * n + 1]) for n in range(count.value)])
        return done

    def _vectors(self, end: int) -> int:
        ends = np.flatnonzero(self._bytes[:end] == _NEWLINE)
        if not len(ends):
            return 0
        starts = np.empty_like(ends)
        starts[0], starts[1:] = 0, ends[:-1] + 1
        sizes = ends - starts
        self.heads += int(np.count_nonzero((self._words[starts] & _FIVE) == _HEAD_WORD))
        short = sizes <= LONG
        self._add_long(list(zip(starts[~short].tolist(), ends[~short].tolist(), strict=True)))
        if short.any():
            self._add(self._hash(starts[short], sizes[short]))
        return int(ends[-1]) + 1

    def _add_long(self, lines: list[tuple[int, int]]) -> None:
        if lines:
            some = [_first(hashlib.sha256(self._buffer[a:b])) for a, b in lines]
            self._add(np.array(some, dtype=np.uint64))

    def _hash(self, starts: Any, sizes: Any) -> Words:
        """The longest lines come first, so that those which still have a word are always the first ones."""
        counts = (sizes + 7) >> 3
        order = np.argsort(-counts.astype(np.int16), kind="stable")
        starts, sizes, counts = starts[order], sizes[order], counts[order]
        h: Words = (sizes + 1).astype(np.uint64) * _P64
        most = int(counts[0])
        lines = np.searchsorted(-counts, -np.arange(1, most + 1), side="right").tolist()
        tail = _TAIL[sizes & 7]
        for number, count in enumerate(lines):
            word = self._words[starts[:count]]
            starts += 8
            going_on = lines[number + 1] if number + 1 < most else 0
            word[going_on:] &= tail[going_on:count]
            some = h[:count]
            some ^= word
            some *= _P64
            np.right_shift(some, _HALF, out=word)
            some ^= word
            some *= _Q64
        return h

    def _add(self, hashes: Words) -> None:
        self.rows += len(hashes)
        self._low = (self._low + int(_mix(hashes).sum(dtype=np.uint64))) & _MASK
        self._high = (self._high + int(_mix(hashes ^ np.uint64(_R)).sum(dtype=np.uint64))) & _MASK


def _first(sha: Any) -> int:
    return int.from_bytes(sha.digest()[:8], "little")


def _mix(h: Words) -> Words:
    """The end of MurmurHash3 with other factors: every bit of the sum depends on every bit of the line's hash."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


def plain(lines: list[bytes]) -> str:
    """The same by its definition, one line after the other: what the tests compare with, and readers may."""
    low = high = 0
    for line in lines:
        if len(line) > LONG:
            h = _first(hashlib.sha256(line))
        else:
            h = (len(line) + 1) * _P & _MASK
            for at in range(0, len(line), 8):
                h = (h ^ int.from_bytes(line[at : at + 8], "little")) * _P & _MASK
                h = (h ^ h >> 32) * _Q & _MASK
        low += _mix_one(h)
        high += _mix_one(h ^ _R)
    return f"{low & _MASK:016x}{high & _MASK:016x}"


def _mix_one(h: int) -> int:
    h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    h = (h ^ h >> 27) * 0x94D049BB133111EB & _MASK
    return h ^ h >> 31

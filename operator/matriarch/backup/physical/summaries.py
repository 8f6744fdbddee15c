"""PostgreSQL's WAL summaries: which pages of which relations WAL of a certain stretch touches.

A summary is a file in pg_wal/summaries, made by the server with `summarize_wal = on` (17 and later), for the WAL
between two redo points, which is also where backups begin. The files are read, and not asked for by
pg_wal_summary_contents(): that function shows nothing of a relation that was truncated, dropped or made anew and then
not written to, nor of a database that was copied as files. Format: src/common/blkreftable.c of PostgreSQL 17.

Only main forks are taken from them. The free space map is not logged in full, and a truncation of the visibility map
is noted in units of the table's pages, so both forks are compared as a whole (delta.py). Pure, but for two functions.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from matriarch.backup.physical.crc32c import crc32c
from matriarch.decide.chain import Stretch
from matriarch.errors import Unavailable

FOLDER = "pg_wal/summaries"
_MAGIC = 0x652B137B
_NAME = re.compile(r"([0-9A-F]{8})([0-9A-F]{16})([0-9A-F]{16})\.summary")
_ENTRY = struct.Struct("<IIIiII")  # tablespace, database, relation, fork, limit, number of chunks
_CHUNK = 1 << 16  # pages
_BITMAP = _CHUNK // 16  # as many entries as this are the words of a bitmap
_SPARSE = 4096  # page numbers of a chunk that are held as such; more as a bitmap of 8 KiB
_SHARED, _DEFAULT = 1664, 1663  # pg_global, pg_default: there are no other tablespaces in a backup
_MAIN = 0
NO_LIMIT = 0xFFFFFFFF

Pages = npt.NDArray[np.uint32]


def available(pgdata: Path) -> dict[Stretch, Path]:
    """What each summary that is there covers. A server that never made one has no folder."""
    found = {}
    for path in (pgdata / FOLDER).glob("*.summary"):
        if (match := _NAME.fullmatch(path.name)) is not None:
            found[Stretch(int(match[1], 16), int(match[2], 16), int(match[3], 16))] = path
    return found


@dataclass(slots=True)
class Fork:
    """What happened to a relation. `limit`: the fewest pages it had in between; NO_LIMIT: it only grew."""

    limit: int = NO_LIMIT
    _chunks: dict[int, npt.NDArray[np.uint16] | npt.NDArray[np.uint8]] = field(default_factory=dict)

    def mark(self, chunk: int, words: npt.NDArray[np.uint16]) -> None:
        """Touched pages of one chunk, as a summary has them."""
        held = self._chunks.get(chunk)
        bitmap = len(words) >= _BITMAP  # by their number alone a summary tells a bitmap from page numbers
        if not bitmap and (held is None or held.dtype == np.uint16):
            both = np.unique(words) if held is None else np.union1d(held, words)
            if len(both) <= _SPARSE:
                self._chunks[chunk] = both.astype(np.uint16)
                return
        bits = _bits(words) if bitmap else _bits_of(words)
        if held is not None:
            bits |= held if held.dtype == np.uint8 else _bits_of(held)
        self._chunks[chunk] = bits

    def pages(self, first: int, stop: int) -> Pages:
        """Touched pages in [first, stop), ascending."""
        parts = []
        for chunk in range(first // _CHUNK, (stop + _CHUNK - 1) // _CHUNK):
            held = self._chunks.get(chunk)
            if held is None:
                continue
            parts.append(_numbers(held) + np.uint32(chunk * _CHUNK))
        all_of_it = np.concatenate(parts) if parts else np.empty(0, np.uint32)
        return all_of_it[(all_of_it >= first) & (all_of_it < stop)]


def _numbers(held: npt.NDArray[np.uint16] | npt.NDArray[np.uint8]) -> Pages:
    if held.dtype == np.uint16:
        return held.astype(np.uint32)
    return np.flatnonzero(np.unpackbits(held.astype(np.uint8), bitorder="little")).astype(np.uint32)


def _bits(words: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    return words.astype("<u2").view(np.uint8).copy()


def _bits_of(pages: npt.NDArray[np.uint16] | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    flags = np.zeros(_CHUNK, np.uint8)
    flags[pages] = 1
    return np.packbits(flags, bitorder="little")


class Changes:
    """All that some summaries say, together. A page more than really changed does no harm; one less would."""

    def __init__(self) -> None:
        self._forks: dict[tuple[int, int], Fork] = {}
        self._databases: set[int] = set()

    def is_new(self, database: int) -> bool:
        """Whether the database was made, or dropped: all of its files count as new. 0: what all databases share."""
        return database in self._databases

    def of(self, database: int, relation: int) -> Fork | None:
        """None: nothing was written to its main fork."""
        return self._forks.get((database, relation))

    def add(self, data: bytes) -> None:
        """One summary's content. Raises ValueError when it is not whole."""
        if len(data) < 4 + _ENTRY.size + 4 or int.from_bytes(data[:4], "little") != _MAGIC:
            raise ValueError("it does not begin as a WAL summary does")
        if crc32c(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise ValueError("its checksum is wrong")
        at, end = 4, len(data) - 4
        while True:
            if at + _ENTRY.size > end:
                raise ValueError("it ends too early")
            tablespace, database, node, fork, limit, chunks = _ENTRY.unpack_from(data, at)
            at += _ENTRY.size
            if not (tablespace or database or node or fork or limit or chunks):
                break
            at = self._entry(data, at, end, (tablespace, database, node, fork), limit, chunks)
        if at != end:
            raise ValueError("something follows its end")

    def _entry(self, data: bytes, at: int, end: int, name: tuple[int, int, int, int], limit: int, chunks: int) -> int:
        """Take one relation's entry; where the next one begins."""
        tablespace, database, node, fork = name
        if at + 2 * chunks > end:
            raise ValueError("it ends too early")
        sizes = np.frombuffer(data, "<u2", chunks, at)
        at += 2 * chunks
        ours = tablespace in (_SHARED, _DEFAULT) and fork == _MAIN
        held = None
        if ours and node == 0:
            self._databases.add(database)
        elif ours:
            held = self._forks.setdefault((database, node), Fork())
            held.limit = min(held.limit, limit)
        for chunk, size in enumerate(sizes.tolist()):
            if at + 2 * size > end or size > _BITMAP:
                raise ValueError("it ends too early")
            if held is not None and size:
                held.mark(chunk, np.frombuffer(data, "<u2", size, at))
            at += 2 * size
        return at


def read(files: list[Path]) -> Changes:
    """Raises Unavailable when one of them is gone or damaged, without a capital: the reason of a full backup."""
    changes = Changes()
    for path in files:
        try:
            changes.add(path.read_bytes())
        except OSError as error:
            raise Unavailable(f"the WAL summary {path.name} can't be read ({error.strerror})") from error
        except ValueError as error:
            raise Unavailable(f"the WAL summary {path.name} is damaged: {error}") from None
    return changes

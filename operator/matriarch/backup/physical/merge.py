"""A chain of backups as one: from which of them each page of each file comes. The newest one that holds it.

The maps are gone through from the newest to the full one, and every page is given to the first that has it. What is
kept of each map are the pieces that are needed, and a bit for each page of a file that is not complete yet: a restore
then reads packs in any order and in threads, writes every page once, and reads no pack of which nothing is left. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from matriarch.backup.physical.contents import Contents, File, Pack, Piece
from matriarch.backup.physical.objects import Sealing
from matriarch.backup.physical.pages import PAGE

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a piece's bytes go: into `file`, those below `limit` of it, and of its pages those whose bit is set."""

    file: File
    limit: int
    bits: bytes | None = None  # None: all


@dataclass(frozen=True, slots=True)
class Span:
    """`size` bytes at `at` of a piece belong at `offset` of the file."""

    at: int
    size: int
    offset: int


@dataclass(frozen=True, slots=True)
class Source:
    """A pack to be read. `places` by where their piece begins in it; of the other pieces nothing is wanted."""

    sealing: Sealing
    pack: Pack
    pieces: tuple[tuple[File, Piece], ...]
    places: Mapping[int, Place]


def spans(piece: Piece, place: Place) -> list[Span]:
    """What of the piece is written where, in its order."""
    if piece.runs is None and place.bits is None:
        return [Span(0, min(piece.size, place.limit - piece.offset), piece.offset)]
    pages = piece.pages()
    index = np.arange(len(pages))
    if place.bits is not None:
        index = index[_flags(place.bits, len(pages))]
    pages = pages[index]
    breaks = np.flatnonzero((np.diff(index) != 1) | (np.diff(pages) != 1)) + 1
    starts = [0, *breaks.tolist()] if len(index) else []
    found = []
    for start, stop in pairwise([*starts, len(index)]):  # no pair where nothing is wanted
        at, offset = int(index[start]) * PAGE, int(pages[start]) * PAGE
        size = min((stop - start) * PAGE, piece.size - at, place.limit - offset)
        found.append(Span(at, size, offset))
    return found


class _Open:
    """A file that is not complete: of its first `limit` bytes some pages have no source yet."""

    def __init__(self, file: File) -> None:
        self.file, self.limit = file, file.size
        self._bits: bytes | None = None  # pages that have one; None: no page
        self._count = -(-file.size // PAGE)

    def take(self, piece: Piece) -> Place | None:
        """What of the piece is the newest; it has a source from now on."""
        if piece.offset >= self.limit:
            return None
        pages = piece.pages()
        wanted: Flags = pages * PAGE < self.limit
        done = _flags(self._bits, self._count) if self._bits is not None else np.zeros(self._count, np.bool_)
        wanted[wanted] = ~done[pages[wanted]]
        if not wanted.any():
            return None
        done[pages[wanted]] = True
        self._bits = _packed(done)
        return Place(self.file, self.limit, None if wanted.all() else _packed(wanted))

    def inherit(self, limit: int) -> bool:
        """Only the first `limit` bytes go on to the parent. Whether anything is left to look for."""
        self.limit = min(self.limit, limit)
        count = -(-self.limit // PAGE)
        return count > 0 and (self._bits is None or not _flags(self._bits, self._count)[:count].all())


class Merge:
    """Begins with the newest backup's map; `add` it first, then its parent's and so on."""

    def __init__(self, newest: Contents) -> None:
        self._open = {f.path: _Open(f) for f in newest.files}

    @property
    def is_complete(self) -> bool:
        """Nothing is left for the parent."""
        return not self._open

    def add(self, sealing: Sealing, contents: Contents) -> list[Source]:
        """The packs of this backup that are needed. Raises ValueError when it lacks a file that was built on."""
        files = {f.path: f for f in contents.files}
        places: dict[int, dict[int, Place]] = {}
        still = {}
        for path, state in self._open.items():
            file = files.get(path)
            if file is None:
                raise ValueError(f"it has no {path}, of which a later backup holds only what changed")
            for piece in file.pieces:
                if (place := state.take(piece)) is not None:
                    places.setdefault(piece.pack, {})[piece.at] = place
            if state.inherit(file.inherits):
                still[path] = state
        self._open = still
        by_pack = contents.by_pack()
        return [Source(sealing, contents.packs[n], by_pack[n], places[n]) for n in sorted(places)]


def everything(sealing: Sealing, contents: Contents) -> list[Source]:
    """All packs of one backup, to be read and written nowhere."""
    by_pack = contents.by_pack()
    return [Source(sealing, pack, by_pack.get(n, ()), {}) for n, pack in enumerate(contents.packs)]


def _packed(flags: Flags) -> bytes:
    return np.packbits(flags).tobytes()


def _flags(bits: bytes, count: int) -> Flags:
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=count).astype(np.bool_)

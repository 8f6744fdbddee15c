"""The map: every file of a physical backup and where its bytes lie. Stored as an object beside the packs, before the
manifest, which names the map by its digest. Sizes and offsets in bytes, times in seconds. Pure.

An incremental backup's map is of version 2: its files may inherit from the same file of the parent, and a piece may
hold pages that do not follow each other. Full ones stay at version 1, so that older programs read them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from matriarch.backup.format import canonical
from matriarch.backup.jobspec import Reason
from matriarch.backup.jsonclass import LEFT_OUT, decode, encode
from matriarch.backup.physical.exclude import CONTROL
from matriarch.backup.physical.pages import PAGE
from matriarch.errors import Corrupt

VERSION, INCREMENTAL = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a file: `size` bytes at `at` of the pack's plain bytes belong at `offset` of the file.

    With `runs` it is pages, one after the other, from several places, the first of which is at `offset`: pairs of how
    many pages to pass and how many follow, counted from `offset`, in decimal with spaces between.
    """

    pack: int
    at: int
    offset: int
    size: int
    sha256: str
    runs: str | None = field(default=None, metadata=LEFT_OUT)

    def pages(self) -> npt.NDArray[np.int64]:
        """The number of each page within the file. Raises ValueError for runs that can't be."""
        first, count = self.offset // PAGE, -(-self.size // PAGE)
        if self.runs is None:
            return np.arange(first, first + count)
        return first + unpack(self.runs, count)

    @property
    def end(self) -> int:
        """Behind its last byte in the file."""
        if self.runs is None:
            return self.offset + self.size
        return int(self.pages()[-1]) * PAGE + (self.size - 1) % PAGE + 1


def pack_runs(pages: npt.NDArray[np.uint32]) -> str | None:
    """Ascending page numbers as a piece's `runs`; None when they follow each other."""
    breaks = np.flatnonzero(np.diff(pages) != 1) + 1
    if not len(breaks):
        return None
    starts = np.concatenate(([0], breaks))
    lengths = np.diff(np.concatenate((starts, [len(pages)])))
    begins = pages[starts].astype(np.int64) - int(pages[0])
    gaps = begins - np.concatenate(([0], (begins + lengths)[:-1]))
    return " ".join(map(str, np.column_stack((gaps, lengths)).ravel().tolist()))


def unpack(runs: str, count: int) -> npt.NDArray[np.int64]:
    """The `count` page numbers in `runs`, from 0. Raises ValueError."""
    numbers = [int(word) for word in runs.split(" ")]
    gaps, lengths = numbers[0::2], numbers[1::2]
    # Bounded before anything is laid out: a number may be as long as whoever wrote it liked.
    fits = len(gaps) == len(lengths) and sum(lengths) == count and max(gaps) < 1 << 32
    if not fits or gaps[0] != 0 or min(gaps[1:], default=1) < 1 or min(lengths) < 1:
        raise ValueError("its pages do not follow each other")
    begins = np.cumsum(np.array(gaps) + np.array([0, *lengths[:-1]]))
    return np.repeat(begins - np.cumsum([0, *lengths[:-1]]), lengths) + np.arange(count)


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """`pieces` by offset. What none of them covers was dropped while it was read: zeros, which replay puts right.

    But what they leave of the first `inherits` bytes is as in the same file of the parent. `sha256` is of all of it,
    where all is inherited and the next backup has to compare.
    """

    path: str
    size: int
    mtime: int
    mode: int
    pieces: tuple[Piece, ...]
    inherits: int = field(default=0, metadata=LEFT_OUT)
    sha256: str | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    path: str
    mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """A data object. `size` is of the files' bytes in it."""

    path: str
    object_id: str | None
    stored_size: int
    stored_sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    version: int
    backup: str
    directories: tuple[Directory, ...]
    files: tuple[File, ...]
    packs: tuple[Pack, ...]
    bad_pages: tuple[str, ...]

    @property
    def size(self) -> int:
        return sum(p.size for p in self.packs)

    @property
    def whole_size(self) -> int:
        """Of all files as a restore lays them down."""
        return sum(f.size for f in self.files)

    def to_json(self) -> bytes:
        return canonical(encode(self))

    @classmethod
    def from_json(cls, text: bytes, *, backup: str) -> Self:
        """Raises Corrupt (ManifestCorrupt) for whatever no backup of ours contains."""
        try:
            found = decode(cls, json.loads(text))
            found.check(backup)
        except ValueError as error:
            raise Corrupt(f"The map of backup {backup} can't be: {error}.", reason=Reason.MANIFEST_CORRUPT) from None
        return found

    def check(self, backup: str) -> None:
        """Raises ValueError: a restore follows the map blindly, so that nothing in it may lead out of its folder."""
        if self.version not in (VERSION, INCREMENTAL) or self.backup != backup:
            raise ValueError(f"it is version {self.version} of backup {self.backup}")
        folders = {d.path for d in self.directories}
        seen: set[str] = set()
        for path in (*(d.path for d in self.directories), *(f.path for f in self.files)):
            parts = path.split("/")
            if path in seen or any(p in ("", ".", "..") or "\0" in p for p in parts):
                raise ValueError(f"{path!r} is no path, or is there twice")
            if len(parts) > 1 and "/".join(parts[:-1]) not in folders:
                raise ValueError(f"{path!r} lies in a folder that is not there")
            seen.add(path)
        for file in self.files:
            end = 0
            for piece in file.pieces:
                if piece.offset < end or piece.size <= 0 or (piece.runs is not None and piece.offset % PAGE):
                    raise ValueError(f"the pieces of {file.path} do not follow each other")
                end = piece.end
            if end > file.size:
                raise ValueError(f"the pieces of {file.path} are longer than it is")
            if not 0 <= file.inherits <= file.size or (file.inherits and self.version == VERSION):
                raise ValueError(f"{file.path} inherits what it can't")
        by_pack = self.by_pack()
        for number, pack in enumerate(self.packs):
            at = 0
            for _, piece in by_pack.get(number, ()):
                if piece.at != at:
                    raise ValueError(f"the pieces in {pack.path} do not follow each other")
                at += piece.size
            if at != pack.size:
                raise ValueError(f"{pack.path} has {pack.size} bytes, its pieces have {at}")
        if by_pack.keys() - set(range(len(self.packs))):
            raise ValueError("a piece lies in a pack that is not there")
        if {CONTROL, "backup_label", "PG_VERSION"} - {f.path for f in self.files}:
            raise ValueError("pg_control, PG_VERSION or backup_label is missing")

    def by_pack(self) -> Mapping[int, tuple[tuple[File, Piece], ...]]:
        """The pieces of each pack in their order."""
        found: dict[int, list[tuple[File, Piece]]] = {}
        for file in self.files:
            for piece in file.pieces:
                found.setdefault(piece.pack, []).append((file, piece))
        return {number: tuple(sorted(some, key=lambda fp: fp[1].at)) for number, some in found.items()}

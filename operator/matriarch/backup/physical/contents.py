"""The map: every file of a physical backup and where its bytes lie. Stored as an object beside the packs, before the
manifest, which names the map by its digest. Sizes and offsets in bytes, times in seconds. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from matriarch.backup.format import canonical
from matriarch.backup.jobspec import Reason
from matriarch.backup.jsonclass import decode, encode
from matriarch.backup.physical.exclude import CONTROL
from matriarch.errors import Corrupt

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a file: `size` bytes at `at` of the pack's plain bytes belong at `offset` of the file."""

    pack: int
    at: int
    offset: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """`pieces` by offset. What none of them covers was dropped while it was read: zeros, which replay puts right."""

    path: str
    size: int
    mtime: int
    mode: int
    pieces: tuple[Piece, ...]


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
        if self.version != VERSION or self.backup != backup:
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
                if piece.offset < end or piece.size <= 0:
                    raise ValueError(f"the pieces of {file.path} do not follow each other")
                end = piece.offset + piece.size
            if end > file.size:
                raise ValueError(f"the pieces of {file.path} are longer than it is")
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

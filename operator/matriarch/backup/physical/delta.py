"""What an incremental backup takes of each file: pages of relations that changed, other files whole when they changed.

A page counts as changed when a WAL summary names it, and nothing else does:
- its LSN would not do, for pages that PostgreSQL copies without WAL of their own (CREATE DATABASE by files, extension
  by zeros, a relation that was dropped and whose file number was taken again) may carry an old one;
- comparing hashes of pages would mean to read all of them, and to keep as many hashes;
- hint bits without WAL, on a server without checksums, are missed: PostgreSQL sets them again, and a page that was
  torn by one is sound either way. With checksums PostgreSQL logs the page first;
- whatever was written since the parent began is in a summary, so pages that the parent read half written are read anew.

Whole files go by their SHA-256: times and sizes lie. All of it is safe only within a system's one line of WAL, which
`decide/chain.py` sees to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from matriarch.backup.physical.contents import Contents, File
from matriarch.backup.physical.exclude import is_logged, relation
from matriarch.backup.physical.objects import FRAME
from matriarch.backup.physical.pages import PAGE
from matriarch.backup.physical.plan import PACK, Found, Stretch
from matriarch.backup.physical.summaries import Changes, Pages

_NEARLY = 0.9  # of a file's pages: then all of it


@dataclass(frozen=True, slots=True)
class Known:
    """A file as the parent has it. `sha256` None: not known, or a relation's."""

    size: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Delta:
    """Read `pages` (numbers within the file); of the first `inherits` bytes the rest is the parent's."""

    file: Found
    pages: Pages
    inherits: int


def known_files(parent: Contents) -> dict[str, Known]:
    return {f.path: Known(f.size, _digest(f)) for f in parent.files}


def _digest(file: File) -> str | None:
    if file.sha256 is not None:
        return file.sha256
    if len(file.pieces) == 1 and file.pieces[0].size == file.size and not file.inherits:
        return file.pieces[0].sha256
    return None


def of_relation(found: Found, known: Mapping[str, Known], changes: Changes, segment_blocks: int) -> Delta | None:
    """The pages to read of a relation's file; None: all of it, or it is none whose pages are logged. Pure.

    What lies behind the fewest pages that the relation had meanwhile, or behind the parent's end of the file, is read
    whether a summary names it or not: the parent's page of that number is another one.
    """
    part = relation(found.path)
    before = known.get(found.path)
    if part is None or not is_logged(found.path) or before is None or found.size % PAGE or before.size % PAGE:
        return None
    folder = found.path.split("/")
    database = 0 if folder[0] == "global" else int(folder[1])
    if changes.is_new(database):
        return None
    first, total = part.segment * segment_blocks, found.size // PAGE
    if total > segment_blocks:
        return None
    kept = min(total, before.size // PAGE)
    touched: Pages = np.empty(0, np.uint32)
    if (fork := changes.of(database, int(part.node))) is not None:
        kept = min(kept, max(0, fork.limit - first))
        touched = fork.pages(first, first + kept) - np.uint32(first)
    pages = np.concatenate((touched, np.arange(kept, total, dtype=np.uint32)))
    if not kept or len(pages) > _NEARLY * total:
        return None
    return Delta(found, pages, kept * PAGE)


def unchanged(
    root: Path, files: Iterable[Found], known: Mapping[str, Known], check: Callable[[], None]
) -> dict[str, Known]:
    """Those of `files` whose content is the parent's, by reading them."""
    same = {}
    for file in files:
        check()
        before = known.get(file.path)
        if before is None or before.sha256 is None or before.size != file.size or not file.size:
            continue
        if _sha256(root / file.path, file.size) == before.sha256:
            same[file.path] = before
    return same


def _sha256(path: Path, size: int) -> str | None:
    digest, buffer, done = hashlib.sha256(), memoryview(bytearray(min(FRAME, size))), 0
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
                done += count
                if done > size:
                    return None
    except FileNotFoundError:
        return None
    return digest.hexdigest() if done == size else None


def cut(deltas: Iterable[Delta], limit: int = PACK) -> Iterator[tuple[Stretch, ...]]:
    """Every page of every delta once, in objects of at most `limit` bytes, a multiple of the page size. Pure."""
    held: list[Stretch] = []
    room = limit // PAGE
    for delta in deltas:
        pages = delta.pages
        while len(pages):
            some, pages = pages[:room], pages[room:]
            held.append(Stretch(delta.file, int(some[0]) * PAGE, len(some) * PAGE, some))
            room -= len(some)
            if not room:
                yield tuple(held)
                held, room = [], limit // PAGE
    if held:
        yield tuple(held)

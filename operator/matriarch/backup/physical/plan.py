"""Which object each file goes into: small files together, big ones in segments, every object of about the same size.

The files in their order are cut every `PACK` bytes; a file that crosses a cut lies in more than one object, so that all
workers have the same to do whatever the sizes are. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

PACK = 64 << 20  # bytes of files in one object


@dataclass(frozen=True, slots=True)
class Found:
    """A file as the walk met it. `mtime` in seconds, `mode` the permission bits."""

    path: str
    size: int
    mtime: int
    mode: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a file for one object; `length` None: as much as there is when it is read (the file is whole in it).

    With `pages` (numbers within the file, ascending) it is these alone, and `length` is what they have together.
    """

    file: Found
    offset: int
    length: int | None
    pages: npt.NDArray[np.uint32] | None = field(default=None, compare=False)


def packs(files: Iterable[Found], limit: int = PACK) -> Iterator[tuple[Stretch, ...]]:
    """Every byte of every file once, in objects of at most `limit` bytes; a file is only cut when it has to be.

    `limit` has to be a multiple of the page size, so that no page is cut.
    """
    held: list[Stretch] = []
    room = limit
    for file in files:
        if file.size <= limit:
            if file.size > room:
                yield tuple(held)
                held, room = [], limit
            held.append(Stretch(file, 0, None))
            room -= file.size
            continue
        if held:
            yield tuple(held)
            held, room = [], limit
        whole = file.size // limit * limit
        for offset in range(0, whole, limit):
            yield (Stretch(file, offset, limit),)
        if file.size > whole:
            held, room = [Stretch(file, whole, file.size - whole)], limit - (file.size - whole)
    if held:
        yield tuple(held)

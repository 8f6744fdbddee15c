"""Stretches of files into one pack: read in place, pages checked, digested, handed on frame by frame.

A frame is filled straight from the files, big or small, and looked at as a whole: the page check costs the same for
one page as for a hundred. So relations come before other files (`order`), which would push pages out of step.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from matriarch.backup.physical.contents import Piece, pack_runs
from matriarch.backup.physical.exclude import relation
from matriarch.backup.physical.objects import FRAME
from matriarch.backup.physical.pages import PAGE, check
from matriarch.backup.physical.plan import Found, Stretch

_LOOKS = 5  # at a page before it is called bad: the server may be writing it
_PAUSE = 0.02  # seconds between them; a write of 8 KiB takes far less


class Sink(Protocol):
    def write(self, frame: memoryview) -> None: ...


@dataclass(frozen=True, slots=True)
class PageRule:
    """How pages are judged; None in its place: the server has no checksums."""

    start_lsn: int
    segment_blocks: int  # pages in one file of a relation


@dataclass(slots=True)
class PageFindings:
    pages: int = 0
    bad: list[str] = field(default_factory=list)
    newest: int = 0  # the highest LSN that exempted a page
    newest_in: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """What was read of one file. `size` 0: there was nothing, or no longer."""

    file: Found
    piece: Piece


@dataclass(slots=True)
class _Growing:
    stretch: Stretch
    at: int
    digest: Any = field(default_factory=hashlib.sha256)
    size: int = 0


@dataclass(frozen=True, slots=True)
class _Span:
    """A part of the frame: where it came from."""

    growing: _Growing
    start: int
    size: int
    position: int  # in the file
    block: int  # of its first page, -1: not checked


def _runs(fd: int, stretch: Stretch) -> Iterator[tuple[int, int]]:
    """Offset and length of what is to be read."""
    if stretch.pages is None:
        yield stretch.offset, os.fstat(fd).st_size if stretch.length is None else stretch.length
        return
    begin = last = int(stretch.pages[0])
    for page in stretch.pages[1:].tolist():
        if page != last + 1:
            yield begin * PAGE, (last + 1 - begin) * PAGE
            begin = page
        last = page
    yield begin * PAGE, (last + 1 - begin) * PAGE


def order(file: Found) -> tuple[bool, str]:
    return relation(file.path) is None, file.path


class PackReader:
    """One for each worker: its buffer is used again for every pack."""

    def __init__(self, root: Path, rule: PageRule | None, progress: Callable[[int], None]) -> None:
        self._root, self._rule, self._progress = root, rule, progress
        self._frame = memoryview(bytearray(FRAME))
        self._fill = 0
        self._spans: list[_Span] = []
        self.findings = PageFindings()

    def read(self, number: int, stretches: tuple[Stretch, ...], sink: Sink) -> list[Part]:
        """All stretches into `sink`, as pack `number`. Files that are gone, and ends that were cut off, are passed."""
        self._fill, self._spans = 0, []
        parts, at = [], 0
        for stretch in stretches:
            growing = _Growing(stretch, at)
            try:
                fd = os.open(self._root / stretch.file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue  # dropped since; replay drops it again
            try:
                at += self._read_one(fd, growing, sink)
            finally:
                os.close(fd)
            parts.append((stretch, growing))
        self._flush(sink)
        return [
            Part(
                s.file,
                Piece(
                    pack=number,
                    at=g.at,
                    offset=s.offset,
                    size=g.size,
                    sha256=g.digest.hexdigest(),
                    runs=None if s.pages is None or not g.size else pack_runs(s.pages[: -(-g.size // PAGE)]),
                ),
            )
            for s, g in parts
        ]

    def _read_one(self, fd: int, growing: _Growing, sink: Sink) -> int:
        stretch = growing.stretch
        part = relation(stretch.file.path) if self._rule is not None else None
        first = part.segment * self._rule.segment_blocks if part is not None and self._rule is not None else -1
        if part is not None and self._fill % PAGE:
            self._flush(sink)
        total = 0
        for begin, length in _runs(fd, stretch):
            position, left = begin, length
            while left:
                if self._fill == FRAME:
                    self._flush(sink)
                room = self._frame[self._fill : self._fill + min(left, FRAME - self._fill)]
                count = os.preadv(fd, [room], position)
                if not count:
                    return total  # it was truncated
                block = first + position // PAGE if part is not None and position % PAGE == 0 else -1
                self._spans.append(_Span(growing, self._fill, count, position, block))
                self._fill += count
                position += count
                total += count
                left -= count
        return total

    def _flush(self, sink: Sink) -> None:
        if not self._fill:
            return
        if self._rule is not None:
            self._check_pages(self._rule)
        for span in self._spans:
            span.growing.digest.update(self._frame[span.start : span.start + span.size])
            span.growing.size += span.size
        sink.write(self._frame[: self._fill])
        self._progress(self._fill)
        self._fill, self._spans = 0, []

    def _check_pages(self, rule: PageRule) -> None:
        """All whole pages of the frame at once."""
        blocks = [-1] * (self._fill // PAGE)
        owner: dict[int, _Span] = {}
        for span in self._spans:
            if span.block >= 0 and span.start % PAGE == 0:
                for n in range(span.size // PAGE):
                    blocks[span.start // PAGE + n] = span.block + n
                    owner[span.start // PAGE + n] = span
        if not owner:
            return
        found = check(self._frame[: len(blocks) * PAGE], blocks, rule.start_lsn)
        self.findings.pages += found.pages
        if found.newest > self.findings.newest:
            self.findings.newest = found.newest
            self.findings.newest_in = owner[next(iter(owner))].growing.stretch.file.path
        for index in found.bad:
            self._look_again(index, blocks[index], owner[index], rule)

    def _look_again(self, index: int, block: int, span: _Span, rule: PageRule) -> None:
        """Read the page until it is good; what was read last is what the backup gets."""
        page = self._frame[index * PAGE : (index + 1) * PAGE]
        position = span.position + index * PAGE - span.start
        path = span.growing.stretch.file.path
        for _ in range(_LOOKS):
            time.sleep(_PAUSE)
            fresh = bytearray(PAGE)
            try:
                with (self._root / path).open("rb", buffering=0) as file:
                    if os.preadv(file.fileno(), [fresh], position) != PAGE:
                        return  # truncated since: replay does it again
            except FileNotFoundError:
                return
            page[:] = fresh
            if not check(page, [block], rule.start_lsn).bad:
                return
        self.findings.bad.append(f"{path} block {block}")

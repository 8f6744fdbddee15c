"""What a restore takes from another data directory, on files alone: only what is the same, and that as it was read."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.backup.physical.contents import File, Pack, Piece, pack_runs
from matriarch.backup.physical.merge import Place, Source, Span, spans
from matriarch.backup.physical.objects import Sealing
from matriarch.backup.physical.pages import PAGE
from matriarch.backup.physical.reuse import CLONE, opened, parts, refuse, take
from matriarch.backup.physical.writing import Writer
from matriarch.errors import Refused

SEALING = Sealing(backup_id="x", origin=None, dek=None, encryption=None)  # type: ignore[arg-type]  # nothing is opened
FOLDER, FIRST, SECOND = "base/5", "base/5/16384", "base/5/16385"
CONTENT = {FIRST: random.Random(1).randbytes(400 * PAGE), SECOND: random.Random(2).randbytes(3 * PAGE + 100)}
UNTOUCHED = b"\xee"


def a_file(path: str) -> File:
    return File(path=path, size=len(CONTENT[path]), mtime=1, mode=0o600, pieces=())


def a_piece(path: str, pages: list[int], at: int = 0) -> Piece:
    some = b"".join(CONTENT[path][p * PAGE : (p + 1) * PAGE] for p in pages)
    return Piece(
        pack=0, at=at, offset=pages[0] * PAGE, size=len(some), sha256=hashlib.sha256(some).hexdigest(),
        runs=pack_runs(np.array(pages, np.uint32)),
    )  # fmt: skip


def bits(wanted: list[bool]) -> bytes:
    return np.packbits(np.array(wanted)).tobytes()


class Bed:
    """An old directory with the files as they were, and a new one whose files are full of other bytes."""

    def __init__(self, folder: Path) -> None:
        self.old, self.new = folder / "old", folder / "new"
        for root in (self.old, self.new):
            (root / FOLDER).mkdir(parents=True)
        for path, content in CONTENT.items():
            (self.old / path).write_bytes(content)
            (self.new / path).write_bytes(UNTOUCHED * len(content))

    def source(self, *pieces: tuple[str, list[int], list[bool] | None]) -> Source:
        """`pieces`: file, pages, and which of them are wanted: None all, an empty list none."""
        some, places, at = list[tuple[File, Piece]](), dict[int, Place](), 0
        for path, pages, wanted in pieces:
            file, piece = a_file(path), a_piece(path, pages, at)
            some.append((file, piece))
            if wanted is None or wanted:
                places[at] = Place(file, file.size, None if wanted is None else bits(wanted))
            at += piece.size
        return Source(
            SEALING, Pack(path="p", object_id=None, stored_size=1, stored_sha256="", size=at), tuple(some), places
        )

    def take(self, source: Source, check: Callable[[], None] = lambda: None) -> int | None:
        def writer(piece: Piece, place: Place) -> Writer:
            return Writer(self.new, place.file, spans(piece, place))

        with opened(self.old) as old:
            assert old is not None
            return take(old, source, writer, check)

    def both(self) -> Source:
        return self.source((FIRST, list(range(400)), None), (SECOND, list(range(4)), None))

    def laid(self, path: str) -> bytes:
        return (self.new / path).read_bytes()


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path)


def test_all_of_a_pack(bed: Bed) -> None:
    assert bed.take(bed.both()) == sum(map(len, CONTENT.values()))
    assert {path: bed.laid(path) for path in CONTENT} == CONTENT


def test_of_a_piece_only_what_is_wanted_is_written(bed: Bed) -> None:
    pages = [3, 4, 5, 9, 200, 399]
    taken = bed.take(bed.source((FIRST, pages, [False, True, True, False, True, False]), (SECOND, [0, 1], [])))
    expected = bytearray(UNTOUCHED * len(CONTENT[FIRST]))
    for page in (4, 5, 200):
        expected[page * PAGE : (page + 1) * PAGE] = CONTENT[FIRST][page * PAGE : (page + 1) * PAGE]
    assert taken == 3 * PAGE
    assert bed.laid(FIRST) == expected
    assert bed.laid(SECOND) == UNTOUCHED * len(CONTENT[SECOND])


def test_what_nobody_wants_may_differ(bed: Bed) -> None:
    (bed.old / SECOND).write_bytes(b"")
    assert bed.take(bed.source((FIRST, [1, 2], None), (SECOND, [0, 1], []))) == 2 * PAGE


def test_a_file_that_grew_since(bed: Bed) -> None:
    with (bed.old / FIRST).open("ab") as file:
        file.write(b"more")
    assert bed.take(bed.both()) == sum(map(len, CONTENT.values()))
    assert bed.laid(FIRST) == CONTENT[FIRST]


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def behind_a_link(bed: Bed) -> None:
    """All is the same, elsewhere."""
    (bed.old / FOLDER).rename(bed.old / "elsewhere")
    (bed.old / FOLDER).symlink_to("../elsewhere")


def linked(bed: Bed) -> None:
    (bed.old / FIRST).rename(bed.old / "elsewhere")
    (bed.old / FIRST).symlink_to("../../elsewhere")


def replaced(make: Callable[[Path], object]) -> Callable[[Bed], None]:
    def damage(bed: Bed) -> None:
        (bed.old / SECOND).unlink()
        make(bed.old / SECOND)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda b: flip(b.old / FIRST, 0), id="the first byte"),
        pytest.param(lambda b: flip(b.old / FIRST, 400 * PAGE - 1), id="the last byte"),
        pytest.param(lambda b: flip(b.old / SECOND, 3 * PAGE + 99), id="the last byte of all"),
        pytest.param(lambda b: os.truncate(b.old / FIRST, 400 * PAGE - 1), id="cut by one byte"),
        pytest.param(lambda b: os.truncate(b.old / SECOND, 0), id="empty"),
        pytest.param(lambda b: (b.old / SECOND).unlink(), id="gone"),
        pytest.param(lambda b: (b.old / FOLDER).rename(b.old / "gone"), id="the folder gone"),
        pytest.param(linked, id="a symbolic link"),
        pytest.param(behind_a_link, id="a folder that is a symbolic link"),
        pytest.param(replaced(os.mkfifo), id="a pipe"),
        pytest.param(replaced(Path.mkdir), id="a folder"),
    ],
)
def test_what_is_not_the_same_is_fetched(bed: Bed, damage: Callable[[Bed], None]) -> None:
    damage(bed)
    assert bed.take(bed.both()) is None


def test_after_the_first_piece_that_differs_nothing_is_read(bed: Bed) -> None:
    flip(bed.old / SECOND, 0)
    source = bed.source((SECOND, list(range(4)), None), (FIRST, list(range(400)), None))
    assert bed.take(source) is None
    assert bed.laid(FIRST) == UNTOUCHED * len(CONTENT[FIRST])


def test_what_is_behind_the_end_is_seen_before_anything_is_written(bed: Bed) -> None:
    os.truncate(bed.old / SECOND, PAGE)
    assert bed.take(bed.both()) is None
    assert bed.laid(FIRST) == UNTOUCHED * len(CONTENT[FIRST])


def test_a_directory_that_changes_after_it_was_read(bed: Bed) -> None:
    """What was compared is what is written, whatever the file holds by then."""

    def scribble() -> None:
        with (bed.old / FIRST).open("r+b") as file:
            file.write(b"\xaa" * PAGE)

    assert bed.take(bed.source((FIRST, list(range(400)), None)), scribble) == 400 * PAGE
    assert (bed.old / FIRST).read_bytes() != CONTENT[FIRST]
    assert bed.laid(FIRST) == CONTENT[FIRST]


def test_a_directory_that_changes_before_it_is_read(bed: Bed) -> None:
    def scribble() -> None:
        with (bed.old / FIRST).open("r+b") as file:
            file.seek(399 * PAGE)
            file.write(b"\xaa" * PAGE)

    assert bed.take(bed.source((FIRST, list(range(400)), None)), scribble) is None


def test_a_file_that_shrinks_while_it_is_read(bed: Bed) -> None:
    whole = bed.source((FIRST, list(range(400)), None))
    assert bed.take(whole, lambda: os.truncate(bed.old / FIRST, PAGE)) is None


def test_whoever_ends_the_restore_ends_this(bed: Bed) -> None:
    def end() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bed.take(bed.both(), end)


def test_an_error_of_the_new_directory_is_one_of_the_restore(bed: Bed) -> None:
    (bed.new / FIRST).unlink()
    (bed.new / FOLDER).rename(bed.new / "gone")
    with pytest.raises(FileNotFoundError):
        bed.take(bed.both())


def test_a_directory_that_went_away(bed: Bed) -> None:
    with opened(None) as none, opened(bed.old / "gone") as gone:
        assert none is None
        assert gone is None


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("data", "data", "both read and filled"),
        ("data", "data/new", "both read and filled"),
        ("data/base", "data", "both read and filled"),
        ("link", "data/new", "both read and filled"),
        ("data/../data", "link/new", "both read and filled"),
        ("gone", "new", "No such file"),
        ("data/PG_VERSION", "new", "Not a directory"),
        ("data", "database", None),
        ("link", "new", None),
    ],
)
def test_which_directory_can_be_read(tmp_path: Path, old: str, new: str, word: str | None) -> None:
    (tmp_path / "data" / "base").mkdir(parents=True)
    (tmp_path / "data" / "PG_VERSION").write_text("17")
    (tmp_path / "link").symlink_to("data")
    if word is None:
        refuse(tmp_path / old, tmp_path / new)
        return
    with pytest.raises(Refused, match=word):
        refuse(tmp_path / old, tmp_path / new)


@given(
    st.sets(st.integers(0, 399), min_size=1),
    st.integers(0, 399),
    st.sampled_from([512, 4096, PAGE, 1 << 16, 1 << 20]),
    st.data(),
)
def test_parts_are_all_of_a_piece_in_its_order(drawn: set[int], gap: int, block: int, data: st.DataObject) -> None:
    # Pages that follow each other are what is shared: some from a stretch, others from anywhere.
    pages = sorted(drawn | set(range(gap, min(400, gap + 150))))
    piece, file = a_piece(FIRST, pages), a_file(FIRST)
    wanted = data.draw(st.one_of(st.none(), st.lists(st.booleans(), min_size=len(pages), max_size=len(pages))))
    limit = data.draw(st.one_of(st.just(file.size), st.integers(pages[0] * PAGE + 1, file.size)))
    place = Place(file, limit, None if wanted is None or limit < file.size else bits(wanted))
    at = 0
    found = list(parts(piece, place, block))
    for part in found:
        span = part.span
        assert span.at == at
        assert span.size > 0
        first, last = span.at // PAGE, (span.at + span.size - 1) // PAGE
        assert pages[last] - pages[first] == last - first
        assert span.offset == pages[first] * PAGE + span.at % PAGE
        at += span.size
        if part.clone:
            assert span.size >= CLONE
            assert span.offset % block == span.size % block == 0
    assert at == piece.size
    if any(part.clone for part in found):
        assert sum(span.size for span in spans(piece, place)) == piece.size


def test_a_long_stretch_is_shared_but_for_its_ends() -> None:
    piece = Piece(pack=0, at=0, offset=100, size=400 * PAGE, sha256="")
    place = Place(a_file(FIRST), 500 * PAGE)
    assert [(p.span, p.clone) for p in parts(piece, place, 4096)] == [
        (Span(0, 3996, 100), False),
        (Span(3996, 799 * 4096, 4096), True),
        (Span(3996 + 799 * 4096, 100, 800 * 4096), False),
    ]

"""The pure parts of incremental backups: summaries as PostgreSQL writes them, pages to read, chains put together."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matriarch.backup.physical.contents import Contents, Directory, File, Pack, Piece, pack_runs, unpack
from matriarch.backup.physical.crc32c import _plain, crc32c
from matriarch.backup.physical.delta import Delta, Known, cut, of_relation
from matriarch.backup.physical.merge import Merge, Place, spans
from matriarch.backup.physical.objects import Sealing
from matriarch.backup.physical.pages import PAGE
from matriarch.backup.physical.plan import Found
from matriarch.backup.physical.summaries import NO_LIMIT, Changes
from matriarch.errors import Corrupt

SEGMENT = 131072  # pages


def test_crc32c() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720's check value
    data = bytes(n * n % 251 for n in range(300_001))
    for size in (0, 1, 8191, 8192, 8193, 65_537, 300_001):
        assert crc32c(data[:size]) == _plain(data[:size])


Entry = tuple[int, int, int, int, int, set[int]]  # tablespace, database, relation, fork, limit, pages


def summary(entries: Iterable[Entry]) -> bytes:
    """As blkreftable.c writes it: a chunk of many pages as a bitmap, of few as an array."""
    text = struct.pack("<I", 0x652B137B)
    for space, database, node, fork, limit, pages in sorted(entries):
        chunks: dict[int, list[int]] = {}
        for page in pages:
            chunks.setdefault(page >> 16, []).append(page & 0xFFFF)
        count = max(chunks, default=-1) + 1
        parts = []
        for n in range(count):
            some = chunks.get(n, [])
            if len(some) < 4096:
                parts.append(np.array(some, "<u2"))
            else:
                flags = np.zeros(1 << 16, np.uint8)
                flags[some] = 1
                parts.append(np.packbits(flags, bitorder="little").view("<u2"))
        text += struct.pack("<IIIiII", space, database, node, fork, limit, count)
        text += np.array([len(p) for p in parts], "<u2").tobytes() + b"".join(p.tobytes() for p in parts)
    text += bytes(24)
    return text + struct.pack("<I", crc32c(text))


page_sets = st.one_of(
    st.sets(st.integers(0, 200_000), max_size=20),
    st.builds(lambda a, n, step: set(range(a, a + n * step, step)), st.integers(0, 100_000), st.integers(0, 9000),
              st.integers(1, 3)),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(page_sets, min_size=1, max_size=4), st.integers(0, 150_000), st.integers(1, 150_000))
def test_changes_are_all_that_any_summary_says(touched: list[set[int]], first: int, length: int) -> None:
    changes = Changes()
    for pages in touched:
        changes.add(summary([(1663, 5, 16384, 0, NO_LIMIT, pages), (1663, 5, 16384, 2, NO_LIMIT, {7})]))
    fork = changes.of(5, 16384)
    assert fork is not None
    wanted = {p for pages in touched for p in pages if first <= p < first + length}
    assert fork.pages(first, first + length).tolist() == sorted(wanted)
    assert changes.of(5, 16385) is None
    assert not changes.is_new(5)


@pytest.mark.parametrize("extra", [0, 1, 2, 5000])
@pytest.mark.parametrize("first", [1, 4000, 4095, 5000])
def test_pages_that_are_many_only_together(first: int, extra: int) -> None:
    """The page numbers of several summaries become a bitmap when together they are more than a bitmap's words."""
    changes = Changes()
    there: set[int] = set()
    for pages in (set(range(first)), set(range(2048, 6143 + extra)), {9, 65_535}):
        changes.add(summary([(1663, 5, 16384, 0, NO_LIMIT, pages)]))
        there |= pages
    fork = changes.of(5, 16384)
    assert fork is not None
    assert fork.pages(0, 65_536).tolist() == sorted(there)


def test_limits_and_databases() -> None:
    changes = Changes()
    changes.add(summary([(1663, 5, 9, 0, 40, set()), (1664, 0, 1262, 0, NO_LIMIT, {3}), (1663, 6, 0, 0, 0, set())]))
    changes.add(summary([(1663, 5, 9, 0, 50, {60}), (1700, 5, 10, 0, NO_LIMIT, {1})]))
    nine, shared = changes.of(5, 9), changes.of(0, 1262)
    assert nine is not None
    assert shared is not None
    assert (nine.limit, shared.limit) == (40, NO_LIMIT)
    assert changes.is_new(6)
    assert changes.of(5, 10) is None  # another tablespace


@given(st.data())
def test_a_summary_that_was_altered_anywhere_is_refused(data: st.DataObject) -> None:
    good = summary([(1663, 5, 16384, 0, NO_LIMIT, set(range(40))), (1663, 5, 16386, 0, 3, {1, 2})])
    Changes().add(good)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    for broken in (bytes(bad), good[:at], good + b"\0"):
        with pytest.raises(ValueError, match=r"checksum|begin|early|follows"):
            Changes().add(broken)


def found(path: str, pages: int) -> Found:
    return Found(path, pages * PAGE, 1, 0o600)


def changed(limit: int, pages: set[int], node: int = 16384) -> Changes:
    changes = Changes()
    changes.add(summary([(1663, 5, node, 0, limit, pages)]))
    return changes


PATH = "base/5/16384"


@pytest.mark.parametrize(
    ("path", "before", "now", "limit", "touched", "pages", "inherits"),
    [
        pytest.param(PATH, 100, 100, NO_LIMIT, {3, 7}, [3, 7], 100, id="touched"),
        pytest.param(PATH, 100, 100, NO_LIMIT, set(), [], 100, id="untouched"),
        pytest.param(PATH, 100, 102, NO_LIMIT, {3}, [3, 100, 101], 100, id="extended, also by pages nobody logged"),
        pytest.param(PATH, 100, 40, 40, {3, 70}, [3], 40, id="truncated"),
        pytest.param(PATH, 100, 50, 40, {3, 45}, [3, *range(40, 50)], 40, id="truncated and extended again"),
        pytest.param(PATH, 100, 100, 0, {3}, None, None, id="made anew under the same number"),
        pytest.param(PATH, 100, 100, NO_LIMIT, set(range(95)), None, None, id="nearly all of it"),
        pytest.param(PATH, None, 100, NO_LIMIT, {3}, None, None, id="not in the parent"),
        pytest.param(PATH, 0, 100, NO_LIMIT, {3}, None, None, id="empty in the parent"),
        pytest.param(PATH, 100, 0, 0, set(), None, None, id="empty now"),
        pytest.param(f"{PATH}_vm", 100, 100, NO_LIMIT, {3}, None, None, id="another fork"),
        pytest.param("base/5/16384.1", 100, 100, NO_LIMIT, {3, SEGMENT + 4}, [4], 100, id="the second segment"),
        pytest.param("base/5/16384.1", 100, 60, SEGMENT + 50, set(), list(range(50, 60)), 50, id="cut in the second"),
        pytest.param("base/5/16384.1", 100, 100, SEGMENT, set(), None, None, id="cut before the second"),
        pytest.param("base/5/PG_VERSION", 1, 1, NO_LIMIT, set(), None, None, id="no relation"),
    ],
)  # fmt: skip
def test_pages_to_read(
    path: str,
    before: int | None,
    now: int,
    limit: int,
    touched: set[int],
    pages: list[int] | None,
    inherits: int | None,
) -> None:
    known = {} if before is None else {path: Known(before * PAGE, None)}
    delta = of_relation(found(path, now), known, changed(limit, touched), SEGMENT)
    if pages is None:
        assert delta is None
    else:
        assert delta is not None
        assert (delta.pages.tolist(), delta.inherits) == (pages, (inherits or 0) * PAGE)


def test_a_new_database_and_odd_sizes_are_read_whole() -> None:
    known = {PATH: Known(100 * PAGE, None), "global/1262": Known(2 * PAGE, None)}
    changes = Changes()
    changes.add(summary([(1663, 5, 0, 0, 0, set())]))
    assert of_relation(found(PATH, 100), known, changes, SEGMENT) is None
    shared = of_relation(found("global/1262", 2), known, changes, SEGMENT)
    assert shared is not None
    assert not len(shared.pages)
    assert of_relation(Found(PATH, 100 * PAGE - 1, 1, 0o600), known, changed(NO_LIMIT, set()), SEGMENT) is None
    assert of_relation(found(PATH, 100), {PATH: Known(77, None)}, changed(NO_LIMIT, set()), SEGMENT) is None


ascending = st.sets(st.integers(0, 300), min_size=1, max_size=60).map(lambda s: np.array(sorted(s), np.uint32))


@given(ascending)
def test_runs_come_back(pages: np.ndarray[tuple[int], np.dtype[np.uint32]]) -> None:
    runs = pack_runs(pages)
    if runs is None:
        assert pages.tolist() == list(range(int(pages[0]), int(pages[-1]) + 1))
    else:
        assert (unpack(runs, len(pages)) + int(pages[0])).tolist() == pages.tolist()
        with pytest.raises(ValueError, match="follow"):
            unpack(runs, len(pages) + 1)


@pytest.mark.parametrize(
    "runs", ["", "0", "1 1", "0 1 0 1", "0 2 -1 1", "0 0 1 3", "0 x", "0 3 99999999999 1", "0 4 1 -1"]
)
def test_runs_that_can_not_be_are_refused(runs: str) -> None:
    with pytest.raises(ValueError, match=r"follow|invalid literal"):
        unpack(runs, 3 if runs != "0 3 99999999999 1" else 4)


@given(st.lists(ascending, max_size=6), st.integers(1, 9))
def test_every_page_is_cut_once(sets: list[np.ndarray[tuple[int], np.dtype[np.uint32]]], limit: int) -> None:
    deltas = [Delta(found(f"base/5/{n}", 400), pages, 400 * PAGE) for n, pages in enumerate(sets)]
    seen: dict[str, list[int]] = {}
    for pack in cut(deltas, limit * PAGE):
        assert sum(s.length or 0 for s in pack) <= limit * PAGE
        for part in pack:
            assert part.pages is not None
            assert part.offset == part.pages[0] * PAGE
            assert part.length == len(part.pages) * PAGE
            seen.setdefault(part.file.path, []).extend(part.pages.tolist())
    assert seen == {d.file.path: d.pages.tolist() for d in deltas}


# A chain, as an array of what each link holds of one file, against a plain application of one after the other.
links = st.lists(
    st.tuples(st.integers(1, 40), st.integers(0, 40), st.sets(st.integers(0, 39), max_size=40), st.integers(1, 8)),
    min_size=1,
    max_size=6,
)
SEALING = Sealing(backup_id="x", origin=None, dek=None, encryption=None)  # type: ignore[arg-type]  # nothing is opened


def link(number: int, size: int, inherits: int, pages: list[int], per_piece: int) -> Contents:
    pieces, at = [], 0
    for start in range(0, len(pages), per_piece):
        some = np.array(pages[start : start + per_piece], np.uint32)
        pieces.append(
            Piece(pack=0, at=at, offset=int(some[0]) * PAGE, size=len(some) * PAGE, sha256="", runs=pack_runs(some))
        )
        at += len(some) * PAGE
    file = File(path=PATH, size=size * PAGE, mtime=1, mode=0o600, pieces=tuple(pieces), inherits=inherits * PAGE)
    pack = Pack(path=f"{number}", object_id=None, stored_size=1, stored_sha256="", size=at)
    return Contents(
        version=2, backup=str(number), directories=(), files=(file,), packs=(pack,) if at else (), bad_pages=()
    )


@given(links)
def test_a_merged_chain_is_the_newest_page_of_each(
    drawn: list[tuple[int, int, set[int], int]],
) -> None:
    chain, content = [], list[tuple[int, int] | None]()
    for number, (size, wished, pages, per_piece) in enumerate(drawn):
        inherits = 0 if number == 0 else min(wished, size)
        held = [p for p in sorted(pages) if p < size]
        chain.append(link(number, size, inherits, held, per_piece))
        before = content[:inherits] + [None] * (inherits - len(content[:inherits]))
        content = before + [None] * (size - inherits)
        for page in held:
            content[page] = (number, page)
    merge = Merge(chain[-1])
    restored: list[tuple[int, int] | None] = [None] * drawn[-1][0]
    for number in reversed(range(len(chain))):
        for source in merge.add(SEALING, chain[number]):
            for _, piece in source.pieces:
                place = source.places.get(piece.at)
                if place is None:
                    continue
                numbers = piece.pages()
                for span in spans(piece, place):
                    for n in range(span.size // PAGE):
                        page = span.offset // PAGE + n
                        assert numbers[span.at // PAGE + n] == page
                        assert restored[page] is None  # no page is written twice
                        restored[page] = (number, page)
    assert merge.is_complete
    assert restored == content


def test_a_file_that_is_no_number_of_pages_is_inherited_to_its_last_byte() -> None:
    size = 2 * PAGE + 100
    old = Piece(pack=0, at=0, offset=0, size=size, sha256="")
    full = Contents(
        version=1, backup="f", directories=(), bad_pages=(),
        files=(File(path="x", size=size, mtime=1, mode=0o600, pieces=(old,)),),
        packs=(Pack(path="p", object_id=None, stored_size=1, stored_sha256="", size=size),),
    )  # fmt: skip
    newest = File(path="x", size=size, mtime=2, mode=0o600, pieces=(), inherits=size, sha256="d")
    merge = Merge(Contents(version=2, backup="i", directories=(), bad_pages=(), files=(newest,), packs=()))
    assert (
        merge.add(SEALING, Contents(version=2, backup="i", directories=(), bad_pages=(), files=(newest,), packs=()))
        == []
    )
    (source,) = merge.add(SEALING, full)
    assert [(s.at, s.size, s.offset) for s in spans(old, source.places[0])] == [(0, size, 0)]
    assert source.places[0].file.mtime == 2


def test_a_parent_without_the_file_is_refused() -> None:
    merge = Merge(link(1, 10, 10, [], 1))
    merge.add(SEALING, link(1, 10, 10, [], 1))
    with pytest.raises(ValueError, match=PATH):
        merge.add(SEALING, Contents(version=1, backup="0", directories=(), files=(), packs=(), bad_pages=()))


def test_a_map_of_version_1_inherits_nothing() -> None:
    control = [File(path=p, size=0, mtime=1, mode=0o600, pieces=()) for p in ("PG_VERSION", "backup_label")]
    control.append(File(path="global/pg_control", size=0, mtime=1, mode=0o600, pieces=()))
    heir = File(path="x", size=9, mtime=1, mode=0o600, pieces=(), inherits=9)
    folder = (Directory(path="global", mode=0o700),)
    made = Contents(version=2, backup="b", directories=folder, files=(*control, heir), packs=(), bad_pages=())
    assert Contents.from_json(made.to_json(), backup="b") == made
    full = replace(made, version=1, files=tuple(control))
    assert not any(word in full.to_json() for word in (b"inherits", b"runs", b"sha256"))  # older programs read it
    for broken in (
        replace(made, version=1),
        replace(made, version=3),
        replace(made, files=(*control, replace(heir, size=8))),
    ):
        with pytest.raises(Corrupt):
            Contents.from_json(broken.to_json(), backup="b")


def test_of_a_piece_of_which_nothing_is_wanted_nothing_is_written() -> None:
    file = File(path="x", size=PAGE, mtime=1, mode=0o600, pieces=())
    piece = Piece(pack=0, at=0, offset=0, size=PAGE, sha256="")
    assert spans(piece, Place(file, PAGE, bits=b"\x00")) == []

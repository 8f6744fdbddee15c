"""The sum over a table's rows: as it is defined, whatever pieces the stream comes in, and different for every fault."""

from __future__ import annotations

import contextlib
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.backup.copytext import Aside, CopyText, Rows
from matriarch.backup.dump import in_stream
from matriarch.backup.fingerprint import Found
from matriarch.backup.native import NATIVE, load
from matriarch.backup.rowsum import BLOCK, LONG, RowSum, plain

LINE = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([0, 1, 7, 8, 9, LONG - 1, LONG, LONG + 1, 3 * LONG]).map(lambda n: b"x" * n),
).map(lambda line: line.replace(b"\n", b" "))

HEAD = b"--\n-- PostgreSQL database dump\n--\n\nSET x = 1;\nCREATE TABLE public.t (a int);\n\n"


def summed(text: bytes, cuts: list[int] | None = None) -> RowSum:
    """By numpy; and by the compiled loop, where there is one, it must be the same."""
    vectors = in_pieces(RowSum(None), text, cuts)
    if NATIVE is not None:
        compiled = in_pieces(RowSum(NATIVE), text, cuts)
        assert (compiled.rows, compiled.heads, compiled.digest()) == (vectors.rows, vectors.heads, vectors.digest())
    return vectors


def in_pieces(found: RowSum, text: bytes, cuts: list[int] | None) -> RowSum:
    at = 0
    for cut in [*sorted(c % (len(text) + 1) for c in cuts or ()), len(text)]:
        found.update(text[at:cut])
        at = cut
    return found


def joined(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


@given(st.lists(LINE, max_size=30), st.lists(st.integers(min_value=0), max_size=6))
def test_it_is_what_its_definition_says_in_pieces_of_any_size(lines: list[bytes], cuts: list[int]) -> None:
    found = summed(joined(lines), cuts)
    assert (found.rows, found.digest()) == (len(lines), plain(lines))


@given(
    st.lists(st.one_of(LINE, st.sampled_from([b"COPY a", b"COPY", b"COPY ", b"COPY " + b"x" * LONG])), max_size=30),
    st.lists(st.integers(min_value=0), max_size=6),
)
def test_lines_that_begin_as_a_command_does_are_counted(lines: list[bytes], cuts: list[int]) -> None:
    assert summed(joined(lines), cuts).heads == sum(line.startswith(b"COPY ") for line in lines)


def test_a_line_of_a_command_s_kind_that_is_longer_than_what_is_held() -> None:
    assert summed(joined([b"COPY " + b"x" * 3 * BLOCK, b" COPY a"])).heads == 1


def test_a_function_that_looks_like_rows_makes_its_table_doubtful_or_come_twice() -> None:
    body = b"CREATE FUNCTION f() AS $$\nCOPY public.t (a, b) FROM stdin;\n"
    swallows = CopyText()
    swallows.update(body + b"$$;\n" + TEXT)
    seen = swallows.tables[("public", "t")]
    assert seen is not None
    assert seen.doubtful
    twice = CopyText()
    twice.update(body + b"\\.\n$$;\n" + TEXT)
    assert twice.tables[("public", "t")] is None
    plain_text = CopyText()
    plain_text.update(TEXT)
    assert not any(t.doubtful for t in plain_text.tables.values() if t is not None)


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_lines_longer_than_what_is_held(size: int) -> None:
    lines = [b"a", b"y" * size, b"", b"z" * size, b"b"]
    assert summed(joined(lines)).digest() == plain(lines)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no compiler")
def test_where_there_is_a_compiler_the_environment_has_the_loops(tmp_path: Path) -> None:
    assert NATIVE is not None
    assert load(tmp_path) is None


def test_more_than_a_block_of_lines() -> None:
    lines = [b"%d\t%s" % (n, b"v" * (n % 40)) for n in range(60_000)]
    found = summed(joined(lines))
    assert (found.rows, found.digest()) == (len(lines), plain(lines))


@given(st.lists(LINE, min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_order_does_not_matter_and_every_change_does(lines: list[bytes], chance: random.Random) -> None:
    digest = summed(joined(lines)).digest()
    mixed = lines[:]
    chance.shuffle(mixed)
    assert summed(joined(mixed)).digest() == digest
    number = chance.randrange(len(lines))
    line = lines[number]
    others = [
        [*lines, line],
        lines[:number] + lines[number + 1 :],
        [*lines[:number], line + b"\0", *lines[number + 1 :]],
    ]
    if line:
        at = chance.randrange(len(line))
        changed = line[:at] + bytes([line[at] ^ 64]) + line[at + 1 :]
        others.append([*lines[:number], changed, *lines[number + 1 :]])
    for other in others:
        if sorted(other) != sorted(lines) and not any(b"\n" in one for one in other):
            assert summed(joined(other)).digest() != digest


ROWS = [b"1\tone", b"2\t\\N", b"\\N\t\\\\.", b"", b"3\tCOPY public.t (a) FROM stdin;"]
TEXT = (
    HEAD
    + b"COPY public.t (a, b) FROM stdin;\n" + joined(ROWS) + b"\\.\n\n\n"
    + b'COPY public."T.x ""y" ("A, b", c) FROM stdin;\n\\.\n\n'
    + 'COPY "ä".u (a) FROM stdin;\n1\n\\.\nSELECT 1;\n'.encode()
)  # fmt: skip


@given(st.lists(st.integers(min_value=0, max_value=len(TEXT)), max_size=8))
def test_the_tables_of_a_dump_cut_anywhere(cuts: list[int]) -> None:
    found, at = CopyText(), 0
    for cut in [*sorted(cuts), len(TEXT)]:
        found.update(TEXT[at:cut])
        at = cut
    assert found.tables == {
        ("public", "t"): Rows(("a", "b"), 5, plain(ROWS)),
        ("public", 'T.x "y'): Rows(("A, b", "c"), 0, plain([])),
        ("ä", "u"): Rows(("a",), 1, plain([b"1"])),
    }


def test_a_byte_at_a_time_and_lines_without_end() -> None:
    found = CopyText()
    text = b"x" * (3 << 20) + b"\n" + TEXT
    found.update(text[: 2 << 20])
    found.update(text[2 << 20 : 3 << 20])
    for at in range(3 << 20, len(text)):
        found.update(text[at : at + 1])
    assert found.tables[("public", "t")] == Rows(("a", "b"), 5, plain(ROWS))


@pytest.mark.parametrize(
    "head", [b"public.t", b"t (a)", b"public.t (a", b"public.t (a,)", b"public.t ()", b"public.T (a)", b"\xff.t (a)"]
)
def test_what_pg_dump_does_not_write_is_no_table(head: bytes) -> None:
    found = CopyText()
    found.update(b"COPY " + head + b" FROM stdin;\n1\n\\.\nCOPY a.b (c) FROM stdin;\n7\n\\.\n")
    assert list(found.tables) == [("a", "b")]


def test_a_table_that_comes_twice_is_not_believed() -> None:
    found = CopyText()
    found.update(TEXT + TEXT)
    assert set(found.tables.values()) == {None}


FOUND = Found("s", "t", ("a", "b"), unlogged=False)
STREAMED = Rows(("b", "a"), 5, "0" * 32)


def test_the_server_hashes_what_the_stream_leaves_in_doubt() -> None:
    taken = in_stream(FOUND, STREAMED)
    assert taken is not None
    assert (taken.columns, taken.rows, taken.hash) == (("b", "a"), 5, "0" * 32)
    assert in_stream(FOUND, None) is None
    assert in_stream(Found("s", "t", ("a",), unlogged=False), STREAMED) is None
    assert in_stream(Found("s", "t", ("a", "b"), unlogged=False, money=True), STREAMED) is None


def test_beside_the_stream_in_a_thread() -> None:
    aside = Aside()
    for at in range(0, len(TEXT), 5):
        aside.update(memoryview(TEXT)[at : at + 5])
    assert aside.finish().tables[("public", "t")] == Rows(("a", "b"), 5, plain(ROWS))


def test_a_fault_in_the_thread_reaches_who_feeds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(CopyText, "update", fail)
    aside = Aside()
    with contextlib.suppress(MemoryError):
        for _ in range(1000):  # many more than it holds
            aside.update(memoryview(b"text"))
    with pytest.raises(MemoryError):
        aside.finish()

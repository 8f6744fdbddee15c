"""Exact names only: what is archived, where it lies, and in which order it goes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.archive.names import following, parse
from matriarch.postgres.lsn import SEGMENT_SIZE, segment_name
from tests.unit.archive_world import named


@pytest.mark.parametrize(
    ("text", "kind", "key"),
    [
        ("00000001000000A200000017", "segment", "wal/00000001/00000001000000A200000017.zst.enc"),
        ("0000000A000000A200000017.partial", "partial", "wal/0000000A/0000000A000000A200000017.partial.zst.enc"),
        (
            "00000001000000A200000017.00000028.backup",
            "label",
            "wal/00000001/00000001000000A200000017.00000028.backup.zst.enc",
        ),
        ("00000002.history", "history", "wal/00000002/00000002.history.zst.enc"),
    ],
)
def test_what_is_archived(text: str, kind: str, key: str) -> None:
    name = named(text)
    assert (name.kind, name.key(encrypted=True), name.key(encrypted=False)) == (kind, key, key.removesuffix(".enc"))


@pytest.mark.parametrize(
    "text",
    [
        "", "00000001000000A20000001", "00000001000000A2000000170", "00000001000000a200000017", "00000001.partial",
        "00000000.history", "000000000000000000000001", "000000010000000000000100", "../0000000100000000000000",
        "00000001000000A200000017.backup", "00000001000000A200000017.00000028.backup.partial", "RECOVERYXLOG",
        "00000001000000A200000017\n", "00000002.history.tmp", "xlogtemp.12",
    ],
)  # fmt: skip
def test_what_is_not(text: str) -> None:
    assert parse(text) is None


@given(st.text("0123456789ABCDEFabcdefhistorybackupl./\n", max_size=45))
def test_a_name_never_leaves_its_folder(text: str) -> None:
    name = parse(text)
    if name is not None:
        key = name.key(encrypted=True)
        assert key.count("/") == 2
        assert ".." not in key
        assert key.endswith(f"/{text}.zst.enc")


@given(st.integers(1, 0xFFFFFFFF), st.integers(0, (1 << 40) - 10), st.integers(0, 9))
def test_the_segments_that_follow(timeline: int, number: int, count: int) -> None:
    first = named(segment_name(timeline, number * SEGMENT_SIZE))
    found = following(first, count)
    assert [n.start for n in found] == [first.start + i * SEGMENT_SIZE for i in range(1, count + 1)]
    assert all(parse(n.text) == n and n.timeline == timeline for n in found)

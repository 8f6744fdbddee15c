"""LSNs are read and written as PostgreSQL does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.postgres.lsn import SEGMENT_SIZE, format_lsn, parse_lsn, segment_name


@pytest.mark.parametrize(
    ("text", "lsn"),
    [("0/0", 0), ("0/3000148", 0x3000148), ("16/B374D848", 0x16_B374_D848), ("FFFFFFFF/FFFFFFFF", (1 << 64) - 1)],
)
def test_known_values(text: str, lsn: int) -> None:
    assert parse_lsn(text) == lsn
    assert format_lsn(lsn) == text


@given(st.integers(min_value=0, max_value=(1 << 64) - 1))
def test_text_and_number_are_the_same_position(lsn: int) -> None:
    assert parse_lsn(format_lsn(lsn)) == lsn
    assert parse_lsn(format_lsn(lsn).lower()) == lsn


@pytest.mark.parametrize("text", ["", "0", "0/", "/0", "0/123456789", "0/g", "-1/0", "0/0/0"])
def test_anything_else_is_no_lsn(text: str) -> None:
    with pytest.raises(ValueError, match="not an LSN"):
        parse_lsn(text)


def test_a_number_out_of_range_is_no_lsn() -> None:
    for lsn in (-1, 1 << 64):
        with pytest.raises(ValueError, match="not an LSN"):
            format_lsn(lsn)


@pytest.mark.parametrize(
    ("timeline", "lsn", "name"),
    [
        (1, 0, "000000010000000000000000"),
        (1, SEGMENT_SIZE, "000000010000000000000001"),
        (0x1F, parse_lsn("16/B374D848"), "0000001F00000016000000B3"),
        (2, parse_lsn("1/0") - 1, "0000000200000000000000FF"),
    ],
)
def test_segment_names(timeline: int, lsn: int, name: str) -> None:
    assert segment_name(timeline, lsn) == name

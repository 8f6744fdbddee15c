"""The rule for commits as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.errors import Refused
from matriarch.postgres.standbynames import NOBODY, Quorum, parse_names, render_names


def test_the_same_rule_is_the_same_text() -> None:
    text = 'ANY 1 ("orders-2-0a1b", "orders-3-0c1d")'
    assert render_names(1, ["orders-3-0c1d", "orders-2-0a1b", "orders-2-0a1b"]) == text
    assert parse_names(text) == Quorum(1, frozenset({"orders-2-0a1b", "orders-3-0c1d"}))


def test_without_voters_everybody_waits() -> None:
    assert render_names(1, []) == NOBODY
    assert parse_names(NOBODY) == Quorum(1, frozenset())


def test_nobody_is_asked_only_with_number_zero() -> None:
    assert render_names(0, ["orders-2-0a1b"]) == ""
    assert parse_names(" ") == Quorum()


@pytest.mark.parametrize("k", [-1, 3])
def test_what_can_never_be_acknowledged_is_refused(k: int) -> None:
    with pytest.raises(Refused, match="never acknowledge"):
        render_names(k, ["a", "b"])


@pytest.mark.parametrize("value", ["*", "a, b", "FIRST 1 (a)", "ANY 1 (a", "ANY x (a)", 'ANY 1 ("a)', "ANY 1 (a b)"])
def test_forms_that_are_not_ours_are_not_understood(value: str) -> None:
    with pytest.raises(ValueError, match="not a quorum"):
        parse_names(value)


@given(st.sets(st.text(min_size=1), min_size=1), st.data())
def test_every_rule_is_read_back(names: set[str], data: st.DataObject) -> None:
    names.discard("nobody")
    if names:
        k = data.draw(st.integers(1, len(names)))
        assert parse_names(render_names(k, names)) == Quorum(k, frozenset(names))

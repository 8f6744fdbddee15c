"""When a standby lets clients in: never before it follows, nor while the write Service may lead to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide.standby_door import AFTER_MOVE, AFTER_SILENCE, SECOND, Facts, door

T = 1000 * SECOND


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        (Facts(now=T, follows=True), "open"),
        (Facts(now=T, follows=False), "refuses"),  # what it holds may be nobody's
        (Facts(now=T, follows=False, clients_expected_until=T + 1), "waits"),  # an heir's clients are kept
        (Facts(now=T, follows=True, clients_expected_until=T), "open"),
        (Facts(now=T, follows=True, led_here=T), "refuses"),  # the write Service leads here now
        (Facts(now=T, follows=True, led_here=T - AFTER_MOVE + 1), "refuses"),
        (Facts(now=T, follows=True, led_here=T - AFTER_MOVE), "open"),
        # The API server was away: nobody knows when each kube-proxy hears of the move.
        (Facts(now=T, follows=True, led_here=T - AFTER_MOVE, api_away=T - 5 * SECOND), "refuses"),
        (Facts(now=T, follows=True, led_here=T - AFTER_SILENCE + 1, api_away=T), "refuses"),
        (Facts(now=T, follows=True, led_here=T - AFTER_SILENCE, api_away=T), "open"),
        (Facts(now=T, follows=True, led_here=T - AFTER_MOVE, api_away=T - AFTER_MOVE - AFTER_SILENCE), "open"),
        (Facts(now=T, follows=True, api_away=T), "open"),  # it never led: clients here asked for a replica
    ],
)
def test_door(facts: Facts, wanted: str) -> None:
    assert door(facts) == wanted


instants = st.integers(0, 200 * SECOND)


@given(instants, instants, instants, instants, st.booleans())
def test_it_opens_by_itself(now: int, led: int, away: int, expected: int, follows: bool) -> None:
    facts = Facts(now=now, follows=follows, clients_expected_until=expected, led_here=led, api_away=away)
    if door(facts) == "open":
        assert follows
        assert now >= led + AFTER_MOVE or not led
    late = max(led + AFTER_SILENCE, expected)
    assert door(Facts(now=late, follows=True, clients_expected_until=expected, led_here=led, api_away=away)) == "open"

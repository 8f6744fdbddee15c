"""When an instance that is back joins those that the Service -r leads to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide.joining import PUT_OFF, SECOND, Joined, joined

T = 1000 * SECOND
ONE, TWO, ALL = frozenset("a"), frozenset("ab"), frozenset("abc")


@pytest.mark.parametrize(
    ("before", "wanted", "busy", "then"),
    [
        (None, TWO, False, Joined(TWO)),  # a new primary says what it knows
        (Joined(TWO), TWO, False, Joined(TWO)),
        (Joined(ALL), TWO, False, Joined(TWO)),  # who is gone is gone at once
        (Joined(frozenset("ac")), TWO, False, Joined(TWO)),  # also where another one came
        (Joined(TWO), ALL, True, Joined(ALL)),  # right after a failover: kube-proxy is busy anyway
        (Joined(TWO), ALL, False, Joined(TWO, T + PUT_OFF)),
        (Joined(TWO, T + SECOND), ALL, True, Joined(TWO, T + SECOND)),  # busy with -ro, which was changed for the same
        (Joined(ONE, T + SECOND), ALL, False, Joined(ONE, T + SECOND)),  # another one does not begin it anew
        (Joined(TWO, T), ALL, False, Joined(ALL)),
        (Joined(TWO, T + SECOND), TWO, False, Joined(TWO)),  # gone again meanwhile
        (Joined(TWO, T + SECOND), ONE, False, Joined(ONE)),
    ],
)
def test_who_joins_when(before: Joined | None, wanted: frozenset[str], busy: bool, then: Joined) -> None:
    assert joined(before, wanted, now=T, busy=busy) == then


SETS = st.frozensets(st.sampled_from("abcd")).map(lambda s: s | {"a"})


@given(st.lists(st.tuples(SETS, st.booleans(), st.integers(1, 3 * SECOND)), min_size=1, max_size=30))
def test_nobody_who_is_gone_is_led_to_and_nobody_waits_for_long(rounds: list[tuple[frozenset[str], bool, int]]) -> None:
    now, state = T, None
    there_since: dict[str, int] = {}
    for wanted, busy, passes in rounds:
        now += passes
        there_since = {i: there_since.get(i, now) for i in wanted}
        state = joined(state, wanted, now=now, busy=busy)
        assert state.members <= wanted
        for i in wanted - state.members:
            assert now - there_since[i] < PUT_OFF
        assert "a" in state.members

"""A hung primary is given up within a bound; a slow one, or one on a starving machine, is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide.canary import DEADLINE, EVERY, Seen, verdict

S = 1_000_000_000
NOW = 100 * S


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (Seen(NOW, NOW - S // 10, (NOW - S // 20,)), "good"),
        (Seen(NOW, NOW - S, (NOW - S // 2,)), "good"),
        # nothing for the whole deadline, and two that had most of it
        (Seen(NOW, NOW - 2 * S, (NOW - 2 * S, NOW - 3 * S // 2, NOW - S)), "hung"),
        (Seen(NOW, NOW - 3 * S, (NOW - S, NOW - S // 2), failed=2), "hung"),
        (Seen(NOW, NOW - 3 * S, (NOW - 2 * S,), failed=1), "hung"),
        # one attempt alone may have met anything
        (Seen(NOW, NOW - 3 * S, (NOW - 2 * S, NOW - S)), "late"),
        (Seen(NOW, NOW - 3 * S, (), failed=1), "late"),
        # the agent itself did not get its turns
        (Seen(NOW, NOW - 5 * S, (NOW - 2 * S, NOW - 2 * S), failed=3, starved=NOW - S), "late"),
        (Seen(NOW, NOW - 9 * S, (NOW - 2 * S, NOW - 2 * S), failed=3, starved=NOW - 2 * S), "hung"),
    ],
)
def test_verdict(seen: Seen, expected: str) -> None:
    assert verdict(seen) == expected


def test_a_hang_is_found_within_the_deadline_and_one_beat() -> None:
    """Attempts begin every half second, the last good one ended just before the next was due."""
    hang = NOW
    begun = range(hang, hang + 10 * S, EVERY)
    for now in range(hang, hang + 10 * S, S // 10):
        waiting = tuple(b for b in begun if now - DEADLINE < b <= now)
        seen = Seen(now, hang, waiting, failed=sum(b <= now - DEADLINE for b in begun))
        if verdict(seen) == "hung":
            break
    assert now - hang <= DEADLINE + EVERY


@given(
    age=st.integers(0, 2 * DEADLINE), waiting=st.lists(st.integers(0, DEADLINE), max_size=8), failed=st.integers(0, 9)
)
def test_a_commit_within_the_deadline_keeps_the_primary(age: int, waiting: list[int], failed: int) -> None:
    seen = Seen(NOW, NOW - age, tuple(NOW - w for w in waiting), failed)
    assert (verdict(seen) == "hung") <= (age >= DEADLINE)

"""The turns that the agent's looks share, and how long a candidate waits between two."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.agent.candidate import next_look
from matriarch.agent.rhythm import TURN, next_turn, until_turn
from matriarch.decide.election import Answer


@given(now=st.floats(0, 1e7), turns=st.integers(1, 10))
def test_the_next_turn_is_a_whole_multiple_and_never_at_once(now: float, turns: int) -> None:
    left = until_turn(now, turns)
    assert TURN / 10 <= left <= turns * TURN + TURN / 10
    assert (now + left) / (turns * TURN) == pytest.approx(round((now + left) / (turns * TURN)), abs=1e-6)


@given(now=st.floats(0, 1e7), early=st.floats(0, TURN / 20))
def test_a_timer_that_fires_early_does_not_fire_twice(now: float, early: float) -> None:
    woken = now + until_turn(now) - early
    assert until_turn(woken) > TURN / 2


async def test_tasks_that_begin_at_different_times_wake_together() -> None:
    loop, woken = asyncio.get_running_loop(), []

    async def one(after: float) -> None:
        await asyncio.sleep(after)
        await next_turn(5)
        woken.append(round(loop.time() / (5 * TURN), 1))

    await next_turn(5)
    await asyncio.gather(one(0.0), one(0.05), one(0.11))
    assert len(set(woken)) == 1


@pytest.mark.parametrize(
    ("wait", "leads", "seconds"),
    [
        pytest.param(None, False, TURN, id="nothing is known of how long: soon"),
        pytest.param(250_000_000, False, 0.25, id="a beat is due in 250 ms"),
        pytest.param(-5, False, TURN, id="overdue"),
        pytest.param(3_000_000_000, False, 0.5, id="a promise to another for 3 s: still looks twice a second"),
        pytest.param(None, True, 0.5, id="leads"),
    ],
)
def test_how_soon_a_candidate_looks_again(wait: int | None, leads: bool, seconds: float) -> None:
    assert next_look(Answer(yes=False, why="", wait=wait), leads=leads) == seconds

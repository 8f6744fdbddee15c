"""What keeps the fence away, in each mode and between two, and when a holder leaves the Lease alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from matriarch.agent.clock import SECOND
from matriarch.agent.clockjump import jumped
from matriarch.agent.renewals import ALONE as OFTEN
from matriarch.agent.renewals import ASYNC, CALM, period
from matriarch.decide.election import ASYNC_FENCE, ASYNC_LEASE
from matriarch.decide.guard import RESTART, Guard, gives_way, guard_during, guard_of
from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
from matriarch.decide.voters import Change

A, B, C = (Member(f"orders-{i}", f"{i}" * 12) for i in (1, 2, 3))
QUORUM = LeaseState(epoch=5, holder=A, bootstrap="orders-1", mode="quorum", voters=(B, C), k=1)
ASYNCHRONOUS = replace(QUORUM, mode="async", k=0)
ALONE = replace(QUORUM, mode="alone", voters=(), k=0)


@pytest.mark.parametrize(
    ("lease", "guard"),
    [(ALONE, None), (QUORUM, Guard((B, C), 1)), (ASYNCHRONOUS, Guard((B, C), 0, by_lease=True))],
)
def test_what_a_lease_asks_for(lease: LeaseState, guard: Guard | None) -> None:
    assert guard_of(lease) == guard


@pytest.mark.parametrize(
    ("lease", "change", "guard"),
    [
        (QUORUM, Change("to-async", "async", (B,), 0), Guard((B, C), 1, by_lease=True)),
        (ASYNCHRONOUS, Change("to-quorum", "quorum", (B,), 1), Guard((B,), 1, by_lease=True)),
        (ALONE, Change("to-async", "async", (B,), 0), Guard((), 0, by_lease=True)),
        (ALONE, Change("to-quorum", "quorum", (B,), 1), None),
        (QUORUM, Change("remove", "quorum", (B,), 1), Guard((B,), 1)),
        (QUORUM, Change("add", "quorum", (B, C), 1), None),
        (ASYNCHRONOUS, Change("candidates", "async", (B,), 0), None),
        (ASYNCHRONOUS, Change("to-alone", "alone", (), 0), None),
    ],
)
def test_what_must_hold_before_the_first_step(lease: LeaseState, change: Change, guard: Guard | None) -> None:
    assert guard_during(lease, change) == guard


def test_renewals_come_often_enough_for_the_fence() -> None:
    assert period(ASYNCHRONOUS, 0, by_lease=True) == ASYNC
    assert 4 * ASYNC * SECOND < ASYNC_FENCE
    assert period(QUORUM, 2) == CALM
    assert period(QUORUM, 0) == OFTEN


def test_what_cannot_start_leaves_the_lease_alone_for_longer_than_others_wait() -> None:
    assert not gives_way(ASYNCHRONOUS, RESTART - 1), "a start loses nothing"
    assert gives_way(ASYNCHRONOUS, RESTART)
    assert gives_way(ASYNCHRONOUS, 2 * RESTART - 1)
    assert ASYNC_LEASE < RESTART
    assert not gives_way(ASYNCHRONOUS, 2 * RESTART), "where nobody else is elected it tries again"
    assert not gives_way(QUORUM, RESTART), "there nothing that was acknowledged can be lost"


def test_a_pause_of_the_machine_is_seen_and_a_small_step_is_not() -> None:
    assert jumped(0, ASYNC_FENCE + 1)
    assert not jumped(0, ASYNC_FENCE)
    assert not jumped(ASYNC_FENCE + 1, 0), "a clock that was set back hides nothing"

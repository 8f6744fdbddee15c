"""The holder's deadline: by tables for what is meant, by properties for what must never be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matriarch.agent.deadline import Deadline, entitled_until, last_support, moved
from matriarch.decide.election import ASYNC_FENCE, T_FENCE
from matriarch.decide.member import Member

A, B, C, D = (Member(f"orders-{n}", "aa") for n in range(1, 5))


@pytest.mark.parametrize(
    ("voters", "k", "answered", "renewed", "support"),
    [
        pytest.param([B, C], 1, {}, None, None, id="nobody and nothing yet"),
        pytest.param([B, C], 1, {B: 10}, None, 10, id="one of one"),
        pytest.param([B, C], 1, {B: 10, C: 20}, None, 20, id="the newer of two"),
        pytest.param([B, C, D], 2, {B: 10, C: 20, D: 30}, None, 20, id="the second newest where two are needed"),
        pytest.param([B, C, D], 2, {B: 10}, None, None, id="one is not two"),
        pytest.param([B, C, D], 2, {B: 10}, 5, 5, id="one is not two, but the Lease was renewed"),
        pytest.param([B, C], 1, {B: 10}, 30, 30, id="the Lease is newer"),
        pytest.param([B, C], 1, {B: 30}, 10, 30, id="the voter is newer"),
        pytest.param([B], 1, {B: 10, C: 99}, None, 10, id="who is no voter does not count"),
        pytest.param([B], 1, {Member("orders-2", "bb"): 99}, 7, 7, id="a new incarnation is nobody's voter"),
        pytest.param([], 0, {B: 99}, 7, 7, id="without voters only the Lease counts"),
        pytest.param([], 0, {}, None, None, id="without voters and Lease nothing does"),
    ],
)
def test_last_support(
    voters: list[Member], k: int, answered: dict[Member, int], renewed: int | None, support: int | None
) -> None:
    assert last_support(voters, k, answered, renewed) == support


@pytest.mark.parametrize(
    ("before", "epoch", "until", "after"),
    [
        pytest.param(None, 3, None, None, id="nothing known"),
        pytest.param(None, 3, 10 + T_FENCE, Deadline(3, 10 + T_FENCE), id="first"),
        pytest.param(Deadline(3, 10 + T_FENCE), 3, 5, Deadline(3, 10 + T_FENCE), id="never back within an epoch"),
        pytest.param(Deadline(3, 10 + T_FENCE), 3, None, Deadline(3, 10 + T_FENCE), id="kept without news"),
        pytest.param(Deadline(3, 10 + T_FENCE), 4, 5, Deadline(4, 10 + T_FENCE), id="an old renewal ends no new epoch"),
        pytest.param(Deadline(3, 10 + T_FENCE), 4, None, None, id="an older epoch's grants support nothing"),
        pytest.param(Deadline(4, 10 + T_FENCE), 3, 99, Deadline(4, 10 + T_FENCE), id="an older epoch changes nothing"),
    ],
)
def test_moved(before: Deadline | None, epoch: int, until: int | None, after: Deadline | None) -> None:
    assert moved(before, epoch, until) == after


@pytest.mark.parametrize(
    ("k", "by_lease", "answered", "renewed", "until"),
    [
        pytest.param(1, False, {B: 10}, 5, 10 + T_FENCE, id="quorum: the voter"),
        pytest.param(1, False, {}, 5, 5 + T_FENCE, id="quorum: the Lease in its place"),
        pytest.param(0, True, {B: 10}, 5, 5 + ASYNC_FENCE, id="async: the Lease alone"),
        pytest.param(0, True, {B: 10}, None, None, id="async: no answer counts"),
        pytest.param(1, True, {B: 10}, 5, 10 + T_FENCE, id="both: the voters end first"),
        pytest.param(1, True, {B: 10 + ASYNC_FENCE}, 5, 5 + ASYNC_FENCE, id="both: the Lease ends first"),
        pytest.param(1, True, {B: 10}, None, None, id="both: one is not enough"),
        pytest.param(0, False, {}, 7, 7 + T_FENCE, id="no voters"),
    ],
)
def test_entitled_until(
    k: int, by_lease: bool, answered: dict[Member, int], renewed: int | None, until: int | None
) -> None:
    assert entitled_until([B, C], k, answered, renewed, by_lease=by_lease) == until


members = st.sampled_from([A, B, C, D])
instants = st.integers(0, 100)


@settings(deadline=None)
@given(st.sets(members), st.integers(0, 4), st.dictionaries(members, instants), st.none() | instants)
def test_k_voters_or_the_lease_stand_behind_every_support(
    voters: set[Member], k: int, answered: dict[Member, int], renewed: int | None
) -> None:
    support = last_support(voters, k, answered, renewed)
    behind = sum(1 for voter in voters if support is not None and answered.get(voter, -1) >= support)
    assert support is None or support == renewed or 0 < k <= behind


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.none() | instants)))
def test_epochs_and_deadlines_only_grow(steps: list[tuple[int, int | None]]) -> None:
    deadline: Deadline | None = None
    for epoch, support in steps:
        before, deadline = deadline, moved(deadline, epoch, support)
        if before is not None and deadline is not None:
            assert deadline.epoch >= before.epoch
            assert deadline.at >= before.at

"""Whose flush a consumer of a logical slot waits for: whoever is elected holds what it has seen."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide.lease import LeaseState, taken_over
from matriarch.decide.logical import (
    ends_consumers,
    missing_slots,
    waited_for,
    waited_for_after,
    waited_for_if_elected,
)
from matriarch.decide.member import Member
from matriarch.decide.voters import Change
from matriarch.postgres.timeline import WalPosition

MEMBERS = tuple(Member(f"orders-{n}", "a") for n in range(2, 7))


@st.composite
def leases(draw: st.DrawFn) -> LeaseState:
    voters = tuple(sorted(draw(st.sets(st.sampled_from(MEMBERS), min_size=1))))
    k = draw(st.integers(1, len(voters)))
    return LeaseState(5, Member("orders-1", "a"), "orders-1", "quorum", voters, k)


_SOME = st.sets(st.sampled_from(MEMBERS))


@given(leases(), _SOME, _SOME)
def test_every_set_that_can_elect_holds_what_a_consumer_saw(
    lease: LeaseState, streaming: set[Member], present: set[Member]
) -> None:
    waited = waited_for(lease, streaming, tuple(present))
    assert len(waited) == lease.k
    assert set(waited) <= set(lease.voters)
    for electing in combinations(lease.voters, lease.election_quorum):
        assert set(electing) & set(waited)


@given(leases(), _SOME, _SOME)
def test_who_streams_comes_first_and_who_is_waited_for_already_stays(
    lease: LeaseState, streaming: set[Member], present: set[Member]
) -> None:
    waited = set(waited_for(lease, streaming, tuple(present)))
    live = set(lease.voters) & streaming
    assert waited <= live or live <= waited
    kept = live & present
    assert waited <= kept or kept <= waited
    assert set(waited_for(lease, streaming, tuple(waited))) == waited, "it does not change for nothing"


@given(leases())
def test_a_voter_runs_with_what_its_election_will_bring(lease: LeaseState) -> None:
    for voter in lease.voters:
        elected = taken_over(lease, voter, 6, WalPosition(1, 100), "n")
        assert waited_for_if_elected(lease, voter) == waited_for(elected)
    assert waited_for_if_elected(lease, Member("orders-1", "a")) == ()


def test_nobody_is_waited_for_where_nobody_can_be_elected() -> None:
    assert waited_for(LeaseState(1, MEMBERS[0], "orders-1", "alone")) == ()


def _change(voters: tuple[Member, ...], k: int) -> Change:
    return Change("remove", "quorum", voters, k)


def test_consumers_end_when_what_they_saw_may_be_unknown_to_the_new_voters() -> None:
    two, three, four = MEMBERS[:3]
    assert not ends_consumers(_change((two, three), 1), {two}, 1)
    assert ends_consumers(_change((two, three), 1), {two, four}, 1), "four leaves, and was waited for"
    assert ends_consumers(_change((two, three), 2), {two}, 1), "two must have it now"
    assert ends_consumers(_change((two, three), 1), {two}, 0), "nothing was waited for before"
    assert not ends_consumers(Change("to-alone", "alone", (), 0), {two}, 1)
    assert waited_for_after(_change((two, three), 1), {three}, (two,)) == (three,)
    assert waited_for_after(Change("to-alone", "alone", (), 0), {three}, (two,)) == ()


def test_missing_copies_are_named() -> None:
    assert missing_slots(["b", "a", "c"], ["c"]) == ("a", "b")

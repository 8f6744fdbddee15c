"""Changes of the voters: what users expect, and that acknowledging and electing sets always meet."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matriarch.decide.election import ASYNC_FENCE, MOST_BEHIND, T_FENCE
from matriarch.decide.guard import guard_during, guard_of
from matriarch.decide.lease import LeaseState, Mode, voters_set
from matriarch.decide.member import Member
from matriarch.decide.voters import (
    DEGRADE_AFTER,
    REMOVE_AFTER,
    STEPS,
    Change,
    Stream,
    Wish,
    names_if_elected,
    next_change,
    standby_names,
)
from matriarch.postgres.lsn import SEGMENT_SIZE
from matriarch.postgres.standbynames import NOBODY

M = [Member(f"orders-{i}", f"{i:012x}") for i in range(1, 7)]
A, B, C, D, E = M[:5]
NAMES = tuple(m.instance for m in M)
THREE = Wish(NAMES[:3], 1, required=True)


def state(mode: str = "quorum", voters: tuple[Member, ...] = (B, C), k: int = 1, **more: object) -> LeaseState:
    return LeaseState(epoch=5, holder=A, bootstrap="orders-1", mode=mode, voters=voters, k=k, **more)  # type: ignore[arg-type]


def stream(*members: Member, lag: int = 0) -> list[Stream]:
    return [Stream(m, True, lag) for m in members]


ALONE = state("alone", (), 0)
ASYNC_WISH = Wish(NAMES[:3], 0, required=False, asynchronous=True)


@pytest.mark.parametrize(
    ("lease", "wish", "streams", "away", "kind", "voters"),
    [
        pytest.param(ALONE, Wish(NAMES[:1], 0, True), stream(B), {}, None, (), id="a single instance has no voters"),
        pytest.param(ALONE, THREE, stream(B), {}, "to-quorum", (B,), id="the first standby is enough for k 1"),
        pytest.param(ALONE, Wish(NAMES[:5], 2, True), stream(B), {}, None, (), id="k 2 waits for two"),
        pytest.param(ALONE, THREE, stream(B, lag=SEGMENT_SIZE), {}, None, (), id="not while it is far behind"),
        pytest.param(state(voters=(B,)), THREE, stream(B, C), {}, "add", (B, C), id="the next standby joins"),
        pytest.param(state(), THREE, stream(B, C), {}, None, (), id="all is well"),
        pytest.param(state(), THREE, stream(B), {C: REMOVE_AFTER - 1}, None, (), id="away for a moment"),
        pytest.param(state(), THREE, stream(B), {C: REMOVE_AFTER}, "remove", (B,), id="away for long"),
        pytest.param(state(voters=(B,)), THREE, [], {B: REMOVE_AFTER}, None, (), id="the last voter stays: required"),
        pytest.param(
            state(voters=(B,)),
            Wish(NAMES[:2], 1, False),
            [],
            {B: DEGRADE_AFTER},
            "to-alone",
            (),
            id="preferred goes on",
        ),
        pytest.param(
            state(), THREE, stream(B, Member("orders-3", "new")), {C: 1}, "remove", (B,), id="its volume is another"
        ),
        pytest.param(
            state(voters=(C,)),
            THREE,
            stream(Member("orders-3", "new")),
            {C: 1},
            "add",
            (C, Member("orders-3", "new")),
            id="the only voter came back anew: added before the old one goes",
        ),
        pytest.param(state(leaving=("orders-3",)), THREE, stream(B, C), {}, "remove", (B,), id="leaving"),
        pytest.param(state(), Wish(NAMES[:1], 0, True), stream(B, C), {}, "to-alone", (), id="scaled to one"),
        pytest.param(
            state(voters=(B, C, D), k=1),
            Wish(NAMES[:4], 2, True),
            stream(B, C, D),
            {},
            "raise-k",
            (B, C, D),
            id="raise k",
        ),
        pytest.param(
            state(voters=(B, C, D), k=2),
            Wish(NAMES[:4], 1, True),
            stream(B, C, D),
            {},
            "lower-k",
            (B, C, D),
            id="lower k",
        ),
        pytest.param(ALONE, ASYNC_WISH, stream(B), {}, "to-async", (B,), id="async: the first replica"),
        pytest.param(ALONE, ASYNC_WISH, [], {}, None, (), id="async: nobody is there"),
        pytest.param(state(), ASYNC_WISH, stream(B, C), {}, "to-async", (B, C), id="from quorum to async"),
        pytest.param(state(), ASYNC_WISH, [], {}, "to-async", (B, C), id="also when it is what lets writes go on"),
        pytest.param(state("async", (B,), 0), ASYNC_WISH, stream(B, C), {}, "candidates", (B, C), id="one more"),
        pytest.param(
            state("async", (B, C), 0), ASYNC_WISH, stream(B), {C: REMOVE_AFTER}, "candidates", (B,), id="away for long"
        ),
        pytest.param(state("async", (B,), 0), ASYNC_WISH, [], {B: REMOVE_AFTER}, None, (), id="the last one stays"),
        pytest.param(
            state("async", (B, C), 0),
            ASYNC_WISH,
            [*stream(B), *stream(C, lag=MOST_BEHIND + 1)],
            {},
            "candidates",
            (B,),
            id="far behind",
        ),
        pytest.param(
            state("async", (B,), 0),
            ASYNC_WISH,
            [*stream(B), *stream(C, lag=MOST_BEHIND)],
            {},
            None,
            (),
            id="edge",
        ),
        pytest.param(state("async", (B, C), 0), THREE, stream(B, C), {}, "to-quorum", (B, C), id="back to quorum"),
        pytest.param(state("async", (B, C), 0), THREE, [], {}, None, (), id="not before enough stream"),
        pytest.param(
            state("async", (B,), 0), Wish(NAMES[:1], 0, False), stream(B), {}, "to-alone", (), id="async: scaled to one"
        ),
        pytest.param(
            state("async", (B,), 0),
            Wish(NAMES[:1], 0, False, asynchronous=True),
            stream(B),
            {},
            "to-alone",
            (),
            id="async: nobody else is wanted",
        ),
    ],
)
def test_next_change(
    lease: LeaseState, wish: Wish, streams: list[Stream], away: dict[Member, int], kind: str | None,
    voters: tuple[Member, ...],
) -> None:  # fmt: skip
    change = next_change(lease, wish, streams, away)
    assert (change.kind if change else None) == kind
    if change:
        assert change.voters == voters


def test_names_are_never_empty_before_the_first_client_of_a_required_cluster() -> None:
    assert standby_names(ALONE, THREE) == "ANY 1 (nobody)"
    assert standby_names(state("alone", (), 0, opened=True), THREE) == ""  # it grows from one instance, with clients
    assert standby_names(ALONE, Wish(NAMES[:2], 1, required=False)) == ""
    assert standby_names(state(), THREE) == f'ANY 1 ("{B}", "{C}")'


def test_names_are_empty_in_mode_async_on_the_holder_alone() -> None:
    asynchronous = state("async", (B, C), 0)
    assert standby_names(asynchronous, THREE) == "", "also while the spec asks for quorum: the Lease counts (I7)"
    assert standby_names(state(), ASYNC_WISH) == f'ANY 1 ("{B}", "{C}")'
    assert names_if_elected(asynchronous, B) == NOBODY, "a Lease of quorum may come before the election"
    assert names_if_elected(state(), B) == f'ANY 1 ("{A}", "{C}")'


def acknowledging(holder: Member, voters: tuple[Member, ...], k: int) -> list[frozenset[Member]]:
    return [frozenset({holder, *c}) for c in combinations(voters, k)] if k <= len(voters) else []


def electing(lease: LeaseState) -> list[frozenset[Member]]:
    if lease.mode != "quorum":
        return [frozenset({A})]  # only the holder itself
    return [frozenset(c) for c in combinations(lease.voters, lease.election_quorum)]


def check(lease: LeaseState, postgres: tuple[tuple[Member, ...], int]) -> None:
    """I2 for commits from now on, and I7: what PostgreSQL asks for is never less than what the Lease counts on."""
    for acked in acknowledging(A, *postgres):
        for chosen in electing(lease):
            assert acked & chosen, (lease, postgres)


subsets = st.lists(st.sampled_from(M[1:]), unique=True).map(lambda ms: tuple(sorted(ms)))


@settings(max_examples=300)
@given(
    subsets.filter(bool), st.integers(1, 3),
    st.lists(st.tuples(subsets, subsets, st.integers(0, 3), st.booleans(), st.integers(0, 4)), max_size=8),
)  # fmt: skip
def test_at_every_step_of_every_change_acknowledging_and_electing_sets_meet(
    voters: tuple[Member, ...], k: int, rounds: list[tuple[tuple[Member, ...], tuple[Member, ...], int, bool, int]]
) -> None:
    """Each change may break off after any of its steps; the next round then goes on from what is there."""
    lease = state(voters=voters, k=min(k, len(voters)))
    postgres = (lease.voters, lease.k)
    for streaming, wanted, number, required, broken_after in rounds:
        wish = Wish((A.instance, *(m.instance for m in wanted)), min(number, len(wanted)), required)
        away = {v: REMOVE_AFTER for v in lease.voters if v not in streaming}
        if postgres != (lease.voters, lease.k):
            postgres = (lease.voters, lease.k)  # the holder names what the Lease says before it asks for a change
            check(lease, postgres)
        change = next_change(lease, wish, stream(*streaming), away)
        if change is None:
            continue
        for i, step in enumerate(STEPS[change.kind]):
            if i >= broken_after:
                break
            if step == "lease":
                lease = voters_set(lease, change.mode, change.voters, change.k)
            elif step == "postgres":
                postgres = (change.voters, change.k)
            elif step == "barrier" and sum(v in streaming for v in change.voters) < change.k:
                break  # a barrier that can't be passed stops the change
            check(lease, postgres)


def test_a_delayed_replica_never_votes() -> None:
    wish = Wish(NAMES[:3], 1, True, delayed=(C.instance,))
    change = next_change(state(voters=(B,)), wish, stream(B, C), {})
    assert change is None, "it is not added"
    change = next_change(state(voters=(B, C)), wish, stream(B, C), {})
    assert change is not None
    assert (change.kind, change.voters) == ("remove", (B,))
    change = next_change(ALONE, wish, stream(C), {})
    assert change is None, "alone stays alone with nobody else"


def test_a_change_never_leaves_fewer_voters_than_k() -> None:
    change = next_change(state(voters=(B, C, D), k=2), Wish(NAMES[:4], 2, True), stream(B, C), {D: REMOVE_AFTER})
    assert change == Change("remove", "quorum", (B, C), 2, "orders-4 has not streamed for 10 s")
    assert next_change(state(k=2), Wish(NAMES[:3], 2, True), stream(B), {C: REMOVE_AFTER}) is None


def weakest(lease: LeaseState) -> tuple[bool, bool]:
    """What an election that starts from this Lease waits for: peer leases of its voters, renewals."""
    return lease.mode == "quorum", lease.mode == "async"


@given(
    st.sampled_from([("alone", (), 0), ("quorum", (B, C), 1), ("async", (B, C), 0)]),
    st.sampled_from([ASYNC_WISH, THREE, Wish(NAMES[:1], 0, False)]),
    st.booleans(),
)
def test_while_the_mode_changes_the_holder_obeys_the_rules_of_both(
    before: tuple[Mode, tuple[Member, ...], int], wish: Wish, landed: bool
) -> None:
    """The write of the new Lease may land at any time after the first step, whatever the holder knows of it."""
    lease = state(*before)
    change = next_change(lease, wish, stream(B, C), {})
    if change is None:
        return
    guard = guard_during(lease, change) or guard_of(lease)
    known = voters_set(lease, change.mode, change.voters, change.k) if landed else lease
    by_peers, by_renewals = weakest(known)
    if by_renewals:
        assert guard is not None
        assert guard.by_lease
    if by_peers and lease.mode != "alone":  # from alone nobody was let in under another rule
        assert guard is not None
        assert guard.k >= known.k
        assert set(guard.voters) <= set(known.voters)


def test_what_a_change_of_the_mode_waits_out_is_the_longer_rule() -> None:
    assert ASYNC_FENCE > T_FENCE
    change = next_change(state("async", (B, C), 0), THREE, stream(B, C), {})
    assert change is not None
    assert STEPS[change.kind][0] == "probe"
    assert STEPS[change.kind][-1] == "lease", "PostgreSQL waits before the Lease counts on it"
    assert STEPS["to-async"][0] == "lease", "the Lease says so before anything is acknowledged by less"

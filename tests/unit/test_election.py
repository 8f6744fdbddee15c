"""Who may promise, who may stand, who wins, when the door may open."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide.election import (
    LEASE,
    SECOND,
    SUSPECT,
    T_FENCE,
    Candidate,
    Sight,
    Voter,
    best,
    door_waits_until,
    may_stand,
    next_epoch,
    would_promise,
)
from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
from matriarch.postgres.timeline import WalPosition

A, B, C = (Member(f"orders-{i}", f"{i}" * 12) for i in (1, 2, 3))
LEASED = LeaseState(epoch=5, holder=A, bootstrap="orders-1", mode="quorum", voters=(B, C), k=1)
NOW = 1000 * SECOND
FRESH = Sight(now=NOW, started=0, granted_until=NOW + T_FENCE - SECOND // 5)
SILENT = Sight(now=NOW, started=0, granted_until=NOW - 1)
OLD = Sight(now=NOW, started=0, granted_until=NOW - SECOND)
HALF = Sight(now=NOW, started=0, granted_until=NOW + T_FENCE - SUSPECT)  # suspect, but its lease still counts


def voter(sight: Sight = SILENT, **facts: object) -> Voter:
    return replace(Voter(me=B, lease=LEASED, promised=5, sight=sight), **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("who", "epoch", "yes"),
    [
        pytest.param(voter(), 6, True, id="silent for longer than its lease"),
        pytest.param(voter(FRESH), 6, False, id="heard just now"),
        pytest.param(voter(HALF), 6, False, id="suspected, but the lease runs"),
        pytest.param(voter(replace(FRESH, fenced=5)), 6, True, id="it said fenced at this epoch"),
        pytest.param(voter(replace(FRESH, fenced=4)), 6, False, id="it said fenced at an older epoch"),
        pytest.param(voter(replace(FRESH, gone=True)), 6, True, id="its PID 1 is gone"),
        pytest.param(voter(), 5, False, id="not above the Lease"),
        pytest.param(voter(promised=7), 6, False, id="a higher epoch is promised"),
        pytest.param(voter(promised=6), 6, True, id="the same epoch again is the same answer"),
        pytest.param(voter(unable="cloning"), 6, False, id="a clone that is not complete is not counted"),
        pytest.param(voter(me=Member("orders-2", "other")), 6, False, id="another incarnation is nobody"),
        pytest.param(voter(lease=replace(LEASED, mode="alone", voters=(), k=0)), 6, False, id="nobody follows alone"),
        pytest.param(voter(Sight(now=NOW, started=NOW - SECOND)), 6, False, id="a young heartbeat may have forgotten"),
        pytest.param(voter(Sight(now=NOW, started=NOW - T_FENCE)), 6, True, id="an old one has not"),
    ],
)
def test_would_promise(who: Voter, epoch: int, yes: bool) -> None:
    assert would_promise(who, epoch).yes is yes


ONE = replace(LEASED, voters=(B,))


@pytest.mark.parametrize(
    ("candidate", "yes"),
    [
        pytest.param(Candidate(voter(FRESH), 0), False, id="no suspicion"),
        pytest.param(Candidate(voter(HALF), 0), True, id="five beats missed"),
        pytest.param(Candidate(voter(replace(OLD, since=NOW - 1)), 0), False, id="this holder had no time to beat yet"),
        pytest.param(Candidate(voter(replace(OLD, since=NOW - SUSPECT)), 0), True, id="it had, and did not"),
        pytest.param(Candidate(voter(replace(OLD, since=NOW, gone=True)), 0), True, id="gone needs no silence"),
        pytest.param(Candidate(voter(lease=ONE), NOW - SECOND), False, id="one vote: the Lease was renewed just now"),
        pytest.param(Candidate(voter(OLD, lease=ONE), NOW - LEASE), True, id="one vote: nor was the Lease renewed"),
        pytest.param(Candidate(voter(replace(FRESH, fenced=5), lease=ONE), NOW), True, id="one vote: it is fenced"),
        pytest.param(
            Candidate(voter(replace(FRESH, gone=True), lease=ONE), NOW), False, id="one vote: a reset is one link"
        ),
        pytest.param(
            Candidate(voter(lease=replace(LEASED, k=2, no_voters=True)), NOW, 1), True, id="the holder says it is alone"
        ),
        pytest.param(Candidate(voter(lease=replace(ONE, no_voters=True)), NOW, 0), False, id="but nobody else answers"),
    ],
)
def test_may_stand(candidate: Candidate, yes: bool) -> None:
    assert may_stand(candidate).yes is yes


def test_the_timeline_counts_before_the_lsn_and_priority_only_breaks_ties() -> None:
    assert best({B: WalPosition(2, 10), C: WalPosition(1, 900)}, {"orders-3": 1000}) == B
    assert best({B: WalPosition(2, 10), C: WalPosition(2, 10)}, {"orders-3": 1}) == C
    assert best({B: WalPosition(2, 10), C: WalPosition(2, 10)}, {}) == B


positions = st.builds(WalPosition, st.integers(1, 3), st.integers(0, 50))


@given(
    st.dictionaries(st.sampled_from([A, B, C]), positions, min_size=1),
    st.dictionaries(st.just("orders-3"), st.integers()),
)
def test_nobody_who_promised_holds_more_than_the_winner(found: dict[Member, WalPosition], rank: dict[str, int]) -> None:
    assert found[best(found, rank)] == max(found.values())


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_an_epoch_is_above_all_that_was_promised(lease: int, promised: int, heard: int) -> None:
    assert next_epoch(replace(LEASED, epoch=lease), promised, heard) > max(lease, promised, heard)


@pytest.mark.parametrize(
    ("facts", "until"),
    [
        ({"evidence": "fenced"}, NOW),
        ({"evidence": "gone"}, NOW),
        ({"evidence": "silent", "clean": True}, NOW),
        ({"evidence": "silent", "strict": False}, NOW),
        ({"evidence": "silent", "renewal_seen": NOW - SECOND}, NOW + SECOND),
        ({"evidence": "silent", "last_grant": NOW - SECOND // 2}, NOW + LEASE - SECOND // 2),
        ({"evidence": "silent"}, NOW),
    ],
)
def test_the_door_waits_while_the_old_holder_may_serve_reads(facts: dict[str, object], until: int) -> None:
    given_ = {"clean": False, "strict": True, "renewal_seen": 0, "last_grant": 0, "swapped": NOW, **facts}
    assert door_waits_until(**given_) == until  # type: ignore[arg-type]


@given(st.integers(0, 5 * SECOND), st.integers(0, 5 * SECOND))
def test_strict_reads_never_overlap(last_answer_age: int, renewal_age: int) -> None:
    """The holder ends itself T_fence + 0.2 s after the newest answer or renewal that it sent for."""
    door = door_waits_until(
        evidence="silent", clean=False, strict=True, renewal_seen=NOW - renewal_age,
        last_grant=NOW - last_answer_age, swapped=NOW,
    )  # fmt: skip
    ended = max(NOW - last_answer_age, NOW - renewal_age) + T_FENCE + SECOND // 5
    assert door >= ended

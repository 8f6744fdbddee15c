"""Who may promise, who may stand, who wins, when the door may open."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide.election import (
    ASYNC_FENCE,
    ASYNC_LEASE,
    LEASE,
    MOST_BEHIND,
    SECOND,
    SUSPECT,
    T_FENCE,
    Candidate,
    Reply,
    Sight,
    Voter,
    best,
    door_waits_until,
    may_stand,
    next_epoch,
    no_quorum,
    shortfall,
    would_promise,
)
from matriarch.decide.lease import CleanStop, LeaseState, Promotion
from matriarch.decide.member import Member
from matriarch.postgres.timeline import Switch, WalPosition

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


def standing(sight: Sight, lease: LeaseState = LEASED, *, renewed: int = 0, others: int = 0) -> Candidate:
    return Candidate(voter(sight, lease=lease, renewal_seen=renewed), others)


@pytest.mark.parametrize(
    ("candidate", "yes"),
    [
        pytest.param(standing(FRESH), False, id="no suspicion"),
        pytest.param(standing(HALF), True, id="five beats missed"),
        pytest.param(standing(SILENT, ONE, renewed=NOW - SECOND), False, id="one vote: the Lease was renewed just now"),
        pytest.param(standing(OLD, ONE, renewed=NOW - LEASE), True, id="one vote: nor was the Lease renewed"),
        pytest.param(standing(replace(FRESH, fenced=5), ONE, renewed=NOW), True, id="one vote: it is fenced"),
        pytest.param(standing(replace(FRESH, gone=True), ONE, renewed=NOW), False, id="one vote: a reset is one link"),
        pytest.param(standing(replace(OLD, since=NOW - 1)), False, id="this holder had no time to beat yet"),
        pytest.param(standing(replace(OLD, since=NOW - SUSPECT)), True, id="it had, and did not"),
        pytest.param(standing(replace(OLD, since=NOW, gone=True)), True, id="gone needs no silence"),
        pytest.param(
            standing(SILENT, replace(LEASED, k=2, no_voters=True), renewed=NOW, others=1),
            True,
            id="the holder says it is alone",
        ),
        pytest.param(standing(SILENT, replace(ONE, no_voters=True), renewed=NOW), False, id="but nobody else answers"),
    ],
)
def test_may_stand(candidate: Candidate, yes: bool) -> None:
    assert may_stand(candidate).yes is yes


ASYNC = replace(LEASED, mode="async", k=0, wal=WalPosition(2, 1000), lineage=(Switch(2, 1, 500),), claimed=2)
CLEAN = replace(ASYNC, clean_stop=CleanStop(2, 1000), heir=C)
FENCED = replace(FRESH, fenced=5)


@pytest.mark.parametrize(
    ("sight", "lease", "age", "yes"),
    [
        pytest.param(SILENT, ASYNC, ASYNC_LEASE, True, id="nobody renewed for as long as a lease lasts"),
        pytest.param(SILENT, ASYNC, ASYNC_LEASE - 1, False, id="silence proves nothing before"),
        pytest.param(replace(SILENT, gone=True), ASYNC, 0, False, id="nor do sockets that ended"),
        pytest.param(FRESH, ASYNC, ASYNC_LEASE, True, id="beats are no renewals"),
        pytest.param(FENCED, ASYNC, 0, True, id="it said fenced"),
        pytest.param(FENCED, CLEAN, 0, False, id="it hands over in order, which loses nothing"),
        pytest.param(FENCED, CLEAN, ASYNC_LEASE, True, id="and nobody took what it handed over"),
    ],
)
def test_in_mode_async_the_lease_decides_alone(sight: Sight, lease: LeaseState, age: int, yes: bool) -> None:
    who = voter(sight, lease=lease, renewal_seen=NOW - age)
    assert would_promise(who, 6).yes is yes
    assert may_stand(Candidate(who)).yes is yes
    assert lease.election_quorum == 1


@given(st.integers(0, 10 * SECOND), st.integers(0, SECOND))
def test_in_mode_async_two_holders_never_overlap(in_flight: int, kill: int) -> None:
    """The holder counts from before it sent its renewal, others from when they saw it land."""
    sent = NOW - ASYNC_LEASE - in_flight
    seen = sent + in_flight
    assert would_promise(voter(SILENT, lease=ASYNC, renewal_seen=seen), 6).yes
    assert sent + ASYNC_FENCE + min(kill, SECOND // 5) < NOW


@pytest.mark.parametrize(
    ("lease", "position", "fine"),
    [
        pytest.param(ASYNC, WalPosition(2, 1000), True, id="all that was told of"),
        pytest.param(ASYNC, WalPosition(2, 2000), True, id="more"),
        pytest.param(replace(ASYNC, wal=WalPosition(2, MOST_BEHIND)), WalPosition(2, 0), True, id="a little less"),
        pytest.param(replace(ASYNC, wal=WalPosition(2, MOST_BEHIND + 1)), WalPosition(2, 0), False, id="far less"),
        pytest.param(ASYNC, WalPosition(1, 500), True, id="it has not come to the new timeline, and is on its way"),
        pytest.param(ASYNC, WalPosition(1, 501), False, id="an old primary with writes of its own"),
        pytest.param(ASYNC, WalPosition(0, 0), False, id="it does not say what it holds"),
        pytest.param(ASYNC, WalPosition(3, 5), True, id="a later timeline than was told of"),
        pytest.param(
            replace(ASYNC, wal=WalPosition(3, 900), promoting=Promotion(3, 2, 800), claimed=3),
            WalPosition(2, 700),
            True,
            id="on its way to a timeline that is not recorded yet",
        ),
        pytest.param(
            replace(ASYNC, wal=WalPosition(3, 900), promoting=Promotion(3, 2, 800), claimed=3),
            WalPosition(2, 801),
            False,
            id="beyond the fork to it",
        ),
        pytest.param(replace(ASYNC, wal=None), WalPosition(1, 1), True, id="nothing was told yet"),
        pytest.param(replace(LEASED, wal=WalPosition(9, 9)), WalPosition(1, 1), True, id="quorum does not ask"),
    ],
)
def test_mode_async_gives_up_only_so_much(lease: LeaseState, position: WalPosition, fine: bool) -> None:
    assert (shortfall(lease, position) == "") is fine


@pytest.mark.parametrize(
    ("need", "replies", "said"),
    [
        pytest.param(
            2,
            [Reply("api-2", age=12 * SECOND), Reply("api-3", yes=True)],
            "no quorum: 1 of 2 voters answered; api-2 last seen 12 s ago",
            id="one is silent",
        ),
        pytest.param(
            2,
            [Reply("api-2", why="PostgreSQL of api-2 is stopped"), Reply("api-3", yes=True)],
            "no quorum: 1 of 2 voters would promise; api-2: PostgreSQL of api-2 is stopped",
            id="one says no",
        ),
        pytest.param(
            2,
            [Reply("api-2", age=47 * SECOND), Reply("api-3", age=None), Reply("api-4", yes=True)],
            "no quorum: 1 of 2 voters answered; api-2 last seen 45 s ago; api-3 was never seen from here",
            id="in steps, so that it does not change with every look",
        ),
        pytest.param(
            1,
            [Reply("api-2", why="it lacks 20 MiB of WAL")],
            "no quorum: 0 of 1 voters would promise; api-2: it lacks 20 MiB of WAL",
            id="async",
        ),
    ],
)
def test_why_nobody_is_elected(need: int, replies: list[Reply], said: str) -> None:
    assert no_quorum(need, replies) == said


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

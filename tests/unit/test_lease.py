"""The Lease's changes: what every swap keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from matriarch.decide import lease, leasetext
from matriarch.decide.lease import CleanStop, LeaseState, Loss, Promotion
from matriarch.decide.member import Member
from matriarch.decide.transitions import Illegal, Seen, lease_event
from matriarch.postgres.timeline import Switch, WalPosition

A, B, C = (Member(f"orders-{i}", f"{i}" * 12) for i in (1, 2, 3))
QUORUM = LeaseState(
    epoch=5, holder=A, bootstrap="orders-1", mode="quorum", voters=(B, C), k=1, nonce="x", system_identifier="7",
    opened=True, lineage=(Switch(2, 1, 100),), claimed=2,
)  # fmt: skip


def test_a_takeover_writes_the_voters_of_the_lease_and_not_those_who_answered() -> None:
    taken = lease.taken_over(QUORUM, B, 6, WalPosition(2, 500), "n")
    assert taken.holder == B
    assert taken.voters == (A, C)  # the dead holder is a voter: what only it and C acknowledged is found again (S2)
    assert taken.k == 1
    assert taken.promoting == Promotion(3, 2, 500)
    assert taken.claimed == 3


def test_a_timeline_number_is_never_claimed_twice() -> None:
    first = lease.taken_over(QUORUM, B, 6, WalPosition(2, 500), "n")  # B dies before it promotes
    second = lease.taken_over(first, C, 7, WalPosition(2, 400), "m")
    assert second.promoting == Promotion(4, 2, 400)


@pytest.mark.parametrize(
    ("winner", "epoch", "state", "why"),
    [
        (B, 5, QUORUM, "not above"),
        (Member("orders-2", "another"), 6, QUORUM, "no voter"),
        (B, 6, LeaseState(epoch=5, holder=A, bootstrap="orders-1"), "mode alone"),
    ],
)
def test_a_takeover_that_must_not_be(winner: Member, epoch: int, state: LeaseState, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        lease.taken_over(state, winner, epoch, WalPosition(1, 1), "n")


ASYNC = replace(QUORUM, mode="async", k=0, wal=WalPosition(2, 600))


def test_in_mode_async_a_takeover_says_what_it_may_have_lost() -> None:
    taken = lease.taken_over(ASYNC, B, 6, WalPosition(2, 500), "n")
    assert (taken.mode, taken.voters, taken.k) == ("async", (A, C), 0)
    assert taken.loss == Loss(6, A, WalPosition(2, 600), WalPosition(2, 500))
    assert taken.loss.missing == 100
    assert taken.wal == WalPosition(2, 500), "the next one is measured by the winner"
    assert lease.reclaimed(taken, [], "n").loss == taken.loss, "it stays until it was looked at"


def test_in_mode_async_nothing_is_lost_by_a_hand_over() -> None:
    named = lease.heir_named(ASYNC, B, CleanStop(2, 600))
    assert lease.heir_takes(named, 6, WalPosition(2, 700), "n").loss is None
    assert lease.taken_over(named, C, 6, WalPosition(2, 700), "n").loss is None, "it holds the last record as well"
    assert lease.taken_over(named, C, 6, WalPosition(2, 600), "n").loss is not None


def test_candidates_are_no_voters() -> None:
    with pytest.raises(ValueError, match="waits for none"):
        lease.voters_set(QUORUM, "async", (B,), 1)
    with pytest.raises(ValueError, match="waits for none"):
        lease.voters_set(QUORUM, "async", (), 0)
    assert lease.voters_set(ASYNC, "quorum", (B,), 1).wal is None


def test_reclaim_goes_above_every_promise_and_changes_nothing_else() -> None:
    state = lease.heir_named(QUORUM, B, CleanStop(2, 900))
    again = lease.reclaimed(state, [9, 7], "n")
    assert again.epoch == 10
    assert (again.holder, again.voters, again.k, again.claimed) == (A, (B, C), 1, 2)
    assert again.heir is None
    assert again.clean_stop is None


def test_preferred_winner_without_answers_leads_alone() -> None:
    taken = lease.taken_over_alone(QUORUM, B, 6, WalPosition(2, 500), "n")
    assert (taken.mode, taken.voters, taken.k) == ("alone", (), 0)


def test_the_heir_takes_over_only_when_it_was_named() -> None:
    with pytest.raises(ValueError, match="no heir"):
        lease.heir_takes(QUORUM, 6, WalPosition(2, 1000), "n")
    named = lease.heir_named(QUORUM, C, CleanStop(2, 900))
    assert lease.heir_takes(named, 6, WalPosition(2, 1000), "n").holder == C


def test_the_whole_line_replaces_the_lineage_so_that_a_dead_winner_is_remembered() -> None:
    state = lease.taken_over(lease.taken_over(QUORUM, B, 6, WalPosition(2, 5), "n"), C, 7, WalPosition(3, 9), "m")
    line = (Switch(2, 1, 100), Switch(3, 2, 500), Switch(4, 3, 900))
    recorded = lease.history_recorded(state, line)
    assert recorded.lineage == line
    assert recorded.promoting is None
    with pytest.raises(ValueError, match="never claimed"):
        lease.history_recorded(state, (*line, Switch(5, 4, 1000)))


def test_a_number_that_a_crash_used_up_is_claimed_anew() -> None:
    taken = lease.taken_over(QUORUM, B, 6, WalPosition(2, 500), "n")
    again = lease.claimed_again(taken, B, WalPosition(3, 520))
    assert again.promoting == Promotion(4, 3, 520)
    assert again.claimed == 4
    with pytest.raises(ValueError, match="does not hold epoch 6"):
        lease.claimed_again(taken, A, WalPosition(2, 1))


def test_a_holder_that_was_started_as_a_standby_claims_a_number_above_its_own() -> None:
    led = replace(QUORUM, promoting=None)
    again = lease.claimed_again(led, A, WalPosition(led.claimed, 700))
    assert again.promoting == Promotion(led.claimed + 1, led.claimed, 700)
    assert (again.epoch, again.voters, again.k) == (led.epoch, led.voters, led.k)


def test_what_the_lease_names_may_not_be_deleted() -> None:
    assert QUORUM.names(A)
    assert QUORUM.names(B)
    assert not QUORUM.names(Member("orders-2", "another"))
    assert QUORUM.names_instance("orders-2")
    assert not QUORUM.names_instance("orders-4")


def test_a_restore_fills_the_first_volume_before_the_first_epoch() -> None:
    held = lease.initial("orders-1", "r1")
    assert held.held
    assert leasetext.decode(leasetext.encode(held)) == held
    with pytest.raises(ValueError, match="has not filled"):
        lease.bootstrapped(held, A, "8", "n")
    with pytest.raises(ValueError, match="another restore"):
        lease.filled(held, "r2")
    with pytest.raises(ValueError, match="another restore"):
        lease.filled(lease.initial("orders-1"), "r1")
    filled = lease.filled(held, "r1")
    assert not filled.held
    assert leasetext.decode(leasetext.encode(filled)) == filled
    line = (Switch(2, 1, 100), Switch(5, 2, 300))
    begun = lease.bootstrapped(filled, A, "8", "n", line)
    assert (begun.epoch, begun.timeline, begun.claimed, begun.lineage) == (1, 5, 5, line)
    assert begun.filling is None
    assert "filling" not in leasetext.encode(begun), "what no older agent knows is gone as soon as it is over"
    with pytest.raises(ValueError, match="another restore"):
        lease.filled(begun, "r1")


def test_a_cluster_that_is_held_up_goes_on_as_if_nothing_had_been() -> None:
    for state in (QUORUM, ASYNC, lease.taken_over(QUORUM, B, 6, WalPosition(2, 500), "n")):
        held = lease.suspended(state, "r1")
        assert held.suspended
        assert not held.held, "its volumes hold data: nothing of what a new cluster's hold allows"
        assert leasetext.decode(leasetext.encode(held)) == held
        assert replace(lease.resumed(held, "r1"), bootstrap=state.bootstrap) == state
        assert lease.is_older(lease.revised(state, state), lease.revised(state, held)) is False
        swapped = lease.revised(replace(state, revision=4), held)
        assert lease.is_older(replace(state, revision=4), swapped), "a copy of before is void"


def test_nobody_is_elected_and_nothing_handed_over_while_it_is_held_up() -> None:
    held = lease.suspended(QUORUM, "r1")
    with pytest.raises(ValueError, match="a restore replaces"):
        lease.taken_over(held, B, 6, WalPosition(2, 500), "n")
    with pytest.raises(ValueError, match="a restore replaces"):
        lease.heir_takes(replace(held, heir=B, clean_stop=CleanStop(2, 900)), 6, WalPosition(2, 1000), "n")
    with pytest.raises(ValueError, match="a restore replaces"):
        lease.heir_named(held, B, CleanStop(2, 900))


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (lease.initial("orders-1"), "nobody leads"),
        (lease.initial("orders-1", "r1"), "nobody leads"),
        (replace(QUORUM, mode="follow"), "its source's data"),
        (lease.suspended(QUORUM, "r2"), "another restore"),
    ],
)
def test_what_may_not_be_held_up(state: LeaseState, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        lease.suspended(state, "r1")


def test_a_hold_is_taken_back_by_its_own_restore_and_never_after_its_data_counts() -> None:
    held = lease.suspended(QUORUM, "r1")
    with pytest.raises(ValueError, match="another restore"):
        lease.resumed(held, "r2")
    with pytest.raises(ValueError, match="another restore"):
        lease.filled(held, "r2")
    with pytest.raises(ValueError, match="no restore"):
        lease.resumed(QUORUM, "r1")
    with pytest.raises(ValueError, match="no restore"):
        lease.resumed(lease.filled(held, "r1"), "r1")
    with pytest.raises(ValueError, match="no restore"):
        lease.resumed(lease.initial("orders-1", "r1"), "r1")


def test_other_data_in_place_begins_an_epoch_above_all_with_nobody_of_before() -> None:
    led = replace(ASYNC, loss=Loss(4, B, WalPosition(1, 9), WalPosition(1, 5)), leaving=("orders-4",), claimed=9)
    ready = lease.filled(lease.suspended(led, "r1"), "r1")
    new = Member("orders-1", "f" * 12)
    line = (Switch(3, 1, 100),)
    begun = lease.bootstrapped(ready, new, "8", "n", line, [7, 2])
    assert begun == LeaseState(
        epoch=8, holder=new, bootstrap="orders-1", nonce="n", system_identifier="8", lineage=line, claimed=9,
        leaving=("orders-4",), loss=led.loss, replaced=("7",),
    )  # fmt: skip
    assert begun.mode == "alone", "no voter of before holds any of it"
    assert lease_event(Seen.of(ready), Seen.of(begun)) == "replace"
    with pytest.raises(Illegal, match="in mode quorum"):
        lease_event(Seen.of(ready), Seen.of(replace(begun, mode="quorum", voters=(C,), k=1)))
    with pytest.raises(Illegal, match="within an epoch"):
        lease_event(Seen.of(led), Seen.of(replace(led, system_identifier="8")))
    assert not begun.opened, "roles and passwords first, then clients"
    assert leasetext.decode(leasetext.encode(begun)) == begun
    with pytest.raises(ValueError, match="was to be replaced"):
        lease.bootstrapped(ready, new, "7", "n", line)
    with pytest.raises(ValueError, match="has not filled"):
        lease.bootstrapped(lease.suspended(led, "r1"), new, "8", "n", line)
    with pytest.raises(ValueError, match="not the bootstrap"):
        lease.bootstrapped(ready, B, "8", "n", line)
    with pytest.raises(ValueError, match="only epoch 0"):
        lease.bootstrapped(QUORUM, A, "8", "n", line)


def test_what_a_restore_brought_and_lost_gives_way_to_another() -> None:
    lost = lease.filled(lease.suspended(QUORUM, "r1"), "r1")
    again = lease.suspended(lost, "r2", "orders-3")
    assert (again.bootstrap, again.suspended) == ("orders-3", True)
    on_another = Member("orders-3", "e" * 12)
    begun = lease.bootstrapped(lease.filled(again, "r2"), on_another, "8", "n")
    assert (begun.epoch, begun.holder) == (6, on_another)
    assert replace(lease.resumed(again, "r2"), bootstrap="orders-1") == QUORUM


def test_replaced_systems_are_remembered_and_not_without_end() -> None:
    state = QUORUM
    for number in range(20):
        ready = lease.filled(lease.suspended(state, "r"), "r")
        state = lease.bootstrapped(ready, A, f"9{number}", "n")
    assert state.replaced == tuple(f"9{n}" for n in range(3, 19))

"""Histories: read, compared, reserved, pruned. The examples are PostgreSQL's own files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.postgres.timeline import (
    TOMBSTONE,
    Switch,
    WalPosition,
    canonical,
    dead_branches,
    follows,
    history_file,
    history_number,
    parse_history,
    render_history,
    tombstones_needed,
    tombstones_to_prune,
)

A, B, C = 0x3000000, 0x5000000, 0x7000000
LINE = (Switch(2, 1, A), Switch(5, 2, B))  # 1 until A, 2 until B, then 5


def test_a_history_as_postgresql_writes_it() -> None:
    text = "1\t0/3000000\tno recovery target specified\n\n2\t0/5000000\tno recovery target specified\n"
    assert parse_history(5, text) == LINE
    assert parse_history(5, render_history(LINE)) == LINE


def test_a_tombstone_has_no_line() -> None:
    assert parse_history(3, TOMBSTONE) == ()
    assert parse_history(3, "") == ()


@pytest.mark.parametrize("text", ["x\t0/1\n", "1\n", "1\t0/zz\treason\n", "5\t0/1\n", "2\t0/1\tr\n1\t0/2\tr\n"])
def test_a_history_that_postgresql_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"timeline|LSN"):
        parse_history(3, text)


def test_names_of_history_files() -> None:
    assert history_file(10) == "0000000A.history"
    assert history_number("0000000A.history") == 10
    for name in ("000000010000000000000001", "A.history", "0000000A.history.ready", "zzzzzzzz.history", "history"):
        assert history_number(name) is None


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        (WalPosition(5, B + 1), WalPosition(5, B + 1)),
        (WalPosition(5, B), WalPosition(2, B)),  # has the number, and nothing written under it
        (WalPosition(5, A), WalPosition(1, A)),
        (WalPosition(2, A + 1), WalPosition(2, A + 1)),
        (WalPosition(1, C), WalPosition(1, C)),  # went past the fork: a branch of its own
        (WalPosition(7, C), WalPosition(7, C)),  # of another line
    ],
)
def test_the_canonical_timeline_is_that_of_the_last_byte(position: WalPosition, expected: WalPosition) -> None:
    assert canonical(position, LINE) == expected


def test_who_has_more_of_the_old_timeline_beats_who_has_only_the_new_number() -> None:
    attached = canonical(WalPosition(5, B - 100), LINE)
    stayed = canonical(WalPosition(2, B - 50), LINE)
    assert attached < stayed < canonical(WalPosition(5, B + 1), LINE)


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        (WalPosition(5, C), True),
        (WalPosition(2, B), True),
        (WalPosition(2, B + 1), False),
        (WalPosition(1, A), True),
        (WalPosition(1, A + 1), False),
        (WalPosition(3, A), False),
        (WalPosition(9, C), False),
    ],
)
def test_what_may_follow_without_a_rewind(position: WalPosition, *, expected: bool) -> None:
    assert follows(position, 5, LINE) is expected


@given(st.integers(1, 50), st.integers(1, 50), st.sets(st.integers(1, 60)))
def test_with_its_tombstones_postgresql_takes_the_claim(own: int, distance: int, present: set[int]) -> None:
    claim = own + distance
    present = {n for n in present if n < claim}  # those at and above it are removed before
    histories = present | set(tombstones_needed(own, claim, present))
    newest = own
    while newest + 1 in histories:  # findNewestTimeLine()
        newest += 1
    assert newest + 1 == claim


@pytest.mark.parametrize("claim", [1, 3])
def test_a_claim_that_is_not_above_cannot_be_had(claim: int) -> None:
    with pytest.raises(ValueError, match="cannot be claimed"):
        tombstones_needed(3, claim, ())


@given(st.dictionaries(st.integers(2, 40), st.booleans()))
def test_after_pruning_no_server_starts_with_a_tombstone_as_its_newest(histories: dict[int, bool]) -> None:
    pruned = set(tombstones_to_prune(histories))
    left = {n: real for n, real in histories.items() if n not in pruned}
    assert not left or left[max(left)]
    assert all(not histories[n] for n in pruned)
    real = [n for n, is_real in histories.items() if is_real]
    assert all(n in left for n in histories if real and n < max(real))  # those in between are fetched by replicas


def test_a_newest_real_history_that_lies_elsewhere_counts() -> None:
    histories = {2: False, 3: False, 4: False}
    assert tombstones_to_prune(histories) == (2, 3, 4)
    assert tombstones_to_prune(histories, 3) == (4,)


def test_dead_branches_are_what_neither_we_nor_our_upstream_have() -> None:
    histories = {2: True, 3: True, 4: False, 5: True}
    assert dead_branches(histories, WalPosition(1, A), ()) == (2, 3, 5)
    assert dead_branches(histories, WalPosition(1, A), LINE) == (3,)
    assert dead_branches(histories, WalPosition(3, C), LINE) == ()
    assert dead_branches(histories, WalPosition(5, C), ()) == ()

"""A volume that fills: when writes stop and go on, what the ballast does, and who takes over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide import space
from matriarch.decide.space import GB, MB, Space, seen
from matriarch.postgres.lsn import SEGMENT_SIZE

SIZES = st.integers(200 * MB, 20000 * GB)


@given(SIZES)
def test_the_limits_leave_each_other_room_on_every_volume(total: int) -> None:
    assert 2 * SEGMENT_SIZE <= space.ballast(total) <= max(total // 6, 2 * SEGMENT_SIZE)
    assert 2 * SEGMENT_SIZE <= space.full_below(total) < space.enough_above(total) < total // 2
    assert space.ballast(total) <= 512 * MB


@given(SIZES, st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_writes_stop_when_full_and_go_on_only_with_room_to_spare(total: int, shares: list[float]) -> None:
    now = Space()
    for share in shares:
        before, now = now, seen(now, total, int(total * share), 0)
        if now.free_bytes < space.full_below(total):
            assert now.writes_stopped
        if now.free_bytes >= space.enough_above(total):
            assert not now.writes_stopped
        if before.writes_stopped and not now.writes_stopped:
            assert now.free_bytes >= space.enough_above(total)
        if now.writes_stopped and not before.writes_stopped:
            assert now.free_bytes < space.full_below(total)


@given(SIZES, st.floats(0, 1), st.booleans())
def test_the_ballast_is_not_made_and_released_in_turn(total: int, share: float, ended: bool) -> None:
    without = seen(Space(), total, int(total * share), 0)
    if space.remakes(without):
        wanted = space.ballast(total)
        made = seen(without, total, without.free_bytes - wanted, wanted)
        assert not space.releases(made, ended=ended, leads=True)
        assert not made.writes_stopped
        assert not space.remakes(made)


@pytest.mark.parametrize(
    ("free", "ended", "leads", "gone"),
    [
        (40, False, True, False),
        (40, True, True, False),
        (20, False, True, False),
        (20, True, False, True),
        (15, False, True, True),
        (15, False, False, False),
        (15, True, False, True),
    ],
)
def test_when_the_ballast_goes(free: int, ended: bool, leads: bool, gone: bool) -> None:
    now = seen(Space(), 300 * MB, free * MB, 32 * MB)
    assert space.releases(now, ended=ended, leads=leads) is gone
    assert not space.releases(seen(Space(), 300 * MB, free * MB, 0), ended=ended, leads=leads)


@given(SIZES, st.floats(0, 1))
def test_a_standby_goes_on_for_longer_than_a_primary_writes(total: int, share: float) -> None:
    now = seen(Space(), total, int(total * share), 0)
    if not space.takes_wal(True, now):
        assert now.writes_stopped
        assert not space.takes_wal(False, now)
    if not now.writes_stopped:
        assert space.takes_wal(True, now)
        assert space.takes_wal(False, now)


@pytest.mark.parametrize(
    ("total", "free", "seconds"),
    [
        (236 * MB, 200 * MB, 1.0),
        (236 * MB, 100 * MB, 0.2),
        (236 * MB, 0, 0.2),
        (100 * GB, 50 * GB, 1.0),
        (100 * GB, 7 * GB, 0.2),
        (0, 0, 0.2),
    ],
)
def test_a_volume_that_gets_full_is_looked_at_more_often(total: int, free: int, seconds: float) -> None:
    assert space.next_look(Space(total, free)) == seconds


def test_an_unseen_volume_changes_nothing() -> None:
    assert not space.releases(Space(), ended=True, leads=True)
    assert space.takes_wal(True, Space())
    assert space.takes_wal(False, Space())
    assert not space.remakes(Space())
    assert not Space().writes_stopped


def test_the_replica_with_the_most_room_takes_over_if_that_is_enough() -> None:
    full = seen(Space(), 300 * MB, 20 * MB, 0)
    some = seen(Space(), 300 * MB, 130 * MB, 0)
    more = seen(Space(), 1000 * MB, 600 * MB, 0)
    assert space.successor({"orders-2": full, "orders-3": None}) is None
    assert space.successor({"orders-2": some, "orders-3": full}) == "orders-2"
    assert space.successor({"orders-2": some, "orders-3": more}) == "orders-3"
    assert space.successor({"orders-2": seen(Space(), 300 * MB, 100 * MB, 0)}) is None, "it would be full soon, too"
    assert space.successor({"orders-2": Space()}) is None
    assert space.successor({}) is None


def test_people_are_told_what_to_do() -> None:
    assert space.advice(seen(Space(), 300 * MB, 200 * MB, 0), leads=True) == ""
    stopped = space.advice(seen(Space(), 300 * MB, 20 * MB, 0), leads=True)
    assert "280 of 300 MiB" in stopped
    assert "spec.storage.size" in stopped
    assert "default_transaction_read_only" in stopped
    assert "default_transaction_read_only" not in space.advice(seen(Space(), 300 * MB, 20 * MB, 0), leads=False)
    assert "soon" in space.advice(seen(Space(), 300 * MB, 50 * MB, 0), leads=True)


@pytest.mark.parametrize(
    ("former", "total", "sheds"),
    [(0, GB, False), (4, GB, False), (5, GB, True), (3, GB // 4, False), (60, 100 * GB, False)],
)
def test_wal_of_former_timelines_goes_where_it_takes_a_sixteenth_of_the_volume(
    former: int, total: int, sheds: bool
) -> None:
    assert space.sheds(former, total) is sheds

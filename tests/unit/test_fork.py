"""Which voters open the door after a promotion: none that has the new timeline without its beginning."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide.fork import vouches
from matriarch.postgres.lsn import SEGMENT_SIZE

FORK = 7 * SEGMENT_SIZE - 5000
RECORD = FORK + 400
NEXT = 7 * SEGMENT_SIZE


def test_what_was_flushed_in_the_fork_s_segment_counts_at_once() -> None:
    assert vouches(record=RECORD, fork=FORK, sent=RECORD + 50, flushed=RECORD, replayed=0)
    assert not vouches(record=RECORD, fork=FORK, sent=RECORD + 50, flushed=RECORD - 1, replayed=RECORD)


def test_a_later_segment_counts_once_it_was_replayed_so_far() -> None:
    stuck = {"record": RECORD, "fork": FORK, "sent": NEXT + 100, "flushed": NEXT + 100}
    assert not vouches(**stuck, replayed=FORK), "it lacks what lies before the segment"
    assert vouches(**stuck, replayed=RECORD)
    assert not vouches(record=NEXT + 60, fork=FORK, sent=NEXT + 100, flushed=NEXT + 100, replayed=FORK)


def test_without_a_promotion_nothing_can_be_left_out() -> None:
    assert vouches(record=RECORD, fork=0, sent=NEXT + 100, flushed=NEXT + 100, replayed=0)


LSN = st.integers(min_value=1, max_value=20 * SEGMENT_SIZE)


@given(
    fork=LSN, after=st.integers(1, 3 * SEGMENT_SIZE), start=st.integers(0, 20), more=st.integers(0, 3 * SEGMENT_SIZE)
)
def test_nobody_vouches_who_began_behind_the_fork(fork: int, after: int, start: int, more: int) -> None:
    """A stream that began at a segment behind the fork, however far it got; nothing past the fork can be replayed."""
    began = start * SEGMENT_SIZE
    if began <= fork:
        return
    got = began + more
    assert not vouches(record=fork + after, fork=fork, sent=got, flushed=got, replayed=fork)

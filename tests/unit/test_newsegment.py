"""When a switchover begins a new WAL segment first: where it shortens the wait of clients, and holds up no stop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
from matriarch.decide.newsegment import LITTLE, begins_segment
from matriarch.decide.voters import Stream
from matriarch.postgres.lsn import SEGMENT_SIZE

A, B, C, D = (Member(f"orders-{i}", f"{i}" * 12) for i in (1, 2, 3, 4))
LEASE = LeaseState(epoch=5, holder=A, bootstrap="orders-1", mode="quorum", voters=(B, C), k=1, opened=True)
HERE = 7 * SEGMENT_SIZE + 9 * LITTLE
BOTH = [Stream(C, True, 0), Stream(B, True, LITTLE - 1)]


def begins(lease: LeaseState = LEASE, streams: list[Stream] = BOTH, **change: Any) -> bool:
    return begins_segment(lease, streams, **{"flushed": HERE, "strangers": False, "archives": False} | change)


def test_with_voters_that_keep_up_it_does() -> None:
    assert begins()


@pytest.mark.parametrize("mode", ["alone", "async", "follow"])
def test_in_other_modes_it_does_not(mode: Any) -> None:
    assert not begins(replace(LEASE, mode=mode))


def test_of_a_segment_that_has_just_begun_little_is_copied() -> None:
    assert not begins(flushed=7 * SEGMENT_SIZE + LITTLE - 1)


def test_with_an_archive_postgresql_begins_one_itself() -> None:
    assert not begins(archives=True)


def test_where_a_replica_cluster_or_a_copy_would_get_the_zeros_it_does_not() -> None:
    assert not begins(strangers=True)


@pytest.mark.parametrize(
    "streams",
    [
        pytest.param([*BOTH, Stream(D, True, 0)], id="a member that is no voter"),
        pytest.param([Stream(B, True, 0)], id="a voter that is away"),
        pytest.param([Stream(B, True, 0), Stream(C, False, 0)], id="one that catches up"),
        pytest.param([Stream(B, True, 0), Stream(C, True, LITTLE)], id="one that is behind"),
        pytest.param([Stream(B, True, 0), Stream(B, True, 0)], id="the same one twice"),
    ],
)
def test_where_a_stop_would_wait_for_the_zeros_it_does_not(streams: list[Stream]) -> None:
    assert not begins(streams=streams)

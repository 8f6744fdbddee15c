"""The figures of an outage: a benchmark that cannot see a loss or a gap proves nothing."""

from __future__ import annotations

import pytest

from bench.client import Run
from bench.figures import SECOND, Attempt, figures, longest_gap, parse


def at(*seconds: float) -> list[int]:
    return [round(s * SECOND) for s in seconds]


@pytest.mark.parametrize(
    ("acknowledged", "after", "until", "seconds", "open_end"),
    [
        (at(1.0, 2.0, 2.5, 4.0), 2.2, 4.1, 1.5, False),
        (at(4.0, 2.5, 1.0, 2.0), 2.2, 4.1, 1.5, False),  # clients' lines come in any order
        (at(1.0, 5.0, 5.1), 2.0, 5.2, 4.0, False),  # the gap begins at the last write before the fault
        (at(0.0, 9.0, 9.1, 9.2), 9.05, 9.3, 0.1, False),  # a pause that ended before the fault is not its doing
        (at(1.0, 2.0), 2.0, 30.0, 28.0, True),  # never came back
        (at(1.0, 2.0, 2.2), 2.1, 2.9, 0.7, True),
    ],
)
def test_longest_gap(acknowledged: list[int], after: float, until: float, seconds: float, open_end: bool) -> None:
    gap = longest_gap(acknowledged, after=int(after * SECOND), until=int(until * SECOND))
    assert gap.seconds == pytest.approx(seconds)
    assert gap.open_end is open_end


@pytest.mark.parametrize("acknowledged", [[], at(3.0, 4.0)])
def test_a_load_that_never_ran_has_no_gap(acknowledged: list[int]) -> None:
    with pytest.raises(ValueError, match="never ran"):
        longest_gap(acknowledged, after=SECOND, until=9 * SECOND)


def test_acknowledged_ids_that_are_not_there_are_lost_and_others_are_not() -> None:
    attempts = [
        Attempt(at(1.0)[0], 0, 0, 11, "ok", ""),
        Attempt(at(1.1)[0], 0, 1, 12, "ok", ""),
        Attempt(at(1.2)[0], 0, 0, 13, "unknown", "ConnectionDoesNotExistError: "),
        Attempt(at(1.3)[0], 0, 1, 0, "failed", "ConnectionRefusedError: "),
        Attempt(at(2.0)[0], 0, 0, 14, "ok", ""),
        Attempt(at(2.4)[0], 0, 1, 15, "ok", ""),
    ]
    seen = figures(attempts, {11, 13, 14, 15}, fault=at(1.15)[0], until=at(2.5)[0])
    assert seen.lost == (12,)
    assert (seen.acknowledged, seen.unknown, seen.failed) == (4, 1, 1)
    assert seen.gap.seconds == pytest.approx(0.9)
    assert seen.slowest_client == pytest.approx(1.3)
    assert seen.gap_before == pytest.approx(0.1)


def test_a_torn_last_line_is_left_out() -> None:
    assert [a.id for a in parse(["2\t1\t0\t7\tok\t\n", "3\t2\t0\t8\to"])] == [7]


def test_ids_of_runs_and_clients_never_meet() -> None:
    run, following = Run(1_752_000_000), Run(1_752_000_001)
    low, high = run.bounds
    ids = {run.id(client, attempt) for client in range(8) for attempt in (1, 2, 2**28 - 1)}
    assert len(ids) == 24
    assert all(low <= key < high for key in ids)
    assert following.id(0, 0) == high < 2**63


def test_a_client_that_came_late_is_not_the_slowest() -> None:
    attempts = [Attempt(t, 0, client, t, "ok", "") for client, t in ((0, 10), (0, 30), (1, 25), (0, 40))]
    seen = figures(attempts, {10, 30, 25, 40}, fault=20, until=41)
    assert seen.slowest_client == pytest.approx(20 / SECOND)

"""A standby that streams a timeline from behind its beginning."""

from __future__ import annotations

import pytest

from matriarch.decide.fork import lacks_beginning
from matriarch.postgres.lsn import SEGMENT_SIZE
from matriarch.postgres.timeline import Switch, WalPosition

FORK = 3 * SEGMENT_SIZE - 5000
LINE = (Switch(2, 1, SEGMENT_SIZE + 400), Switch(5, 2, FORK))


@pytest.mark.parametrize(
    ("start", "replayed", "lacks"),
    [
        pytest.param(WalPosition(5, 3 * SEGMENT_SIZE), FORK, 5, id="from the segment behind the fork"),
        pytest.param(WalPosition(5, 3 * SEGMENT_SIZE), FORK - 100, 5, id="and replay is not there yet"),
        pytest.param(WalPosition(5, 2 * SEGMENT_SIZE), FORK, None, id="from the fork's segment"),
        pytest.param(WalPosition(5, 3 * SEGMENT_SIZE), FORK + 56, None, id="connected again"),
        pytest.param(WalPosition(5, 9 * SEGMENT_SIZE), 8 * SEGMENT_SIZE, None, id="connected again, much later"),
        pytest.param(WalPosition(2, 3 * SEGMENT_SIZE), FORK, None, id="still on the timeline before"),
        pytest.param(WalPosition(6, 3 * SEGMENT_SIZE), FORK, None, id="a timeline that nobody has recorded yet"),
        pytest.param(WalPosition(0, 0), FORK, None, id="not connected"),
    ],
)
def test_by_where_it_began(start: WalPosition, replayed: int, lacks: int | None) -> None:
    fork = lacks_beginning(start, replayed, LINE)
    assert (None if fork is None else fork.timeline) == lacks

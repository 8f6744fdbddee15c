"""The arithmetic of the steady bench, and what it calls a busy processor."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.steady import BURN, Ticks, burning, busy, ticks

STAT = "cpu  100 20 30 400 50 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n"


def test_waiting_for_a_disk_is_not_busy() -> None:
    assert ticks(STAT) == Ticks(busy=171, total=621)


@pytest.mark.parametrize(
    ("before", "after", "part"),
    [
        pytest.param(Ticks(0, 0), Ticks(50, 100), 0.5, id="half"),
        pytest.param(Ticks(10, 100), Ticks(110, 200), 1.0, id="all"),
        pytest.param(Ticks(10, 100), Ticks(10, 200), 0.0, id="none"),
        pytest.param(Ticks(10, 100), Ticks(10, 100), 0.0, id="no time passed"),
    ],
)
def test_the_busy_part_of_all_processors(before: Ticks, after: Ticks, part: float) -> None:
    assert busy(before, after) == part


def test_what_burns_takes_time_and_ends_with_the_block() -> None:
    def burners() -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if BURN.encode() in words:
                found.append(int(folder.name))
        return found

    before = set(burners())
    with burning(2):
        ours = set(burners()) - before
        until = time.monotonic() + 10
        while time.monotonic() < until and len(ours) < 2:  # they become Python a moment after the fork
            ours = set(burners()) - before
        assert len(ours) == 2
    assert not set(burners()) & ours

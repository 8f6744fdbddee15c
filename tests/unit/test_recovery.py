"""How far physical backups and the WAL archive reach, and what is said to be missing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from matriarch.decide.recovery import Base, Segment, recovery
from matriarch.postgres.lsn import SEGMENT_SIZE
from matriarch.postgres.timeline import Switch

NOW = datetime(2026, 11, 25, tzinfo=UTC)
HOUR = timedelta(hours=1)
TWO_MISSING = "000000010000000000000006 to 000000010000000000000007 are missing (2 segments)."


TWICE = (Switch(2, 1, 6 * SEGMENT_SIZE + 9), Switch(3, 2, 6 * SEGMENT_SIZE + 99))


def stored(*pairs: tuple[int, int]) -> list[Segment]:
    return [Segment(timeline=t, start=n * SEGMENT_SIZE, stored=NOW + n * HOUR) for t, n in pairs]


def base(timeline: int, number: int) -> Base:
    return Base(id="b", timeline=timeline, stop=number * SEGMENT_SIZE + 500, finished=NOW)


@pytest.mark.parametrize(
    ("segments", "histories", "wanted"),
    [
        pytest.param([], {}, [(1, None, "")], id="nothing but the backup"),
        pytest.param([(1, 5), (1, 6)], {}, [(1, 7, "")], id="to the end"),
        pytest.param([(1, 5), (1, 8)], {}, [(1, 6, TWO_MISSING)], id="a gap"),
        pytest.param([(1, 6)], {}, [(1, None, "000000010000000000000005 is missing.")], id="a gap at once"),
        pytest.param([(1, 5), (2, 6), (2, 7)], {2: (Switch(2, 1, 6 * SEGMENT_SIZE + 9),)},
                     [(1, 6, ""), (2, 8, "")], id="onto a descendant"),
        pytest.param([(1, 5), (1, 6), (2, 7)], {2: (Switch(2, 1, 6 * SEGMENT_SIZE + 9),)},
                     [(1, 7, ""), (2, 6, "000000020000000000000006 is missing.")], id="its first segment is missing"),
        pytest.param([(1, 5), (2, 5)], {2: (Switch(2, 1, 5 * SEGMENT_SIZE + 9),)}, [(1, 6, "")],
                     id="a line that left before the backup's end"),
        pytest.param([(1, 5), (2, 6)], {}, [(1, 6, "")], id="history missing"),
        pytest.param([(1, 5), (3, 6), (3, 7)], {2: TWICE[:1], 3: TWICE}, [(1, 6, ""), (3, 8, "")],
                     id="two failovers within one segment"),
    ],
)  # fmt: skip
def test_how_far_a_backup_reaches(
    segments: list[tuple[int, int]],
    histories: dict[int, tuple[Switch, ...]],
    wanted: list[tuple[int, int | None, str]],
) -> None:
    found = recovery([base(1, 5)], stored(*segments), histories)
    assert [(r.timeline, r.last, r.gap) for r in found.reaches] == [
        (t, 5 * SEGMENT_SIZE + 500 if n is None else n * SEGMENT_SIZE, gap) for t, n, gap in wanted
    ]
    assert all(r.first == 5 * SEGMENT_SIZE + 500 for r in found.reaches)
    assert any("00000002.history is missing" in g for g in found.gaps) == (segments == [(1, 5), (2, 6)])

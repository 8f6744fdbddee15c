"""The choice of a recovery's timeline, and which targets are refused before anything is changed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide.pitr import Archive, Kind, Route, Target, expected_end, newest_before, route
from matriarch.decide.recovery import Base
from matriarch.decide.verdict import Verdict
from matriarch.postgres.lsn import SEGMENT_SIZE
from matriarch.postgres.timeline import Switch

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SEG = SEGMENT_SIZE


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


MADE = Base(id="b", timeline=1, stop=2 * SEG + 500, finished=NOON)
# 1 → 4 (numbers 2 and 3 were claimed and never used) → 6, in the middle of segments
LINE_4 = (Switch(4, 1, 4 * SEG + 10),)
LINE_6 = (*LINE_4, Switch(6, 4, 6 * SEG + 10))


def archive(*segments: tuple[int, Iterable[int]], histories: dict[int, tuple[Switch, ...]] | None = None) -> Archive:
    """Segment n is stored n minutes after noon."""
    return Archive(histories=histories or {}, segments={(t, n): at(n) for t, some in segments for n in some})


ONE = archive((1, range(1, 5)))
FAILED_OVER = archive((1, range(1, 4)), (4, (4, 5)), (6, (6, 7)), histories={4: LINE_4, 6: LINE_6})


@pytest.mark.parametrize(
    ("found", "made", "timeline", "end"),
    [
        pytest.param(archive(), MADE, 1, MADE.stop, id="nothing is archived yet"),
        pytest.param(ONE, MADE, 1, 5 * SEG, id="one timeline"),
        pytest.param(FAILED_OVER, MADE, 6, 8 * SEG, id="two failovers with a gap in their numbers"),
        pytest.param(
            archive((1, range(1, 9)), (4, (4, 5)), histories={4: LINE_4}), MADE, 4, 6 * SEG, id="a deposed one went on"
        ),
        pytest.param(
            archive((1, range(1, 9)), (2, (1, 2)), histories={2: (Switch(2, 1, SEG + 5),)}),
            MADE,
            1,
            9 * SEG,
            id="a timeline that left before the backup's end",
        ),
        pytest.param(
            FAILED_OVER,
            Base(id="b", timeline=4, stop=5 * SEG, finished=at(5)),
            6,
            8 * SEG,
            id="a later backup",
        ),
        pytest.param(
            archive((1, range(1, 4)), histories={4: LINE_4}), MADE, 4, 4 * SEG, id="its WAL is not stored yet"
        ),
    ],
)
def test_the_newest_timeline_that_came_out_of_the_backup(found: Archive, made: Base, timeline: int, end: int) -> None:
    chosen = route(made, found, Target("latest"))
    assert isinstance(chosen, Route), chosen
    assert (chosen.timeline, chosen.end) == (timeline, end)


HOLE = archive((1, (2, 3, 5)))
# The older timeline's segment of the switch is there, which goes on past it, and the newer one's is not.
FORK = archive((1, range(1, 9)), histories={4: LINE_4})
LATER = archive((1, range(1, 5)), (4, (5,)), histories={4: LINE_4})
BORDER = archive((1, range(1, 5)), histories={4: (Switch(4, 1, 4 * SEG),)})
# There was a failover, and how it came about is gone; the deposed primary's own WAL goes on past it.
NO_HISTORY = archive((1, range(1, 9)), (4, (4, 5)))
NO_SECOND_HISTORY = archive((1, range(1, 4)), (4, (4, 5, 6)), (6, (6, 7)), histories={4: LINE_4})


@pytest.mark.parametrize(
    ("found", "kind", "value", "reason", "says"),
    [
        (ONE, "time", at(3).isoformat(), None, ""),
        (ONE, "time", NOON.isoformat(), None, ""),
        (ONE, "time", "2026-03-01T13:02:00+01:00", None, ""),
        (ONE, "time", at(-0.01).isoformat(), "TargetTooEarly", "12:00:00.000000Z to 2026-03-01T12:04:00.000000Z"),
        (ONE, "time", at(4.01).isoformat(), "TargetTooLate", "12:00:00.000000Z to 2026-03-01T12:04:00.000000Z"),
        (ONE, "lsn", "0/20001F4", None, ""),
        (ONE, "lsn", "0/20001F3", "TargetTooEarly", "0/20001F4 to 0/5000000 on timeline 1"),
        (ONE, "lsn", "0/5000000", None, ""),
        (ONE, "lsn", "0/5000001", "TargetTooLate", "on timeline 1"),
        (ONE, "xid", "1234", None, ""),
        (ONE, "name", "before release", None, ""),
        (ONE, "immediate", "", None, ""),
        (HOLE, "latest", "", "WalMissing", "000000010000000000000004 is not in the archive"),
        (HOLE, "time", at(3).isoformat(), None, ""),
        (HOLE, "time", at(4).isoformat(), "TargetTooLate", "000000010000000000000004 is not in the archive"),
        (FORK, "latest", "", "WalMissing", "000000040000000000000004 is not in the archive yet"),
        (FORK, "xid", "1234", "WalMissing", "to 0/4000000 on timeline 4"),
        (FORK, "name", "before release", "WalMissing", ""),
        (FORK, "lsn", "0/4000000", None, ""),
        (FORK, "lsn", "0/4000001", "TargetTooLate", "000000040000000000000004 is not in the archive yet"),
        (FORK, "time", at(3).isoformat(), None, ""),
        (LATER, "latest", "", "WalMissing", "000000040000000000000004 is not in the archive"),
        (BORDER, "latest", "", "WalMissing", "000000040000000000000004 is not in the archive yet"),
        (archive((1, (3, 4))), "latest", "", "WalMissing", "000000010000000000000002 is not in the archive"),
        (NO_HISTORY, "latest", "", "WalMissing", "00000004.history is not in the archive"),
        (NO_HISTORY, "xid", "1234", "WalMissing", "00000004.history is not in the archive"),
        (NO_HISTORY, "name", "before release", "WalMissing", "00000004.history is not in the archive"),
        (NO_HISTORY, "time", at(3).isoformat(), None, ""),
        (NO_HISTORY, "time", at(4).isoformat(), "TargetTooLate", "00000004.history is not in the archive"),
        (NO_HISTORY, "lsn", "0/4000000", None, ""),
        (NO_HISTORY, "lsn", "0/4000001", "TargetTooLate", "00000004.history is not in the archive"),
        (NO_HISTORY, "immediate", "", None, ""),
        (NO_SECOND_HISTORY, "latest", "", "WalMissing", "00000006.history is not in the archive"),
        (NO_SECOND_HISTORY, "lsn", "0/6000000", None, ""),
        (archive((1, range(1, 9)), (4, (1,))), "latest", "", None, ""),  # it began before the backup's end
    ],
)
def test_what_cannot_be_reached_is_refused_with_what_can(
    found: Archive, kind: Kind, value: str, reason: str | None, says: str
) -> None:
    chosen = route(MADE, found, Target(kind, value))
    assert (chosen.reason if isinstance(chosen, Verdict) else None) == reason
    if isinstance(chosen, Verdict):
        assert says in chosen.message


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        ("time", "2026-03-01T12:00:00", "has no zone"),
        ("time", "yesterday", "is not a time"),
        ("lsn", "12", "is not an LSN"),
        ("xid", "-1", "is not the number"),
        ("xid", str(1 << 64), "is not the number"),
        ("name", "", "1 to 63 bytes"),
        ("name", "ä" * 32, "1 to 63 bytes"),
        ("latest", "x", "takes no value"),
    ],
)
def test_a_target_is_understood_or_refused(kind: Kind, value: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Target(kind, value)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.data())
def test_a_hole_is_never_passed(lengths: list[int], data: st.DataObject) -> None:
    """A line of timelines, each of some segments; with one segment taken away the end is that segment."""
    line: list[Switch] = []
    segments: list[tuple[int, int]] = []
    number = 2
    for timeline, length in enumerate(lengths, start=1):
        if timeline > 1:
            line.append(Switch(timeline, timeline - 1, number * SEG + 600 + timeline))
        segments += [(timeline, n) for n in range(number, number + length + 1)]
        number += length
    histories = {s.timeline: tuple(line[: i + 1]) for i, s in enumerate(line)}
    whole = Archive(histories=histories, segments=dict.fromkeys(segments, at(1)))
    chosen = route(MADE, whole, Target("latest"))
    assert isinstance(chosen, Route)
    assert (chosen.timeline, chosen.end) == (len(lengths), (number + 1) * SEG)
    gone = data.draw(st.sampled_from(sorted({n for _, n in segments})))
    less = Archive(histories=histories, segments={(t, n): at(1) for t, n in segments if n != gone})
    lost = route(MADE, less, Target("latest"))
    if isinstance(lost, Route):
        assert not any(n > gone and t == len(lengths) for t, n in segments)
        assert lost.end == max(MADE.stop, gone * SEG)
    else:
        assert lost.reason == "WalMissing"


EARLY = Base(id="a", timeline=1, stop=SEG, finished=at(-60))
LATER = Base(id="c", timeline=1, stop=8 * SEG, finished=at(60))


@pytest.mark.parametrize(
    ("target", "chosen"),
    [
        (Target("latest"), LATER),
        (Target("immediate"), LATER),
        (Target("xid", "800"), LATER),
        (Target("time", at(60).isoformat()), LATER),
        (Target("time", at(59).isoformat()), MADE),
        (Target("time", at(-1).isoformat()), EARLY),
        (Target("time", at(-61).isoformat()), None),
        (Target("lsn", "0/8000000"), LATER),
        (Target("lsn", "0/7FFFFFF"), MADE),
        (Target("lsn", "0/1"), None),
    ],
)
def test_the_newest_backup_that_ended_before_the_target(target: Target, chosen: Base | None) -> None:
    assert newest_before([MADE, LATER, EARLY], target) == chosen
    assert newest_before([], target) is None


@pytest.mark.parametrize(
    ("target", "end"),
    [
        (Target("latest"), 5 * SEG),
        (Target("immediate"), MADE.stop),
        (Target("lsn", "0/3000148"), 3 * SEG + 0x148),
        (Target("time", at(2.5).isoformat()), 4 * SEG),
        (Target("time", at(4).isoformat()), 5 * SEG),
        (Target("xid", "800"), 5 * SEG),
    ],
)
def test_how_much_there_is_to_replay(target: Target, end: int) -> None:
    found = route(MADE, ONE, target)
    assert isinstance(found, Route)
    assert expected_end(MADE, ONE, found, target) == end

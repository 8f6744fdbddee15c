"""What can be restored: for each physical backup and each timeline that goes on from it, how far the WAL reaches.

PostgreSQL takes a segment from the newest timeline of the line it follows that has begun by then (XLogFileReadAnyTLI);
a line may leave a timeline only after the backup is consistent. A backup holds its own WAL, so that its end is
reachable without any archive. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from matriarch.postgres.lsn import SEGMENT_SIZE, segment_name
from matriarch.postgres.timeline import Switch, history_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A physical backup. LSNs in bytes."""

    id: str
    timeline: int
    stop: int
    """Consistent from here on."""
    finished: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    timeline: int
    start: int
    stored: datetime
    """When the store received it: what was committed in it is older."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """From `first` (consistent) to `last` on `timeline`; everything in between can be chosen."""

    backup: str
    timeline: int
    first: int
    last: int
    first_time: datetime
    last_time: datetime
    gap: str = ""
    """What is missing between `last` and WAL that lies behind it, by the names of the files."""


@dataclass(frozen=True, slots=True)
class Recovery:
    reaches: tuple[Reach, ...]
    gaps: tuple[str, ...]
    """What is missing, one sentence each, that a backup would need."""
    unreachable: tuple[int, ...] = ()
    """Timelines with WAL that no backup leads to, for all that is known."""


def recovery(
    backups: Iterable[Base],
    segments: Iterable[Segment],
    histories: Mapping[int, tuple[Switch, ...]],
    unread: Mapping[int, str] = MappingProxyType({}),
) -> Recovery:
    """`histories` are those that could be read, `unread` those that could not, with why; a timeline above 1 without
    one cannot be followed."""
    stored = {(s.timeline, s.start // SEGMENT_SIZE): s.stored for s in segments}
    bases = sorted(backups, key=lambda b: (b.finished, b.id))
    timelines = sorted({t for t, _ in stored} | set(histories))
    reaches, gaps, reached = [], [], {b.timeline for b in bases}
    for base in bases:
        for timeline in sorted({base.timeline, *timelines}):
            line_of = histories.get(timeline, ())
            if timeline != base.timeline and not leads(base, line_of):
                continue
            reached.add(timeline)
            if timeline != base.timeline and _passed(timeline, line_of, histories, stored):
                continue
            reaches.append(reach(base, timeline, line_of, stored))
    lowest = min((b.timeline for b in bases), default=None)
    for timeline in timelines:
        if lowest is None or timeline < lowest or timeline in histories or timeline in reached:
            continue
        why = f"cannot be read ({unread[timeline]})" if timeline in unread else "is missing"
        gaps.append(f"{history_file(timeline)} {why}: the WAL of timeline {timeline} cannot be followed.")
    gaps += [f"{r.backup}, timeline {r.timeline}: {r.gap}" for r in reaches if r.gap]
    lonely = tuple(t for t in timelines if t not in reached and any(t == of for of, _ in stored))
    return Recovery(tuple(reaches), tuple(gaps), lonely)


def leads(base: Base, line_of: Iterable[Switch]) -> bool:
    """Whether the line goes through the backup's timeline and leaves it after the backup's end."""
    return any(s.parent == base.timeline and s.lsn >= base.stop for s in line_of)


def _passed(
    timeline: int,
    line_of: tuple[Switch, ...],
    histories: Mapping[int, tuple[Switch, ...]],
    stored: Mapping[tuple[int, int], datetime],
) -> bool:
    """It has no WAL of its own, and a later one left it within its first segment, with a copy of all it had: two
    failovers while little was written. That segment will never be stored, and nobody misses it."""
    first = line_of[-1].lsn // SEGMENT_SIZE
    return not any(t == timeline for t, _ in stored) and any(
        s.parent == timeline and s.lsn // SEGMENT_SIZE == first for line in histories.values() for s in line
    )


def begin_of(base: Base, line_of: Iterable[Switch]) -> list[tuple[int, int]]:
    """The timelines from the backup's on, each with the number of the segment in which it begins."""
    return [(base.timeline, 0)] + [(s.timeline, s.lsn // SEGMENT_SIZE) for s in line_of if s.timeline > base.timeline]


def timeline_at(begins: Sequence[tuple[int, int]], number: int) -> int:
    """Whose segment of that number counts: the newest timeline's that has begun by then."""
    return next(timeline for timeline, begin in reversed(begins) if begin <= number)


def reach(base: Base, timeline: int, line_of: tuple[Switch, ...], stored: Mapping[tuple[int, int], datetime]) -> Reach:
    """How far the WAL reaches; `stored`: (timeline, number of the segment) → when."""
    begins = begin_of(base, line_of)
    limit = max((n for t, n in stored if t == timeline), default=-1)
    if timeline != base.timeline:
        limit = max(limit, begins[-1][1])  # a line without WAL of its own is not reached: its first segment is missing
    number, last, last_time = base.stop // SEGMENT_SIZE, base.stop, base.finished
    while number <= limit:
        found = stored.get((timeline_at(begins, number), number))
        if found is None:
            break
        last, last_time = max(last, (number + 1) * SEGMENT_SIZE), max(last_time, found)
        number += 1
    return Reach(
        backup=base.id,
        timeline=timeline,
        first=base.stop,
        last=last,
        first_time=base.finished,
        last_time=last_time,
        gap=_gap(number, limit, begins, stored),
    )


def _gap(number: int, limit: int, begins: list[tuple[int, int]], stored: Mapping[tuple[int, int], datetime]) -> str:
    if number > limit:
        return ""
    missing = []
    for n in range(number, limit + 1):
        of = timeline_at(begins, n)
        if (of, n) in stored:
            break
        missing.append(segment_name(of, n * SEGMENT_SIZE))
    if len(missing) == 1:
        return f"{missing[0]} is missing."
    return f"{missing[0]} to {missing[-1]} are missing ({len(missing)} segments)."

"""To which moment a physical backup and a WAL archive lead, and along which timeline.

PostgreSQL's own `recovery_target_timeline = latest` looks for the next number until one is missing. Ours have gaps: a
number that an election claimed and never used. So the timeline is chosen here, from what the archive holds: the newest
one that came out of the backup. A member that was deposed can add files to an older timeline, and never to that one.

LSNs in bytes, times with their zone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from matriarch.decide.recovery import Base, begin_of, leads, reach, timeline_at
from matriarch.decide.verdict import Standing, Verdict
from matriarch.postgres.lsn import SEGMENT_SIZE, format_lsn, parse_lsn, segment_name
from matriarch.postgres.timeline import Switch

Kind = Literal["latest", "immediate", "time", "lsn", "xid", "name"]
NAME_LIMIT = 63  # bytes of a restore point's name, PostgreSQL's MAXFNAMELEN less its end


@dataclass(frozen=True, slots=True)
class Target:
    """Where replay ends. `value` is as PostgreSQL's setting of that kind takes it; `time` is inclusive.

    `latest`: the end of all WAL that there is; `immediate`: as soon as the backup is consistent.
    """

    kind: Kind
    value: str = ""

    def __post_init__(self) -> None:
        if (why := _wrong(self.kind, self.value)) is not None:
            raise ValueError(why)


def _wrong(kind: Kind, value: str) -> str | None:
    if kind in ("latest", "immediate"):
        return None if not value else f"target {kind} takes no value"
    try:
        if kind == "time" and datetime.fromisoformat(value).tzinfo is None:
            return f"time {value} has no zone: write it as 2026-03-01T02:00:00Z"
        if kind == "lsn":
            parse_lsn(value)
    except ValueError:
        form = "a time such as 2026-03-01T02:00:00Z" if kind == "time" else "an LSN such as 0/3000148"
        return f"{value!r} is not {form}"
    if kind == "xid" and not (value.isascii() and value.isdecimal() and int(value) < 1 << 64):
        return f"{value!r} is not the number of a transaction"
    if kind == "name" and not 0 < len(value.encode()) <= NAME_LIMIT:
        return f"the name of a restore point has 1 to {NAME_LIMIT} bytes"
    return None


LATEST = Target("latest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """`histories`: the whole line of each timeline; `segments`: (timeline, number) → when it was stored."""

    histories: Mapping[int, tuple[Switch, ...]]
    segments: Mapping[tuple[int, int], datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`end` is the LSN behind the last byte that is there without a hole; `until` when that was stored."""

    timeline: int
    end: int
    until: datetime


def route(made: Base, archive: Archive, target: Target) -> Route | Verdict:
    """The way to `target`, or why there is none: then nothing may be changed."""
    timeline = max((t for t, line in archive.histories.items() if leads(made, line)), default=made.timeline)
    line = archive.histories.get(timeline, ()) if timeline != made.timeline else ()
    lost = _unfollowed(made, timeline, archive)
    segments = archive.segments
    if lost is not None:  # it may be the one that counts, so nothing is followed past where it can have begun
        segments = {(t, n): stored for (t, n), stored in segments.items() if n < lost[1]}
    far = reach(made, timeline, line, segments)
    found = Route(timeline=timeline, end=far.last, until=far.last_time)
    return _refusal(made, archive, target, found, begin_of(made, line), lost) or found


def _unfollowed(made: Base, timeline: int, archive: Archive) -> tuple[int, int] | None:
    """A later timeline with WAL and without its history, and the number of its first segment: the one that begins
    first. One that begins before the backup's end did not come out of it."""
    first: dict[int, int] = {}
    for t, n in archive.segments:
        if t > timeline and t not in archive.histories:
            first[t] = min(n, first.get(t, n))
    able = ((t, n) for t, n in first.items() if n >= made.stop // SEGMENT_SIZE)
    return min(able, key=lambda found: (found[1], found[0]), default=None)


def newest_before(bases: Iterable[Base], target: Target) -> Base | None:
    """The backup to take for `target`: the newest that ended before it. For a transaction or a name nobody can say
    which that is, so it is simply the newest."""
    able = [
        b
        for b in bases
        if not (target.kind == "time" and datetime.fromisoformat(target.value) < b.finished)
        and not (target.kind == "lsn" and parse_lsn(target.value) < b.stop)
    ]
    return max(able, key=lambda b: (b.finished, b.id), default=None)


def expected_end(made: Base, archive: Archive, found: Route, target: Target) -> int:
    """About where replay to `target` ends, for a progress in bytes."""
    if target.kind == "lsn":
        return min(max(parse_lsn(target.value), made.stop), found.end)
    if target.kind == "immediate":
        return made.stop
    if target.kind == "time":
        moment = datetime.fromisoformat(target.value)
        line = archive.histories.get(found.timeline, ()) if found.timeline != made.timeline else ()
        begins = begin_of(made, line)
        for number in range(made.stop // SEGMENT_SIZE, found.end // SEGMENT_SIZE):
            stored = archive.segments.get((timeline_at(begins, number), number))
            if stored is not None and stored >= moment:
                return min((number + 1) * SEGMENT_SIZE, found.end)
    return found.end


def _refusal(
    made: Base,
    archive: Archive,
    target: Target,
    found: Route,
    begins: list[tuple[int, int]],
    lost: tuple[int, int] | None,
) -> Verdict | None:
    number = found.end // SEGMENT_SIZE
    before, missing = (timeline_at(begins, n) for n in (number - 1, number))
    # PostgreSQL would take an older timeline's segment in its place, and replay what was given up with it.
    forks = any(before <= t < missing and (t, number) in archive.segments for t, _ in begins)
    gap = ""
    if lost is not None:
        gap = f" {lost[0]:08X}.history is not in the archive, although WAL of its timeline is: put it back, for nobody "
        gap += f"can say what follows after {format_lsn(found.end)}."
    elif forks:
        gap = f" {segment_name(missing, found.end)} is not in the archive yet, which is where its timeline begins."
    elif any(t == found.timeline and n >= number for t, n in archive.segments):
        gap = f" {segment_name(missing, found.end)} is not in the archive, although later WAL is: what comes after it "
        gap += "cannot be replayed."
    window = f"restorable is {_at(made.finished)} to {_at(found.until)}, {format_lsn(made.stop)} to "
    window += f"{format_lsn(found.end)} on timeline {found.timeline}"
    if gap and (target.kind == "latest" or ((forks or lost is not None) and target.kind in ("xid", "name"))):
        return _no("WalMissing", f"{gap.strip()} From this backup {window}: name a time or an LSN in it.")
    if target.kind == "time":
        moment = datetime.fromisoformat(target.value)
        if moment < made.finished:
            return _no(
                "TargetTooEarly", f"{_at(moment)} is before the backup's end: take an earlier one. From this {window}."
            )
        if moment > found.until:
            return _no("TargetTooLate", f"{_at(moment)} is after the newest archived WAL: {window}.{gap}")
    if target.kind == "lsn":
        lsn = parse_lsn(target.value)
        if lsn < made.stop:
            return _no(
                "TargetTooEarly",
                f"{target.value} is before the backup's end: take an earlier one. From this {window}.",
            )
        if lsn > found.end:
            return _no("TargetTooLate", f"{target.value} is after the newest archived WAL: {window}.{gap}")
    return None


def _no(reason: str, message: str) -> Verdict:
    return Verdict(Standing.STALLED, reason, message)


def _at(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"

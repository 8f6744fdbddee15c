"""Timelines: which promotion a piece of WAL comes from, and how histories are read, compared and reserved.

A promotion begins a new timeline at its switch LSN; the history file of a timeline lists all its ancestors.
WAL knows no election epochs, so elections compare `WalPosition`s, and a winner forces the number it claimed
on PostgreSQL by tombstones: history files of nothing, that make `findNewestTimeLine` count past them. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from matriarch.postgres.lsn import format_lsn, parse_lsn

TOMBSTONE = "# this number was claimed or passed over by an election and has no timeline\n"
HISTORY_SUFFIX = ".history"


@dataclass(frozen=True, slots=True, order=True)
class WalPosition:
    """How far a member's WAL reaches: ordered by the timeline of its last WAL, then by LSN."""

    timeline: int
    lsn: int

    def __str__(self) -> str:
        return f"{format_lsn(self.lsn)} on timeline {self.timeline}"


@dataclass(frozen=True, slots=True)
class Switch:
    """`timeline` began where `parent` had reached `lsn`."""

    timeline: int
    parent: int
    lsn: int


def history_file(timeline: int) -> str:
    return f"{timeline:08X}{HISTORY_SUFFIX}"


def history_number(file_name: str) -> int | None:
    """The timeline that a file in pg_wal is the history of; None for any other file."""
    stem = file_name.removesuffix(HISTORY_SUFFIX)
    if stem == file_name or len(stem) != 8:
        return None
    try:
        return int(stem, 16)
    except ValueError:
        return None


def parse_history(timeline: int, text: str) -> tuple[Switch, ...]:
    """The line of `timeline` from its history file, oldest first; empty for a tombstone.

    A line of the file is `<parent> <switch LSN> <reason>`; its child is the next line's parent, and the last one's
    is `timeline`. Raises ValueError where PostgreSQL would refuse the file.
    """
    points: list[tuple[int, int]] = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].split(maxsplit=2)
        if not words:
            continue
        if len(words) < 2 or not words[0].isdecimal():
            msg = f"history of timeline {timeline}: not understood: {line!r}"
            raise ValueError(msg)
        points.append((int(words[0]), parse_lsn(words[1])))
    if not points:
        return ()
    children = [parent for parent, _ in points[1:]] + [timeline]
    line_of = tuple(Switch(child, parent, lsn) for child, (parent, lsn) in zip(children, points, strict=True))
    if any(s.timeline <= s.parent for s in line_of):
        msg = f"history of timeline {timeline}: numbers do not grow"
        raise ValueError(msg)
    return line_of


def render_history(line_of: Iterable[Switch]) -> str:
    """A history file that PostgreSQL reads as `line_of`."""
    return "".join(f"{s.parent}\t{format_lsn(s.lsn)}\tpromoted\n" for s in line_of)


def canonical(position: WalPosition, line_of: Iterable[Switch]) -> WalPosition:
    """`position` with the timeline that its last byte of WAL really belongs to.

    A standby that attached to a new timeline has its number long before the first record written there. Counted as
    it is, such a member would win over one that holds more of the old timeline, and that rest would be lost.
    """
    switches = {s.timeline: s for s in line_of}
    timeline = position.timeline
    while (switch := switches.get(timeline)) is not None and position.lsn <= switch.lsn:
        timeline = switch.parent
    return WalPosition(timeline, position.lsn)


def follows(position: WalPosition, timeline: int, line_of: Iterable[Switch]) -> bool:
    """Whether WAL that ends at `position` is a beginning of `timeline`: then it can stream, else it must rewind.

    `line_of` is the line of `timeline`, `position` a canonical one.
    """
    if position.timeline == timeline:
        return True
    left = next((s for s in line_of if s.parent == position.timeline), None)
    return left is not None and position.lsn <= left.lsn


def tombstones_needed(own: int, claim: int, present: Iterable[int]) -> tuple[int, ...]:
    """Numbers that need a tombstone so that a promotion from `own` takes `claim`. Raises ValueError if it cannot."""
    if claim <= own:
        msg = f"timeline {claim} cannot be claimed from timeline {own}"
        raise ValueError(msg)
    have = set(present)
    return tuple(n for n in range(own + 1, claim) if n not in have)


def tombstones_to_prune(histories: Mapping[int, bool], newest_real: int | None = None) -> tuple[int, ...]:
    """Tombstones above the newest real history: a server that starts with one never becomes consistent.

    `histories` maps each number in pg_wal to whether it is real. Those below stay: a replica that changes timeline
    fetches every number in between from this server.
    """
    newest = max((n for n, real in histories.items() if real), default=1)
    newest = max(newest, newest_real or 1)
    return tuple(sorted(n for n, real in histories.items() if not real and n > newest))


def dead_branches(histories: Mapping[int, bool], position: WalPosition, line_of: Iterable[Switch]) -> tuple[int, ...]:
    """Histories of timelines that neither `position` nor the line to be followed has anything of.

    A standby that fetched such a history and nothing else would, when promoted, write it into its own line with a
    switch that goes backwards; when told to follow another timeline, it would refuse that as "not a child".
    """
    known = {s.timeline for s in line_of}
    return tuple(sorted(n for n, real in histories.items() if real and n > position.timeline and n not in known))

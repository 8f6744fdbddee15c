"""Chains of incremental backups: which backup the next one builds on, what of WAL that takes, which chains are sound.

An incremental backup holds the pages that WAL touched since its parent began. All else it takes from the parent, and
that one from its own, down to a full backup: a chain is worth as much as its weakest link. So the choice has to end in
a full one with a reason whenever there is a doubt. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matriarch.postgres.lsn import format_lsn
from matriarch.postgres.timeline import Switch, WalPosition, follows

MAX_INCREMENTS = 6
"""After a full backup, unless somebody says otherwise: a week of nights is then one chain."""


@dataclass(frozen=True, slots=True, order=True)
class Stretch:
    """WAL of one timeline from `start` up to, without, `end`."""

    timeline: int
    start: int
    end: int

    def __str__(self) -> str:
        return f"{format_lsn(self.start)} to {format_lsn(self.end)} on timeline {self.timeline}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A physical backup that may become the parent. LSNs in bytes."""

    id: str
    system: str
    timeline: int
    start: int
    stop: int
    increments: int
    """How many there are from the full one to it; 0: it is full."""
    encrypted: bool
    checksums: bool
    fault: str | None = None
    """Why nothing may build on it, as the end of a sentence about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The server that is about to be read, in backup mode."""

    system: str
    timeline: int
    line: tuple[Switch, ...]
    """How its timeline came to be."""
    start: int
    reached: int
    """Up to where its files hold what happened, at least: a standby replays ahead of its last restartpoint."""
    encrypted: bool
    checksums: bool


@dataclass(frozen=True, slots=True)
class Full:
    """A full backup, and why; `because` is a sentence."""

    because: str


def choose_parent(newest_first: Sequence[Candidate], source: Source, max_increments: int) -> Candidate | Full:
    """The newest backup that fits; if none does, what is wrong with the newest one."""
    first: str | None = None
    for candidate in newest_first:
        why = _unfit(candidate, source)
        if why is None:
            if candidate.increments >= max_increments:
                return Full(f"The chain of {candidate.id} has {candidate.increments} increments, which is the most.")
            return candidate
        first = first or f"{candidate.id} can't be built on: {why}."
    return Full(first or "There is no physical backup in the store to build on.")


def _unfit(candidate: Candidate, source: Source) -> str | None:
    if candidate.fault is not None:
        return candidate.fault
    if candidate.system != source.system:
        return f"it is of system {candidate.system}"
    if candidate.encrypted != source.encrypted:
        return "it is encrypted" if candidate.encrypted else "it is not encrypted"
    if candidate.checksums != source.checksums:
        # pg_checksums rewrites every page without a word in the WAL.
        return "data checksums were switched on or off since"
    end = WalPosition(candidate.timeline, candidate.stop)
    if not follows(end, source.timeline, source.line):
        return f"it ends at {end}, which timeline {source.timeline} did not come out of"
    if source.start < candidate.start:
        return "the server's last checkpoint is older than it"
    if source.reached < candidate.stop:
        return f"it ends at {format_lsn(candidate.stop)}, the server has only replayed {format_lsn(source.reached)}"
    return None


def needed(parent: Candidate, source: Source) -> tuple[Stretch, ...]:
    """The WAL between the parent's beginning and this one's, oldest first, along the line of timelines."""
    bounds = {s.timeline: s for s in source.line}
    found: list[Stretch] = []
    timeline, end = source.timeline, source.start
    while True:
        own = bounds.get(timeline)
        begin = own.lsn if own is not None and timeline != parent.timeline else parent.start
        if begin < end:
            found.append(Stretch(timeline, begin, end))
        if timeline == parent.timeline or own is None:
            return tuple(reversed(found))
        timeline, end = own.parent, own.lsn


def covering(wanted: Iterable[Stretch], summaries: Iterable[Stretch]) -> tuple[Stretch, ...] | Stretch:
    """The summaries that together hold all of `wanted`, or the first stretch that none has."""
    known = sorted(summaries)
    used: list[Stretch] = []
    for piece in wanted:
        at = piece.start
        for summary in known:
            if summary.timeline != piece.timeline or summary.end <= at or at >= piece.end:
                continue
            if summary.start > at:
                break
            used.append(summary)
            at = summary.end
        if at < piece.end:
            return Stretch(piece.timeline, at, piece.end)
    return tuple(dict.fromkeys(used))


def chain_of(backup: str, parents: Mapping[str, str | None]) -> tuple[str, ...] | str:
    """The ids from `backup` down to its full one, or the first that is named as a parent and not there.

    `parents` has every backup that is there. A circle, which nobody can make honestly, ends at its first repetition.
    """
    found = [backup]
    while (parent := parents[found[-1]]) is not None:
        if parent not in parents or parent in found:
            return parent
        found.append(parent)
    return tuple(found)


def sound(own: Mapping[str, bool], parents: Mapping[str, str | None]) -> frozenset[str]:
    """Those that are good by themselves (`own`) and whose whole chain is."""
    found = set()
    for backup in own:
        chain = chain_of(backup, parents)
        if not isinstance(chain, str) and all(own[link] for link in chain):
            found.add(backup)
    return frozenset(found)


def children_first(backups: Sequence[str], parents: Mapping[str, str | None]) -> tuple[str, ...]:
    """`backups` in their order, but for each after all of them that build on it: a deletion that is interrupted
    anywhere leaves no backup without its parent."""
    children: dict[str, list[str]] = {}
    for backup in backups:
        if (parent := parents.get(backup)) is not None:
            children.setdefault(parent, []).append(backup)
    done: dict[str, None] = {}
    for backup in backups:
        waiting = [backup]
        while waiting:
            now = waiting[-1]
            open_ones = [c for c in children.get(now, ()) if c not in done and c not in waiting]
            if open_ones:
                waiting.append(open_ones[0])
            else:
                done.setdefault(waiting.pop())
    return tuple(done)

"""Holds the transitions that agents logged against the protocol's table and invariants.

    python -m model.replay LOG...        logs of the pods of one run; of one pod's, the older first

Takes every line of the logger `matriarch.transition`, whatever stands before it, and says the first transition that no
rule allows. What a member logs is in order; between members the Lease's versions order what it went through, so
clocks that differ do no harm. A Lease write that nobody who logs ever saw is not known: two changes between two seen
versions look like one that no rule allows. Exits with 1 when something is illegal, with 2 when nothing could be read.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matriarch.decide.transitions import EVENTS, Illegal, Line, Seen, lease_event, parse

MARK = "matriarch.transition: "


@dataclass(frozen=True, slots=True)
class Entry:
    """One line, and where it stands."""

    line: Line
    source: str
    number: int

    def __str__(self) -> str:
        return f"{self.source}:{self.number}"


@dataclass(frozen=True, slots=True)
class Finding:
    """A transition that no rule allows."""

    entry: Entry
    why: str


def read(source: str, lines: Iterable[str]) -> Iterator[Entry]:
    """The transitions in one log. Raises ValueError for one that can't be read: a blind replay proves nothing."""
    for number, text in enumerate(lines, start=1):
        _, mark, rest = text.partition(MARK)
        if not mark:
            continue
        try:
            yield Entry(parse(rest.strip()), source, number)
        except ValueError as e:
            raise ValueError(f"{source}:{number}: {e}") from e


def replay(entries: Sequence[Entry]) -> list[Finding]:
    """All that is illegal; the entries of each member in the order in which it logged them."""
    members: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        members[entry.line.member].append(entry)
    found = [f for own in members.values() for f in _member(own)]
    found += _lease(entries, members)
    places = {id(e): n for n, e in enumerate(entries)}
    return sorted(found, key=lambda f: places[id(f.entry)])


def _member(own: Sequence[Entry]) -> Iterator[Finding]:
    """I1, I3, S11 as one member lived them, over restarts."""
    yield from (Finding(own[0], why) for why in _alone(own[0].line))
    for before, entry in itertools.pairwise(own):
        for why in (*_after(before.line, entry.line), *_alone(entry.line)):
            yield Finding(entry, why)


def _after(before: Line, line: Line) -> Iterator[str]:
    if line.promised < before.promised:
        yield f"the promise goes back from {before.promised} to {line.promised} (I3)"
    if line.fenced < before.fenced:
        yield f"the fence goes back from {before.fenced} to {line.fenced} (S11)"
    if line.epoch < before.epoch:
        yield f"the Lease goes back from epoch {before.epoch} to {line.epoch} (I1)"
    if line.event == "start":
        return
    if line.before != before.after:
        yield f"it was {before.after}, not {line.before}"
    if line.event == "promise" and line.promised == before.promised:
        yield "nothing was promised"
    if line.event != "promise" and line.promised != before.promised:
        yield f"epoch {line.promised} was promised without a line"


def _alone(line: Line) -> Iterator[str]:
    event = EVENTS.get(line.event)
    if event is None:
        yield f"there is no event {line.event}"
        return
    if line.before not in event.before or line.after not in event.after:
        yield f"{line.event} leads from {line.before} to {line.after}"
    holds = line.holder == line.member
    if line.event in ("promote", "start-primary"):
        if not holds:
            yield f"{line.holder or 'nobody'} holds epoch {line.epoch} (I1)"
        if line.promised > line.epoch:
            yield f"it promised epoch {line.promised} (I3)"
        if line.fenced >= line.epoch:
            yield f"it is fenced in epoch {line.fenced} (S11)"
        if line.mode == "follow":
            yield "a replica cluster has no primary"
    if line.event == "attach-source" and (not holds or line.mode != "follow"):
        yield "nobody but the designated primary follows the source"
    if line.event == "attach":
        if holds:
            yield "the holder follows nobody"
        if line.promised > line.epoch and line.mode != "follow":
            yield f"it promised epoch {line.promised} (I3)"
    if line.event == "depose" and holds and line.mode != "follow":
        yield "the Lease names it"
    if line.event == "fence" and (line.fenced != line.epoch or not holds):
        yield f"fence {line.fenced} in epoch {line.epoch} of {line.holder}"


def _lease(entries: Sequence[Entry], members: dict[str, list[Entry]]) -> Iterator[Finding]:
    """I1, I2, I6, I8, S2: the Lease's versions in order, and the promises behind each takeover."""
    versions: dict[int, Entry] = {}
    for entry in entries:
        if not entry.line.version:
            continue
        first = versions.setdefault(entry.line.version, entry)
        if first.line.lease != entry.line.lease:
            yield Finding(entry, f"version {entry.line.version} of the Lease is another at {first}")
    holders: dict[int, str] = {}
    ordered = [versions[v] for v in sorted(versions)]
    for entry in ordered:
        line = entry.line
        if (other := holders.setdefault(line.epoch, line.holder)) != line.holder:
            yield Finding(entry, f"epoch {line.epoch} has two holders, {other} and {line.holder} (I1)")
    for before, entry in itertools.pairwise(ordered):
        base, line = before.line.lease, entry.line
        if base == line.lease:
            continue
        try:
            event = lease_event(base, line.lease)
        except Illegal as e:
            yield Finding(entry, f"after version {before.line.version} of the Lease: {e}")
            continue
        if event in ("take", "take-alone", "take-async"):
            yield from _promises(entry, base, members)


def _promises(entry: Entry, base: Seen, members: dict[str, list[Entry]]) -> Iterator[Finding]:
    """|S|-k+1 of the voters must have promised the epoch. Who logged nothing is not held against it."""
    epoch, need = entry.line.epoch, 1 if base.mode == "async" else len(base.voters) - base.k + 1
    silent = [v for v in base.voters if v not in members]
    gave = [v for v in base.voters if any(e.line.promised == epoch for e in members.get(v, ()))]
    if len(gave) + len(silent) < need:
        yield Finding(entry, f"{len(gave)} of {len(base.voters)} voters promised epoch {epoch}, {need} are needed (I2)")
    if entry.line.holder in members and entry.line.holder not in gave:
        yield Finding(entry, f"the winner {entry.line.holder} did not promise epoch {epoch} itself (I4)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="+", type=Path)
    entries: list[Entry] = []
    try:
        for log in parser.parse_args().logs:
            entries += read(str(log), log.read_text(errors="replace").splitlines())
    except (OSError, ValueError) as e:
        print(e, file=sys.stderr)
        return 2
    if not entries:
        print("no transitions in these logs", file=sys.stderr)
        return 2
    found = replay(entries)
    for finding in found[:1]:
        print(f"illegal at {finding.entry}: {finding.entry.line.event} of {finding.entry.line.member}: {finding.why}")
    if len(found) > 1:
        print(f"{len(found) - 1} more follow")
    epochs = max(e.line.epoch for e in entries)
    print(f"{len(entries)} transitions of {len({e.line.member for e in entries})} members, up to epoch {epochs}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

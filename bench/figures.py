"""What the log of the outside client says: the longest gap between acknowledged writes, and which of them are missing.

Pure: lines in, figures out.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Attempt:
    """One line of the log; times in nanoseconds of CLOCK_MONOTONIC. `id` is 0 for a failed connection."""

    ended: int
    started: int
    client: int
    id: int
    outcome: str
    error: str


def parse(lines: Iterable[str]) -> list[Attempt]:
    """The whole lines of a log; a last line without its end (the writer is at it, or was killed) is left out."""
    attempts = []
    for line in lines:
        if line.endswith("\n"):
            ended, started, client, key, outcome, error = line.rstrip("\n").split("\t")
            attempts.append(Attempt(int(ended), int(started), int(client), int(key), outcome, error))
    return attempts


@dataclass(frozen=True, slots=True)
class Gap:
    """A time without an acknowledged write, in seconds; `open_end` when it lasted to the end of the run."""

    seconds: float
    began: int
    open_end: bool


def longest_gap(acknowledged: Sequence[int], *, after: int, until: int) -> Gap:
    """The longest gap between consecutive acknowledgements of which at least the end lies after `after`.

    `acknowledged` are times in any order; `until` is the end of the run: a run whose writes never came back has a gap
    up to there, with an open end. Raises ValueError when nothing was acknowledged before `after`: there is no gap to
    speak of where writes never flowed.
    """
    times = sorted(acknowledged)
    if not times or times[0] > after:
        message = "no write was acknowledged before the fault; the load never ran"
        raise ValueError(message)
    best = Gap(0.0, after, open_end=False)
    for before, then in itertools.pairwise(times):
        if then > after and then - before > best.seconds * SECOND:
            best = Gap((then - before) / SECOND, before, open_end=False)
    if until - times[-1] > best.seconds * SECOND:
        best = Gap((until - times[-1]) / SECOND, times[-1], open_end=True)
    return best


@dataclass(frozen=True, slots=True)
class Figures:
    """One run. Gaps in seconds. `lost` are acknowledged ids that are not in the database."""

    gap: Gap
    slowest_client: float
    gap_before: float
    acknowledged: int
    failed: int
    unknown: int
    lost: tuple[int, ...]
    errors: Mapping[str, int]


def figures(attempts: Sequence[Attempt], present: Collection[int], *, fault: int, until: int) -> Figures:
    """What one run showed; `fault` and `until` are instants of CLOCK_MONOTONIC in ns, `present` the ids found after."""
    acknowledged = [a for a in attempts if a.outcome == "ok"]
    by_client: dict[int, list[int]] = {}
    for attempt in acknowledged:
        by_client.setdefault(attempt.client, []).append(attempt.ended)
    calm = sorted(a.ended for a in acknowledged if a.ended <= fault)
    return Figures(
        gap=longest_gap([a.ended for a in acknowledged], after=fault, until=until),
        slowest_client=max(
            (longest_gap(t, after=fault, until=until).seconds for t in by_client.values() if min(t) <= fault),
            default=0.0,
        ),
        gap_before=max((b - a for a, b in itertools.pairwise(calm)), default=0) / SECOND,
        acknowledged=len(acknowledged),
        failed=sum(a.outcome == "failed" for a in attempts),
        unknown=sum(a.outcome == "unknown" for a in attempts),
        lost=tuple(sorted({a.id for a in acknowledged} - set(present))),
        errors=dict(Counter(a.error for a in attempts if a.error).most_common(5)),
    )

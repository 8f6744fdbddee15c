"""When a primary that does not commit is given up: alive, but useless.

A commit on a new connection is begun every half second, whatever became of the ones before. One that is late says
little; none that ended for DEADLINE, with two of them waiting for most of it, says that PostgreSQL or its disk hangs.
On a machine that starves for CPU everything is late, the agent's own turns too: a failover would help nobody, so
what was seen meanwhile does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

EVERY = 500_000_000
"""Between the beginnings of two attempts (ns)."""
DEADLINE = 2_000_000_000
"""An attempt that takes so long (ns) is broken off."""
STARVED = 400_000_000
"""A turn of the agent that comes so much too late (ns) is a sign of a machine without CPU."""
MOST_WAITING = 8
"""More attempts than this are never under way: each holds a connection."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Instants are boot-time nanoseconds. `waiting`: when each attempt under way began, oldest first.

    `succeeded`: when the newest attempt that ended well ended; the moment of watching at first. `starved`: when the
    agent's own turn last came too late, 0 for never.
    """

    now: int
    succeeded: int
    waiting: Sequence[int]
    failed: int = 0  # attempts that ended badly since the last good one
    starved: int = 0


Verdict = Literal["good", "late", "hung"]


def verdict(seen: Seen) -> Verdict:
    """`hung` when nothing committed for DEADLINE while two attempts at least had most of that time."""
    since = max(seen.succeeded, seen.starved)
    old = sum(began >= seen.succeeded and seen.now - began >= DEADLINE - EVERY for began in seen.waiting)
    if seen.now - since < DEADLINE:
        return "late" if seen.now - seen.succeeded >= DEADLINE else "good"
    return "hung" if old + seen.failed >= 2 else "late"

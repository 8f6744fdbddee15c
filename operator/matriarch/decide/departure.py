"""How long the pod of a former primary stays once it has handed over and nothing of PostgreSQL is left in it.

With the pod goes its address. Until kube-proxy leads the write Service elsewhere, whoever connects there gets no answer
at all, and TCP asks again after a second (RFC 6298, 2.1): twice the length of the failover itself. While the pod is
there its kernel refuses at once, and the client tries again and meets the successor. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from matriarch.decide.kubeproxy import ROUND

SECOND = 1_000_000_000

AFTER_MOVE = 2 * ROUND

LONGEST = 5 * SECOND
"""Without a successor that takes the Service nobody is led anywhere, and staying only delays the next start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Boot-time instants in nanoseconds; 0: never."""

    now: int
    ended: int
    """When nothing of PostgreSQL was left."""
    led_here: int
    """When the write Service last led here; `now` while it does."""
    others: int
    """Voters beside this member. A single one needs this pod's next start for its commits: then nothing is delayed."""


def stays(f: Facts) -> bool:
    """Whether the pod is to be there a little longer."""
    if f.others < 2 or not f.led_here or f.now >= f.ended + LONGEST:
        return False
    return f.now < f.led_here + AFTER_MOVE

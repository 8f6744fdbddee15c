"""When an instance that is back joins those that the Service -r leads to.

kube-proxy applies a first change at once and holds a second one back for up to a second, in which a move of the write
Service would wait too. A replica that is back changes both -ro and -r: two rounds, and two seconds in which a failover
takes up to a second longer. Failures come in flocks, so those are bad seconds to lose. -ro, which may have nobody else,
is changed at once; -r, which leads to the primary in any case, gains later. What it loses it loses at once. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

SECOND = 1_000_000_000

PUT_OFF = 60 * SECOND
"""Long beside the time from one failure of a flock to the next, and each failover brings everybody in at once."""


@dataclass(frozen=True, slots=True)
class Joined:
    """Names of instances; `later`: the boot-time ns at which those that are missing join, 0 when none are."""

    members: frozenset[str]
    later: int = 0


def joined(before: Joined | None, wanted: frozenset[str], *, now: int, busy: bool) -> Joined:
    """What -r leads to now. `busy`: kube-proxy is, so one change more costs nothing. `before` None: a new primary."""
    if before is None or before.members == wanted or not before.members <= wanted:
        return Joined(wanted)
    if not before.later and busy:
        return Joined(wanted)
    later = before.later or now + PUT_OFF  # the change of -ro makes kube-proxy busy, and is no reason
    return Joined(wanted) if now >= later else Joined(before.members, later)

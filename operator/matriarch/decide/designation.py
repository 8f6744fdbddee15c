"""Who should be a replica cluster's designated primary next: an election without promises and without a promotion.

Nobody writes, so nothing depends on there being one at a time; what counts is that the others can go on from it. So
the one with most WAL goes first, and if it does not, anybody does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
from matriarch.postgres.timeline import WalPosition

SECOND = 1_000_000_000
AWAY = 15 * SECOND
"""Without a renewal of the Lease for so long, the designated primary is replaced. It renews every two seconds."""
TURN = 5 * SECOND
"""The best one gets so long to stand, then each of the others, before the next tries."""


@dataclass(frozen=True, slots=True)
class Facts:
    """`standbys`: those that answer and could follow the source, this one included, with the end of their WAL.
    `silent`: for how many ns the Lease was not renewed, as far as this process saw."""

    me: Member
    lease: LeaseState
    silent: int
    standbys: Mapping[Member, WalPosition]
    priorities: Mapping[str, int] = field(default_factory=dict)


def stands(f: Facts) -> bool:
    """Whether this instance should name itself now."""
    holder = f.lease.holder
    if f.lease.mode != "follow" or holder is None or holder == f.me or f.me not in f.standbys:
        return False
    if f.me.instance in f.lease.leaving:
        return False
    if holder.instance == f.me.instance:
        return True  # it was this instance on a volume that is gone
    if f.silent < AWAY:
        return False
    turn = (f.silent - AWAY) // TURN
    return ranked(f.standbys, f.priorities).index(f.me) <= turn


def ranked(standbys: Mapping[Member, WalPosition], priorities: Mapping[str, int]) -> list[Member]:
    """Most WAL first, then priority, then the lower name, as in an election (I4)."""
    return sorted(
        sorted(standbys),
        key=lambda m: (standbys[m].timeline, standbys[m].lsn, priorities.get(m.instance, 0)),
        reverse=True,
    )

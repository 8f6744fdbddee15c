"""What keeps the fence away from a holder: answers of k voters, renewals of the Lease, or both.

In mode quorum the voters' answers count, and a renewed Lease in their place; in mode async only the Lease does, with
longer times; alone, and where nobody is primary, there is none, for nobody else can be elected. While the mode changes,
old and new Lease may both be what an election starts from: then the holder goes on only while both rules let it. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
from matriarch.decide.voters import Change

RESTART = 30_000_000_000
"""Mode async: a start may take so long (ns) before the lead is given up. A start loses nothing, an election may."""


@dataclass(frozen=True, slots=True)
class Guard:
    """`k` above 0: answers of so many of `voters`, or the Lease, within T_FENCE. `by_lease`: also the Lease within
    ASYNC_FENCE."""

    voters: tuple[Member, ...]
    k: int
    by_lease: bool = False


def guard_of(lease: LeaseState) -> Guard | None:
    """What the Lease asks for; None: no fence."""
    if lease.mode in ("alone", "follow"):
        return None
    return Guard(lease.voters, lease.k, by_lease=lease.mode == "async")


def gives_way(lease: LeaseState, since_served: int) -> bool:
    """Mode async: whether a holder whose PostgreSQL has not run for `since_served` leaves the Lease alone now.

    In turns, each as long as a start may take: what cannot start must leave the lead to others in the end, and where
    nobody else may be elected it must go on trying. The turn is longer than others wait.
    """
    return lease.mode == "async" and since_served // RESTART % 2 == 1


def guard_during(lease: LeaseState, change: Change) -> Guard | None:
    """What must be in force before the first step of `change`, until its last; None: what the Lease asks for."""
    modes = (lease.mode, change.mode)
    if modes == ("quorum", "async"):
        return Guard(lease.voters, lease.k, by_lease=True)
    if modes == ("async", "quorum"):
        return Guard(change.voters, change.k, by_lease=True)
    if modes == ("alone", "async"):
        return Guard((), 0, by_lease=True)
    if change.kind in ("remove", "raise-k"):
        # Whoever may elect by the new Lease must be among those whose answers keep the fence away.
        return Guard(change.voters, change.k)
    return None

"""Until when a holder may go on: the k-th newest answer or the Lease, and T_fence after it. Pure.

An answer counts from the instant at which the beat that it answers was *sent*: the voter gave its peer lease after
that, so the voter's lease always ends later than the holder's belief in it. When a voter may promise is the other
half: `decide/election.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from matriarch.decide.election import ASYNC_FENCE, T_FENCE
from matriarch.decide.member import Member


@dataclass(frozen=True, slots=True)
class Deadline:
    """Boot-time ns at which the holder of `epoch` must have ended."""

    epoch: int
    at: int


def last_support(
    voters: Collection[Member], k: int, answered: Mapping[Member, int], lease_renewed: int | None
) -> int | None:
    """The newest instant at which the holder was surely still entitled; None when there was none yet.

    `answered`: per member, when the newest beat of this epoch that it answered with a lease was sent. Fewer than k
    answers support nothing, and with k = 0 (nobody else can be asked) only the Lease does.
    """
    instants = sorted((at for member, at in answered.items() if member in voters), reverse=True)
    by_peers = instants[k - 1] if 0 < k <= len(instants) else None
    return max((at for at in (by_peers, lease_renewed) if at is not None), default=None)


def entitled_until(
    voters: Collection[Member],
    k: int,
    answered: Mapping[Member, int],
    lease_renewed: int | None,
    *,
    by_lease: bool = False,
) -> int | None:
    """Until when the holder may go on; None when nothing says so yet. With `by_lease` and k above 0 both rules count,
    and the one that ends first decides (`decide/guard.py`)."""
    ends: list[int | None] = []
    if k or not by_lease:
        support = last_support(voters, k, answered, lease_renewed)
        ends.append(None if support is None else support + T_FENCE)
    if by_lease:
        ends.append(None if lease_renewed is None else lease_renewed + ASYNC_FENCE)
    known = [end for end in ends if end is not None]
    return min(known) if len(known) == len(ends) else None


def moved(before: Deadline | None, epoch: int, until: int | None) -> Deadline | None:
    """The deadline when the holder of `epoch` may go on `until` then. A new epoch begins without one, because what
    voters granted to an older one does not support it; but no deadline that was given goes back, for the voters keep
    their word."""
    if before is not None and before.epoch > epoch:
        return before
    if until is None:
        return before if before is not None and before.epoch == epoch else None
    return Deadline(epoch, max(until, before.at if before is not None else 0))

"""Whose flush a consumer of a logical slot waits for, so that no failover takes back what it has seen.

PostgreSQL sends a change of a slot that survives failovers only when every slot in `synchronized_standby_slots` has
flushed it. Any k of the voters S will do: whoever is elected holds what k of S flushed, because each set of k meets
each set that can elect (I2). k and not all, so that one voter that is away holds up no consumer. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from matriarch.decide.lease import LeaseState, successors
from matriarch.decide.member import Member
from matriarch.decide.voters import Change


def waited_for(
    lease: LeaseState, streaming: Collection[Member] = (), present: Sequence[Member] = ()
) -> tuple[Member, ...]:
    """k voters: those in force (`present`) that stream stay, others that stream come next, then any.

    Empty outside of mode quorum: then nobody can be elected who lacks anything.
    """
    if lease.mode != "quorum":
        return ()
    return _chosen(lease.voters, lease.k, streaming, present)


def waited_for_if_elected(lease: LeaseState, me: Member) -> tuple[Member, ...]:
    """The voters that `waited_for` will name right after `me` was elected. A voter runs with them, as it does with
    `names_if_elected`: PostgreSQL minds them on a primary only, and an election has no configuration to wait for."""
    if lease.mode != "quorum" or me not in lease.voters or lease.holder is None:
        return ()
    return _chosen(successors(lease, me), lease.k, (), ())


def waited_for_after(
    change: Change, streaming: Collection[Member] = (), present: Sequence[Member] = ()
) -> tuple[Member, ...]:
    """The same under the rule that `change` brings."""
    return _chosen(change.voters, change.k, streaming, present) if change.mode == "quorum" else ()


def ends_consumers(change: Change, used: Collection[Member], number: int) -> bool:
    """Whether what was sent under an earlier list may be unknown to k of the voters that `change` brings.

    `used`: every member that a list named since consumers last began anew; `number`: the shortest of those lists. A
    consumer's process reads a new list at its next turn and not before, so the list alone proves nothing: it is ended,
    and what it was sent is older than the records of the barrier that follows.
    """
    return change.mode == "quorum" and (number < change.k or not set(used) <= set(change.voters))


def missing_slots(here: Collection[str], there: Collection[str]) -> tuple[str, ...]:
    """Logical slots of the primary that an heir has no whole copy of."""
    return tuple(sorted(set(here) - set(there)))


def _chosen(
    voters: Sequence[Member], k: int, streaming: Collection[Member], present: Sequence[Member]
) -> tuple[Member, ...]:
    ranked = sorted(voters, key=lambda m: (m not in streaming, m not in present, m))
    return tuple(sorted(ranked[:k]))

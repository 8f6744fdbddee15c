"""A Lease that was deleted, cannot be read, or was restored from an older copy (L7).

Every member keeps the newest Lease that it knew, on its volume. From these copies the Lease is written again, when it
is certain that none is missing which matters: by that of the holder that still leads, when k of its voters confirm that
nobody else was elected; else when every member answers. It names the same holder, voters and timelines, above every
promise: what a reclaim would write. Anything else is refused and said. Pure.

The controller does it, and not the holder: agents may not create Leases (RBAC cannot limit that to one name), and here
all copies are seen at once. Its write is a compare-and-swap like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from matriarch.decide.facts import Instance
from matriarch.decide.lease import LeaseState, is_older, reclaimed
from matriarch.decide.member import Member


@dataclass(frozen=True, slots=True)
class Mended:
    """The Lease to write, and from whose copy."""

    state: LeaseState
    source: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Why it cannot be written again, for people."""

    why: str


def newest(instances: Iterable[Instance]) -> LeaseState | None:
    """The newest copy that a member tells of; None when nobody has one of a cluster that was ever initialised."""
    told = (i.agent.lease for i in instances if i.agent is not None)
    # Takeovers count first: an older copy that somebody wrote on from has more epochs, and fewer of these.
    return max(
        (t for t in told if t is not None and t.epoch > 0),
        key=lambda t: (t.claimed, t.epoch, t.revision),
        default=None,
    )


def is_behind(lease: LeaseState | None, instances: Iterable[Instance]) -> bool:
    """Whether members know more than the Lease says."""
    known = newest(instances)
    return known is not None and (lease is None or is_older(lease, known))


def mend(lease: LeaseState | None, instances: Sequence[Instance]) -> Mended | Refused:
    """What to write in place of `lease` (None: it is gone, or cannot be read)."""
    known = newest(instances)
    if known is None or known.holder is None:
        silent = [i.name for i in instances if i.agent is None]
        return Refused(f"no member tells of a copy; {_silent(silent)}" if silent else "no member has a copy")
    forked = next((i for i in instances if _differs(i, known)), None)
    if forked is not None:
        return Refused(f"{forked.name} knows another Lease of the same age; a person must choose")
    sitting = next((i for i in instances if _leads(i, known)), None)
    why = _unconfirmed(known, instances)
    if sitting is not None and not why:
        return Mended(_again(known, lease, instances), sitting.name)
    missing = _missing(known, instances)
    if not missing:
        source = next(i.name for i in instances if i.agent is not None and i.agent.lease == known)
        return Mended(_again(known, lease, instances), source)
    if sitting is not None:
        return Refused(f"{sitting.name} still leads, but {why}")
    return Refused(f"nobody leads, and a newer copy may be where nobody answers: {_silent(missing)}")


def _leads(i: Instance, known: LeaseState) -> bool:
    """It runs as the primary that the newest copy names, and has not given that up."""
    agent = i.agent
    if agent is None or agent.role != "primary" or known.holder != Member(i.name, agent.incarnation):
        return False
    return agent.fenced < known.epoch and agent.lease is not None and not is_older(agent.lease, known)


def _unconfirmed(known: LeaseState, instances: Sequence[Instance]) -> str:
    """Why somebody else may have been elected without the holder's knowledge; empty when nobody can have been.

    Each set that can elect meets each k of the voters: if k promised nothing above, nobody won. In the other modes the
    clock says so (async), or nobody is ever elected (alone).
    """
    if known.mode != "quorum":
        return ""
    voters = {(v.instance, v.incarnation) for v in known.voters}
    confirm = [
        i.name
        for i in instances
        if i.agent is not None and (i.name, i.agent.incarnation) in voters and i.agent.promised <= known.epoch
    ]
    if len(confirm) >= known.k:
        return ""
    return f"only {len(confirm)} of {known.k} voters confirm that nobody else was elected"


def _missing(known: LeaseState, instances: Sequence[Instance]) -> list[str]:
    """Who may have a newer copy and does not tell: every volume, and whoever the newest copy names."""
    assert known.holder is not None
    named = {m.instance for m in (known.holder, *known.voters)}
    told = {i.name for i in instances if i.agent is not None and i.agent.lease is not None}
    # An instance that was never cloned has no incarnation and nothing to tell.
    new = {i.name for i in instances if i.agent is not None and not i.agent.incarnation}
    return sorted((named | {i.name for i in instances if i.claim is not None}) - told - (new - named))


def _differs(i: Instance, known: LeaseState) -> bool:
    """Two copies of one age that name different holders or voters: two histories."""
    told = i.agent.lease if i.agent is not None else None
    if told is None or is_older(told, known) or not told.revision:
        return False
    return (told.holder, told.voters, told.k) != (known.holder, known.voters, known.k)


def _again(known: LeaseState, found: LeaseState | None, instances: Sequence[Instance]) -> LeaseState:
    """The newest copy above every promise and every epoch that anybody tells of."""
    seen = [i.agent for i in instances if i.agent is not None]
    above = [a.promised for a in seen] + [a.lease.epoch for a in seen if a.lease is not None]
    if found is not None:
        above.append(found.epoch)
    state = reclaimed(known, above, nonce="")
    counts = known.filling if known.filling is not None and known.filling.done else None
    return replace(
        state,
        # What a Restore in place brought counts from then on, whoever has taken note of it; one that still prepares
        # begins anew, above an epoch that nobody can have led beside it.
        filling=replace(counts, epoch=state.epoch) if counts is not None else None,
        nonce=f"restored-{state.epoch}",
        revision=max(known.revision, found.revision if found is not None else 0) + 1,
        claimed=max(known.claimed, found.claimed if found is not None else 0),
    )


def _silent(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'does' if len(names) == 1 else 'do'} not answer"

"""Whether a standby may stream from the holder as it is, must be rewound first, or waits.

A timeline's history says where it left its parent. Whoever is on an ancestor and not beyond the fork follows as it
is; whoever wrote past the fork holds WAL that nobody acknowledged, and has to be rewound.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
from matriarch.postgres.timeline import WalPosition, follows


@dataclass(frozen=True, slots=True)
class Facts:
    """`confirmed`: voters of S that the holder saw flush past its promotion record, or None while it doesn't answer."""

    me: Member
    position: WalPosition
    lease: LeaseState
    promised: int
    confirmed: tuple[Member, ...] | None = None
    streaming: tuple[Member, ...] = ()  # voters that stream from the live holder now
    waited: bool = False  # this standby has waited for long enough that those who are away will not help
    rewind_failed: bool = False


def replaced(facts: Facts, *, confirmed: tuple[Member, ...] | None, streaming: tuple[Member, ...] = ()) -> Facts:
    """The same facts after the holder was asked."""
    return replace(facts, confirmed=confirmed, streaming=streaming)


@dataclass(frozen=True, slots=True)
class Verdict:
    kind: Literal["attach", "wait", "rewind", "clone"]
    why: str = ""


def verdict(f: Facts) -> Verdict:
    """What this standby does about the Lease's holder. Sources: `docs/protocol.md`, step 9; S3, I3."""
    lease = f.lease
    if f.promised > lease.epoch and lease.mode != "follow":  # where nobody writes it is of a time before
        return Verdict("wait", f"epoch {f.promised} is promised, the Lease is at {lease.epoch}")
    if f.rewind_failed:
        return Verdict("clone", "a rewind failed, or the WAL that is needed is gone")
    match _relation(f.position, lease):
        case "ancestor":
            return Verdict("attach")
        case "unknown":
            return Verdict("wait", "the holder's promotion is not recorded yet")
        case "diverged" if lease.mode == "follow":
            # The designated primary is past the fork by its own rules (`decide/source.py`); nobody writes here.
            return Verdict("rewind", "the source's line left the WAL here")
        case "diverged":
            pass
    if f.confirmed is None:
        return Verdict("wait", "the holder does not answer, and only it or what it confirmed may be rewound from")
    others = [v for v in lease.voters if v != f.me]
    enough = sum(v in f.confirmed for v in others) >= lease.k
    if f.me not in lease.voters or len(others) < lease.k or enough:
        return Verdict("rewind", "the WAL here goes past the fork")
    if f.waited and sum(v in f.streaming for v in others) < lease.k:
        # No k other live voters are left: from the live holder, then (two would wait for each other for ever).
        return Verdict("rewind", "the other voters are away")
    return Verdict("wait", "too few other voters hold the new timeline: this one may still be needed as it is")


def _relation(position: WalPosition, lease: LeaseState) -> Literal["ancestor", "unknown", "diverged"]:
    promoting = lease.promoting
    if lease.mode == "follow" and position.timeline > lease.timeline:
        return "unknown"  # a timeline comes with the stream before the designated primary records it
    if promoting is not None:
        if position.timeline == promoting.parent:
            # The fork will be at promoting.lsn or after it: beyond that, only the recorded history can tell.
            return "ancestor" if position.lsn <= promoting.lsn else "unknown"
        if promoting.parent != lease.timeline or position.timeline > lease.timeline:
            return "unknown"
    return "ancestor" if follows(position, lease.timeline, lease.lineage) else "diverged"

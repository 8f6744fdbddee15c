"""Which member a physical backup reads: its files are in one member's volume, so one has to be chosen.

A replica, so that clients meet none of it: first one beside the store, where the store is a volume too, for one Pod
mounts both and volumes may be bound to their nodes; of those one whose acknowledgement no commit needs, then the one
with the least to replay. The primary when no replica is fit. The engine looks again for itself: what is chosen here
may have changed by the time that it connects.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from matriarch.decide.verdict import Standing, Verdict

MAX_LAG = 60.0
"""Seconds; a replica further behind would make an old backup. As for logical backups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One member as the cluster's status has it. Lag in bytes and seconds."""

    name: str
    role: str
    ready: bool
    delayed: bool = False
    """Stays behind on purpose."""
    voter: bool = False
    lag_bytes: int | None = None
    lag_seconds: float | None = None
    claim: bool = True
    """Its volume is there and stays."""
    shared: bool = True
    """A second Pod on its node may mount the volume."""
    near: bool = True
    """The store's volume is on its node, or none is."""


def choose(candidates: Iterable[Candidate], *, number: int, primary: bool, attempt: int = 1) -> str | Verdict:
    """The member to read, or why there is none now.

    `attempt` counts from 1: each later one takes the next member, the primary last, for the one before had no room
    for the Job's Pod or lost it.

    `number` replicas must have each commit: when no more voters than that are ready, a slow one slows every commit.
    `primary`: the Backup asks for the primary.
    """
    there = tuple(candidates)
    fit = [c for c in there if c.ready and c.claim and c.shared]
    spare = sum(1 for c in there if c.ready and c.voter and c.role == "replica") > number
    replicas = sorted(
        (not c.near, c.voter and not spare, c.lag_bytes if c.lag_bytes is not None else 1 << 62, c.name)
        for c in fit
        if c.role == "replica" and not c.delayed and (c.lag_seconds or 0.0) <= MAX_LAG
    )
    leaders = [c.name for c in fit if c.role == "primary"]
    order = leaders if primary else [name for *_, name in replicas] + leaders
    if order:
        return order[(attempt - 1) % len(order)]
    return _why(there, primary=primary)


def _why(there: tuple[Candidate, ...], *, primary: bool) -> Verdict:
    wanted = [c for c in there if c.ready and c.claim and (c.role == "primary" or not primary)]
    if wanted and not any(c.shared for c in wanted):
        return Verdict(
            Standing.STALLED,
            "VolumeNotShared",
            f"The volume of {wanted[0].name} lets a single Pod mount it (ReadWriteOncePod), and a physical backup "
            "reads it from a second one: make a logical backup, or give the instances volumes that are ReadWriteOnce.",
        )
    what = "the primary is" if primary else "no replica that keeps up, nor the primary, is"
    verb = "not ready" if primary else "ready"
    return Verdict(
        Standing.WORKING,
        "NoMember",
        f"A physical backup reads the files of a member, and {what} {verb} to be read.",
    )

"""Who the voters should be, one change at a time.

The holder asks for the next change, carries out its steps in the order that `steps` gives, and asks again. Whichever
side would be too weak alone is changed last, so that at every instant each set that can acknowledge meets each set
that can elect (I2, I7). Sources: `docs/protocol.md` and Patroni's quorum commit for the same idea in other words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matriarch.decide.lease import LeaseState, Mode, successors
from matriarch.decide.member import Member
from matriarch.postgres.standbynames import NOBODY, render_names

SEGMENT = 16 * 1024 * 1024
"""A member joins the voters with less lag than this, so that adding it holds up no commit for long."""
REMOVE_AFTER = 10_000_000_000
"""A voter that has not streamed for so long is removed, which leaves an election with fewer to ask."""
DEGRADE_AFTER = 2_000_000_000
"""With `durability: preferred`, commits wait this long for voters that are away before the holder goes on alone."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One standby as the holder's PostgreSQL sees it now."""

    member: Member
    streaming: bool
    lag_bytes: int


@dataclass(frozen=True, slots=True)
class Wish:
    """What the spec asks for; `number` 0 stands for a single instance."""

    instances: tuple[str, ...]
    number: int
    required: bool
    delayed: tuple[str, ...] = ()  # they replay late, so they acknowledge nothing and are never elected


@dataclass(frozen=True, slots=True)
class Change:
    """What the Lease shall say next, and which row of the table brings it there."""

    kind: Literal["to-quorum", "add", "remove", "raise-k", "lower-k", "to-alone"]
    mode: Mode
    voters: tuple[Member, ...]
    k: int
    why: str = ""


Step = Literal["lease", "postgres", "barrier", "probe"]

STEPS: dict[str, tuple[Step, ...]] = {
    "to-quorum": ("probe", "postgres", "barrier", "lease"),
    "add": ("lease", "postgres"),
    "remove": ("postgres", "barrier", "lease"),
    "raise-k": ("postgres", "barrier", "lease"),
    "lower-k": ("lease", "postgres"),
    "to-alone": ("lease", "postgres"),
}
"""The order of each row. `probe`: names that nobody has, until a commit is seen waiting (S5)."""


def next_change(lease: LeaseState, wish: Wish, streams: Sequence[Stream], away: dict[Member, int]) -> Change | None:
    """The next change, or None. `away`: for how many ns each voter has not streamed (0 or absent: it streams)."""
    wanted = set(wish.instances) - set(lease.leaving) - set(wish.delayed)
    ready = sorted(s.member for s in streams if s.streaming and s.lag_bytes < SEGMENT and s.member.instance in wanted)
    streaming = {s.member for s in streams if s.streaming}
    if lease.mode == "alone":
        if wish.number and len(ready) >= wish.number:
            return Change("to-quorum", "quorum", tuple(ready), wish.number, "enough standbys stream")
        return None
    if lease.mode != "quorum":
        return None
    if wish.number == 0:
        return Change("to-alone", "alone", (), 0, "one instance is wanted")
    if lease.k > wish.number:
        return Change("lower-k", "quorum", lease.voters, wish.number, f"number is {wish.number}")
    removable = _first_removable(lease, wanted, streaming, away)
    rest = tuple(v for v in lease.voters if removable is None or v != removable[0])
    if removable and len(rest) >= lease.k and sum(v in streaming for v in rest) >= lease.k:
        return Change("remove", "quorum", rest, lease.k, removable[1])
    if fresh := [m for m in ready if m not in lease.voters]:
        voters = tuple(sorted((*lease.voters, fresh[0])))
        return Change("add", "quorum", voters, lease.k, f"{fresh[0].instance} streams")
    if lease.k < wish.number <= sum(v in streaming for v in lease.voters):
        return Change("raise-k", "quorum", lease.voters, wish.number, f"number is {wish.number}")
    short = sum(away.get(v, 0) < DEGRADE_AFTER for v in lease.voters) < lease.k
    if short and not wish.required:
        return Change("to-alone", "alone", (), 0, "too few voters answer, and durability is preferred")
    return None


def _first_removable(
    lease: LeaseState, wanted: set[str], streaming: set[Member], away: dict[Member, int]
) -> tuple[Member, str] | None:
    """The voter to remove next. One whose instance came back as another incarnation is gone for certain."""
    for v in lease.voters:
        if v.instance not in wanted:
            return v, f"{v.instance} is leaving"
    for v in lease.voters:
        if v not in streaming and any(s.instance == v.instance for s in streaming):
            return v, f"{v.instance} has a new volume"
    for v in lease.voters:
        if v not in streaming and away.get(v, 0) >= REMOVE_AFTER:
            return v, f"{v.instance} has not streamed for {REMOVE_AFTER // 1_000_000_000} s"
    return None


def standby_names(lease: LeaseState, wish: Wish) -> str:
    """`synchronous_standby_names` of the holder for what the Lease says.

    Never empty where `required` was asked for and clients have not been let in yet, nor in mode quorum (I5). It is
    empty while the Lease says `alone` and somebody may already rely on writes going on: a single instance, `preferred`,
    or a cluster that grows from one instance and has clients.
    """
    if lease.mode == "quorum":
        return render_names(lease.k, map(str, lease.voters))
    if wish.number and wish.required and not lease.opened:
        return NOBODY
    return ""


def names_if_elected(lease: LeaseState, me: Member) -> str:
    """The names that `me` would need if it were elected now: what a voter runs with, so that an election has no
    configuration to wait for. A standby acknowledges nothing by them, and whoever is elected compares them again.
    """
    if lease.mode != "quorum" or me not in lease.voters or lease.holder is None:
        return NOBODY
    return render_names(lease.k, map(str, successors(lease, me)))

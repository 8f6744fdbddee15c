"""Who the voters should be, one change at a time.

The holder asks for the next change, carries out its steps in the order that `steps` gives, and asks again. Whichever
side would be too weak alone is changed last, so that at every instant each set that can acknowledge meets each set
that can elect (I2, I7). Sources: `docs/protocol.md` and Patroni's quorum commit for the same idea in other words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matriarch.decide.election import MOST_BEHIND
from matriarch.decide.lease import LeaseState, Mode, successors
from matriarch.decide.member import Member
from matriarch.postgres.lsn import SEGMENT_SIZE
from matriarch.postgres.standbynames import NOBODY, render_names

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
    asynchronous: bool = False  # no commit waits for a replica; `number` is 0 then


@dataclass(frozen=True, slots=True)
class Change:
    """What the Lease shall say next, and which row of the table brings it there."""

    kind: Literal["to-quorum", "add", "remove", "raise-k", "lower-k", "to-alone", "to-async", "candidates"]
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
    "to-async": ("lease", "postgres"),
    "candidates": ("lease",),
}
"""The order of each row. `probe`: names that nobody has, until a commit is seen waiting (S5). What guards the holder
meanwhile is said by `guard.py`."""


def next_change(lease: LeaseState, wish: Wish, streams: Sequence[Stream], away: dict[Member, int]) -> Change | None:
    """The next change, or None. `away`: for how many ns each voter has not streamed (0 or absent: it streams)."""
    wanted = set(wish.instances) - set(lease.leaving) - set(wish.delayed)
    ready = sorted(
        s.member for s in streams if s.streaming and s.lag_bytes < SEGMENT_SIZE and s.member.instance in wanted
    )
    streaming = {s.member for s in streams if s.streaming}
    if wish.asynchronous and lease.mode != "async":
        # From quorum also with nobody there: then it is what lets writes go on.
        candidates = tuple(ready) or tuple(v for v in lease.voters if v.instance in wanted)
        return Change("to-async", "async", candidates, 0, "sync.mode is async") if candidates else None
    if lease.mode != "quorum" and not wish.asynchronous and wish.number and len(ready) >= wish.number:
        return Change("to-quorum", "quorum", tuple(ready), wish.number, "enough standbys stream")
    if lease.mode == "async":
        return _next_of_async(lease, wish, wanted, streams, away)
    if lease.mode == "alone":
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


def _next_of_async(
    lease: LeaseState, wish: Wish, wanted: set[str], streams: Sequence[Stream], away: dict[Member, int]
) -> Change | None:
    """Candidates come and go. The last one stays listed while it is away: it is elected only if it lacks little."""
    if wish.number == 0 and not wish.asynchronous:
        return Change("to-alone", "alone", (), 0, "one instance is wanted")
    near = {s.member for s in streams if s.streaming and s.lag_bytes <= MOST_BEHIND}
    # Half of it, lest one at the edge come and go all the time.
    caught_up = (s.member for s in streams if s.streaming and s.lag_bytes <= MOST_BEHIND // 2)
    fresh = sorted(m for m in caught_up if m.instance in wanted and m not in lease.voters)
    removable = _first_removable(lease, wanted, {s.member for s in streams if s.streaming}, away)
    if removable is None:
        far = next((s for s in streams if s.streaming and s.member in lease.voters and s.member not in near), None)
        removable = (far.member, f"{far.member.instance} is {far.lag_bytes >> 20} MiB behind") if far else None
    if removable is not None and (rest := tuple(v for v in lease.voters if v != removable[0])):
        return Change("candidates", "async", rest, 0, removable[1])
    if fresh:
        return Change(
            "candidates", "async", tuple(sorted((*lease.voters, fresh[0]))), 0, f"{fresh[0].instance} streams"
        )
    if removable is not None and removable[0].instance not in wanted:
        return Change("to-alone", "alone", (), 0, removable[1])
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
    empty in mode async, and while the Lease says `alone` and somebody may already rely on writes going on: a single
    instance, `preferred`, or a cluster that grows from one instance and has clients.
    """
    if lease.mode == "quorum":
        return render_names(lease.k, map(str, lease.voters))
    if lease.mode == "alone" and wish.number and wish.required and not lease.opened:
        return NOBODY
    return ""


def names_if_elected(lease: LeaseState, me: Member) -> str:
    """The names that `me` would need if it were elected now: what a voter runs with, so that an election has no
    configuration to wait for. A standby acknowledges nothing by them, and whoever is elected compares them again.

    In mode async that is none at all. A standby runs with names all the same, lest it be elected by a Lease that says
    quorum by then: names that appear at a promotion are not in force for every backend at once, ones that vanish do
    no harm (S5).
    """
    if lease.mode != "quorum" or me not in lease.voters or lease.holder is None:
        return NOBODY
    return render_names(lease.k, map(str, successors(lease, me)))

"""Elections: who may promise, who may stand, who wins, and when a winner may let readers in.

Write safety needs no clock: a candidate lets enough voters promise to stop streaming from older epochs, takes the one
that holds most, and swaps the Lease. Clocks only bound stale reads. All instants are boot-time nanoseconds of one
machine; durations travel between machines, instants never do. Sources of the rules: `docs/protocol.md`; the letters
S, L, T with a number name the scenarios of the protocol's review that a rule closes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
from matriarch.postgres.timeline import Switch, WalPosition, follows

SECOND = 1_000_000_000
T_FENCE = 1_600_000_000
"""A holder without answers and without a renewed Lease ends itself after this (deadline), plus 0.2 s for the kill."""
LEASE = 2_000_000_000
"""Observers wait this long after the last sign of a silent holder. L (1-rho) >= (T_FENCE + kill) (1+rho)."""
ASYNC_FENCE = 10_000_000_000
"""Mode async: a holder that has not renewed the Lease for so long ends itself. No answer of others counts for it."""
ASYNC_LEASE = 15_000_000_000
"""Mode async: nobody is elected before the Lease was not renewed for so long. The clock is the safety there."""
MOST_BEHIND = 16 * 1024 * 1024
"""Mode async: who lacks more of the WAL that the last renewal told of is not elected. The rest of the loss is what was
written after that renewal."""
SUSPECT = 1_000_000_000
"""Five beats of 200 ms missed."""

Evidence = Literal["fresh", "silent", "gone", "fenced"]


@dataclass(frozen=True, slots=True)
class Sight:
    """What one voter sees of the Lease's holder, by its own eyes.

    `granted_until` is the end of the newest peer lease it gave that holder at that epoch. A heartbeat process that
    started later may have forgotten one, so nothing is older than `started + T_FENCE`.
    """

    now: int
    started: int
    granted_until: int | None = None
    fenced: int = 0  # the highest epoch at which the holder said "fenced"
    since: int = 0  # when this member became a voter of this holder, as far as it knows: no beat was due before
    gone: bool = False  # FIN or RST on PID 1's socket, and two refusals after

    @property
    def lease_until(self) -> int:
        return max(self.granted_until or 0, self.started + T_FENCE)

    @property
    def last_sign(self) -> int:
        """When the newest answered beat came, or when listening began."""
        return self.lease_until - T_FENCE

    @property
    def suspected_at(self) -> int:
        """When silence becomes a reason to stand. It guards nothing else: a new holder is not suspected at once."""
        return max(self.last_sign, self.since) + SUSPECT

    def evidence(self, lease: LeaseState) -> Evidence:
        if self.fenced >= lease.epoch > 0:
            return "fenced"
        if self.gone:
            return "gone"
        return "silent" if self.now >= self.suspected_at else "fresh"


@dataclass(frozen=True, slots=True)
class Voter:
    """A voter as it answers: its newest Lease, what it promised, what it sees, and why it can't (empty: it can)."""

    me: Member
    lease: LeaseState
    promised: int
    sight: Sight
    unable: str = ""
    renewal_seen: int = 0  # when this process last saw the Lease's renew time change


@dataclass(frozen=True, slots=True)
class Answer:
    """`wait`: nanoseconds after which the same question may find a yes; None when time does not help."""

    yes: bool
    why: str = ""
    wait: int | None = None


def would_promise(voter: Voter, epoch: int) -> Answer:
    """Whether `voter` may promise `epoch`. Asked before (pre-vote, without effect) and again at the promise itself."""
    lease, sight = voter.lease, voter.sight
    if lease.mode == "alone":
        return Answer(yes=False, why=f"nobody is elected in mode {lease.mode}")
    if voter.me not in lease.voters:
        return Answer(yes=False, why=f"{voter.me} is no voter of epoch {lease.epoch}")
    if voter.unable:
        return Answer(yes=False, why=voter.unable)
    if epoch <= lease.epoch:
        return Answer(yes=False, why=f"epoch {epoch} is not above {lease.epoch}")
    if epoch < voter.promised:
        return Answer(yes=False, why=f"epoch {voter.promised} is promised")
    if lease.mode == "async":
        return lease_is_over(voter)
    if sight.evidence(lease) in ("fenced", "gone"):
        return Answer(yes=True)
    left = sight.lease_until - sight.now
    if left > 0:
        return Answer(yes=False, why="the holder was heard a moment ago", wait=left)
    return Answer(yes=True)


def lease_is_over(voter: Voter) -> Answer:
    """Mode async: whether the holder's time is over, as far as this voter saw.

    A holder that said "fenced" is over at once, but for one that stopped cleanly: what it hands over is awaited, for
    nothing is lost then. That its sockets ended proves nothing here: whoever forges that would make two primaries.
    """
    lease, sight = voter.lease, voter.sight
    if sight.evidence(lease) == "fenced" and lease.clean_stop is None:
        return Answer(yes=True)
    left = voter.renewal_seen + ASYNC_LEASE - sight.now
    if left > 0:
        return Answer(yes=False, why="the Lease was renewed a moment ago", wait=left)
    return Answer(yes=True)


def shortfall(lease: LeaseState, position: WalPosition) -> str:
    """Mode async: why a member whose WAL ends at `position` must not be elected; empty when it may be."""
    wal = lease.wal
    if lease.mode != "async" or wal is None or position.timeline > wal.timeline:
        return ""
    line = lease.lineage
    if (claim := lease.promoting) is not None:
        line = (*line, Switch(claim.timeline, claim.parent, claim.lsn))
    if not follows(position, wal.timeline, line):
        return f"its WAL ends at {position}, which does not lead to {wal}"
    behind = wal.lsn - position.lsn
    return f"it lacks {behind >> 20} MiB of WAL" if behind > MOST_BEHIND else ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A voter that thinks of standing."""

    voter: Voter
    others_answering: int = 0  # other voters that answered the pre-vote


def may_stand(candidate: Candidate) -> Answer:
    """Whether to begin an election at all: suspicion, and the second witness where one vote would be enough (L5)."""
    lease, sight = candidate.voter.lease, candidate.voter.sight
    if lease.mode == "async":
        return lease_is_over(candidate.voter)
    evidence = sight.evidence(lease)
    if evidence == "fresh":
        return Answer(yes=False, why="the holder beats", wait=sight.suspected_at - sight.now)
    if lease.election_quorum > 1 or evidence == "fenced":
        return Answer(yes=True)
    if lease.no_voters and candidate.others_answering:
        return Answer(yes=True)
    until = max(sight.last_sign, candidate.voter.renewal_seen) + LEASE
    if sight.now < until:
        return Answer(yes=False, why="one vote elects here, and the Lease was renewed", wait=until - sight.now)
    return Answer(yes=True)


@dataclass(frozen=True, slots=True)
class Reply:
    """One voter in a pre-vote that failed. `why`: it said no. None: it did not answer, and was last heard `age` ns ago
    (None: never)."""

    instance: str
    yes: bool = False
    why: str | None = None
    age: int | None = None


def no_quorum(need: int, replies: Sequence[Reply]) -> str:
    """Why nobody is elected, for people: how many are missing, what each said, and when the silent were last seen."""
    yes = sum(r.yes for r in replies)
    answered = sum(r.yes or r.why is not None for r in replies)
    if answered < need:
        told = [f"no quorum: {answered} of {need} voters answered"]
    else:
        told = [f"no quorum: {yes} of {need} voters would promise"]
    told += [f"{r.instance}: {r.why}" for r in replies if not r.yes and r.why is not None]
    told += [f"{r.instance} {_seen(r.age)}" for r in replies if not r.yes and r.why is None]
    return "; ".join(told)


def _seen(age: int | None) -> str:
    """In steps, so that what is said does not change with every look."""
    if age is None:
        return "was never seen from here"
    seconds = age // SECOND
    if seconds < 60:
        return f"last seen {seconds - seconds % (1 if seconds < 15 else 5)} s ago"
    return f"last seen {seconds // 60} min ago"


def next_epoch(lease: LeaseState, promised: int, heard: int) -> int:
    """Step 2: above the Lease, the own promise and every promise heard of."""
    return max(lease.epoch, promised, heard) + 1


def best(positions: Mapping[Member, WalPosition], priorities: Mapping[str, int]) -> Member:
    """The winner among those that promised: most WAL first, then priority, then the lower name (I4)."""
    if not positions:
        raise ValueError("nobody promised")
    return max(
        sorted(positions),
        key=lambda m: (positions[m].timeline, positions[m].lsn, priorities.get(m.instance, 0)),
    )


def door_waits_until(
    *, evidence: Evidence, clean: bool, strict: bool, renewal_seen: int, last_grant: int, swapped: int
) -> int:
    """When a winner may serve readers: not before the old holder can't serve any (L3).

    No wait for a holder that said "fenced", stopped cleanly, or whose PID 1 was seen gone, nor with bounded reads.
    `last_grant`: the newest sign that a promised voter had of the old holder. A swap is no renewal.
    """
    if clean or not strict or evidence in ("fenced", "gone"):
        return swapped
    return max(swapped, renewal_seen + LEASE, last_grant + LEASE)

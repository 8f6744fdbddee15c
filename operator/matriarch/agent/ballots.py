"""What voters said in a pre-vote or a promise, and what a candidate makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matriarch.agent import mutant
from matriarch.agent.clock import boottime
from matriarch.agent.instance import Instance
from matriarch.decide.election import SECOND, Evidence, Reply, best, no_quorum, shortfall
from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
from matriarch.postgres.timeline import WalPosition


@dataclass(frozen=True, slots=True)
class Ballot:
    """What one voter said. Durations are this machine's, counted from when the answer came."""

    member: Member
    yes: bool
    why: str
    wait: int | None
    promised: int
    evidence: Evidence
    position: WalPosition
    epoch: int  # of the Lease that it knows
    last_sign: int | None  # boot-time instant here, not before the voter's own


def ballot_of(doc: dict[str, Any], member: Member) -> Ballot:
    age = doc.get("sign_age")
    told = doc.get("member")
    who = Member(*told) if told else member
    yes = bool(doc.get("yes")) and who == member  # another incarnation is somebody else
    return Ballot(
        member=member,
        yes=yes,
        why=str(doc.get("why") or ("" if who == member else f"{member.instance} is another incarnation now")),
        wait=doc.get("wait"),
        promised=int(doc.get("promised") or 0) if who == member else 0,
        evidence=doc.get("evidence") or "fresh",
        position=WalPosition(int(doc.get("timeline") or 0), int(doc.get("lsn") or 0)),
        epoch=int(doc.get("epoch") or 0),
        last_sign=None if age is None or age < 0 else boottime() - int(age),
    )


def winner_of(instance: Instance, positions: dict[Member, WalPosition]) -> Member:
    if mutant.is_on("lsn-only"):
        positions = {m: WalPosition(0, p.lsn) for m, p in positions.items()}
    return best(positions, dict(instance.config.priorities) if instance.config else {})


def near_enough(lease: LeaseState, ballots: Sequence[Ballot]) -> tuple[list[Ballot], dict[Member, str]]:
    """Those that may be elected by what they hold, and what is said of the others: mode async gives up only so much."""
    found = {b.member: shortfall(lease, b.position) for b in ballots}
    return [b for b in ballots if not found[b.member]], {m: why for m, why in found.items() if why}


def too_few(instance: Instance, lease: LeaseState, ballots: Sequence[Ballot], lacking: dict[Member, str]) -> str:
    """Why this is no quorum, with what each voter said and when the silent ones were last seen."""
    said, now = {b.member: b for b in ballots}, boottime()
    replies = []
    for m in lease.voters:
        if (ballot := said.get(m)) is not None:
            why = lacking.get(m) or ballot.why
            replies.append(Reply(m.instance, yes=ballot.yes and m not in lacking, why=why))
        else:
            peer = instance.peer(m.instance)
            heard = peer.heard if peer is not None else None
            replies.append(Reply(m.instance, age=None if heard is None else now - heard))
    return no_quorum(lease.election_quorum, replies)


def more_to_come(lease: LeaseState, yes: Sequence[Ballot], ballots: Sequence[Ballot]) -> Ballot | None:
    """Mode async: who saw the last renewal a little later, and would have a part of what this election gives up."""
    if lease.mode != "async":
        return None
    most = max(b.position for b in yes)
    later = (b for b in ballots if not b.yes and b.wait is not None and b.wait <= SECOND and b.position > most)
    return next(later, None)

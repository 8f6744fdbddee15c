"""A candidate's side: from suspicion to the swap of the Lease.

All of it may be broken off at any point and begun again by anybody: promises are idempotent, need no owner, and the
swap alone decides. Sources: `docs/protocol.md`, steps 1 to 6.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from matriarch.agent import voting
from matriarch.agent.ballots import Ballot, ballot_of, more_to_come, near_enough, too_few, winner_of
from matriarch.agent.clock import boottime
from matriarch.agent.instance import Instance
from matriarch.agent.leases import Lost, new_nonce
from matriarch.agent.rhythm import TURN
from matriarch.decide import lease as transitions
from matriarch.decide import leasetext
from matriarch.decide.election import (
    Answer,
    Candidate,
    door_waits_until,
    lease_is_over,
    may_stand,
    next_epoch,
    shortfall,
)
from matriarch.decide.lease import LeaseState
from matriarch.decide.leasetext import LeaseRead
from matriarch.decide.member import Member
from matriarch.errors import MatriarchError, Refused, Unavailable
from matriarch.postgres.timeline import WalPosition

log = logging.getLogger(__name__)

PREVOTE_WAIT = 0.4
PROMISE_WAIT = 4.0
HEIR_FIRST = 1_500_000_000
"""Others leave the heir of a switchover this long (ns), and the holder a moment to reclaim, before they stand."""
SOON = 0.05
"""Seconds until a holder that is final for this member is so for the others too."""
BACK_OFF = 0.15  # s, times the rank, doubled with each failed attempt up to 2 s


@dataclass(frozen=True, slots=True)
class Won:
    """The Lease names this member: what the door needs to know of the predecessor."""

    epoch: int
    door_not_before: int


class NotNow(MatriarchError):  # noqa: N818 - reads as the outcome it is
    """This attempt ended; `wait` (s) is how long the next one should wait at least."""

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.wait = wait


def suspicion(instance: Instance, others_answering: int = 0) -> Answer:
    """Whether this member has reason to stand now. Cheap: called at every beat."""
    voter = instance.voter()
    if voter is None or voter.me not in voter.lease.voters or voter.lease.mode == "alone":
        return Answer(yes=False, why="not a voter")
    if voter.unable:
        return Answer(yes=False, why=voter.unable)
    left = instance.courtesy_until - boottime()
    if left > 0 and instance.promised > voter.lease.epoch:
        return Answer(yes=False, why=f"epoch {instance.promised} was promised to another", wait=left)
    left = instance.leases.renewal_seen + HEIR_FIRST - boottime()
    if voter.lease.heir is not None and left > 0:
        return Answer(yes=False, why=f"{voter.lease.heir.instance} is the heir", wait=left)
    return may_stand(Candidate(voter, others_answering))


def next_look(answer: Answer, *, leads: bool) -> float:
    """Seconds until the next look at the latest. Each view of the heartbeat brings one, so this is for a heartbeat that
    hangs, and for reasons that pass with time. Who leads has nothing to look for."""
    return 5 * TURN if leads else min(max((answer.wait or 0) / 1e9, TURN), 5 * TURN)


def refusal(instance: Instance, answer: Answer) -> str:
    """Why this member does not stand although the holder is not heard; empty when there is no reason to stand."""
    lease = instance.lease
    if answer.yes or lease is None or lease.holder is None or instance.is_holder or lease.mode in ("alone", "follow"):
        return ""
    return "" if instance.sight().evidence(lease) == "fresh" else answer.why


async def stand(instance: Instance) -> Won | None:
    """One attempt. None: another, better voter was asked to go on.

    Raises:
        NotNow: no quorum, or the attempt was overtaken.
        Unavailable: the API server or PostgreSQL does not answer.
    """
    known, early = _enough(instance), None
    reading = asyncio.create_task(_read(instance))
    try:
        if known is not None:
            # Questions without effect go out meanwhile: the reading takes time in which clients wait.
            early = await _asked(instance, known.state)
            if transitions.plain((await reading).state) != transitions.plain(known.state):
                raise NotNow("the Lease is another by now", 0.02)
        base = await reading
    finally:
        reading.cancel()
        await asyncio.wait({reading})
        reading.cancelled() or reading.exception()
    lease = base.state
    if early is None or sum(b.yes for b in early[1]) < lease.election_quorum:
        early = await _asked(instance, lease)  # where some said no: they may have heard of it a little later
    epoch, ballots = early
    newest = max(instance.epoch_heard, *(b.epoch for b in ballots))
    if newest > lease.epoch:
        raise NotNow(f"epoch {newest} is known elsewhere, and the Lease is at {lease.epoch}: it was restored", 0.5)
    yes = [b for b in ballots if b.yes]
    yes, lacking = near_enough(lease, yes)
    if len(yes) < lease.election_quorum:
        waits = [b.wait for b in ballots if b.wait is not None]
        said = too_few(instance, lease, ballots, lacking)
        wait = min(waits, default=int(BACK_OFF * 1e9)) / 1e9
        raise NotNow(said, min(wait, SOON) if waits and _is_final(instance, lease) else wait)
    again = suspicion(instance, others_answering=len(ballots) - 1)
    if not again.yes:
        raise NotNow(again.why, (again.wait or 100_000_000) / 1e9)
    assert instance.me is not None
    if (more := more_to_come(lease, yes, ballots)) is not None:
        raise NotNow(f"{more.member.instance} holds more and may be elected in a moment", (more.wait or 0) / 1e9)
    favourite = winner_of(instance, {b.member: b.position for b in yes})
    if favourite != instance.me and await _ask_to_stand(instance, favourite):
        # It has more to offer; if it does nothing within the wait, this member goes on by itself next time.
        raise NotNow(f"{favourite.instance} was asked to stand", 0.25 + random.random() * 0.1)  # noqa: S311 - jitter
    return await _elect(instance, base, epoch, [b.member for b in yes])


async def _elect(instance: Instance, base: LeaseRead, epoch: int, voters: list[Member]) -> Won | None:
    """Promises, the choice, and the swap or the hand-over."""
    lease = base.state
    assert instance.me is not None
    others = [m for m in voters if m != instance.me]
    # The own promise comes last, so that half an election never costs a live holder a good standby (L2). From one that
    # is final nobody streams: then all promise at once.
    early = asyncio.create_task(_own_promise(instance, epoch)) if _is_final(instance, lease) else None
    try:
        answers = await asyncio.gather(*(_promise_of(instance, m, epoch) for m in others))
        promised = [b for b in answers if b is not None]
        if instance.lease is None or instance.lease.epoch != lease.epoch or instance.promised > epoch:
            raise NotNow("another was elected meanwhile", _jitter())
        if len(promised) + 1 < lease.election_quorum:
            raise NotNow(f"only {len(promised)} of {len(others)} promised epoch {epoch}", _jitter())
        own = await (early or _own_promise(instance, epoch))
    finally:
        if early is not None:
            # A promise that is begun is kept to its end, for what comes next needs the same lock.
            await asyncio.wait({early})
            early.cancelled() or early.exception()
    ballots, lacking = near_enough(lease, [*promised, own])
    if not ballots:
        raise NotNow("; ".join(f"{m.instance}: {why}" for m, why in lacking.items()), _jitter())
    positions = {b.member: b.position for b in ballots}
    winner = winner_of(instance, positions)
    signs = [b.last_sign for b in ballots if b.last_sign is not None]
    if winner != instance.me:
        await _hand_over(instance, winner, base, epoch, ballots)
        return None
    return await take(
        instance, base, epoch, position=positions[winner], others=len(promised), last_sign=max(signs, default=0)
    )


async def _own_promise(instance: Instance, epoch: int) -> Ballot:
    assert instance.me is not None
    try:
        return ballot_of(await voting.promise(instance, epoch, to_another=False), instance.me)
    except Refused as e:
        raise NotNow(str(e), _jitter()) from None


async def take(
    instance: Instance, base: LeaseRead, epoch: int, *, position: WalPosition, others: int, last_sign: int
) -> Won:
    """The swap. `others`: how many voters beside this one promised. `last_sign`: boot-time instant here."""
    lease, me, config = base.state, instance.me, instance.config
    assert me is not None
    led = transitions.taken_over
    if config is not None and not config.required and others < lease.k:
        led = transitions.taken_over_alone
    evidence = instance.sight().evidence(lease)
    renewal_seen = instance.leases.renewal_seen
    async with instance.control:
        if instance.promised != epoch:
            raise NotNow(f"epoch {instance.promised} was promised meanwhile", _jitter())
        try:
            wanted = led(lease, me, epoch, position, new_nonce())
            await instance.leases.swap(base, wanted, through_renewals=lease.mode != "async")
        except Lost as e:
            raise NotNow(str(e), _jitter()) from None
    log.info("epoch %d is held by this instance (%s)", epoch, evidence)
    # In mode async the old holder's time was over before the swap, with writes and reads alike.
    strict = lease.mode == "quorum" and (config is None or config.strict_reads)
    return Won(
        epoch,
        door_waits_until(
            evidence=evidence,
            clean=False,
            strict=strict,
            renewal_seen=renewal_seen,
            last_grant=last_sign,
            swapped=boottime(),
        ),
    )


async def _asked(instance: Instance, lease: LeaseState) -> tuple[int, list[Ballot]]:
    """The epoch to stand for, and what the voters say to it."""
    answer = suspicion(instance, others_answering=len(lease.voters) - 1)
    if not answer.yes:
        raise NotNow(f"the suspicion is gone: {answer.why}", 0.1)
    epoch = next_epoch(lease, instance.promised, instance.promise_heard)
    ballots = await _prevotes(instance, lease, epoch)
    higher = max((b.promised for b in ballots), default=0)
    if higher >= epoch:
        epoch = higher + 1
        ballots = await _prevotes(instance, lease, epoch)
    return epoch, ballots


def _enough(instance: Instance) -> LeaseRead | None:
    """The Lease as the watch brought it, where it is enough to ask by: the holder said that it is final, or is gone."""
    known = instance.leases.known if instance.leases.fresh else None
    if known is None or known.state.mode != "quorum":
        return None  # in mode async a renewal that was not seen tells how far the holder's WAL reaches
    return known if _is_final(instance, known.state) else None


def _is_final(instance: Instance, lease: LeaseState) -> bool:
    """Whether the holder said so, or is gone: it acknowledges nothing any more."""
    return instance.sight().evidence(lease) in ("fenced", "gone")


async def _read(instance: Instance) -> LeaseRead:
    """Step 2: a consistent read. Without the API server nobody is elected."""
    try:
        return await instance.leases.read(wait=1.0)
    except Lost as e:
        raise NotNow(str(e), 1.0) from None


async def _prevotes(instance: Instance, lease: LeaseState, epoch: int) -> list[Ballot]:
    assert instance.me is not None
    others = [m for m in lease.voters if m != instance.me]
    own, *answers = await asyncio.gather(
        voting.prevote(instance, epoch), *(_prevote_of(instance, m, epoch) for m in others)
    )
    return [ballot_of(own, instance.me), *(b for b in answers if b is not None)]


async def _prevote_of(instance: Instance, member: Member, epoch: int) -> Ballot | None:
    try:
        doc = await instance.peers.post(member.instance, "/v1/prevote", {"epoch": epoch}, timeout=PREVOTE_WAIT)
    except (Unavailable, Refused):
        return None
    return ballot_of(doc, member)


async def _promise_of(instance: Instance, member: Member, epoch: int) -> Ballot | None:
    try:
        doc = await instance.peers.post(member.instance, "/v1/promise", {"epoch": epoch}, timeout=PROMISE_WAIT)
    except (Unavailable, Refused) as e:
        log.info("%s did not promise epoch %d: %s", member.instance, epoch, e)
        return None
    ballot = ballot_of(doc, member)
    return ballot if ballot.promised == epoch else None


async def _hand_over(
    instance: Instance, winner: Member, base: LeaseRead, epoch: int, ballots: Iterable[Ballot]
) -> None:
    """The one with most WAL goes on with the promises that are there."""
    now = boottime()
    body = {
        "epoch": epoch,
        "state": leasetext.encode(base.state),
        "others": sum(1 for b in ballots) - 1,
        "sign_ages": [now - b.last_sign for b in ballots if b.last_sign is not None],
    }
    try:
        await instance.peers.post(winner.instance, "/v1/lead", body, timeout=1.0)
    except (Unavailable, Refused) as e:
        raise NotNow(f"{winner.instance} holds most and did not take over: {e}", _jitter()) from None


async def taken_from_peer(instance: Instance, body: dict[str, Any]) -> Won:
    """The receiving end of a hand-over: the same checks as an own election, from a Lease read anew.

    Raises Refused when the promises that are handed over do not fit what is seen here.
    """
    epoch = int(body["epoch"])
    base = await _read(instance)
    if not _is_same(base.state, str(body["state"])) or instance.promised != epoch:
        raise Refused("the Lease or the promise is another by now", reason="Overtaken")
    if instance.me not in base.state.voters or int(body["others"]) + 1 < base.state.election_quorum:
        raise Refused("no quorum promised", reason="NoQuorum")
    now = boottime()
    signs = [now - int(a) for a in body["sign_ages"]]
    position = await instance.position()
    voter = instance.voter()
    if base.state.mode == "async" and (voter is None or not lease_is_over(voter).yes):
        raise Refused("the Lease was renewed a moment ago, as seen here", reason="NotNow")
    if why := shortfall(base.state, position):
        raise Refused(why, reason="Behind")
    return await take(
        instance, base, epoch, position=position, others=int(body["others"]), last_sign=max(signs, default=0)
    )


def _is_same(state: LeaseState, told: str) -> bool:
    """Whether the Lease is the one that a hand-over began from. An agent of another version may not know the count."""
    known = transitions.plain(replace(leasetext.decode(told), revision=0))
    return known == transitions.plain(replace(state, revision=0))


async def _ask_to_stand(instance: Instance, favourite: Member) -> bool:
    try:
        await instance.peers.post(
            favourite.instance, "/v1/elect", {"reason": f"{instance.env.instance} sees no holder"}, timeout=0.3
        )
    except (Unavailable, Refused):
        return False
    return True


def _jitter() -> float:
    return BACK_OFF * (0.5 + random.random())  # noqa: S311 - spreads attempts, guards nothing

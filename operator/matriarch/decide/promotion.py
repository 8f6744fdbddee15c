"""Whether a replica cluster may become a primary cluster now, and by what right.

With a token: when the shutdown checkpoint that it names is replayed here, every write of the cluster that was demoted
is here, and it can never write again. By force: at once, and what may be missing is said. Each refusal is a sentence
that says what is wrong and what to do; each wait says what it waits for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from matriarch.decide import token as tokens
from matriarch.decide.lease import LeaseState
from matriarch.decide.site import Site
from matriarch.postgres.lsn import format_lsn
from matriarch.postgres.timeline import WalPosition, follows


@dataclass(frozen=True, slots=True)
class Wish:
    """The part of the spec that speaks of promotion. `enabled`: the cluster should be a replica cluster."""

    enabled: bool
    token: str = ""
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """Of the designated primary. `position`: the end of its WAL; `replayed`: how far that is replayed."""

    lease: LeaseState
    wish: Wish
    position: WalPosition
    replayed: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """`token` is None for a forced promotion."""

    kind: Literal["none", "promote", "wait", "refuse"]
    why: str = ""
    token: str | None = None


def verdict(f: Facts) -> Verdict:
    """What the designated primary does about the wish."""
    if f.lease.mode != "follow" or f.lease.holder is None or f.wish.enabled:
        return Verdict("none")
    if f.wish.forced:
        return Verdict("promote", f"forced at {f.position}: what the source wrote after it is lost here")
    if not f.wish.token:
        return Verdict(
            "refuse",
            "replica.enabled is false, and a promotion needs replica.promotionToken, which is status.demotionToken of"
            " the cluster that was primary. Where that one is lost, promote with replica.promotion: forced",
        )
    return _by_token(f)


def _by_token(f: Facts) -> Verdict:
    site = f.lease.site or Site()
    try:
        token = tokens.decode(f.wish.token)
    except ValueError as e:
        return Verdict("refuse", f"replica.promotionToken: {e}; copy status.demotionToken of the demoted cluster again")
    if tokens.digest(f.wish.token) in site.spent:
        return Verdict(
            "refuse",
            f"the promotion token of {token.cluster} was used already, and a token promotes once: demote the cluster"
            " that is primary now and take the token that it gives",
        )
    if site.demoted and tokens.digest(f.wish.token) == tokens.digest(site.demoted):
        return Verdict(
            "refuse",
            "the promotion token is this cluster's own, and another cluster may have been promoted by it: set"
            " replica.promotion: forced if you know that none was",
        )
    if token.system_identifier != f.lease.system_identifier:
        return Verdict(
            "refuse",
            f"the promotion token is of database system {token.system_identifier}, and this cluster is a copy of"
            f" {f.lease.system_identifier}: take the token of the cluster that this one follows",
        )
    if not follows(token.position, f.position.timeline, f.lease.lineage):
        if token.timeline > f.position.timeline:
            return _behind(f, token)
        return _stale(f, token)
    if f.position.timeline > token.timeline:
        return _stale(f, token)  # somebody went on writing after that demotion
    if f.replayed <= token.lsn:
        return _behind(f, token)
    return Verdict("promote", f"everything up to the demotion of {token.cluster} is here", f.wish.token)


def _behind(f: Facts, token: tokens.Token) -> Verdict:
    return Verdict(
        "wait",
        f"waiting for the last write of {token.cluster}, at {token.position}: replayed up to"
        f" {format_lsn(f.replayed)}. If the source is gone for good, promote with replica.promotion: forced",
    )


def _stale(f: Facts, token: tokens.Token) -> Verdict:
    return Verdict(
        "refuse",
        f"the promotion token is of an older demotion: it names {token.position}, and this cluster is at {f.position},"
        " so somebody went on writing after it. Take the token of the cluster that is primary now",
    )

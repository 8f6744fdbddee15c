"""The Lease of a replica cluster, whose mode is `follow`: nobody writes, so nobody is elected and nobody votes.

The holder is the designated primary: the one instance that streams from the source, and from which the others do.
Two that think they are it do no harm, since both only read; so a change of the holder needs no promises. What must
happen once is the way out of the mode and into it, and each of these is one swap:

    mode follow, epoch e ── promoted ──▶ mode alone, epoch above e, a timeline number claimed
    alone or quorum, epoch e ── demoted ──▶ mode follow, epoch above e, the token of the clean stop
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from matriarch.decide import token as tokens
from matriarch.decide.lease import LeaseState, Promotion
from matriarch.decide.lease import initial as first
from matriarch.decide.member import Member
from matriarch.decide.site import REMEMBERED, Site
from matriarch.decide.token import Token
from matriarch.postgres.timeline import Switch, WalPosition

FORCED_GAP = 16
"""Numbers that a forced promotion leaves to a source that may still be alive and promote on its own."""


def initial(bootstrap: str) -> LeaseState:
    """Epoch 0: `bootstrap` may copy the source. No instance of this cluster ever runs initdb."""
    return replace(first(bootstrap), mode="follow")


def bootstrapped(
    state: LeaseState, me: Member, system_identifier: str, line: Sequence[Switch], nonce: str
) -> LeaseState:
    """Epoch 1 after the copy of the source, which is on the timeline that `line` leads to."""
    _require(state.epoch == 0 and state.mode == "follow", "only epoch 0 of a replica cluster may be bootstrapped so")
    _require(me.instance == state.bootstrap, f"{me.instance} is not the bootstrap instance {state.bootstrap}")
    begun = replace(state, epoch=1, holder=me, nonce=nonce, system_identifier=system_identifier)
    return line_followed(begun, line)


def line_followed(state: LeaseState, line: Sequence[Switch]) -> LeaseState:
    """The source's line, as the designated primary streams it: what the other instances compare theirs with."""
    _require(state.mode == "follow", "only a replica cluster follows a line")
    known = tuple(sorted(line, key=lambda s: s.timeline))
    return replace(state, lineage=known, claimed=max(state.claimed, known[-1].timeline if known else 1))


def designated(state: LeaseState, member: Member, epoch: int, nonce: str) -> LeaseState:
    """Another designated primary, after a failover or a switchover."""
    _require(state.mode == "follow", "only a replica cluster has a designated primary")
    _require(epoch > state.epoch > 0, f"epoch {epoch} is not above {state.epoch}")
    _require(member != state.holder, f"{member} is the designated primary already")
    return replace(state, epoch=epoch, holder=member, nonce=nonce)


def promoted(state: LeaseState, epoch: int, position: WalPosition, nonce: str, token: str | None) -> LeaseState:
    """The designated primary becomes a primary. `position`: where its WAL ends, with no upstream any more.

    `token` None: forced. The door opens as in a new cluster: when as many replicas hold everything as are asked for.
    The token is written down by the very swap that uses it, so it can never promote this cluster again.
    """
    _require(state.mode == "follow" and state.holder is not None, "only a replica cluster is promoted")
    _require(epoch > state.epoch, f"epoch {epoch} is not above {state.epoch}")
    site = state.site or Site()
    _require(token is None or tokens.digest(token) not in site.spent, "the token was used already")
    used = (*site.spent, *(tokens.digest(t) for t in (token, site.demoted) if t))
    above = max(state.claimed, position.timeline, tokens.decode(token).claimed if token else 0)
    claim = above + 1 + (0 if token else FORCED_GAP)
    return replace(
        state,
        epoch=epoch,
        nonce=nonce,
        mode="alone",
        claimed=claim,
        promoting=Promotion(claim, position.timeline, position.lsn),
        opened=False,
        site=Site("", used[-REMEMBERED:], "" if token else str(position)),
    )


def demoted(state: LeaseState, epoch: int, token: Token, nonce: str) -> LeaseState:
    """The primary stopped cleanly where `token` says, and nobody here writes any more."""
    _require(state.mode != "follow" and state.holder is not None, "only a primary cluster is demoted")
    _require(state.promoting is None, "a promotion is not recorded yet")
    _require(state.filling is None, "a restore replaces the data")
    _require(epoch > state.epoch, f"epoch {epoch} is not above {state.epoch}")
    _require(token.claimed == state.claimed, "the token is of another state")
    return replace(
        state,
        epoch=epoch,
        nonce=nonce,
        mode="follow",
        voters=(),
        k=0,
        heir=None,
        clean_stop=None,
        no_voters=False,
        wal=None,
        opened=False,
        site=replace(state.site or Site(), demoted=tokens.encode(token)),
    )


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)

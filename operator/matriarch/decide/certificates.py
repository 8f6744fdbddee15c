"""Which keys and certificates of a cluster are due.

A leaf is renewed at two thirds of its life. An authority is followed by another in three steps, so that at no moment
does anybody meet a certificate that it cannot check:

    1  at two thirds of its life a next one is made and published in every trust bundle, and signs nothing yet
    2  a day later, when every bundle holds it, it becomes the current one; all leaves are issued anew
    3  the former one stays in the bundles until it expires
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

AUTHORITY_LIFE = timedelta(days=3650)
LEAF_LIFE = timedelta(days=90)
PUBLISHED = timedelta(days=1)
"""How long a next authority is published before it signs. The kubelet takes a minute or two to bring it to a Pod; a day
leaves room for a node that was away."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What matters of one certificate. Key ids and fingerprints are hex."""

    fingerprint: str
    key_id: str
    issuer_key_id: str
    hosts: frozenset[str]
    not_before: datetime
    not_after: datetime

    def due(self, now: datetime) -> bool:
        """Past two thirds of its life."""
        return now >= self.not_before + (self.not_after - self.not_before) * 2 / 3


@dataclass(frozen=True, slots=True)
class Authority:
    """The Secret of the authority; `usable` means that certificate and key are there and belong together."""

    current: Certificate | None
    usable: bool
    next: Certificate | None = None
    previous: Certificate | None = None
    heartbeat: bool = True  # the heartbeat key is there


@dataclass(frozen=True, slots=True)
class Leaf:
    """One wanted certificate and what there is of it. `bundle` holds the fingerprints that its Secret trusts."""

    secret: str
    hosts: frozenset[str]
    certificate: Certificate | None = None
    bundle: frozenset[str] = frozenset()
    whole: bool = True  # key and heartbeat key are as they should be


class Step(StrEnum):
    """What is to be done with the authority."""

    MAKE = "make"
    """There is none."""
    COMPLETE = "complete"
    """The heartbeat key is missing."""
    PREPARE = "prepare"
    SWITCH = "switch"
    DROP = "drop"
    """The former one expired."""


@dataclass(frozen=True, slots=True)
class CertificatePlan:
    """`authority` first, then the leaves; leaves are planned for the authority as it is now."""

    authority: Step | None = None
    issue: tuple[str, ...] = ()
    """Secrets that get a new certificate."""
    refresh: tuple[str, ...] = ()
    """Secrets that only get the present trust bundle and heartbeat key."""
    broken: str | None = None
    """Nothing can be done without a person."""


def plan_certificates(authority: Authority | None, leaves: Iterable[Leaf], now: datetime) -> CertificatePlan:
    """Decide what is due at `now`.

    An authority whose Secret is there but unreadable is never replaced silently: that would cut every client that
    trusts it. Deleting the Secret asks for a new one.
    """
    leaves = tuple(leaves)
    if authority is None:
        return CertificatePlan(Step.MAKE, issue=tuple(leaf.secret for leaf in leaves))
    if not authority.usable or authority.current is None:
        return CertificatePlan(broken="the certificate authority's Secret cannot be read")
    trusted = frozenset(c.fingerprint for c in (authority.current, authority.next, authority.previous) if c is not None)
    signer = authority.current.key_id
    issue = tuple(leaf.secret for leaf in leaves if _must_be_issued(leaf, signer, now))
    refresh = tuple(
        leaf.secret for leaf in leaves if leaf.secret not in issue and (leaf.bundle != trusted or not leaf.whole)
    )
    return CertificatePlan(_authority_step(authority, leaves, trusted, now), issue, refresh)


def _authority_step(
    authority: Authority, leaves: tuple[Leaf, ...], trusted: frozenset[str], now: datetime
) -> Step | None:
    assert authority.current is not None
    if not authority.heartbeat:
        return Step.COMPLETE
    if authority.previous is not None and now >= authority.previous.not_after:
        return Step.DROP
    if authority.next is not None:
        everywhere = all(leaf.bundle == trusted for leaf in leaves)
        return Step.SWITCH if everywhere and now - authority.next.not_before >= PUBLISHED else None
    return Step.PREPARE if authority.current.due(now) else None


def _must_be_issued(leaf: Leaf, signer: str, now: datetime) -> bool:
    found = leaf.certificate
    return found is None or found.issuer_key_id != signer or found.due(now) or found.hosts != leaf.hosts


def next_look(authority: Authority | None, leaves: Mapping[str, Certificate], now: datetime) -> timedelta:
    """How long nothing will be due by time alone."""
    found = [*leaves.values()]
    if authority is not None and authority.current is not None:
        found.append(authority.current)
    moments = [c.not_before + (c.not_after - c.not_before) * 2 / 3 for c in found]
    if authority is not None and authority.next is not None:
        moments.append(authority.next.not_before + PUBLISHED)
    return max(timedelta(minutes=1), min(moments, default=now + timedelta(days=1)) - now)

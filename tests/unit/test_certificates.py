"""Which certificates are due; and that no order of steps leaves anybody with one that it cannot check."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from matriarch.decide.certificates import (
    AUTHORITY_LIFE,
    LEAF_LIFE,
    PUBLISHED,
    Authority,
    Certificate,
    Leaf,
    Step,
    plan_certificates,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOSTS = frozenset({"orders-1"})


def certificate(name: str, issuer: str, made: datetime, life: timedelta) -> Certificate:
    return Certificate(name, name, issuer, HOSTS, made, made + life)


def authority(made: datetime = NOW) -> Authority:
    return Authority(certificate("ca1", "", made, AUTHORITY_LIFE), usable=True)


def leaf(made: datetime = NOW, issuer: str = "ca1", **more: object) -> Leaf:
    bundle = frozenset({"ca1"})
    return replace(Leaf("orders-1-tls", HOSTS, certificate("l", issuer, made, LEAF_LIFE), bundle), **more)  # type: ignore[arg-type]  # fields by name


def test_nothing_there_makes_everything() -> None:
    plan = plan_certificates(None, [Leaf("a", HOSTS), Leaf("b", HOSTS)], NOW)
    assert (plan.authority, plan.issue) == (Step.MAKE, ("a", "b"))


def test_all_well_is_left_alone() -> None:
    plan = plan_certificates(authority(), [leaf()], NOW + timedelta(days=59))
    assert (plan.authority, plan.issue, plan.refresh) == (None, (), ())


@pytest.mark.parametrize(
    "bad",
    [
        leaf(made=NOW - LEAF_LIFE * 2 / 3),
        leaf(issuer="other"),
        leaf(hosts=frozenset({"orders-1", "new"})),
        leaf(certificate=None),
    ],
)
def test_a_leaf_that_is_due_wrong_or_missing_is_issued(bad: Leaf) -> None:
    assert plan_certificates(authority(), [bad], NOW).issue == ("orders-1-tls",)


@pytest.mark.parametrize("stale", [leaf(bundle=frozenset()), leaf(whole=False)])
def test_a_leaf_that_trusts_too_little_keeps_its_key(stale: Leaf) -> None:
    plan = plan_certificates(authority(), [stale], NOW)
    assert (plan.issue, plan.refresh) == ((), ("orders-1-tls",))


def test_an_unreadable_authority_is_never_replaced_silently() -> None:
    plan = plan_certificates(replace(authority(), usable=False), [leaf()], NOW)
    assert plan.broken
    assert (plan.authority, plan.issue) == (None, ())


@dataclass
class Rotation:
    """A cluster whose Secrets follow the plans; `seen` is what each pod's agent last took from its Secret."""

    now: datetime = NOW
    serial: int = 1
    ca: Authority = field(default_factory=authority)
    secrets: dict[str, Leaf] = field(default_factory=dict)
    seen: dict[str, Leaf] = field(default_factory=dict)

    def trusted(self) -> frozenset[str]:
        return frozenset(c.fingerprint for c in (self.ca.current, self.ca.next, self.ca.previous) if c)

    def step(self) -> None:
        plan = plan_certificates(self.ca, self.secrets.values(), self.now)
        match plan.authority:
            case Step.PREPARE:
                self.serial += 1
                made = certificate(f"ca{self.serial}", "", self.now, AUTHORITY_LIFE)
                self.ca = replace(self.ca, next=made)
            case Step.SWITCH:
                self.ca = replace(self.ca, current=self.ca.next, next=None, previous=self.ca.current)
            case Step.DROP:
                self.ca = replace(self.ca, previous=None)
        assert self.ca.current is not None
        for name in (*plan.issue, *plan.refresh):
            old = self.secrets[name]
            made = certificate(f"{name}{self.now}", self.ca.current.key_id, self.now, LEAF_LIFE)
            kept = old.certificate if name in plan.refresh else made
            self.secrets[name] = replace(old, certificate=kept, bundle=self.trusted())

    def check(self) -> None:
        """Everybody who runs can check everybody else's certificate."""
        for one in self.seen.values():
            assert one.certificate is not None
            assert one.certificate.not_after > self.now
            for other in self.seen.values():
                assert one.certificate.issuer_key_id in other.bundle


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])  # long lists shrink for ever
@given(st.lists(st.tuples(st.integers(1, 20), st.booleans()), min_size=200, max_size=260))
def test_no_rotation_ever_cuts_anybody_off(days: list[tuple[int, bool]]) -> None:
    """Over more than one life of an authority, with pods that take on their Secret within a day."""
    r = Rotation()
    r.ca = authority(NOW - AUTHORITY_LIFE * 2 / 3 + timedelta(days=100))
    for name in ("a", "b"):
        made = certificate(name, "ca1", NOW, LEAF_LIFE)
        r.secrets[name] = Leaf(name, HOSTS, made, frozenset({"ca1"}))
    r.seen = dict(r.secrets)
    for count, twice in days:
        r.now += timedelta(days=count)
        for _ in range(2 if twice else 1):
            r.step()
            r.check()
        r.seen = dict(r.secrets)
        r.check()
    assert r.serial > 1
    assert r.ca.current is not None
    assert r.ca.current.fingerprint != "ca1"


def test_a_next_authority_does_not_sign_before_everybody_trusts_it() -> None:
    following = certificate("ca2", "", NOW, AUTHORITY_LIFE)
    waiting = replace(authority(), next=following)
    both = frozenset({"ca1", "ca2"})
    later = NOW + PUBLISHED
    assert plan_certificates(waiting, [leaf(bundle=both)], NOW + PUBLISHED / 2).authority is None
    assert plan_certificates(waiting, [leaf()], later).authority is None
    assert plan_certificates(waiting, [leaf(bundle=both)], later).authority is Step.SWITCH

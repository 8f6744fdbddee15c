"""A lost Lease is written again only where nobody can know a newer one, and never with another holder."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matriarch.decide import lease as leases
from matriarch.decide import leasetext
from matriarch.decide.actions import RestoreLease
from matriarch.decide.facts import Agent, Claim, Instance
from matriarch.decide.lease import LeaseState, is_older, revised
from matriarch.decide.lost import Mended, Refused, is_behind, mend
from matriarch.decide.member import Member
from matriarch.decide.verdict import Standing
from matriarch.postgres.timeline import WalPosition

sys.path.insert(0, str(Path(__file__).parent))

from cluster_world import world

M = tuple(Member(f"orders-{i}", f"{i}" * 12) for i in range(1, 6))
A, B, C = M[:3]
KNOWN = LeaseState(
    epoch=5, holder=A, bootstrap="orders-1", mode="quorum", voters=(B, C), k=1, opened=True, claimed=3, revision=20
)
OLDER = replace(KNOWN, epoch=3, holder=B, voters=(A, C), claimed=2, revision=12)


def told(
    member: Member, lease: LeaseState | None = KNOWN, *, leads: bool = False, promised: int = 5, fenced: int = 0
) -> Instance:
    agent = Agent(
        role="primary" if leads else "replica", state="running", ready=True, incarnation=member.incarnation,
        lease=lease, promised=promised, fenced=fenced,
    )  # fmt: skip
    return Instance(member.instance, claim=Claim("u", 1), agent=agent)


def silent(member: Member) -> Instance:
    return Instance(member.instance, claim=Claim("u", 1))


LEADS = told(A, leads=True)
ALONE = replace(KNOWN, mode="alone", voters=(), k=0)
ASYNC = replace(KNOWN, mode="async", k=0)


@pytest.mark.parametrize(
    ("found", "instances", "source"),
    [
        pytest.param(None, (LEADS, told(B), told(C)), "orders-1", id="deleted, all well"),
        pytest.param(None, (LEADS, told(B), silent(C)), "orders-1", id="k of the voters confirm"),
        pytest.param(None, (LEADS, silent(B), silent(C)), None, id="nobody confirms"),
        pytest.param(None, (LEADS, told(B, promised=6), silent(C)), None, id="who promised above confirms nothing"),
        pytest.param(None, (LEADS, told(B, promised=6), told(C)), "orders-1", id="the other does"),
        pytest.param(None, (LEADS, told(B, promised=6), told(C, promised=6)), "orders-1", id="all answer: nobody won"),
        pytest.param(
            None, (told(A, leads=True, fenced=5), told(B), silent(C)), None, id="who said fenced does not lead"
        ),
        pytest.param(None, (silent(A), told(B), told(C)), None, id="the holder may know more"),
        pytest.param(None, (told(A), told(B), told(C)), "orders-1", id="nobody leads, and all answer"),
        pytest.param(
            None,
            (told(A, OLDER, leads=True), told(B), told(C)),
            "orders-2",
            id="one that leads by an older one counts as a member",
        ),
        pytest.param(None, (told(B, None), told(A), told(C)), None, id="no copy is no answer"),
        pytest.param(None, (silent(A), silent(B)), None, id="nobody answers"),
        pytest.param(None, (told(A, ALONE, leads=True), silent(B)), "orders-1", id="alone: nobody else is elected"),
        pytest.param(None, (told(A, ALONE), silent(B)), None, id="alone, and it does not lead"),
        pytest.param(None, (told(A, ASYNC, leads=True), silent(B)), "orders-1", id="async: its clock runs"),
        pytest.param(OLDER, (LEADS, told(B), told(C)), "orders-1", id="restored from an older copy"),
        pytest.param(
            replace(OLDER, epoch=7, revision=13), (LEADS, told(B), told(C)), "orders-1", id="and written on from there"
        ),
        pytest.param(
            None, (LEADS, told(B, replace(KNOWN, voters=(C,))), told(C)), None, id="two histories need a person"
        ),
    ],
)
def test_mend(found: LeaseState | None, instances: tuple[Instance, ...], source: str | None) -> None:
    result = mend(found, instances)
    if source is None:
        assert isinstance(result, Refused)
        assert result.why
        return
    assert isinstance(result, Mended), result
    assert result.source == source
    assert (result.state.holder, result.state.mode) == (A, instances[0].agent and result.state.mode)
    assert result.state.claimed == 3
    assert result.state.epoch > max([5, *(i.agent.promised for i in instances if i.agent), found.epoch if found else 0])
    assert is_older(KNOWN, result.state)
    assert found is None or is_older(found, result.state)


@pytest.mark.parametrize(
    ("state", "than", "older"),
    [
        (KNOWN, KNOWN, False),
        (OLDER, KNOWN, True),
        (KNOWN, OLDER, False),
        (replace(KNOWN, revision=19), KNOWN, True),
        (replace(KNOWN, revision=0), KNOWN, False),
        (KNOWN, replace(KNOWN, revision=0), False),
        (replace(OLDER, epoch=9), KNOWN, True),
        (replace(KNOWN, epoch=6, revision=1), KNOWN, False),
    ],
)
def test_what_is_void(state: LeaseState, than: LeaseState, older: bool) -> None:
    assert is_older(state, than) is older


def test_renewals_are_not_counted_and_every_change_is() -> None:
    assert revised(KNOWN, replace(KNOWN, no_voters=True)).revision == 20
    assert revised(KNOWN, leases.opened_set(replace(KNOWN, opened=False))).revision == 20, "it says the same"
    assert revised(KNOWN, leases.reclaimed(KNOWN, [], "n")).revision == 21


class Herd:
    """A cluster's past, drawn at random by the protocol's rules: takeovers by promises, reclaims, changes of voters.

    Whoever writes knows what it wrote; others see it, or not. A holder that was replaced may not know it yet.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        count = self.random.choice((3, 4, 5))
        self.members = M[:count]
        self.lease = replace(KNOWN, voters=self.members[1:], k=self.random.randint(1, count // 2), epoch=1, revision=1)
        self.past = [self.lease]
        self.known = dict.fromkeys(self.members, self.lease)
        self.promised = dict.fromkeys(self.members, 0)

    def write(self, member: Member, state: LeaseState) -> None:
        self.lease = revised(self.lease, state)
        self.past.append(self.lease)
        self.known[member] = self.lease

    def step(self) -> None:
        lease, holder = self.lease, self.lease.holder
        assert holder is not None
        match self.random.choice(("see", "see", "elect", "reclaim", "change", "change")):
            case "see":
                self.known[self.random.choice(self.members)] = lease
            case "elect":
                epoch = max(lease.epoch, *self.promised.values()) + 1
                gave = self.random.sample(lease.voters, self.random.randint(0, len(lease.voters)))
                self.promised.update(dict.fromkeys(gave, epoch))
                if lease.mode == "quorum" and len(gave) >= lease.election_quorum:
                    winner = self.random.choice(gave)
                    self.write(winner, leases.taken_over(lease, winner, epoch, WalPosition(lease.claimed, 7), "n"))
            case "reclaim":
                self.write(holder, leases.reclaimed(lease, self.promised.values(), "n"))
            case "change" if self.known[holder] == lease:
                if lease.mode == "alone" or self.random.random() < 0.2:
                    others = [m for m in self.members if m != holder]
                    if lease.mode == "quorum":
                        self.write(holder, leases.voters_set(lease, "alone", (), 0))
                    else:
                        self.write(holder, leases.voters_set(lease, "quorum", others, 1))
                    return
                member = self.random.choice([m for m in self.members if m != holder])
                voters = set(lease.voters) ^ {member}
                if len(voters) >= lease.k:
                    self.write(holder, leases.voters_set(lease, "quorum", voters, lease.k))


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 1 << 32))
def test_whoever_answers_the_newest_holder_stays_and_so_do_its_voters(seed: int) -> None:
    herd = Herd(seed)
    for _ in range(herd.random.randint(1, 25)):
        herd.step()
    found = None if herd.random.random() < 0.5 else herd.random.choice(herd.past)
    instances = []
    for m in herd.members:
        lease = herd.known[m]
        leads = lease.holder == m and herd.random.random() < 0.8  # also one that was replaced and does not know it
        answers = herd.random.random() < 0.7
        instances.append(told(m, lease, leads=leads, promised=herd.promised[m]) if answers else silent(m))
    if found is not None and not is_behind(found, instances):
        return
    result = mend(found, instances)
    if isinstance(result, Mended):
        newest = herd.lease
        assert (result.state.holder, result.state.claimed) == (newest.holder, newest.claimed)
        assert (result.state.voters, result.state.k) == (newest.voters, newest.k)
        assert all(is_older(state, result.state) for state in herd.past)


@pytest.mark.parametrize("loss", ["deleted", "restored"])
def test_the_controller_writes_it_again_and_the_cluster_goes_on(loss: str) -> None:
    w = world(3)
    w.settle()
    before = w.lease
    assert before is not None
    if loss == "deleted":
        w.lease = None
    else:
        w.lease = replace(before, epoch=1, voters=(), mode="alone", k=0)
        before = replace(before, epoch=4)
        w.copies = dict.fromkeys(w.copies, before)
    plan = w.reconcile()
    assert any(isinstance(a, RestoreLease) for a in plan.actions)
    assert plan.verdict.reason in ("LeaseLost", "LeaseRolledBack")
    assert w.lease is not None
    assert (w.lease.holder, w.lease.voters) == (before.holder, before.voters)
    assert w.settle().verdict.standing is Standing.READY


def test_volumes_without_a_lease_get_their_pods_so_that_they_can_tell() -> None:
    w = world(3)
    w.settle()
    w.pods.clear()
    w.lease = None
    plan = w.settle(rounds=20)
    assert w.lease is not None
    assert plan.verdict.standing is Standing.READY


def test_what_a_restore_in_place_brought_counts_also_in_a_lease_that_was_written_again() -> None:
    """Its volume may hold the other data already: by a Lease that has forgotten it nobody could run on either."""
    lifted = leases.filled(leases.suspended(KNOWN, "r1"), "r1")
    mended = mend(None, (told(A, lifted), told(B, lifted), told(C, lifted)))
    assert isinstance(mended, Mended)
    filling = mended.state.filling
    assert filling is not None
    assert (filling.restore, filling.done, filling.epoch) == ("r1", True, mended.state.epoch)
    assert mended.state.bootstrap == lifted.bootstrap
    assert leasetext.decode(leasetext.encode(mended.state)) == mended.state


def test_a_restore_in_place_that_still_prepares_begins_anew() -> None:
    held = leases.suspended(KNOWN, "r1")
    mended = mend(None, (told(A, held), told(B, held), told(C, held)))
    assert isinstance(mended, Mended)
    assert mended.state.filling is None

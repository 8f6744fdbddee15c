"""The replay of logs: every history that the protocol's own functions make is legal, and broken ones are not."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matriarch.decide import lease as transitions
from matriarch.decide.lease import CleanStop, LeaseState
from matriarch.decide.member import Member
from matriarch.decide.transitions import EVENTS, Illegal, Line, Seen, lease_event, parse, render
from matriarch.postgres.timeline import Switch, WalPosition
from model.replay import MARK, Entry, read, replay

NAMES = ("a", "b", "c", "d")
MEMBERS = tuple(Member(n, f"{i}{i}{i}") for i, n in enumerate(NAMES))


class Herd:
    """Members that follow the protocol's rules in an order drawn at random, and log as agents do."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lease = replace(
            transitions.bootstrapped(transitions.initial("a"), MEMBERS[0], "7", "n"),
            mode="quorum",
            voters=MEMBERS[1:3],
            k=1,
            opened=True,
        )
        self.version = 10
        self.known = dict.fromkeys(MEMBERS, self.lease)
        self.versions = dict.fromkeys(MEMBERS, self.version)
        self.promised = dict.fromkeys(MEMBERS, 0)
        self.fenced = dict.fromkeys(MEMBERS, 0)
        self.role = dict.fromkeys(MEMBERS, "standby")
        self.role[MEMBERS[0]] = "primary"
        self.noted = dict.fromkeys(MEMBERS, "none")
        self.logs: list[Line] = []
        for member in MEMBERS:
            self.note(member, "start")

    def note(self, member: Member, event: str) -> None:
        seen = Seen.of(self.known[member])
        before, self.noted[member] = self.noted[member], self.role[member]
        self.logs.append(
            Line(
                str(member),
                before,
                event,
                self.role[member],
                seen.epoch,
                seen.holder,
                seen.mode,
                seen.voters,
                seen.k,
                seen.claimed,
                seen.lineage,
                seen.heir,
                self.promised[member],
                self.fenced[member],
                self.versions[member],
            )
        )

    def swap(self, member: Member, state: LeaseState) -> None:
        self.lease, self.version = state, self.version + self.random.randint(1, 3)
        self.see(member)

    def see(self, member: Member) -> None:
        known, self.known[member], self.versions[member] = self.known[member], self.lease, self.version
        if known != self.lease:
            # What it missed in between it can't tell apart: agents log such a jump too.
            try:
                event = lease_event(Seen.of(known), Seen.of(self.lease))
            except Illegal:
                event = "other"
            self.note(member, event)

    def promise(self, member: Member, epoch: int) -> None:
        if epoch > self.promised[member]:
            self.promised[member] = epoch
            self.note(member, "promise")

    def step(self) -> None:
        self.random.choice(
            (
                self.watch,
                self.watch,
                self.elect,
                self.reclaim,
                self.lead,
                self.change,
                self.restart,
                self.attach,
                self.hand,
            )
        )()

    def watch(self) -> None:
        member = self.random.choice(MEMBERS)
        self.see(member)
        if self.role[member] == "primary" and self.lease.holder != member:
            self.role[member] = "stopped"
            self.note(member, "depose")
        if self.role[member] == "stopped" and self.lease.holder != member:
            self.role[member] = "standby"
            self.note(member, "start-standby")

    def elect(self) -> None:
        lease = self.lease
        able = [v for v in lease.voters if self.role[v] == "standby"]
        epoch = max(lease.epoch, *self.promised.values()) + 1
        self.random.shuffle(able)
        for voter in able[: self.random.randint(0, len(able))]:
            self.promise(voter, epoch)
        gave = [v for v in able if self.promised[v] == epoch]
        if lease.mode == "alone" or len(gave) < lease.election_quorum or self.random.random() < 0.2:
            return
        winner = self.random.choice(gave)
        self.swap(winner, transitions.taken_over(lease, winner, epoch, WalPosition(lease.claimed, 7), f"n{epoch}"))

    def reclaim(self) -> None:
        holder = self.lease.holder
        assert holder is not None
        self.see(holder)
        self.swap(holder, transitions.reclaimed(self.lease, self.promised.values(), f"r{self.version}"))
        self.promise(holder, self.lease.epoch)

    def lead(self) -> None:
        holder, lease = self.lease.holder, self.lease
        assert holder is not None
        if self.known[holder] != lease or self.promised[holder] > lease.epoch or self.fenced[holder] >= lease.epoch:
            return
        if self.role[holder] == "standby" and lease.promoting is not None:
            self.role[holder] = "primary"
            self.note(holder, "promote")
            claim = lease.promoting
            line = (*lease.lineage, Switch(claim.timeline, claim.parent, claim.lsn))
            self.swap(holder, transitions.history_recorded(lease, line))
        elif self.role[holder] == "stopped":
            self.role[holder] = "primary"
            self.note(holder, "start-primary")

    def change(self) -> None:
        lease, holder = self.lease, self.lease.holder
        assert holder is not None
        if self.role[holder] != "primary" or self.known[holder] != lease:
            return
        others = [m for m in MEMBERS if m != holder]
        member = self.random.choice(others)
        voters = set(lease.voters)
        if not lease.voters:
            mode = self.random.choice(("quorum", "quorum", "async"))
            self.swap(holder, transitions.voters_set(lease, mode, others[:2], 1 if mode == "quorum" else 0))
        elif self.random.random() < 0.2:
            mode = "async" if lease.mode == "quorum" else "quorum"
            self.swap(holder, transitions.voters_set(lease, mode, others[:2], 1 if mode == "quorum" else 0))
        elif lease.mode == "async":
            if voters ^ {member}:
                self.swap(holder, transitions.voters_set(lease, "async", voters ^ {member}, 0))
        elif self.random.random() < 0.2:
            self.swap(holder, transitions.voters_set(lease, "alone", (), 0))
        elif len(voters) > 1 and self.random.random() < 0.4:
            self.swap(holder, transitions.voters_set(lease, "quorum", voters, 2 if lease.k == 1 else 1))
        elif member in voters and len(voters) > lease.k:
            self.swap(holder, transitions.voters_set(lease, "quorum", voters - {member}, lease.k))
        elif member not in voters:
            self.swap(holder, transitions.voters_set(lease, "quorum", voters | {member}, lease.k))

    def restart(self) -> None:
        member = self.random.choice(MEMBERS)
        if self.role[member] == "primary":
            self.role[member] = "stopped"
        self.noted[member] = "none"
        self.note(member, "start")

    def attach(self) -> None:
        member = self.random.choice(MEMBERS)
        lease = self.known[member]
        if self.role[member] == "standby" and lease.holder != member and self.promised[member] <= lease.epoch:
            self.note(member, "attach")

    def hand(self) -> None:
        lease, holder = self.lease, self.lease.holder
        assert holder is not None
        if self.role[holder] != "primary" or self.known[holder] != lease or not lease.voters:
            return
        self.role[holder], self.fenced[holder] = "stopped", lease.epoch
        self.note(holder, "fence")
        heir = self.random.choice(lease.voters)
        self.swap(holder, transitions.heir_named(lease, heir, CleanStop(lease.claimed, 7)))
        if self.role[heir] == "standby" and self.random.random() < 0.7:
            epoch = max(self.lease.epoch, self.promised[heir]) + 1
            self.promise(heir, epoch)
            self.swap(heir, transitions.heir_takes(self.lease, epoch, WalPosition(self.lease.claimed, 7), "h"))


def history(seed: int, steps: int = 60) -> list[Line]:
    herd = Herd(seed)
    for _ in range(steps):
        herd.step()
    return herd.logs


def entries(lines: list[Line]) -> list[Entry]:
    return [Entry(line, "log", n) for n, line in enumerate(lines, start=1)]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 32))
def test_what_the_protocol_does_is_legal(seed: int) -> None:
    assert replay(entries(history(seed))) == []


def test_the_histories_show_every_event_but_the_rare_ones() -> None:
    shown = {line.event for seed in range(80) for line in history(seed)}
    assert set(EVENTS) - shown <= {"bootstrap", "take-alone", "claim", "replace", "other"} | OF_SITES


OF_SITES = {"attach-source", "designate", "line", "site-promote", "site-demote"}
FOLLOW = {"mode": "follow", "voters": (), "k": 0}


def life_of_a_replica_cluster() -> list[Line]:
    """Designated, the source fails over, a failover within, promoted, demoted again."""
    b = {**FOLLOW, "holder": "b-2"}
    return [
        line("a-1", "start", 1, before="none", **FOLLOW),
        line("b-2", "start", 1, before="none", **FOLLOW),
        line("a-1", "attach-source", 1, **FOLLOW),
        line("a-1", "line", 1, version=11, claimed=2, lineage=(2,), **FOLLOW),
        line("b-2", "designate", 2, claimed=2, lineage=(2,), **b),
        line("b-2", "attach-source", 2, claimed=2, lineage=(2,), **b),
        line("b-2", "promise", 2, claimed=2, lineage=(2,), promised=3, **b),
        line("b-2", "site-promote", 3, claimed=9, lineage=(2,), promised=3, **{**b, "mode": "alone"}),
        line("b-2", "promote", 3, after="primary", claimed=9, lineage=(2,), promised=3, **{**b, "mode": "alone"}),
        line(
            "b-2", "history", 3, before="primary", after="primary", version=31, claimed=9, lineage=(2, 9), promised=3,
            **{**b, "mode": "alone"},
        ),
        line("b-2", "site-demote", 4, before="primary", after="stopped", claimed=9, lineage=(2, 9), promised=3, **b),
        line("b-2", "start-standby", 4, before="stopped", claimed=9, lineage=(2, 9), promised=3, **b),
    ]  # fmt: skip


def test_the_life_of_a_replica_cluster_is_legal() -> None:
    lines = life_of_a_replica_cluster()
    assert replay(entries(lines)) == []
    assert {x.event for x in lines} >= OF_SITES


@given(st.integers(0, 1 << 32))
@settings(max_examples=30, deadline=None)
def test_a_line_is_read_as_it_was_written(seed: int) -> None:
    for line in history(seed, 20):
        assert parse(render(line)) == line


def test_a_log_is_read_whatever_stands_before_the_line() -> None:
    lines = history(1, 20)
    log = [f"orders-1 2026-11-24 15:00:00,1 INFO {MARK}{render(line)}" for line in lines]
    assert [e.line for e in read("log", ["something else", *log])] == lines
    with pytest.raises(ValueError, match=r"log:1"):
        list(read("log", [f"{MARK}member=a-1 from=standby"]))


def broken(lines: list[Line], event: str, **values: object) -> list[Line]:
    """`lines` with the last `event` changed."""
    at = max(n for n, line in enumerate(lines) if line.event == event)
    return [*lines[:at], replace(lines[at], **values), *lines[at + 1 :]]  # type: ignore[arg-type]


def line(member: str, event: str, epoch: int, **more: object) -> Line:
    """A line of a herd of three: a-1 holds, b-2 and c-3 vote."""
    base = Line(
        member, "standby", event, "standby", epoch, "a-1", "quorum", ("b-2", "c-3"), 1, 1, (), "", 0, 0, epoch * 10
    )
    return replace(base, **more)  # type: ignore[arg-type]


A_TAKE = {"holder": "b-2", "voters": ("a-1", "c-3"), "claimed": 2}

BROKEN: dict[str, tuple[list[Line], str]] = {
    "a promise is forgotten over a restart": (
        [line("b-2", "promise", 1, promised=2), line("b-2", "start", 1, before="none")],
        "goes back from 2 to 0",
    ),
    "a voter follows below its promise": (
        [line("b-2", "start", 1, promised=2), line("b-2", "attach", 1, promised=2)],
        "it promised epoch 2",
    ),
    "two holders of one epoch": (
        [
            line("b-2", "take", 2, promised=2, **A_TAKE),
            line("c-3", "take", 2, version=21, **{**A_TAKE, "holder": "c-3"}),
        ],
        "epoch 2 has two holders",
    ),
    "a takeover without a quorum": (
        [
            line("b-2", "start", 1),
            line("c-3", "start", 1),
            line("b-2", "promise", 1, promised=2),
            line("b-2", "take", 2, promised=2, **A_TAKE),
        ],
        "1 of 2 voters promised epoch 2, 2 are needed",
    ),
    "S' are those that answered": (
        [line("c-3", "start", 1), line("c-3", "take", 2, **{**A_TAKE, "voters": ("c-3",)})],
        "not (S + old holder)",
    ),
    "a winner claims no timeline": (
        [line("c-3", "start", 1), line("c-3", "take", 2, **{**A_TAKE, "claimed": 1})],
        "claimed no timeline",
    ),
    "two changes at once": (
        [line("a-1", "start", 1), line("a-1", "other", 1, version=11, voters=("b-2", "c-3", "d-4"), k=2)],
        "more than one change",
    ),
    "a start as primary after fenced": (
        [line("a-1", "start-primary", 1, before="stopped", after="primary", fenced=1)],
        "it is fenced",
    ),
    "a promotion that the Lease does not name": (
        [line("b-2", "promote", 1, after="primary")],
        "a-1 holds epoch 1",
    ),
    "a promotion below the own promise": (
        [line("a-1", "promote", 1, after="primary", promised=2)],
        "it promised epoch 2",
    ),
    "the epoch goes back": (
        [line("b-2", "reclaim", 2), line("b-2", "other", 1, version=30)],
        "goes back from epoch 2 to 1",
    ),
    "one version with two contents": (
        [line("b-2", "start", 1), line("c-3", "start", 1, k=2)],
        "version 10 of the Lease is another",
    ),
    "a primary in a replica cluster": (
        [line("a-1", "start-primary", 1, before="stopped", after="primary", **FOLLOW)],
        "a replica cluster has no primary",
    ),
    "a second stream from the source": (
        [line("b-2", "attach-source", 1, **FOLLOW)],
        "nobody but the designated primary",
    ),
    "a source for a cluster that leads": ([line("a-1", "attach-source", 1)], "nobody but the designated primary"),
    "a promotion that another carries out": (
        [
            line("a-1", "start", 1, **FOLLOW),
            line("b-2", "site-promote", 2, holder="b-2", claimed=9, **{**FOLLOW, "mode": "alone"}),
        ],
        "changes its holder",
    ),
    "an event that nobody knows": ([line("b-2", "guess", 1)], "no event guess"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_no_rule_allows_is_found(name: str) -> None:
    lines, why = BROKEN[name]
    found = replay(entries(lines))
    assert found
    assert why in found[0].why


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32), st.data())
def test_a_promise_that_goes_back_is_found_in_any_history(seed: int, data: st.DataObject) -> None:
    lines = history(seed)
    at = data.draw(st.sampled_from([n for n, x in enumerate(lines) if x.promised] or [0]))
    if not lines[at].promised or not any(
        x.member == lines[at].member and x.promised == lines[at].promised for x in lines[:at]
    ):
        return
    changed = [*lines[:at], replace(lines[at], promised=lines[at].promised - 1), *lines[at + 1 :]]
    assert replay(entries(changed))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32))
def test_a_takeover_with_a_voter_too_few_is_found(seed: int) -> None:
    lines = history(seed)
    takes = [x for x in lines if x.event == "take" and x.member == x.holder]
    if not takes:
        return
    without = [x for x in lines if not (x.event == "promise" and x.promised == takes[-1].epoch)]
    assert replay(entries(without))

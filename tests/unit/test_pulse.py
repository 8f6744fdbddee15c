"""The heartbeat's rules, on machines whose clocks have nothing in common and a network that does what it likes."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matriarch.agent.beat import HeartbeatState, PeerView
from matriarch.agent.clock import MILLISECOND, SECOND
from matriarch.agent.pulse import BEAT, Outgoing, Pulse
from matriarch.agent.wire import Kind, Packet
from matriarch.decide.election import T_FENCE
from matriarch.decide.member import Member

A, B, C = Member("orders-1", "aa"), Member("orders-2", "bb"), Member("orders-3", "cc")
ADDRESSES = {m.instance: m.instance for m in (A, B, C)}
KEY = b"k" * 32


def holder(**changes: object) -> HeartbeatState:
    state = HeartbeatState(1, "holder", A, 3, A, (B, C), 1, ADDRESSES, fence=True)
    return replace(state, **changes)  # type: ignore[arg-type]  # a table of changes


def voter(me: Member = B, **changes: object) -> HeartbeatState:
    return replace(HeartbeatState(1, "voter", me, 3, A, (B, C), 1, ADDRESSES), **changes)  # type: ignore[arg-type]  # the same


class Net:
    """Machines by instance. `offset`: each machine's clock reads true time plus that."""

    def __init__(self, **states: HeartbeatState) -> None:
        self.now = 100 * SECOND
        self.machines: dict[str, Pulse] = {}
        self.offset: dict[str, int] = {}
        self.cut: set[tuple[str, str]] = set()
        self.started = 0
        self.sent: list[tuple[str, Outgoing]] = []
        for number, state in enumerate(states.values()):
            self.offset[state.me.instance] = number * 1000 * SECOND
            self.start(state)

    def clock(self, instance: str) -> int:
        return self.now + self.offset[instance]

    def start(self, state: HeartbeatState) -> Pulse:
        instance = state.me.instance
        self.started += 1
        session = self.started.to_bytes(8, "big")
        self.machines[instance] = Pulse(session, self.clock(instance))
        self.machines[instance].apply(state, self.clock(instance))
        return self.machines[instance]

    def deliver(self, origin: str, out: Outgoing) -> None:
        """And whatever it gives rise to."""
        self.sent.append((origin, out))
        if (origin, out.address) in self.cut or out.address not in self.machines:
            return
        for answer in self.machines[out.address].receive(out.packet, origin, KEY, self.clock(out.address)):
            self.deliver(out.address, answer)

    def run(self, seconds: float) -> None:
        until = self.now + round(seconds * SECOND)
        while self.now < until:
            for instance, machine in self.machines.items():
                for out in machine.tick(self.clock(instance)):
                    self.deliver(instance, out)
            self.now += 20 * MILLISECOND

    def seen(self, instance: str, of: str) -> PeerView:
        return next(p for p in self.machines[instance].view(1).peers if p.instance == of)

    def granted(self, instance: str) -> int | None:
        """True time until which it gave a lease."""
        until = self.machines[instance].view(1).granted_until
        return until - self.offset[instance] if until is not None else None

    def deadline(self, instance: str = A.instance) -> int | None:
        until = self.machines[instance].view(1).deadline
        return until - self.offset[instance] if until is not None else None


def test_a_beating_holder_has_leases_and_a_deadline_before_their_ends() -> None:
    net = Net(a=holder(), b=voter(B), c=voter(C))
    net.run(1)
    deadline, granted = net.deadline(), [net.granted(B.instance), net.granted(C.instance)]
    assert deadline is not None
    assert deadline > net.now + T_FENCE - 2 * BEAT
    assert all(g is not None and g >= deadline for g in granted)
    assert net.machines[B.instance].view(1).granted_epoch == 3
    assert net.seen(B.instance, C.instance).heard is not None  # standbys hear each other


def test_the_first_grant_comes_within_one_exchange_not_one_beat() -> None:
    net = Net(a=holder(), b=voter(B))
    net.run(0.04)
    assert net.granted(B.instance) is not None
    assert net.deadline() is not None


def test_silence_leaves_the_deadline_where_it_is() -> None:
    net = Net(a=holder(), b=voter(B), c=voter(C))
    net.run(1)
    net.cut = {(x, y) for x in ADDRESSES for y in ADDRESSES}
    before = net.deadline()
    net.run(3)
    assert net.deadline() == before
    assert before is not None
    assert before < net.now


def test_with_k_2_one_voter_is_not_enough() -> None:
    net = Net(a=holder(k=2), b=voter(B), c=voter(C))
    net.run(1)
    net.cut = {(C.instance, A.instance)}
    net.run(0.1)
    before = net.deadline()
    net.run(3)
    assert net.deadline() == before


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param({"promised": 4}, id="promised above"),
        pytest.param({"epoch": 4}, id="the voter knows a newer epoch"),
        pytest.param({"epoch": 2}, id="the voter does not know this epoch yet"),
        pytest.param({"holder": C}, id="follows another"),
        pytest.param({"holder": Member(A.instance, "zz")}, id="follows another incarnation"),
        pytest.param({"role": "none"}, id="no voter"),
    ],
)
def test_who_answers_without_a_lease(refusal: dict[str, object]) -> None:
    net = Net(a=holder(), b=voter(B, **refusal))
    net.run(2)
    assert net.granted(B.instance) is None
    assert net.deadline() is None
    assert net.seen(A.instance, B.instance).heard is not None
    assert net.seen(A.instance, B.instance).answered is None


def test_a_promise_stops_grants_at_once_and_is_heard() -> None:
    net = Net(a=holder(voters=(B,)), b=voter(B))
    net.run(1)
    net.machines[B.instance].apply(voter(B, sequence=2, promised=4), net.clock(B.instance))
    granted, deadline = net.granted(B.instance), net.deadline()
    net.run(1)
    assert (net.granted(B.instance), net.deadline()) == (granted, deadline)
    assert net.machines[A.instance].view(1).promise_heard == 4
    # a reclaim above the promise: leases again as soon as the voter knows the epoch
    net.machines[A.instance].apply(holder(sequence=2, epoch=5, voters=(B,)), net.clock(A.instance))
    net.run(0.3)
    assert net.deadline() is None
    assert net.seen(B.instance, A.instance).epoch == 5
    net.machines[B.instance].apply(voter(B, sequence=3, epoch=5, promised=4), net.clock(B.instance))
    net.run(0.3)
    after = net.deadline()
    assert after is not None
    assert after > net.now + SECOND


def test_answers_to_an_older_epoch_do_not_count_for_a_newer_one() -> None:
    net = Net(a=holder(voters=(B,)), b=voter(B))
    net.run(1)
    net.cut = {(B.instance, A.instance)}
    net.run(0.5)
    late = [out for origin, out in net.sent if origin == B.instance and out.packet.granted][-1]
    net.machines[A.instance].apply(holder(sequence=2, epoch=4, voters=(B,)), net.clock(A.instance))
    net.cut.clear()
    net.deliver(B.instance, late)
    assert net.deadline() is None


def test_a_renewed_lease_moves_the_deadline_without_any_voter() -> None:
    net = Net(a=holder(k=0, voters=()))
    assert net.deadline() is None
    net.machines[A.instance].apply(holder(sequence=2, lease_renewed=net.clock(A.instance)), net.clock(A.instance))
    assert net.deadline() == net.now + T_FENCE


@pytest.mark.parametrize("state", [holder(fence=False), holder(fenced=3), holder(role="voter")])
def test_no_deadline_where_none_counts(state: HeartbeatState) -> None:
    net = Net(a=replace(state, lease_renewed=1), b=voter(B))
    net.run(1)
    assert net.deadline() is None
    assert not net.machines[A.instance].counts


def test_fenced_is_heard_at_once_and_ends_the_beats_although_two_packets_are_lost() -> None:
    net = Net(a=holder(), b=voter(B))
    net.run(1)
    net.machines[A.instance].apply(holder(sequence=2, fenced=3), net.clock(A.instance))
    granted = net.granted(B.instance)
    net.cut = {(A.instance, B.instance)}
    net.run(0.04)
    net.cut.clear()
    net.run(0.04)
    assert net.seen(B.instance, A.instance).fenced == 3
    net.run(2)
    assert net.granted(B.instance) == granted


def test_a_recorded_packet_is_believed_once() -> None:
    net = Net(a=holder(), b=voter(B))
    net.run(1)
    recorded = [out for origin, out in net.sent if origin == A.instance]
    net.cut = {(A.instance, B.instance), (B.instance, A.instance)}
    net.run(2)
    heard, granted = net.seen(B.instance, A.instance).heard, net.granted(B.instance)
    net.cut.clear()
    for out in recorded:
        net.deliver(A.instance, out)
    assert (net.seen(B.instance, A.instance).heard, net.granted(B.instance)) == (heard, granted)


def test_a_former_process_is_not_believed_again() -> None:
    net = Net(a=holder(), b=voter(B))
    net.run(1)
    recorded = [out for origin, out in net.sent if origin == A.instance]
    net.start(holder())
    net.run(1)
    net.cut = {(A.instance, B.instance), (B.instance, A.instance)}
    net.run(2)
    granted = net.granted(B.instance)
    net.cut.clear()
    for out in recorded:
        net.deliver(A.instance, out)
    assert net.granted(B.instance) == granted


def test_a_voter_that_restarts_is_heard_within_a_beat_and_believes_nothing_recorded() -> None:
    net = Net(a=holder(voters=(B,)), b=voter(B))
    net.run(1)
    recorded = [out for origin, out in net.sent if origin == A.instance]
    net.cut = {(A.instance, B.instance)}
    net.start(voter(B))
    net.cut.clear()
    before = len(net.sent)
    for out in recorded:
        net.machines[B.instance].receive(out.packet, A.instance, KEY, net.clock(B.instance))
    assert net.granted(B.instance) is None
    assert len(net.sent) == before
    net.run(0.25)
    assert net.granted(B.instance) is not None
    deadline = net.deadline()
    assert deadline is not None
    assert deadline > net.now + SECOND


def test_packets_for_others_and_echoes_of_oneself_are_nothing() -> None:
    net = Net(a=holder(), b=voter(B))
    stray = Packet(Kind.BEAT, A.instance, "aa", C.instance, b"x" * 8, 1, epoch=3)
    assert net.machines[B.instance].receive(stray, A.instance, KEY, net.now) == []
    own = replace(stray, sender=B.instance, receiver=B.instance)
    assert net.machines[B.instance].receive(own, A.instance, KEY, net.now) == []


def test_before_the_agents_word_nothing_is_said() -> None:
    pulse = Pulse(b"s" * 8, 0)
    assert pulse.tick(SECOND) == []
    assert pulse.receive(Packet(Kind.BEAT, "a", "b", "c", b"x" * 8, 1), "a", KEY, 0) == []
    assert not pulse.counts


def test_the_agent_is_told_when_a_beat_is_missed_and_when_five_are() -> None:
    net = Net(a=holder(), b=voter(B))
    net.run(1)
    net.cut = {(A.instance, B.instance)}
    machine = net.machines[B.instance]
    heard = net.seen(B.instance, A.instance).heard
    assert heard is not None
    told = []
    machine.changed = False
    while net.now < 103 * SECOND:
        net.run(0.02)
        if machine.changed:
            told.append(round((net.clock(B.instance) - heard) / MILLISECOND))
            machine.changed = False
    assert len(told) == 2
    assert 300 <= told[0] <= 340
    assert 1000 <= told[1] <= 1040


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 2))
def test_whatever_the_network_does_k_voters_stand_behind_the_deadline(seed: int, k: int) -> None:
    """Packets are lost, doubled, delayed and reordered; voters promise and processes restart at any time."""
    random = Random(seed)
    net = Net(a=holder(k=k), b=voter(B), c=voter(C))
    under_way: list[tuple[int, str, Outgoing]] = []
    granted: dict[str, int] = {}  # the farthest ever, over restarts: what that voter must wait for
    promised: dict[str, int | None] = {B.instance: None, C.instance: None}

    def post(origin: str, packets: list[Outgoing]) -> None:
        for out in packets:
            for _ in range(random.choice([0, 1, 1, 1, 1, 2])):
                delay = random.choice([1, 1, 5, 50, 500, 2500]) * MILLISECOND
                under_way.append((net.now + delay, origin, out))

    for _ in range(400):
        net.now += 10 * MILLISECOND
        for instance, machine in net.machines.items():
            post(instance, machine.tick(net.clock(instance)))
        arrived = [item for item in under_way if item[0] <= net.now]
        under_way = [item for item in under_way if item[0] > net.now]
        for _, origin, out in arrived:
            answers = net.machines[out.address].receive(out.packet, origin, KEY, net.clock(out.address))
            until = net.granted(out.address)
            if until is not None:
                granted[out.address] = max(until, granted.get(out.address, 0))
            post(out.address, answers)
        if random.random() < 0.005:
            who = random.choice([A, B, C])
            state = net.machines[who.instance].state
            assert state is not None
            net.start(state)
        if random.random() < 0.003:
            who = random.choice([B, C])
            if promised[who.instance] is None:
                net.machines[who.instance].apply(voter(who, sequence=2, promised=9), net.clock(who.instance))
                promised[who.instance] = granted.get(who.instance, 0)
        deadline = net.deadline()
        if deadline is not None:
            assert sum(1 for until in granted.values() if until >= deadline) >= k
        for instance, limit in promised.items():
            if limit is not None:
                assert granted.get(instance, 0) <= limit

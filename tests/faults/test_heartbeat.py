"""Three Pods with the real supervisor and heartbeat on three machines, whose processes die and whose links are cut."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from matriarch.agent.beat import HeartbeatState
from matriarch.agent.clock import SECOND, boottime
from matriarch.decide.election import T_FENCE
from matriarch.decide.member import Member
from tests.faults.namespaces import Network, Pod, alive, wait_for

MEMBERS = [Member(f"orders-{n}", f"{n}{n}") for n in range(1, 4)]


class Trio:
    """Pods 0, 1, 2; Pod 0 is the holder of epoch 3, the others vote with k = 1."""

    def __init__(self, folder: Path) -> None:
        self.network = Network()
        machines = [self.network.add() for _ in MEMBERS]
        self.addresses = {m.instance: address for m, (_, address) in zip(MEMBERS, machines, strict=True)}
        self.pods = [
            Pod(folder / member.instance, network=pid, address=address)
            for member, (pid, address) in zip(MEMBERS, machines, strict=True)
        ]
        self.states = [
            HeartbeatState(
                sequence=0,
                role="holder" if number == 0 else "voter",
                me=member,
                epoch=3,
                holder=MEMBERS[0],
                voters=tuple(MEMBERS[1:]),
                k=1,
                addresses=self.addresses,
            )
            for number, member in enumerate(MEMBERS)
        ]
        for number in range(len(MEMBERS)):
            self.beat(number)

    def beat(self, number: int, **changes: Any) -> None:
        """Change the state of a Pod's heartbeat; it is in force on return."""
        state = replace(self.states[number], sequence=self.states[number].sequence + 1, **changes)
        self.states[number] = state
        assert self.pods[number].call("beat", state=asdict(state)) is True

    def views(self, number: int) -> list[dict[str, Any]]:
        views: list[dict[str, Any]] = self.pods[number].call("views")
        return views

    def view(self, number: int) -> dict[str, Any]:
        """The newest."""
        return wait_for(lambda: self.views(number))[-1]

    def peer(self, number: int, of: int) -> dict[str, Any]:
        return next((p for p in self.view(number)["peers"] if p["instance"] == MEMBERS[of].instance), {})

    def when(self, number: int, what: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first view that shows it."""
        return wait_for(lambda: next((v for v in self.views(number) if what(v)), {}))

    def presence(self, number: int, state: str) -> dict[str, Any]:
        """The first view in which `number` sees the holder's PID 1 in `state`."""
        return self.when(
            number,
            lambda v: any(p["presence"] == state for p in v["peers"] if p["instance"] == MEMBERS[0].instance),
        )

    def lead(self) -> int:
        """Pod 0 runs a postmaster under a deadline that only its voters move; its pid."""
        self.beat(0, fence=True)
        wait_for(lambda: self.view(0)["deadline"])
        self.pods[0].call("arm")
        self.pods[0].call("start_postgres", ["sleep", "1000"], {"PATH": os.environ["PATH"]})
        return self.pods[0].child("sleep 1000")

    def close(self) -> None:
        for pod in self.pods:
            pod.close()
        self.network.close()


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Trio]:
    made = Trio(tmp_path)
    yield made
    made.close()


def test_all_hear_each_other_and_the_holder_lives_on_its_voters_answers(trio: Trio) -> None:
    postmaster = trio.lead()
    time.sleep(2.5)  # well beyond T_fence without any renewal
    assert alive(postmaster)
    now = boottime()
    for number in range(3):
        for other in {0, 1, 2} - {number}:
            assert now - trio.peer(number, other)["heard"] < SECOND
    assert trio.view(0)["deadline"] > now + SECOND
    assert trio.view(1)["granted_until"] >= now + SECOND
    assert trio.view(1)["granted_epoch"] == 3
    assert trio.peer(1, 0)["presence"] == "connected"
    assert trio.pods[0].call("state")["fences"] == 0


def test_cut_off_silently_it_ends_before_its_voters_leases_do(trio: Trio) -> None:
    postmaster = trio.lead()
    trio.network.cut(1)
    wait_for(lambda: not alive(postmaster))
    ended = boottime()
    for number in (1, 2):
        view = trio.view(number)
        assert view["granted_until"] + 0.2 * SECOND > ended  # one machine here, so the clocks compare
        assert trio.peer(number, 0)["presence"] == "connected"  # silence is no refusal
    trio.pods[0].child("matriarch.agent.heartbeat")
    assert "the deadline passed" in trio.pods[0].said


@pytest.mark.parametrize("victim", ["agent", "both voters' agents"])
def test_without_an_agent_the_heartbeat_goes_on(trio: Trio, victim: str) -> None:
    postmaster = trio.lead()
    for pod in trio.pods[:1] if victim == "agent" else trio.pods[1:]:
        os.kill(pod.child("stand_in_agent"), signal.SIGSTOP)
    time.sleep(2.5)
    assert alive(postmaster)


def test_a_killed_heartbeat_costs_no_primary_while_its_agent_lives(trio: Trio) -> None:
    postmaster = trio.lead()
    for number in (0, 1):
        former = trio.pods[number].child("matriarch.agent.heartbeat")
        os.kill(former, signal.SIGKILL)
        trio.pods[number].child("matriarch.agent.heartbeat", other_than=former)
        time.sleep(2)
        assert alive(postmaster)
    assert trio.view(0)["sequence"] == trio.states[0].sequence  # its agent told the new one


def test_a_hung_heartbeat_is_replaced_and_the_holder_goes_on_or_ends_in_time(trio: Trio) -> None:
    postmaster = trio.lead()
    deadline = trio.view(0)["deadline"]
    former = trio.pods[0].child("matriarch.agent.heartbeat")
    os.kill(former, signal.SIGSTOP)
    trio.pods[0].child("matriarch.agent.heartbeat", other_than=former)
    time.sleep(2)
    state = trio.pods[0].call("state") if alive(postmaster) else {}
    assert not state or state["deadline"] > deadline + SECOND


def test_a_killed_pid_1_is_told_from_silence_within_moments(trio: Trio) -> None:
    for number in (1, 2):
        trio.presence(number, "connected")
    killed = boottime()
    os.kill(trio.pods[0].pid1, signal.SIGKILL)
    for number in (1, 2):
        view = trio.presence(number, "refused")
        peer = next(p for p in view["peers"] if p["instance"] == MEMBERS[0].instance)
        assert killed <= peer["closed_at"] < view["received"]
        assert view["received"] - killed < SECOND
        assert peer["heard"] <= peer["closed_at"] + 0.1 * SECOND


def test_with_both_voters_promised_the_holder_ends_and_learns_of_the_promise(trio: Trio) -> None:
    postmaster = trio.lead()
    trio.beat(1, promised=4)
    trio.beat(2, promised=5)
    last = max(trio.view(number)["granted_until"] or 0 for number in (1, 2))
    trio.when(0, lambda v: v["promise_heard"] == 5)
    wait_for(lambda: not alive(postmaster))
    assert boottime() < last + 0.2 * SECOND
    assert max(trio.view(number)["granted_until"] or 0 for number in (1, 2)) == last


def test_fenced_is_heard_without_waiting_for_a_beat(trio: Trio) -> None:
    trio.presence(1, "connected")
    said = boottime()
    trio.beat(0, fenced=3)
    heard = trio.when(1, lambda v: any(p["fenced"] == 3 for p in v["peers"]))
    assert heard["received"] - said < 0.2 * SECOND


def test_a_holder_that_hears_nothing_ends_although_its_beats_arrive(trio: Trio) -> None:
    postmaster = trio.lead()
    trio.network.deafen(1)
    wait_for(lambda: not alive(postmaster))
    assert boottime() - trio.peer(1, 0)["heard"] < T_FENCE


def test_a_link_that_heals_in_time_costs_nothing(trio: Trio) -> None:
    postmaster = trio.lead()
    for _ in range(3):
        trio.network.cut(1)
        time.sleep(0.8)
        trio.network.heal(1)
        time.sleep(1)
    assert alive(postmaster)
    assert trio.pods[0].call("state")["fences"] == 0


def test_a_stranger_with_another_key_is_nobody(trio: Trio) -> None:
    postmaster = trio.lead()
    for number in (1, 2):
        (trio.pods[number].folder / "heartbeat.key").write_text("cd" * 32)
        former = trio.pods[number].child("matriarch.agent.heartbeat")
        os.kill(former, signal.SIGKILL)
        trio.pods[number].child("matriarch.agent.heartbeat", other_than=former)
    wait_for(lambda: not alive(postmaster))
    assert trio.pods[0].child("matriarch.agent.heartbeat")

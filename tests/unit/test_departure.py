"""How long the pod of a former primary stays, so that late clients are refused and not left without an answer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.agent import main
from matriarch.agent.clock import boottime
from matriarch.agent.main import Agent
from matriarch.decide import departure
from matriarch.decide.departure import AFTER_MOVE, LONGEST, SECOND, Facts, stays

T = 1000 * SECOND


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        (Facts(now=T, ended=T, led_here=T, others=2), True),  # clients are still led here
        (Facts(now=T + SECOND, ended=T, led_here=T + SECOND, others=2), True),
        (Facts(now=T + AFTER_MOVE - 1, ended=T, led_here=T, others=2), True),  # no more, but some kube-proxy may
        (Facts(now=T + AFTER_MOVE, ended=T, led_here=T, others=2), False),
        (Facts(now=T, ended=T, led_here=0, others=2), False),  # it never led
        (Facts(now=T, ended=T, led_here=T - AFTER_MOVE, others=2), False),
        (Facts(now=T + LONGEST, ended=T, led_here=T + LONGEST, others=2), False),  # nobody took over
        (Facts(now=T, ended=T, led_here=T, others=1), False),  # the successor waits for this pod's next start
        (Facts(now=T, ended=T, led_here=T, others=0), False),
    ],
)
def test_it_stays(facts: Facts, wanted: bool) -> None:
    assert stays(facts) is wanted


@given(st.integers(0, 20 * SECOND), st.integers(0, 20 * SECOND), st.integers(0, 5))
def test_staying_has_an_end(since: int, led: int, others: int) -> None:
    if stays(Facts(now=T + since, ended=T, led_here=T + led, others=others)):
        assert since < LONGEST


def _agent(led_here: Any) -> Agent:
    made = object.__new__(Agent)
    made.instance = SimpleNamespace(routing=SimpleNamespace(led_here=led_here))  # type: ignore[assignment]
    return made


async def test_the_pod_of_a_former_primary_ends_after_the_service_left_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departure, "AFTER_MOVE", SECOND // 10)
    moved = asyncio.Event()
    left = 0

    def led_here(now: int) -> int:
        return left if moved.is_set() else now

    leaving = asyncio.create_task(_agent(led_here)._see_clients_off(2))
    await asyncio.sleep(0.3)
    assert not leaving.done()
    left = boottime()
    moved.set()
    async with asyncio.timeout(5):
        await leaving
    assert boottime() >= left + SECOND // 10


async def test_the_pod_of_a_replica_ends_at_once() -> None:
    async with asyncio.timeout(1):
        await _agent(lambda now: 0)._see_clients_off(2)


@pytest.mark.parametrize(
    ("lease", "heirs"),
    [
        (None, 0),
        (SimpleNamespace(voters=(1, 2), filling=None), 2),
        (SimpleNamespace(voters=(1, 2), filling="a Restore replaces the data"), 0),  # nobody takes over
    ],
)
def test_who_could_take_over(lease: Any, heirs: int) -> None:
    made = _agent(lambda now: now)
    made.instance.lease = lease
    assert made._heirs() == heirs


async def test_clients_are_seen_off_after_the_handover_and_while_the_watches_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the watch of the slices nobody would hear of the move."""
    did: list[str] = []
    ended = asyncio.Event()

    async def watch(*_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            did.append("watches end")

    async def nothing(*_: Any) -> None:
        return

    async def forever(*_: Any) -> None:
        await asyncio.Event().wait()

    part = SimpleNamespace(keep=forever, watch=forever, close=nothing, start=nothing, run=forever)
    for name in ("Canary", "Volume", "ReplacedData", "FormerWal", "Summarizer", "Archiving", "Notices", "Reserve"):
        monkeypatch.setattr(main, name, lambda *_: part)
    for name in ("watch_lease", "watch_config", "read_lease_sometimes", "keep_renewing", "watch_clock"):
        monkeypatch.setattr(main, name, forever)
    monkeypatch.setattr(main, "watch_slices", watch)
    monkeypatch.setattr(main.sites, "keep_designated", forever)
    made = object.__new__(Agent)
    lease = SimpleNamespace(voters=(1, 2), filling=None)
    made.instance = SimpleNamespace(terminating=False, peers=part, kube=part, lease=lease)  # type: ignore[assignment]
    made.loop = made.api = part  # type: ignore[assignment]
    made.work = set()

    async def hand_over() -> None:
        did.append("hand over")
        lease.voters = (1,)  # the successor's

    async def see_off(others: int) -> None:
        did.append(f"see off, {others} others")

    async def events() -> None:
        await ended.wait()

    monkeypatch.setattr(Agent, "_announce", forever)
    monkeypatch.setattr(Agent, "_candidacy", forever)
    monkeypatch.setattr(Agent, "_guard", forever)
    monkeypatch.setattr(Agent, "_certificates", forever)
    monkeypatch.setattr(Agent, "_events", lambda _: events())
    monkeypatch.setattr(Agent, "_step_down", lambda _: hand_over())
    monkeypatch.setattr(Agent, "_see_clients_off", lambda _, others: see_off(others))
    running = asyncio.create_task(made.run())
    await asyncio.sleep(0.05)
    ended.set()
    async with asyncio.timeout(5):
        await running
    assert did == ["hand over", "see off, 2 others", "watches end"]

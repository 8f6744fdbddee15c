"""Readers are led to streaming replicas; one that led before is asked whether it lets them in."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from matriarch.agent import readers
from matriarch.agent.clock import SECOND, boottime
from matriarch.agent.readers import Readers
from matriarch.agent.routing import EPOCH, LED_BEFORE, Routing, Superseded, endpoints
from matriarch.decide.kubeproxy import REST
from matriarch.errors import Unavailable
from matriarch.postgres.conninfo import STREAM_ROLE

ADDRESSES = {"orders-1": "192.0.2.1", "orders-2": "192.0.2.2", "orders-3": "192.0.2.3"}


class _Peers:
    def __init__(self) -> None:
        self.says: dict[str, Any] | Exception = {"lets_in": False}
        self.asked: list[str] = []

    async def get(self, name: str, path: str, *, timeout: float) -> dict[str, Any]:
        self.asked.append(name)
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


def _sender(name: str, state: str = "streaming") -> Any:
    return SimpleNamespace(role=STREAM_ROLE, state=state, application_name=f"{name}-{'a' * 12}")


def _slice(addresses: list[str], before: str = "") -> dict[str, Any]:
    ends = [{"addresses": [a], "targetRef": {"kind": "Pod", "name": a}} for a in addresses]
    return {"metadata": {"name": "orders-rw", "annotations": {LED_BEFORE: before}}, "endpoints": ends}


def _routing(pod_ip: str = "192.0.2.1", kube: Any = None) -> Routing:
    return Routing(kube, SimpleNamespace(cluster="orders", pod_ip=pod_ip, namespace="n"))  # type: ignore[arg-type]


@pytest.fixture
def peers() -> _Peers:
    return _Peers()


def _readers(peers: _Peers) -> Readers:
    config = SimpleNamespace(instances=("orders-1", "orders-2", "orders-3", "orders-4"), delays={"orders-3": 60})
    return Readers(SimpleNamespace(config=config, addresses=ADDRESSES, peers=peers))  # type: ignore[arg-type]


async def _told(of: Readers, *senders: Any) -> frozenset[str]:
    of.among(senders)
    await asyncio.sleep(0.01)
    return of.among(senders)


async def test_replicas_that_stream_and_let_clients_in(peers: _Peers) -> None:
    peers.says = {"lets_in": True}
    of = _readers(peers)
    late, homeless = _sender("orders-3"), _sender("orders-4")  # late on purpose; of no known address
    assert await _told(of, _sender("orders-2"), late, homeless) == {"orders-2"}
    assert await _told(of, _sender("orders-2"), late, homeless) == {"orders-2"}
    assert peers.asked == ["orders-2"], "once for each stream"
    assert of.among([_sender("orders-2", "catchup")]) == frozenset()
    peers.says = {"lets_in": False}
    assert await _told(of, _sender("orders-2")) == frozenset(), "its server was started again"


@pytest.mark.parametrize("later", [{"lets_in": True}, {}])
async def test_one_whose_door_is_shut_is_asked_again(
    peers: _Peers, later: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "ASK_EVERY", 0)
    of = _readers(peers)
    for says in ({"lets_in": False}, Unavailable("no answer")):
        peers.says = says
        assert await _told(of, _sender("orders-2")) == frozenset()
    await asyncio.sleep(0.01)
    peers.says = later
    assert await _told(of, _sender("orders-2")) == {"orders-2"}


async def test_a_new_stream_does_not_wait_for_the_next_round(peers: _Peers) -> None:
    of = _readers(peers)
    assert await _told(of, _sender("orders-2")) == frozenset()
    peers.says = {"lets_in": True}
    assert await _told(of, _sender("orders-2"), _sender("orders-1")) == {"orders-1", "orders-2"}


def test_a_pod_knows_when_the_write_service_left_it() -> None:
    routing = _routing()
    assert routing.led_here(5) == 0
    routing.seen(_slice(["192.0.2.1"]))
    assert routing.led_here(5) == 5
    routing.seen(_slice(["192.0.2.2"], "192.0.2.1"))
    left = routing.led_here(5)
    assert left > 5
    routing.seen(_slice(["192.0.2.2"], "192.0.2.1"))
    assert routing.led_here(5) == left


def test_a_new_agent_takes_a_move_that_it_did_not_see_for_a_new_one() -> None:
    routing = _routing()
    routing.seen(_slice(["192.0.2.2"], "192.0.2.3,192.0.2.1"))
    assert routing.led_here(5) > 5
    other = _routing("192.0.2.9")
    other.seen(_slice(["192.0.2.2"], "192.0.2.3,192.0.2.1"))
    assert other.led_here(5) == 0


class _Kube:
    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []

    async def replace(self, obj: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        self.written.append(obj)
        return obj


async def test_a_move_writes_down_from_where() -> None:
    kube = _Kube()
    routing = _routing(kube=kube)
    routing.seen(_slice(["192.0.2.1"], "192.0.2.3,192.0.2.2,192.0.2.7,192.0.2.8"))
    await routing.write(4, {"rw": endpoints(["orders-2"], ADDRESSES)})
    notes = kube.written[0]["metadata"]["annotations"]
    assert notes == {EPOCH: "4", LED_BEFORE: "192.0.2.1,192.0.2.3,192.0.2.7,192.0.2.8"}


async def test_a_new_primary_leads_the_write_service_to_itself_and_nothing_else() -> None:
    kube = _Kube()
    routing = Routing(kube, SimpleNamespace(cluster="orders", instance="orders-2", pod_ip="192.0.2.2"))  # type: ignore[arg-type]
    routing.seen(_slice(["192.0.2.1"]))
    await routing.lead_here(4)
    (written,) = kube.written
    assert written["metadata"]["name"] == "orders-rw"
    assert [e["addresses"] for e in written["endpoints"]] == [["192.0.2.2"]]
    routing.seen(written)
    await routing.lead_here(4)
    assert len(kube.written) == 1, "it leads there already"
    routing.seen({**written, "metadata": {**written["metadata"], "annotations": {EPOCH: "5"}}})
    with pytest.raises(Superseded):
        await routing.lead_here(4)


async def test_kube_proxy_rests_some_time_after_the_last_change() -> None:
    routing = _routing()
    routing.seen(_slice(["192.0.2.1"]))
    assert routing.rests(boottime()), "a first sight is no change"
    assert not routing.busy(boottime())
    routing.seen(_slice(["192.0.2.2"], "192.0.2.1"))
    now = boottime()
    assert not routing.rests(now)
    assert not routing.rests(now + REST - SECOND)
    assert routing.busy(now)
    assert not routing.busy(now + SECOND), "a pod that is made anew is announced two seconds before it lets clients in"
    assert routing.rests(now + REST)
    routing.seen(_slice(["192.0.2.2"], "192.0.2.1"))
    assert routing.rests(now + REST), "the same again is no change"


async def test_who_waits_for_kube_proxy_does_not_wait_for_ever() -> None:
    routing = _routing()
    async with asyncio.timeout(1):
        await routing.rest(timeout=9)
    routing.seen(_slice(["192.0.2.1"]))
    routing.seen(_slice(["192.0.2.2"]))
    before = boottime()
    async with asyncio.timeout(3):
        await routing.rest(timeout=0.2)
    assert boottime() - before >= SECOND // 5
    async with asyncio.timeout(9):
        await routing.rest(timeout=9)
    assert boottime() - before >= REST - SECOND // 10

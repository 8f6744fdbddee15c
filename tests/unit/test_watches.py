"""Which events are news, and how long their turn may wait: a renewal of a Lease is none, whatever it carries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from matriarch.controller.queue import Key
from matriarch.controller.watches import CLIENTS_FIRST, Feed
from matriarch.decide.lease import LeaseState
from matriarch.decide.leasetext import ANNOTATION, encode, to_manifest
from matriarch.decide.member import Member
from matriarch.postgres.timeline import WalPosition
from matriarch.resources.names import CLUSTER_LABEL

A, B = Member("orders-1", "aa"), Member("orders-2", "bb")
ASYNC = LeaseState(epoch=5, holder=A, bootstrap="orders-1", mode="async", voters=(B,), wal=WalPosition(1, 10))


def lease(state: LeaseState) -> dict[str, Any]:
    return to_manifest(
        state,
        cluster="orders",
        namespace="prod",
        renew_time="t",
        labels={CLUSTER_LABEL: "orders"},
        resource_version="1",
    )


async def told(*bodies: dict[str, Any], kind: str = "MODIFIED") -> int:
    """How many of the events after the first are put into the queue."""
    return len(await put(*bodies, kind=kind)) - 1


async def put(*bodies: dict[str, Any], kind: str = "MODIFIED") -> list[tuple[Key, float]]:
    keys: list[tuple[Key, float]] = []
    feed = Feed(lambda key, seconds: keys.append((key, seconds)), ["DatabaseCluster"], ("", ""))
    for body in bodies:
        await feed._owned({"type": kind}, body)
    return keys


async def test_how_far_the_wal_reaches_is_no_news_and_a_change_is() -> None:
    assert await told(lease(ASYNC), lease(replace(ASYNC, wal=WalPosition(1, 99)))) == 0
    assert await told(lease(ASYNC), lease(replace(ASYNC, epoch=6))) == 1
    assert await told(lease(ASYNC), lease(replace(ASYNC, no_voters=True))) == 1


async def test_an_election_is_looked_at_at_once_and_the_cluster_when_clients_are_back() -> None:
    pod = {"kind": "Pod", "metadata": {"namespace": "prod", "name": "orders-1", "labels": {CLUSTER_LABEL: "orders"}}}
    cluster, election = Key("DatabaseCluster", "prod", "orders"), Key("Election", "prod", "orders")
    assert await put(pod) == [(election, 0), (cluster, CLIENTS_FIRST)]
    assert await put(lease(ASYNC)) == [(cluster, CLIENTS_FIRST)]
    secret = {"kind": "Secret", "metadata": pod["metadata"]}
    assert await put(secret) == [(cluster, 0)]


async def test_one_that_cannot_be_read_or_is_gone_is_news() -> None:
    broken = lease(ASYNC)
    broken["metadata"]["annotations"][ANNOTATION] = "{"
    assert await told(lease(ASYNC), broken) == 1
    assert await told(lease(ASYNC), lease(ASYNC), kind="DELETED") == 1
    assert encode(ASYNC) in lease(ASYNC)["metadata"]["annotations"].values()

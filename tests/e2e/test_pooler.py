"""Clients of the pooler: a planned change of the primary shows them nothing, an unplanned one little, a lie never."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from bench.faults import FAULTS, Nodes, Victim
from bench.load import Load
from bench.processes import pod_processes
from dev.kubectl import Object, condition, holds, wait
from dev.product import Cluster, Database
from tests.e2e.test_switchover import another

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def pooled(orders: Cluster) -> Iterator[Cluster]:
    """The shared cluster with a pooler, taken away at the end."""
    orders.wait_ready()
    orders.patch({"pooler": {"mode": "both", "instances": 2}})

    def served() -> Object | None:
        found = orders.get()
        return found if holds(found, "PoolerAvailable") and holds(found, "Ready") else None

    def led() -> int | None:
        try:
            return int(database(orders).value("SELECT 1"))
        except (OSError, asyncpg.PostgresError):
            return None

    wait("the pooler lets clients in", served, timeout=120, show=orders.describe)
    # After an outage of the API server, as of the tests before, kube-proxy may hear of a new Service a minute later.
    wait("kube-proxy leads to it", led, timeout=90)
    yield orders
    orders.patch({"pooler": None})

    def gone() -> bool | None:
        return not orders.kubectl.list("deployment", orders.namespace) or None

    wait("the pooler is gone", gone, timeout=60)


def database(cluster: Cluster, key: str = "pooler-uri") -> Database:
    uri = cluster.credentials()[key]
    return Database(uri, cluster.kubectl.resolve(uri))


def test_both_doors_lead_where_they_say(pooled: Cluster) -> None:
    where = "SELECT current_setting('cluster_name')"
    assert database(pooled).value(where) == pooled.primary
    assert database(pooled, "pooler-ro-uri").value(where) != pooled.primary
    status = pooled.status()
    assert status["endpoints"]["pooledWrite"] == f"{pooled.name}-pooler-rw.{pooled.namespace}.svc"
    assert status["effective"]["pooler"]["maxConnections"] == 10
    assert condition(pooled.get(), "PoolerAvailable")["reason"] == "PodsReady"
    nodes = {p["spec"]["nodeName"] for p in pooled.kubectl.list("pod", pooled.namespace, "matriarch.dev/pooler=rw")}
    assert len(nodes) == 2


def _outcomes(load: Load, since: int) -> Counter[str]:
    return Counter(a.outcome + (f" ({a.error})" if a.error else "") for a in load.attempts() if a.ended >= since)


@pytest.mark.parametrize("round_", range(2))
def test_a_switchover_shows_no_error(pooled: Cluster, artifacts: Path, round_: int) -> None:
    pooled.wait_ready()
    wanted = another(pooled)
    with Load(database(pooled), artifacts / "load" / f"pooler-switchover-{round_}.log") as load:
        calm = load.flowing()
        pooled.patch({"primary": wanted})
        pooled.wait_primary(wanted)
        load.flowing()
        load.stop()
        seen = load.figures(calm)
    print(f"switchover through the pooler: {seen}")
    assert set(_outcomes(load, calm)) == {"ok"}
    assert seen.lost == ()


@pytest.mark.parametrize("fault", ["postmaster-kill", "pod-delete-now"])
def test_a_failover_is_over_soon_and_loses_nothing(pooled: Cluster, nodes: Nodes, artifacts: Path, fault: str) -> None:
    pooled.wait_ready(timeout=240)
    victim = Victim(pooled, pooled.primary, nodes)
    blow = FAULTS[fault].prepare(victim)
    with Load(database(pooled), artifacts / "load" / f"pooler-{fault}.log") as load:
        calm = load.flowing()
        struck = time.monotonic_ns()
        blow.strike()
        load.flowing(timeout=60)
        load.stop()
        seen = load.figures(struck)
    print(f"{fault} through the pooler: {seen}; {_outcomes(load, calm)}")
    assert seen.lost == ()
    assert not seen.gap.open_end
    pooled.wait_ready(timeout=240)


@contextmanager
def _deaf_replicas(cluster: Cluster) -> Iterator[None]:
    """No replica takes in WAL inside the block: their receivers are stopped, everything else goes on."""
    stopped = []
    for instance in cluster.status()["instanceStatuses"]:
        if instance["name"] == cluster.primary:
            continue
        for process in pod_processes(cluster.pod(instance["name"])["metadata"]["uid"]):
            if "walreceiver" in process.command:
                os.kill(process.pid, signal.SIGSTOP)
                stopped.append(process.pid)
    assert len(stopped) == 2
    try:
        yield
    finally:
        for pid in stopped:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue


CANCEL = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND usename = 'app'"


@pytest.mark.parametrize("door", ["uri", "pooler-uri"])
def test_a_cancelled_wait_for_replication_is_a_lost_connection(pooled: Cluster, nodes: Nodes, door: str) -> None:
    pooled.wait_ready(timeout=240)
    direct = database(pooled, "uri")
    direct.execute("CREATE TABLE IF NOT EXISTS cancelled (door text PRIMARY KEY)")
    direct.execute(f"DELETE FROM cancelled WHERE door = '{door}'")

    def cancel() -> bool:
        command = ("psql", "-XAtq", "-h", "/run/matriarch/pg", "-U", "postgres", "-c", CANCEL)
        said = pooled.kubectl.run("exec", pooled.primary, "-n", pooled.namespace, "--", *command)
        return said.strip() == "1"

    async def insert(connection: Any) -> str:
        work = asyncio.create_task(connection.execute(f"INSERT INTO cancelled VALUES ('{door}')"))
        while not work.done():
            if await asyncio.to_thread(cancel):
                break
            await asyncio.sleep(0.05)
        return str(await asyncio.wait_for(work, 5))

    with (
        _deaf_replicas(pooled),
        pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, ConnectionError)),
    ):
        database(pooled, door).run(insert)
    pooled.wait_ready(timeout=240)
    # it was committed here before it was cancelled, and is there on the replicas once they listen again
    assert direct.value(f"SELECT count(*) FROM cancelled WHERE door = '{door}'") == 1
    replica = database(pooled, "pooler-ro-uri")
    wait(
        "the row on a replica",
        lambda: replica.value(f"SELECT count(*) FROM cancelled WHERE door = '{door}'") == 1 or None,
        timeout=30,
    )

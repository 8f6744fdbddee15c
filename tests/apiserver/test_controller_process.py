"""The whole controller on a real API server: events become objects, one acts while another stands by, both end well."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest

from dev.host import PROJECT
from dev.ports import free_port
from matriarch.controller.agents import Agents
from matriarch.controller.env import MANAGER, Env
from matriarch.controller.health import Health
from matriarch.controller.main import LOCK, run
from matriarch.controller.queue import WorkQueue
from matriarch.kube.client import Kube
from matriarch.kube.events import Recorder
from tests.apiserver.cluster_world import IMAGE, ClusterWorld, cluster_world, definitions

__all__ = ["cluster_world", "definitions"]


@asynccontextmanager
async def controller(world: ClusterWorld, name: str) -> AsyncIterator[tuple[asyncio.Task[None], asyncio.Event, Health]]:
    """One controller in this process, with a client of its own."""
    kube, agents, queue = Kube(world.kube._where, manager=MANAGER), Agents(), WorkQueue()
    settings = replace(world.env.settings, pod_name=name)
    health, stop = Health(queue), asyncio.Event()
    env = Env(kube, agents, Recorder(kube, MANAGER), queue, settings)
    task = asyncio.create_task(run(env, stop, health=health))
    try:
        yield task, stop, health
    finally:
        stop.set()
        await asyncio.wait_for(task, 30)
        await agents.close()
        await kube.close()


async def until(fn: Callable[[], Awaitable[object]], seconds: float = 60) -> None:
    """Ask until the answer is true."""
    async with asyncio.timeout(seconds):
        while not await fn():  # noqa: ASYNC110 - what is waited for happens elsewhere
            await asyncio.sleep(0.05)


async def test_events_make_and_mend(cluster_world: ClusterWorld) -> None:
    async def pods() -> bool:
        found = await cluster_world.kube.list("Pod", cluster_world.namespace)
        return len([p for p in found if "deletionTimestamp" not in p["metadata"]]) == 3

    async with controller(cluster_world, "one"):
        await cluster_world.create()
        await until(pods)
        await until(cluster_world.status)
        gone = await cluster_world.get("Pod", "orders-2")
        assert gone is not None
        await cluster_world.kube.delete("Pod", cluster_world.namespace, "orders-2")

        async def made_anew() -> bool:
            found = await cluster_world.get("Pod", "orders-2")
            return found is not None and found["metadata"]["uid"] != gone["metadata"]["uid"]

        await until(made_anew)
        await cluster_world.kube.delete("DatabaseCluster", cluster_world.namespace, "orders")

        async def stopped() -> bool:
            return not await cluster_world.kube.list("Pod", cluster_world.namespace)

        await until(stopped)


async def test_what_was_deleted_while_no_controller_ran_is_swept_by_the_next(cluster_world: ClusterWorld) -> None:
    await cluster_world.create()
    await cluster_world.reconcile(2)
    await cluster_world.kube.delete("DatabaseCluster", cluster_world.namespace, "orders")

    async def stopped() -> bool:
        return not await cluster_world.kube.list("Pod", cluster_world.namespace)

    async with controller(cluster_world, "one"):
        await until(stopped)
    assert len(await cluster_world.kube.list("PersistentVolumeClaim", cluster_world.namespace)) == 3


async def test_a_second_controller_stands_by_and_takes_over(cluster_world: ClusterWorld) -> None:
    async def holder() -> str:
        lease = await cluster_world.get("Lease", LOCK)
        return str((lease or {}).get("spec", {}).get("holderIdentity") or "")

    async with controller(cluster_world, "one") as (first, stop, health):
        await until(lambda: _value(health.active))
        async with controller(cluster_world, "two") as (_, _, other):
            await asyncio.sleep(2)
            assert not other.active
            assert await holder() == "one"
            stop.set()
            await asyncio.wait_for(first, 30)
            started = time.monotonic()
            await until(lambda: _value(other.active), 15)
            assert time.monotonic() - started < 10  # a clean exit lets go: nobody waits for the Lease to run out
            await cluster_world.create()

            async def made() -> bool:
                return len(await cluster_world.kube.list("Pod", cluster_world.namespace)) == 3

            await until(made)


async def _value(value: object) -> object:
    return value


async def test_own_renewals_come_back_on_the_watch(cluster_world: ClusterWorld) -> None:
    async with controller(cluster_world, "one") as (_, _, health):
        await until(lambda: _value(health.active))
        echo = health.echo
        assert echo is not None
        for _ in range(8):
            await asyncio.sleep(1)
            assert echo() < 10
            assert health.problems() == []


async def test_a_watch_that_shows_nothing_any_more_is_unhealthy() -> None:
    health = Health(WorkQueue(), active=True, echo=lambda: 61.0)
    assert any("own Lease" in p for p in health.problems())
    health.echo = lambda: 59.0
    assert health.problems() == []


async def test_the_process_serves_its_probes_and_leaves_on_sigterm(
    cluster_world: ClusterWorld, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As the Deployment runs it."""
    from matriarch.controller import settings as operator_settings

    port = free_port("127.0.0.1")
    folder = tmp_path_factory.mktemp("process")
    starter = folder / "start.py"
    starter.write_text(
        "import dataclasses, sys\n"
        "from matriarch.controller import main, settings\n"
        "read = settings.from_environment\n"
        f"settings.from_environment = lambda: dataclasses.replace(read(), probe_port={port})\n"
        "sys.exit(main.main())\n"
    )
    assert operator_settings.Settings(postgres_images={}).probe_port == 8080
    env = {
        **os.environ,
        "PYTHONPATH": str(PROJECT / "operator"),
        "MATRIARCH_POSTGRES_IMAGES": json.dumps({"17": IMAGE}),
        "MATRIARCH_WATCH_NAMESPACE": cluster_world.namespace,
        "MATRIARCH_NAMESPACE": cluster_world.namespace,
        "MATRIARCH_POD_NAME": "process",
    }
    log = folder / "log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(sys.executable, str(starter), env=env, stdout=out, stderr=out)
    try:
        async with aiohttp.ClientSession() as session:

            async def asked(path: str) -> str:
                try:
                    async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                        return f"{answer.status} {await answer.text()}"
                except aiohttp.ClientError:
                    return ""

            async def active() -> bool:
                return await asked("/readyz") == "200 active"

            await until(active, 90)
            await cluster_world.create()

            async def made() -> bool:
                return len(await cluster_world.kube.list("Pod", cluster_world.namespace)) == 3

            await until(made)
            assert await asked("/healthz") == "200 ok"
            assert "matriarch_controller_active 1" in await asked("/metrics")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0, log.read_text()[-3000:]
        lease = await cluster_world.get("Lease", LOCK)
        assert lease is not None
        assert not lease["spec"].get("holderIdentity")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    for line in log.read_text().splitlines():
        assert json.loads(line)["level"] in {"info", "warning"}, line

"""The controller process: `python -m matriarch.controller.main`.

Starts health and leader election at once and everything that acts only once it is the active one. Kopf is embedded: it
lists and watches, no more. SIGTERM ends the watches and the workers, lets go of the Lease, and leaves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import kopf

import matriarch.controller.backup_reconcile
import matriarch.controller.databasecluster
import matriarch.controller.elect
import matriarch.controller.restore_reconcile
import matriarch.controller.schedule_reconcile  # noqa: F401 - these register the reconcilers
from matriarch.controller import settings as operator_settings
from matriarch.controller.agents import Agents
from matriarch.controller.env import MANAGER, Env
from matriarch.controller.health import Health
from matriarch.controller.logs import configure_logging
from matriarch.controller.queue import Key, WorkQueue
from matriarch.controller.reconcile import RECONCILERS, resync, work
from matriarch.controller.settings import Settings
from matriarch.controller.watches import Feed, Watched
from matriarch.errors import MatriarchError
from matriarch.kube.client import Kube
from matriarch.kube.events import Recorder
from matriarch.kube.kinds import KINDS
from matriarch.kube.lease import Leadership

LOCK = "matriarch-controller"
LOCK_SECONDS = 12.0  # how long a controller that died is waited for; one that hangs starts again after two thirds
_LABELS = {"app.kubernetes.io/name": "matriarch", "app.kubernetes.io/managed-by": "matriarch"}

log = logging.getLogger(__name__)


def start_again() -> None:
    """Replace this process by a fresh one at once: nothing of the old one acts any more.

    Exiting would do, too, but the kubelet lets a container wait up to five minutes before it starts again, and an API
    server that was away for a moment must not cost that.
    """
    os.execv(sys.executable, sys.orig_argv)  # noqa: S606 - our own command line


async def run(
    env: Env,
    stop: asyncio.Event,
    *,
    health: Health | None = None,
    give_up: Callable[[], None] = start_again,
) -> None:
    """Be a controller until `stop` is set; returns after a clean hand-over.

    Raises whatever ended a part that must not end: the process is to be restarted.
    """
    health = health or Health(env.queue)
    leadership = Leadership(
        env.kube,
        env.settings.lock_namespace,
        LOCK,
        env.settings.pod_name,
        duration=LOCK_SECONDS,
        labels=_LABELS,
        give_up=give_up,
    )
    acting = asyncio.create_task(_act(env, leadership, stop, health), name="acting")
    stopping = asyncio.create_task(stop.wait(), name="stopping")
    try:
        await asyncio.wait({stopping, acting}, return_when=asyncio.FIRST_COMPLETED)
        if not health.active:
            acting.cancel()  # it stood by; one that acts ends by `stop`
        with suppress(asyncio.CancelledError):
            await acting
    finally:
        stopping.cancel()
        acting.cancel()


async def _act(env: Env, leadership: Leadership, stop: asyncio.Event, health: Health) -> None:
    async with leadership.held():
        loop, kopf_stop = asyncio.get_running_loop(), threading.Event()
        roots = [k for k in RECONCILERS if k in KINDS]

        def put(key: Key, seconds: float) -> None:
            loop.call_soon_threadsafe(env.queue.add_after, key, seconds)

        feed = Feed(put, roots, (env.settings.lock_namespace, LOCK))
        health.echo, health.active = _echo(leadership, feed.watched), True
        stopping = asyncio.create_task(stop.wait(), name="stopping")
        watching = asyncio.create_task(asyncio.to_thread(_watch, feed, env.settings, kopf_stop), name="watching")
        working = [asyncio.create_task(work(env), name=f"worker-{i}") for i in range(env.settings.workers)]
        working.append(asyncio.create_task(resync(env), name="resync"))
        try:
            done, _ = await asyncio.wait({stopping, watching, *working}, return_when=asyncio.FIRST_COMPLETED)
            for part in done - {stopping}:
                part.result()
                raise RuntimeError(f"{part.get_name()} ended by itself")
        finally:
            health.active = False
            kopf_stop.set()
            stopping.cancel()
            for part in working:
                part.cancel()  # all of them before the Lease is let go: nothing acts any more by then
            await asyncio.gather(*working, watching, return_exceptions=True)


def _watch(feed: Feed, settings: Settings, stop: threading.Event) -> None:
    """Run Kopf on a thread and a loop of its own: it wants the process's signals and reaps every task of its loop."""
    registry, kopf_settings = kopf.OperatorRegistry(), _kopf_settings()
    kopf.on.login(registry=registry)(_login)
    feed.register(registry, kopf_settings)
    namespace = settings.watch_namespace
    asyncio.run(
        kopf.operator(
            registry=registry,
            settings=kopf_settings,
            standalone=True,
            identity=settings.pod_name,  # type: ignore[arg-type]  # a NewType that Kopf keeps to itself; without it
            # Kopf asks for the user's name, which a container's uid need not have
            clusterwide=not namespace,
            namespaces=[namespace] if namespace else (),
            stop_flag=stop,
        )
    )


def _echo(leadership: Leadership, watched: Watched) -> Callable[[], float]:
    def seconds() -> float:
        """For how long the newest renewal that we wrote has not come back."""
        if watched.own_renewal >= leadership.written:
            return 0.0
        return time.monotonic() - watched.seen_at

    return seconds


def _kopf_settings() -> kopf.OperatorSettings:
    s = kopf.OperatorSettings()
    s.peering.standalone = True  # we hold our own Lease
    s.scanning.disabled = True  # the CRDs come with the operator; no rights to watch all namespaces are needed
    s.posting.enabled = False  # events are recorded by kube/events.py
    s.watching.server_timeout, s.watching.client_timeout = 290, 300
    s.watching.connect_timeout, s.watching.chunk_size = 10, 500
    s.watching.inactivity_timeout = 90.0  # bookmarks come every 60 s with up to a quarter of jitter
    s.networking.request_timeout = 30
    s.process.ultimate_exiting_timeout = 25  # below the Deployment's grace period
    s.persistence.finalizer = "matriarch.dev/operator"  # never set; named so that Kopf's default never appears
    return s


async def _login(settings: kopf.OperatorSettings, **_: object) -> kopf.ConnectionInfo | None:
    return kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)


async def _main(settings: Settings) -> None:
    kube = Kube.connect(manager=MANAGER)
    queue, agents, stop = WorkQueue(), Agents(), asyncio.Event()
    env = Env(kube, agents, Recorder(kube, MANAGER), queue, settings)
    health = Health(queue)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await health.serve(settings.probe_port)
    try:
        await run(env, stop, health=health)
    finally:
        await health.close()
        await agents.close()
        await kube.close()


def main() -> int:
    """Exit code 0 after SIGTERM, 1 when something that is needed is missing or a part ended that must not."""
    configure_logging()
    try:
        asyncio.run(_main(operator_settings.from_environment()))
    except MatriarchError as e:
        log.error("%s", e)
        return 1
    except Exception:
        log.exception("the controller ends")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

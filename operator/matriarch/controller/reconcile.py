"""From a key to its reconciler: the registry, the workers, and what happens when a run fails.

A reconciler is `async fn(key, env) -> float | None`: it reads everything it needs, makes the world match, and says in
how many seconds it wants to look again at the latest. It must be idempotent and must never wait for something long:
it looks, acts, and returns. It may raise: `Unavailable` and conflicts are everyday events and retried quietly, anything
else is logged with its trace; both come back with a growing pause.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from matriarch.controller import application
from matriarch.controller.env import Env
from matriarch.controller.metrics import METRICS
from matriarch.controller.queue import Key
from matriarch.errors import Unavailable
from matriarch.kube.errors import ApiError, Conflict
from matriarch.kube.kinds import KINDS

Reconciler = Callable[[Key, Env], Awaitable[float | None]]

DEADLINE = 60.0  # seconds that one run may take; every call inside it has a shorter limit of its own

log = logging.getLogger(__name__)

RECONCILERS: dict[str, Reconciler] = {}


def reconciles(kind: str) -> Callable[[Reconciler], Reconciler]:
    """Register the reconciler of a kind. `controller/main.py` imports every module that uses this."""

    def register(fn: Reconciler) -> Reconciler:
        if kind in RECONCILERS:
            raise ValueError(f"{kind} has a reconciler already")
        RECONCILERS[kind] = fn
        return fn

    return register


async def work(env: Env) -> None:
    """One worker, for ever."""
    while True:
        await run_one(await env.queue.get(), env)


async def run_one(key: Key, env: Env) -> None:
    """Run the reconciler of one key that was taken from the queue, and say when to look again."""
    queue = env.queue
    queue.discard_later(key)
    try:
        async with asyncio.timeout(DEADLINE):
            again = await RECONCILERS[key.kind](key, env)
    except Conflict as e:  # somebody was faster: read again, soon
        METRICS.reconciles[key.kind, "conflict"] += 1
        log.info("%s: %s; looking again in %.1f s", key, e, queue.retry(key))
    except (Unavailable, ApiError, TimeoutError) as e:
        METRICS.reconciles[key.kind, "unavailable"] += 1
        log.warning("%s: %s; looking again in %.1f s", key, e or f"took over {DEADLINE:.0f} s", queue.retry(key))
    except Exception:  # the outermost place that can still say which object it was about
        METRICS.reconciles[key.kind, "error"] += 1
        log.exception("%s: unexpected; looking again in %.1f s", key, queue.retry(key))
    else:
        METRICS.reconciles[key.kind, "ok"] += 1
        queue.forget(key)
        if again is not None:
            queue.add_after(key, again)
    finally:
        queue.done(key)


async def resync(env: Env) -> None:
    """Look at every resource once in a while: it bounds what a lost event can cost."""
    while True:
        for kind in (k for k in RECONCILERS if k in KINDS):  # others are no resources
            try:
                found = await env.kube.list(kind, env.settings.watch_namespace or None)
            except (ApiError, Unavailable) as e:
                log.warning("resync of %s: %s", kind, e)
                continue
            for obj in found:
                key = Key(kind, obj["metadata"]["namespace"], obj["metadata"]["name"])
                env.queue.add_after(key, random.uniform(0, env.settings.resync))  # noqa: S311 - spreads load, no secret
        try:  # of Restores that were deleted while nobody listened
            await application.start_again(env, env.settings.watch_namespace or None)
        except (ApiError, Unavailable) as e:
            log.warning("applications that a Restore stopped: %s", e)
        await asyncio.sleep(env.settings.resync)

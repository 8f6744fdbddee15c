"""What the agent hears from the API server: the Lease, the configuration, where its peers are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from matriarch.agent.clock import SECOND, boottime
from matriarch.agent.config import ClusterConfig
from matriarch.agent.instance import Instance
from matriarch.agent.leases import Lost
from matriarch.agent.rhythm import TURN, next_turn
from matriarch.errors import MatriarchError

log = logging.getLogger(__name__)


async def watch_lease(instance: Instance) -> None:
    """Every change of the Lease, as it happens. Ends only by cancellation."""
    env = instance.env
    async for kind, obj in instance.kube.watch("Lease", env.namespace, name=env.cluster):
        if kind == "DELETED":
            log.error("the Lease was deleted; peers and the fence decide until it is back")
            continue
        try:
            instance.leases.seen(obj)
        except ValueError as e:
            log.error("%s", e)
            continue
        instance.nudge()


async def watch_config(instance: Instance) -> None:
    """Every change of the configuration. What can't be read leaves the last good one in force."""
    env = instance.env
    async for kind, obj in instance.kube.watch("ConfigMap", env.namespace, name=f"{env.cluster}-config"):
        if kind == "DELETED":
            continue
        try:
            config, doc = ClusterConfig.from_manifest(obj)
        except ValueError as e:
            log.error("%s", e)
            continue
        if not instance.config_fresh:
            instance.config_fresh = True
            instance.nudge()
        if config != instance.config:
            instance.config = config
            instance.files.keep_config(doc)
            instance.nudge()


async def watch_slices(instance: Instance) -> None:
    """Addresses of the members, and the Services' slices."""
    env = instance.env
    async for kind, obj in instance.kube.watch(
        "EndpointSlice", env.namespace, labels={"matriarch.dev/cluster": env.cluster}
    ):
        name = obj["metadata"]["name"]
        if kind == "DELETED":
            instance.addresses.pop(name, None)
            instance.poolers.pop(name, None)
            continue
        labels = obj["metadata"].get("labels") or {}
        if "matriarch.dev/pooler" in labels:
            if labels["matriarch.dev/pooler"] == "rw":
                instance.poolers[name] = tuple(a for e in obj.get("endpoints") or [] for a in e.get("addresses") or [])
            continue
        instance.routing.seen(obj)
        member = labels.get("matriarch.dev/instance")
        if member is None:
            continue
        addresses = [a for e in obj.get("endpoints") or [] for a in e.get("addresses") or []]
        if addresses and instance.addresses.get(member) != addresses[0]:
            instance.addresses[member] = addresses[0]
            await instance.sync_beats()
            instance.nudge()


async def read_lease_sometimes(instance: Instance, *, every: float = 5.0) -> None:
    """A watch may stall; and a peer that beats at a higher epoch says that the Lease moved."""
    told = 0
    while True:
        for _ in range(round(every / TURN / 2)):
            await next_turn(2)
            known = instance.lease.epoch if instance.lease else 0
            if any(p.epoch > max(known, told) for p in instance.view.peers):
                break
        told = max((p.epoch for p in instance.view.peers), default=0)
        try:
            await instance.leases.read(wait=2.0)
            instance.warnings.pop("api", None)
        except Lost as e:
            instance.warnings["api"] = str(e)
        except MatriarchError as e:
            instance.warnings["api"] = f"the API server does not answer ({e}); no failover can happen meanwhile"


async def restarting(name: str, work: Callable[[], asyncio.Future[None]], *, longest: float = 5.0) -> None:
    """Run `work` again whenever it ends, after a pause (s) that doubles up to `longest` while it ends at once."""
    pause = 0.1
    while True:
        begun = boottime()
        try:
            await work()
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("%s ended", name)
        if boottime() - begun > 60 * SECOND:
            pause = 0.1
        await asyncio.sleep(pause)
        pause = min(pause * 2, longest)

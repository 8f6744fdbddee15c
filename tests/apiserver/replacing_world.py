"""A cluster of three that serves on a real API server, for Restores in place: its reconciler and that of the Restore
work on the same objects, and agents, kubelet and Jobs are played by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from matriarch.controller.agents import Agents, Door
from matriarch.controller.databasecluster import reconcile_cluster
from matriarch.controller.queue import Key
from matriarch.decide import lease as transitions
from matriarch.decide import leasetext
from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
from matriarch.errors import Unavailable
from matriarch.kube.client import Object
from matriarch.resources import names
from matriarch.resources.config import KEY
from tests.apiserver.backup_world import KEY_TEXT, S3, SYSTEM, Clocked, World

INSTANCES = ("orders-1", "orders-2", "orders-3")
GIB = 1 << 30
RUNNING: Object = {
    "phase": "Running",
    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-03-01T02:00:00Z"}],
    "containerStatuses": [
        {
            "name": "postgres", "image": "i", "imageID": "", "ready": True, "restartCount": 0,
            "state": {"running": {"startedAt": "2026-03-01T02:00:00Z"}},
        }
    ],
}  # fmt: skip


class Told(Agents):
    """Agents that answer what a test says, in the place of those in Pods."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, Object] = {}
        self.elections: list[str] = []
        """Who was asked for one."""

    async def status(self, door: Door, instance: str, ip: str, *, limit: float) -> dict[str, Any]:
        if instance not in self.answers:
            raise Unavailable(f"{instance} did not answer")
        return self.answers[instance]

    async def elect(self, door: Door, instance: str, ip: str, reason: str, *, limit: float = 1.0) -> None:
        self.elections.append(instance)


@dataclass
class Orders:
    """The cluster `orders`. `restarted` counts incarnations."""

    world: World
    agents: Told
    restarted: int = 0
    gone: list[str] = field(default_factory=list)
    """Pods in the order in which they went."""

    async def reconcile(self, times: int = 1) -> None:
        """The DatabaseCluster's controller looks; what goes is noted."""
        for _ in range(times):
            before = await self.pods()
            await reconcile_cluster(Key("DatabaseCluster", self.world.namespace, "orders"), self.world.env)
            self.gone += sorted(set(before) - set(await self.pods()))
        await hear(self.world)

    async def pods(self) -> list[str]:
        found = await self.world.kube.list("Pod", self.world.namespace, names.selector("orders"))
        return sorted(p["metadata"]["name"] for p in found if names.INSTANCE_LABEL in p["metadata"]["labels"])

    async def lease_object(self) -> Object:
        found = await self.world.kube.get("Lease", self.world.namespace, "orders")
        assert found is not None
        return found

    async def lease(self) -> LeaseState:
        return leasetext.from_manifest(await self.lease_object()).state

    async def swap(self, derive: Callable[[LeaseState], LeaseState]) -> None:
        """What an agent does."""
        found = await self.lease_object()
        before = leasetext.from_manifest(found).state
        text = leasetext.encode(transitions.revised(before, derive(before)))
        found["metadata"]["annotations"][leasetext.ANNOTATION] = text
        await self.world.kube.replace(found)

    async def condition(self, kind: str) -> tuple[str, str, str] | None:
        found = await self.world.kube.get("DatabaseCluster", self.world.namespace, "orders")
        assert found is not None
        one = next((c for c in (found.get("status") or {}).get("conditions") or () if c["type"] == kind), None)
        return (one["status"], one["reason"], one["message"]) if one is not None else None

    async def policies(self) -> dict[str, str | None]:
        """Deletion policy that volumes and Lease carry."""
        claims = await self.world.kube.list("PersistentVolumeClaim", self.world.namespace, names.selector("orders"))
        found = {}
        for obj in (*claims, await self.lease_object()):
            notes = obj["metadata"].get("annotations") or {}
            found[f"{obj['kind']} {obj['metadata']['name']}"] = notes.get(names.DELETION_POLICY)
        return found

    async def start(self) -> None:
        """Kubelets start what is there, and the agents of before say so."""
        for number, name in enumerate(await self.pods(), 1):
            status = {**RUNNING, "podIP": f"10.0.0.{number}", "podIPs": [{"ip": f"10.0.0.{number}"}]}
            await self.world.kube.patch("Pod", self.world.namespace, name, {"status": status}, subresource="status")

    async def bootstrap(self, system: str) -> None:
        """The agent of the bootstrap instance leads on what is there; the others follow, and vote."""
        self.restarted += 1
        state = await self.lease()
        me, *others = (
            Member(name, f"{self.restarted}-{name}")
            for name in sorted(INSTANCES, key=lambda i: (i != state.bootstrap, i))
        )
        await self.swap(lambda s: transitions.bootstrapped(s, me, system, "n", promises=[s.epoch + 1]))
        await self.swap(lambda s: transitions.voters_set(transitions.opened_set(s), "quorum", others, 1))

    async def answer(self, *, free: int = 10 * GIB, kept: tuple[str, ...] = ()) -> None:
        """As the agents of a cluster at work would."""
        state = await self.lease()
        assert state.holder is not None
        streams = [
            {"instance": v.instance, "incarnation": v.incarnation, "state": "streaming", "lag_bytes": 0}
            for v in state.voters
        ]
        common: Object = {
            "state": "running",
            "ready": True,
            "door": "open",
            "config_generation": 99,
            "kept_data": [],
            "disk": {"total_bytes": 20 * GIB, "free_bytes": free},
        }
        self.agents.answers = {
            v.instance: {**common, "role": "replica", "incarnation": v.incarnation, "voter": True} for v in state.voters
        }
        holder = {"role": "primary", "incarnation": state.holder.incarnation, "streams": streams}
        self.agents.answers[state.holder.instance] = {**common, **holder, "kept_data": list(kept)}
        await hear(self.world)


async def hear(world: World) -> None:
    """Agents take on their configuration, as far as clients are concerned."""
    found = await world.kube.get("ConfigMap", world.namespace, names.config("orders"))
    document = json.loads(found["data"][KEY]) if found is not None else {}
    assert isinstance(world.env.agents, Told)
    for answer in world.env.agents.answers.values():
        answer["closed_by"] = answer["told_closed_by"] = document.get("closed_by", "")
        answer["lets_in"] = not answer["closed_by"]


async def orders_of(world: World, **spec: Any) -> Orders:
    """The cluster, made by its reconciler, with a store and its key; it serves."""
    agents = Told()
    world.env = Clocked(world.kube, agents, world.env.recorder, world.env.queue, world.env.settings)
    await world.credentials()
    await world.make("Secret", "orders-backup-key", stringData={"key": KEY_TEXT})
    wanted: Object = {"version": "17", "instances": 3, "storage": {"size": "20Gi"}, "backup": {"stores": [S3]}, **spec}
    wanted = {key: value for key, value in wanted.items() if value is not None}
    await world.make("DatabaseCluster", "orders", wanted)
    orders = Orders(world, agents)
    await orders.reconcile(2)
    await orders.bootstrap(SYSTEM)
    await orders.start()
    await orders.answer()
    await orders.reconcile(2)
    assert await orders.condition("Available") is not None
    return orders

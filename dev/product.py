"""Matriarch as its users meet it: resources they write, states they wait for, databases they connect to.

Shared by the demo, the benchmarks and the end-to-end tests, so that all three say the same thing in the same words.
Nothing here looks behind the resources' status and the Secrets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from bench.client import Resolver
from dev.host import DevError
from dev.kubectl import Kubectl, Object, condition, holds, wait

API_VERSION = "matriarch.dev/v1alpha1"
T = TypeVar("T")
Progress = Callable[[float], None] | None


def resource(kind: str, name: str, spec: Object, **metadata: Any) -> Object:
    """A manifest of one of Matriarch's kinds."""
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}


def cluster_manifest(name: str, *, instances: int = 3, size: str = "1Gi", **spec: Any) -> Object:
    """A DatabaseCluster as small as it gets; `spec` adds fields or replaces them."""
    small = {"requests": {"cpu": "50m", "memory": "256Mi"}}
    whole = {"version": "17", "instances": instances, "storage": {"size": size}, "resources": small, **spec}
    return resource("DatabaseCluster", name, whole)


def s3_store(name: str, bucket: str, endpoint: str, secret: str, prefix: str = "") -> Object:
    """An entry of `spec.backup.stores`."""
    s3: Object = {"bucket": bucket, "endpoint": endpoint, "credentials": {"secretName": secret}}
    if prefix:
        s3["prefix"] = prefix
    return {"name": name, "s3": s3}


@dataclass(frozen=True, slots=True)
class Cluster:
    """One DatabaseCluster in one namespace."""

    kubectl: Kubectl
    namespace: str
    name: str

    def get(self) -> Object | None:
        return self.kubectl.get("databasecluster", self.name, self.namespace)

    def status(self) -> Object:
        status: Object = (self.get() or {}).get("status", {})
        return status

    @property
    def primary(self) -> str:
        """The instance that takes writes, by the status."""
        found = self.status().get("primary")
        if not found:
            raise DevError(f"DatabaseCluster {self.name} has no primary in its status")
        return str(found)

    def apply(self, **spec: Any) -> None:
        """Creates or changes it by `kubectl apply`, which waits for nothing."""
        self.kubectl.apply(cluster_manifest(self.name, **spec), namespace=self.namespace)

    def patch(self, spec: Object) -> None:
        self.kubectl.patch("databasecluster", self.name, self.namespace, {"spec": spec})

    def wait_ready(self, *, timeout: float = 180, tick: Progress = None) -> Object:
        """Until `Ready` is True for the newest spec and every instance is; returns the object."""

        def seen() -> Object | None:
            found = self.get()
            if not found or not holds(found, "Ready"):
                return None
            wanted = found["spec"]["instances"]
            return found if found["status"].get("readyInstances") == wanted else None

        what = f"DatabaseCluster {self.name} with all instances ready"
        return wait(what, seen, timeout=timeout, tick=tick, show=self.describe)

    @property
    def agent(self) -> str:
        """A part of the agent's command line."""
        return "matriarch.agent.main"

    @property
    def volume(self) -> str:
        """Where the data volume is mounted in a database pod."""
        return "/var/lib/matriarch"

    def instances(self) -> list[str]:
        """Every instance's name, by the status."""
        return [str(instance["name"]) for instance in self.status().get("instanceStatuses", [])]

    def hand_over(self, instance: str) -> None:
        """Asks for a planned switchover to this instance, and does not wait for it.

        A wish that stands in the spec already, from before a failover, is no new wish: it is taken back first.
        """
        if (self.get() or {})["spec"].get("primary") == instance:
            self.patch({"primary": None})
        self.patch({"primary": instance})

    def wait_primary(self, instance: str, *, timeout: float = 60) -> None:
        """Until the status names this instance as primary."""
        what = f"{instance} as primary of {self.name}"
        wait(what, lambda: self.status().get("primary") == instance or None, timeout=timeout, show=self.describe)

    def describe(self) -> str:
        """The state in a few lines, for an error's end."""
        found = self.get()
        if not found:
            return f"DatabaseCluster {self.name} is not there"
        status = found.get("status", {})
        ready = condition(found, "Ready")
        lines = [f"{self.name}: phase {status.get('phase')}, Ready {ready.get('status')}: {ready.get('message', '')}"]
        for instance in status.get("instanceStatuses", []):
            told = ("role", "state", "ready", "timeline", "lsn", "lagBytes", "node", "message")
            lines.append(f"  {instance['name']}: " + ", ".join(f"{k} {instance[k]}" for k in told if k in instance))
        return "\n".join(lines)

    def credentials(self) -> Mapping[str, str]:
        """The application's Secret."""
        return self.kubectl.secret(f"{self.name}-app", self.namespace)

    def database(self) -> Database:
        """How a client outside of the cluster reaches it: the Secret's plain `uri`, unchanged."""
        uri = self.credentials()["uri"]
        return Database(uri, self.kubectl.resolve(uri))

    def pod(self, instance: str) -> Object:
        return self.kubectl.need("pod", instance, self.namespace)

    def node_of(self, instance: str) -> str:
        return str(self.pod(instance)["spec"]["nodeName"])


@dataclass(frozen=True, slots=True)
class Database:
    """A uri, and the addresses of names that only the cluster's DNS knows."""

    uri: str
    names: Mapping[str, str]

    @property
    def user(self) -> str:
        return urlsplit(self.uri).username or ""

    def run(self, work: Callable[[Any], Awaitable[T]], *, timeout: float = 60) -> T:
        """Opens a connection, gives it to `work`, closes it. Errors of asyncpg come through."""

        async def connected() -> Any:
            import asyncpg

            # kube-proxy may take a second to lead to a primary that is ready already.
            until = asyncio.get_running_loop().time() + 5
            while True:
                try:
                    return await asyncpg.connect(self.uri, timeout=10)
                except ConnectionRefusedError:
                    if asyncio.get_running_loop().time() > until:
                        raise
                await asyncio.sleep(0.1)

        async def session() -> T:
            async with asyncio.timeout(timeout):
                connection = await connected()
                try:
                    return await work(connection)
                finally:
                    connection.terminate()

        async def tidied() -> T:
            try:
                return await session()
            except BaseException:
                await asyncio.sleep(0.05)  # a connection that came to nothing is closed in the loop's next turns
                raise

        with asyncio.Runner(loop_factory=lambda: Resolver(self.names)) as runner:
            return runner.run(tidied())

    def value(self, sql: str, *arguments: object, timeout: float = 60) -> Any:
        """The first column of the first row."""
        return self.run(lambda c: c.fetchval(sql, *arguments), timeout=timeout)

    def rows(self, sql: str, *arguments: object, timeout: float = 60) -> list[tuple[Any, ...]]:
        """All rows."""

        async def fetch(connection: Any) -> list[tuple[Any, ...]]:
            return [tuple(row) for row in await connection.fetch(sql, *arguments)]

        return self.run(fetch, timeout=timeout)

    def execute(self, sql: str, *, timeout: float = 60) -> None:
        """One statement or several."""
        self.run(lambda c: c.execute(sql), timeout=timeout)


def one_shot(kubectl: Kubectl, manifest: Object, namespace: str, *, timeout: float, tick: Progress = None) -> Object:
    """Applies a Backup or a Restore and waits for its end; raises DevError with its own words when it failed."""
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    kubectl.apply(manifest, namespace=namespace)

    def seen() -> Object | None:
        found = kubectl.get(kind, name, namespace)
        return found if holds(found, "Complete") or holds(found, "Failed") else None

    def show() -> str:
        return str((kubectl.get(kind, name, namespace) or {}).get("status"))

    found = wait(f"{kind} {name} at its end", seen, timeout=timeout, tick=tick, show=show)
    if holds(found, "Failed"):
        failed = condition(found, "Failed")
        raise DevError(f"{kind} {name} failed: {failed.get('reason')}: {failed.get('message')}")
    return found

"""A namespace of a real API server in which a DatabaseCluster is reconciled; no nodes, no agents, no other controllers.

What the kubelet or the garbage collector would do is done here by hand, where a test needs it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from dev.apiserver import ApiServer
from dev.host import PROJECT
from dev.kubectl import Kubectl, KubectlError
from matriarch.controller.agents import Agents
from matriarch.controller.databasecluster import reconcile_cluster
from matriarch.controller.env import MANAGER, Env
from matriarch.controller.gather import LISTED
from matriarch.controller.queue import Key, WorkQueue
from matriarch.controller.settings import Settings
from matriarch.kube.client import Kube, Object
from matriarch.kube.config import connection
from matriarch.kube.events import Recorder
from matriarch.resources import names

IMAGE = "localhost/matriarch/postgres:test"
SPEC: dict[str, Any] = {"version": "17", "instances": 3, "storage": {"size": "1Gi"}}


class Dying(BaseException):
    """The controller's process ends here."""


class Mortal(Kube):
    """The client of a controller that dies before its change number `dies_before`."""

    dies_before: int | None = None
    changes: int = 0

    async def _call(self, method: str, path: str, **rest: Any) -> Object:
        if method != "GET":
            self.changes += 1
            if self.changes == self.dies_before:
                raise Dying
        return await super()._call(method, path, **rest)


@dataclass
class ClusterWorld:
    """One namespace and one controller in it, driven by hand."""

    kube: Mortal
    env: Env
    namespace: str
    name: str = "orders"

    @property
    def key(self) -> Key:
        return Key("DatabaseCluster", self.namespace, self.name)

    async def create(self, **spec: Any) -> Object:
        metadata = {"name": self.name, "namespace": self.namespace}
        return await self.kube.create({"kind": "DatabaseCluster", "metadata": metadata, "spec": {**SPEC, **spec}})

    async def change(self, **spec: Any) -> Object:
        return await self.kube.patch("DatabaseCluster", self.namespace, self.name, {"spec": spec})

    async def resource(self) -> Object:
        found = await self.kube.get("DatabaseCluster", self.namespace, self.name)
        assert found is not None
        return found

    async def status(self) -> Object:
        return (await self.resource()).get("status") or {}

    async def condition(self, kind: str) -> Object | None:
        return next((c for c in (await self.status()).get("conditions") or () if c["type"] == kind), None)

    async def reconcile(self, times: int = 1) -> float | None:
        again = None
        for _ in range(times):
            again = await reconcile_cluster(self.key, self.env)
        return again

    async def get(self, kind: str, name: str) -> Object | None:
        return await self.kube.get(kind, self.namespace, name)

    async def objects(self) -> dict[tuple[str, str], Object]:
        """Everything labelled as the cluster's."""
        found = {}
        for kind in (*LISTED, "Lease"):
            for o in await self.kube.list(kind, self.namespace, {names.CLUSTER_LABEL: self.name}):
                found[kind, o["metadata"]["name"]] = o
        return found

    async def bind(self, claim: str) -> None:
        """What a provisioner does."""
        await self.kube.patch(
            "PersistentVolumeClaim", self.namespace, claim, {"status": {"phase": "Bound"}}, subresource="status"
        )

    async def release_claims(self) -> None:
        """What the controller of volumes does when no Pod uses a claim any more."""
        for claim in await self.kube.list("PersistentVolumeClaim", self.namespace):
            if "deletionTimestamp" in claim["metadata"]:
                merge = {"metadata": {"finalizers": None}}
                await self.kube.patch("PersistentVolumeClaim", self.namespace, claim["metadata"]["name"], merge)

    async def collect_garbage(self, uid: str) -> None:
        """What the garbage collector does when the owner `uid` is gone."""
        for (kind, name), obj in (await self.objects()).items():
            if any(o["uid"] == uid for o in obj["metadata"].get("ownerReferences") or ()):
                await self.kube.delete(kind, self.namespace, name)


def install(kubectl: Kubectl) -> None:
    """Apply the definitions and wait until they are served."""
    kubectl.run("apply", "--server-side", "--force-conflicts", "-f", PROJECT / "crds")
    deadline = time.monotonic() + 30
    while True:
        try:
            kubectl.run("get", "databaseclusters,backups,backupschedules,restores", "-A")
        except KubectlError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


@pytest.fixture(scope="session")
def definitions(kubectl: Kubectl) -> None:
    """The project's definitions, accepted and served."""
    install(kubectl)


@pytest.fixture
async def cluster_world(
    api_server: ApiServer, definitions: None, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ClusterWorld]:
    monkeypatch.setenv("KUBECONFIG", str(api_server.kubeconfig))
    kube = Mortal(connection(api_server.kubeconfig), manager=MANAGER)
    namespace = f"t-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    await kube.create({"kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
    settings = Settings(postgres_images={"17": IMAGE}, namespace=namespace, watch_namespace=namespace, probe_port=0)
    agents = Agents()
    yield ClusterWorld(kube, Env(kube, agents, Recorder(kube, MANAGER), WorkQueue(), settings), namespace)
    await agents.close()
    await kube.close()

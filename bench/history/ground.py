"""What histories stand on: the local Kubernetes, the operator of the present sources, a DatabaseCluster to strike."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bench.history.piece import WHOLE, whole
from bench.history.scene import heal_everything
from dev import cluster, install
from dev.cluster import Nodes
from dev.host import DevError
from dev.kubectl import Kubectl, wait
from dev.product import Cluster

VARIABLE = "MATRIARCH_TEST_MUTANT"


@dataclass(slots=True)
class Ground:
    """`spec`: fields of the DatabaseCluster beyond its size. `image`: that of PostgreSQL, "" where any will do."""

    kubectl: Kubectl
    nodes: Nodes
    cluster: Cluster
    spec: dict[str, Any] = field(default_factory=dict)
    image: str = ""

    @classmethod
    def up(cls, name: str, database: str) -> Ground:
        """The Kubernetes of this name, made if there is none, with the operator of the present sources.

        What an interrupted run broke is healed first: the API server may be one of it.
        """
        with contextlib.suppress(DevError):
            found = cluster.find(name)
            if found.nodes is not None:
                found.nodes.start_api()
        ground = cluster.up(name)
        if ground.nodes is None:
            raise DevError("these faults need the local Kubernetes that dev/kubebox makes; CLUSTER=kubebox chooses it")
        kubectl = Kubectl(ground.kubeconfig)
        images = ground.load_images()
        install.Helm(ground.kubeconfig).install(install.values(images))
        return cls(kubectl, ground.nodes, Cluster(kubectl, database, database), image=images["postgres"])

    @property
    def loses(self) -> bool:
        """Whether this DatabaseCluster may lose writes by its own wish: then its Lease names no quorum."""
        return bool(self.spec.get("replication", {}).get("sync", {}).get("mode") == "async")

    def ready(self) -> None:
        """Heals what is broken, makes the DatabaseCluster if there is none, and waits until it is whole."""
        heal_everything(self.cluster, self.nodes)
        if self.kubectl.get("namespace", self.cluster.namespace) is None:
            self.kubectl.run("create", "namespace", self.cluster.namespace)
        if self.cluster.get() is None:
            self.cluster.apply(**self.spec)
        # One that an earlier version made is replaced pod by pod: that is no part of what is tested.
        wait(f"pods of {self.image}", self._of_this_version, timeout=WHOLE, show=self.cluster.describe)
        self.whole()

    def _of_this_version(self) -> bool | None:
        labels = f"matriarch.dev/cluster={self.cluster.name}"
        pods = self.kubectl.list("pod", self.cluster.namespace, labels)
        running = {p["spec"]["containers"][0]["image"] for p in pods}
        return (bool(running) and (not self.image or running == {self.image})) or None

    def whole(self) -> None:
        """Until every instance is ready, and with a quorum every replica a voter. Raises DevError when not in time."""
        if self.loses:
            self.cluster.wait_ready(timeout=WHOLE)
        else:
            whole(self.cluster)

    def renew(self) -> None:
        """Another DatabaseCluster in place of one that is stuck, or of another kind. Nothing of the old one stays."""
        heal_everything(self.cluster, self.nodes)
        namespace = self.cluster.namespace
        if self.kubectl.get("namespace", namespace) is not None:
            with contextlib.suppress(DevError):
                self.kubectl.delete("databasecluster", self.cluster.name, namespace, timeout=60)
            self.kubectl.run("delete", "pod", "--all", "-n", namespace, "--force", "--grace-period=0", timeout=60)
            self.kubectl.run("delete", "pvc,secret,lease", "--all", "-n", namespace, timeout=120)
        self.ready()

    @contextlib.contextmanager
    def mutated(self, mutant: str) -> Iterator[None]:
        """The operator with a bug for every agent that it makes from now on; without it again in the end."""
        self._set(f"{VARIABLE}={mutant}")
        try:
            yield
        finally:
            self._set(f"{VARIABLE}-")

    def _set(self, variable: str) -> None:
        deployment = self.kubectl.list("deployment", install.NAMESPACE)[0]["metadata"]["name"]
        where = (f"deployment/{deployment}", "-n", install.NAMESPACE)
        self.kubectl.run("set", "env", *where, variable)
        self.kubectl.run("rollout", "status", *where, "--timeout=120s", timeout=130)
        wait("an operator that acts", lambda: install.active_operator(self.kubectl) or None, timeout=60)

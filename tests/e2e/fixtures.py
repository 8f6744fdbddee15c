"""The product's fixtures: the operator installed once by its chart, a namespace for each test, one cluster to share."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dev.dump import dump
from dev.host import PROJECT
from dev.install import NAMESPACE, active_operator
from dev.kubectl import Kubectl, wait
from dev.product import Cluster

ARTIFACTS = Path(os.environ.get("ARTIFACTS", PROJECT / "build" / "e2e"))


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """What is left for the person who reads a failure."""
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    return ARTIFACTS


@dataclass(frozen=True, slots=True)
class Operator:
    """The installed operator."""

    kubectl: Kubectl
    namespace: str = NAMESPACE

    def active(self) -> str:
        """Name of the pod that acts, "" while none does."""
        return active_operator(self.kubectl, self.namespace)

    def deployment(self) -> str:
        found = self.kubectl.list("deployment", self.namespace)
        return str(found[0]["metadata"]["name"])

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """No operator runs inside the block."""
        name = self.deployment()
        wanted = self.kubectl.need("deployment", name, self.namespace)["spec"]["replicas"]
        self._scale(name, 0)
        try:
            wait("no operator", lambda: not self.kubectl.list("pod", self.namespace) or None, timeout=60)
            yield
        finally:
            self._scale(name, wanted)
            self.kubectl.run("rollout", "status", f"deployment/{name}", "-n", self.namespace, timeout=120)

    def _scale(self, name: str, replicas: int) -> None:
        self.kubectl.run("scale", f"deployment/{name}", "-n", self.namespace, f"--replicas={replicas}")


def _make_namespace(kubectl: Kubectl, name: str) -> str:
    if kubectl.get("namespace", name):  # of an earlier session on a cluster that was kept
        kubectl.run("delete", "databasecluster", "--all", "-n", name, timeout=120)
        kubectl.run("delete", "namespace", name, timeout=120)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    return name


@pytest.fixture
def namespace(kubectl: Kubectl, operator: Operator, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty namespace of its own, where only restricted pods may run; removed with all that is in it."""
    stem = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40].strip("-")
    name = _make_namespace(kubectl, f"{stem}-{uuid.uuid4().hex[:6]}")
    yield name
    kubectl.run("delete", "databasecluster", "--all", "-n", name, "--ignore-not-found", timeout=120)
    kubectl.run("delete", "namespace", name, "--wait=false", timeout=60)


@pytest.fixture(scope="session")
def orders(kubectl: Kubectl, operator: Operator) -> Iterator[Cluster]:
    """One cluster of three for all tests that leave it whole; each waits first until it is."""
    namespace = _make_namespace(kubectl, "prod")
    cluster = Cluster(kubectl, namespace, "orders")
    cluster.apply()
    cluster.wait_ready(timeout=240)
    yield cluster
    kubectl.delete("databasecluster", cluster.name, namespace)
    kubectl.run("delete", "namespace", namespace, "--wait=false", timeout=60)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """After a failure, everything that tells why is written below `ARTIFACTS`."""
    report = yield
    if report.failed and isinstance(found := item.funcargs.get("kubectl"), Kubectl):  # type: ignore[attr-defined]
        spaces = {"prod", NAMESPACE, item.funcargs.get("namespace")} - {None}  # type: ignore[attr-defined]
        dump(found, sorted(spaces), ARTIFACTS / re.sub(r"[^\w.-]+", "-", f"{item.name}-{report.when}"))
    return report

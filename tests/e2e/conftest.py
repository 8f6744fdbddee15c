"""The ground and the product for end-to-end tests: a local Kubernetes, the images, the operator, clusters to use."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from bench.faults import Nodes
from dev import cluster, install
from dev.host import DevError
from dev.kubectl import Kubectl
from tests.e2e.fixtures import Operator, artifacts, namespace, orders, pytest_runtest_makereport

__all__ = ["artifacts", "namespace", "orders", "pytest_runtest_makereport"]

NAME = os.environ.get("TEST_CLUSTER", "test")


@pytest.fixture(scope="session")
def ground() -> Iterator[cluster.Ground]:
    """A Kubernetes of three nodes of the tests' own; stays up afterwards when KEEP is set."""
    try:
        yield cluster.up(NAME)
    except DevError as e:
        pytest.fail(f"no Kubernetes to test with: {e}", pytrace=False)
    finally:
        if not os.environ.get("KEEP"):
            cluster.down(NAME)


@pytest.fixture(scope="session")
def kubectl(ground: cluster.Ground) -> Kubectl:
    return Kubectl(ground.kubeconfig)


@pytest.fixture(scope="session")
def nodes(ground: cluster.Ground) -> Nodes:
    """The faults of machines; tests that need them are skipped on a cluster that runs elsewhere."""
    if ground.nodes is None:
        pytest.skip("faults of nodes need the local Kubernetes")
    return ground.nodes


@pytest.fixture(scope="session")
def operator(ground: cluster.Ground, kubectl: Kubectl) -> Operator:
    """The operator of the present sources, installed by its chart."""
    install.Helm(ground.kubeconfig).install(install.values(ground.load_images()))
    return Operator(kubectl)

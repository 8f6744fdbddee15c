"""The same ground and product as the end-to-end tests."""

from __future__ import annotations

from tests.e2e.conftest import ground, kubectl, nodes, operator
from tests.e2e.fixtures import artifacts, namespace, orders, pytest_runtest_makereport

__all__ = ["artifacts", "ground", "kubectl", "namespace", "nodes", "operator", "orders", "pytest_runtest_makereport"]

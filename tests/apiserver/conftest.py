"""A real API server with nothing behind it, once per session: what it accepts, refuses and fills in is what counts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dev import apiserver
from dev.host import DevError
from dev.kubectl import Kubectl
from tests.apiserver.backup_world import world

__all__ = ["world"]

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apiserver.ApiServer]:
    """The server itself: its kubeconfig, and stop and start."""
    try:
        with apiserver.running(tmp_path_factory.mktemp("apiserver")) as server:
            yield server
    except DevError as e:
        pytest.fail(f"no API server to test with: {e}", pytrace=False)


@pytest.fixture(scope="session")
def kubectl(api_server: apiserver.ApiServer) -> Kubectl:
    """kubectl as an administrator of the server."""
    return Kubectl(api_server.kubeconfig)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests here stop a controller the way a crash does: in the middle, with connections open.

    The collector then reports those sockets in whichever test happens to run, which says nothing about that test.
    """
    crashed = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(crashed)

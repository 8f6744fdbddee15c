"""What tests with real PostgreSQL and without Kubernetes share: the file system of the image that ships."""

from __future__ import annotations

import pytest

from dev import rootfs
from dev.host import DevError


@pytest.fixture(scope="session")
def pg_rootfs() -> rootfs.Rootfs:
    """The postgres image's root file system, with the package of the working tree in it."""
    try:
        return rootfs.ensure()
    except DevError as e:
        pytest.fail(f"no PostgreSQL to test with: {e}", pytrace=False)

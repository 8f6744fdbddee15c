"""What tests with real PostgreSQL and without Kubernetes share: the file system of the image that ships."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dev import rootfs
from dev.host import DevError
from tests.postgres.pgbox import Box, make_box


@pytest.fixture(scope="session")
def pg_rootfs() -> rootfs.Rootfs:
    """The postgres image's root file system, with the package of the working tree in it."""
    try:
        return rootfs.ensure()
    except DevError as e:
        pytest.fail(f"no PostgreSQL to test with: {e}", pytrace=False)


@pytest.fixture(scope="session")
def pg_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs one leaves an initialised data directory for the others."""
    return tmp_path_factory.mktemp("template") / "pgdata"


@pytest.fixture
async def box(pg_rootfs: rootfs.Rootfs, pg_template: Path) -> AsyncIterator[Box]:
    """A place for PostgreSQL members on this machine, gone with all their processes at the end."""
    place = make_box(pg_rootfs.path, pg_template)
    try:
        yield place
    finally:
        await place.close()

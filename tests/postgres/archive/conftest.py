"""The archive's tests share servers, tools and the S3 server with those of backups."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.rootfs import Rootfs
from dev.s3 import S3Server
from matriarch.backup.jobspec import LocalStore, StoreSpec
from tests.postgres.archive.archivebed import CLIENT
from tests.postgres.backup.bed import s3_spec
from tests.postgres.backup.conftest import gcsserver, s3server, short_folder, tools

__all__ = ["gcsserver", "s3server", "short_folder", "tools"]


@pytest.fixture(params=["s3", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path, s3server: S3Server) -> StoreSpec:
    if request.param == "s3":
        return StoreSpec(s3=s3_spec(s3server, "backups", tmp_path / "credentials", prefix=tmp_path.name))
    (tmp_path / "store").mkdir()
    return StoreSpec(local=LocalStore(path=str(tmp_path / "store"), prefix="deep"))


@pytest.fixture
def place(tools: Path, short_folder: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    folder = short_folder / f"a{abs(hash(request.node.name)) % 10**8}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def client(pg_rootfs: Rootfs) -> Path:
    """The image's own; it is static, so it runs here too."""
    return pg_rootfs.path / CLIENT.lstrip("/")

"""Servers and stores of the backup tests, each made once for all that only read them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev import gcs as gcs_server
from dev import s3 as s3_server
from dev.rootfs import Rootfs
from tests.postgres.backup.bed import Postgres, fill, install_tools


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """Below /tmp, for sockets."""
    with tempfile.TemporaryDirectory(prefix="bed", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def tools(pg_rootfs: Rootfs, short_folder: Path) -> Iterator[Path]:
    """The image's programs, first on PATH."""
    folder = short_folder / "bin"
    folder.mkdir()
    install_tools(pg_rootfs.path, folder)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{before}"
    yield folder
    os.environ["PATH"] = before


@pytest.fixture(scope="session")
def source(tools: Path, short_folder: Path) -> Iterator[Postgres]:
    """A filled server. Tests that change it change it back."""
    server = Postgres(short_folder / "source")
    try:
        fill(server.create())
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def target_server(tools: Path, short_folder: Path) -> Iterator[Postgres]:
    server = Postgres(short_folder / "target")
    try:
        yield server.create()
    finally:
        server.stop()


@pytest.fixture
def target(target_server: Postgres) -> Postgres:
    """An empty server."""
    for name in target_server.databases():
        if name != "postgres":
            target_server.sql('DROP DATABASE "{}" WITH (FORCE)'.format(name.replace('"', '""')))
    for (name,) in target_server.sql("SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> 'postgres'"):
        target_server.sql(f'DROP OWNED BY "{name}"', f'DROP ROLE "{name}"')
    target_server.sql("DROP SCHEMA IF EXISTS matriarch CASCADE")
    return target_server


@pytest.fixture(scope="session")
def s3server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_server.S3Server]:
    """A real S3 server with a bucket `backups`."""
    with s3_server.temporary(tmp_path_factory.mktemp("s3") / "s3") as server:
        server.make_bucket("backups")
        yield server


@pytest.fixture(scope="session")
def gcsserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gcs_server.GcsServer]:
    """An emulator of Google Cloud Storage with a bucket `backups`."""
    with gcs_server.temporary(tmp_path_factory.mktemp("gcs") / "gcs") as server:
        server.make_bucket("backups")
        yield server

"""Incremental physical backups of a real server: chains restored and compared, what ends in a full one, what is refused."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dev.s3 import S3Server
from matriarch.archive import expire as wal_expire
from matriarch.backup import catalog, expire, lineage
from matriarch.backup.jobspec import Reason, Retention
from matriarch.backup.keys import Kek
from matriarch.backup.manifest import Opened
from matriarch.backup.physical import restore, summaries
from matriarch.backup.progress import Tracker
from matriarch.backup.stop import Stop
from matriarch.backup.store import Store
from matriarch.errors import Corrupt, Refused
from tests.postgres.backup.bed import KEY, Postgres, keys_in, local, s3
from tests.postgres.backup.incrbed import (
    Workload,
    checksums_are_right,
    content,
    incremental,
    summarizing,
)
from tests.postgres.backup.physbed import amcheck, load, physical_backup, physical_restore, started


@pytest.fixture(scope="module")
def server(tools: Path, short_folder: Path) -> Iterator[Postgres]:
    """With WAL summaries."""
    made = Postgres(short_folder / "incr")
    try:
        made.create()
        summarizing(made)
        made.sql("CHECKPOINT")
        yield made
    finally:
        made.stop()


@pytest.fixture
def folder(short_folder: Path) -> Iterator[Path]:
    made = short_folder / f"i{time.monotonic_ns() % 10**10}"
    yield made
    shutil.rmtree(made, ignore_errors=True)


def of(opened: Opened) -> int:
    """Bytes in the packs."""
    return opened.body.size


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_random_history_comes_back_from_its_chain(
    server: Postgres, folder: Path, tmp_path: Path, seed: int
) -> None:
    store = local(tmp_path / "store")
    work = Workload(server, seed)
    work.steps(25)
    full, _ = incremental(store, server)
    then = []
    for number in range(1, 4):
        work.steps(12)
        opened, own = incremental(store, server)
        assert (own.type, own.because, own.increments) == ("incremental", None, number)
        assert of(opened) < of(full)
        then.append((opened, content(server)))
    for number, (opened, told) in enumerate(then):
        here = folder / str(number)
        physical_restore(store, here / "data", backup=opened.body.id)
        restored = started(here)
        try:
            assert content(restored) == told
            amcheck(restored)
        finally:
            restored.stop()
        checksums_are_right(here / "data")
    for name in work.databases:
        server.sql(f"DROP DATABASE {name}")
    for table in work.tables:
        server.sql(f"DROP TABLE {table} CASCADE")

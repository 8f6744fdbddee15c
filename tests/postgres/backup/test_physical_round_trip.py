"""A physical backup of a server at work, restored into a directory from which PostgreSQL starts with the same rows."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dev.s3 import S3Server
from matriarch.backup import catalog
from matriarch.backup.physical import restore
from matriarch.backup.progress import Tracker
from matriarch.backup.stop import Stop
from matriarch.backup.store import Store
from tests.postgres.backup.bed import KEY, Postgres, keys_in, local, s3
from tests.postgres.backup.gcsbed import gcs
from tests.postgres.backup.physbed import amcheck, load, physical_backup, physical_restore, started


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return local(tmp_path / "store")
    if request.param == "gcs":
        return gcs(request.getfixturevalue("gcsserver"), "backups", tmp_path.name)
    server: S3Server = request.getfixturevalue("s3server")
    return s3(server, "backups", tmp_path / "c", prefix=f"physical-{tmp_path.name}")


@pytest.mark.parametrize(
    ("store", "target"),
    [("local", "latest"), ("local", "immediate"), ("s3", "latest"), ("s3", "immediate"), ("gcs", "latest")],
    indirect=["store"],
)
def test_under_load(source: Postgres, store: Store, short_folder: Path, tmp_path: Path, target: str) -> None:
    with load(source) as done:
        while len(done) < 50:
            time.sleep(0.05)
        before = len(done)
        opened = physical_backup(store, source)
        after = len(done)
    assert after > before
    physical = opened.body.physical
    assert physical is not None
    assert (opened.body.kind, physical.pages, physical.bad_pages) == ("physical", "passed", 0)
    assert physical.pages_checked > 1000
    assert keys_in(store, "running") == []
    assert len(keys_in(store, "physical")) == physical.packs + 1
    tracker = Tracker()
    restore.verify(store, opened, tracker, Stop())
    assert tracker.bytes_done == physical.size

    folder = short_folder / f"r{tmp_path.name[-12:]}"
    physical_restore(store, folder / "data", target=target)
    server = started(folder)
    try:
        assert server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")[0][0].startswith("00000002")
        ids = [r[0] for r in server.sql("SELECT id FROM ledger ORDER BY id")]
        assert ids == list(range(1, len(ids) + 1))  # what was acknowledged, in order, without a gap
        assert len(ids) >= before
        # Unlogged tables are empty after recovery, as after any crash.
        assert server.sql("SELECT count(*) FROM shop.cache", database="app") == [(0,)]
        server.sql("INSERT INTO shop.cache SELECT generate_series(1, 10)", database="app")
        assert server.dump("app") == source.dump("app")
        amcheck(server)
    finally:
        server.stop()


def test_catalogue_knows_both_kinds(source: Postgres, tmp_path: Path) -> None:
    from tests.postgres.backup.bed import make_backup

    store = local(tmp_path / "store")
    logical = make_backup(store, source, task={"databases": ("app",)})
    physical = physical_backup(store, source)
    assert catalog.find(store, "latest").body.id == physical.body.id
    assert catalog.find(store, "latest", "logical").body.id == logical.body.id
    assert catalog.is_complete(store, physical.manifest)
    catalog.delete_backup(store, physical.manifest)
    assert keys_in(store, "physical") == []
    assert catalog.find(store, "latest").body.id == logical.body.id


def test_in_the_clear(source: Postgres, tmp_path: Path) -> None:
    store = local(tmp_path / "store")
    opened = physical_backup(store, source, key=None)
    assert "not encrypted" in opened.body.warnings[0]
    physical_restore(store, tmp_path / "data", keys=())
    assert (tmp_path / "data" / "PG_VERSION").read_text() == "17\n"
    assert KEY.id not in opened.manifest.raw.decode()

"""Whatever happens to the archiver and to the store: what PostgreSQL counts as archived is stored as it was written."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from dev import s3 as s3_server
from dev.s3 import S3Server
from matriarch.archive.names import parse
from matriarch.backup.jobspec import StoreSpec
from tests.postgres.archive.archivebed import Archiver, archiving, done, load, ready, wait
from tests.postgres.backup.bed import Postgres, s3_spec

KEPT = "wal_keep_size = 4GB"  # nothing is recycled, so that everything can be compared in the end


def compare(server: Postgres, archiver: Archiver) -> int:
    """How many files PostgreSQL counts as archived, each of them equal in the store."""
    vault, compared = archiver.vault(), 0
    for text in sorted(done(server)):
        name = parse(text)
        assert name is not None
        written = (server.folder / "data" / "pg_wal" / text).read_bytes()
        assert vault.get(name) == written, text
        compared += 1
    return compared


def test_sigkill_at_random_moments(place: Path, store: StoreSpec) -> None:
    seed = int(os.environ.get("SEED", "0")) or random.randrange(1, 1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    server = Postgres(place / "p").create()
    server.stop()
    archiver = Archiver.create(place / "a", store, server.folder / "data")
    archiving(server, archiver, KEPT)
    server.start()
    server.sql("CREATE TABLE load (i int, t text)")
    ended = threading.Event()

    def write() -> None:
        for _ in range(40):
            load(server, 8)
            server.sql("SELECT pg_switch_wal()")
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    kills = 0
    try:
        archiver.start()
        while not ended.is_set() or (kills < 15 and ready(server)):
            time.sleep(rng.uniform(0.05, 0.8))
            archiver.stop(signal.SIGKILL)
            kills += 1
            for text in done(server):  # at this very moment
                name = parse(text)
                assert name is not None
                assert archiver.store.size(name.key(encrypted=True)), text
            archiver.start()
        writer.join()
        wait(lambda: not ready(server), "all is archived in the end", within=120)
        assert compare(server, archiver) >= 40
        assert kills >= 5
    finally:
        writer.join()
        server.stop(signal.SIGQUIT)
        archiver.stop()


@pytest.fixture
def own_server(tmp_path: Path):  # type: ignore[no-untyped-def]  # a generator of a server
    with s3_server.temporary(tmp_path / "s3") as server:
        server.make_bucket("backups")
        yield server


def test_a_store_that_stops_hangs_and_comes_back(place: Path, tmp_path: Path, own_server: S3Server) -> None:
    store = StoreSpec(s3=s3_spec(own_server, "backups", tmp_path / "credentials"))
    server = Postgres(place / "p").create()
    server.stop()
    archiver = Archiver.create(place / "a", store, server.folder / "data", patience=5.0)
    archiving(server, archiver, KEPT)
    server.start()
    server.sql("CREATE TABLE load (i int, t text)")
    try:
        archiver.start()
        load(server, 40)
        own_server.stop()
        load(server, 60)
        # Nothing is pending between two of PostgreSQL's tries, and after three of them it rests for a minute.
        wait(lambda: (said := archiver.status())["error"] and said["pending"], "it says what is wrong", within=150)
        assert archiver.status()["reason"] == "StoreUnavailable"
        before = done(server)
        time.sleep(3)
        assert done(server) == before  # nothing is acknowledged that is not stored
        own_server.start()
        own_server.freeze()
        time.sleep(2)
        own_server.thaw()
        server.sql("SELECT pg_switch_wal()")
        wait(lambda: not ready(server), "all is archived in the end", within=150)
        assert compare(server, archiver) >= 6
        status = archiver.status()
        assert (status["pending"], status["error"], status["oldest_pending"]) == (0, "", 0.0)
    finally:
        server.stop(signal.SIGQUIT)
        archiver.stop()

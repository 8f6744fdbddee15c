"""A physical backup and the archive, restored by the command line to a second, a name, and the end; over a failover."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dev.gcs import GcsServer
from matriarch.cli.bare import parse_store
from matriarch.cli.physical import wal_socket
from tests.postgres.archive.archivebed import CLIENT, KEY, Archiver, archiving, ready, wait
from tests.postgres.backup.bed import Postgres
from tests.postgres.backup.physbed import physical_backup, started
from tests.postgres.backup.test_physical_cli import matriarch

pytestmark = pytest.mark.timeout(240)
SECOND = timedelta(seconds=1)


def rows(server: Postgres) -> list[Any]:
    return [row[0] for row in server.sql("SELECT n FROM marks ORDER BY n")]


def insert(server: Postgres, numbers: range) -> None:
    for n in numbers:
        server.sql(f"INSERT INTO marks VALUES ({n})")
        time.sleep(0.02)


@pytest.mark.parametrize("kind", ["local", "gcs"])
def test_to_a_second_to_a_name_and_to_the_end(
    kind: str, place: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = str(tmp_path / "store")
    if kind == "local":
        (tmp_path / "store").mkdir()
    else:
        where = "gs://backups/to-a-second"
        google: GcsServer = request.getfixturevalue("gcsserver")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", google.endpoint)
    server = Postgres(place / "p").create()
    server.stop()
    store = parse_store(where, None)
    archiver = Archiver.create(place / "a", store, server.folder / "data")
    archiving(server, archiver, "track_commit_timestamp = on")
    archiver.start()
    server.start()
    try:
        server.sql("CREATE TABLE marks (n int)")
        opened = physical_backup(archiver.store, server)
        insert(server, range(12))
        server.sql("SELECT pg_create_restore_point('half')")
        server.stop()
        (server.folder / "data" / "standby.signal").touch()  # a failover, as far as WAL knows
        server.start()
        server.sql("SELECT pg_promote()")
        insert(server, range(12, 24))
        commits = dict(server.sql("SELECT n, pg_xact_commit_timestamp(xmin) FROM marks"))
        server.sql("SELECT pg_switch_wal()")
        wait(lambda: not ready(server), "all is archived")
    finally:
        server.stop()
        archiver.stop()

    def restore(folder: Path, *words: str, code: int = 0) -> str:
        data = ["--store", where, "--to-directory", str(folder / "data"), "--wal-archive"]
        # The client is in the image's file system, where it is not on the PATH of this machine.
        fetch = f"{CLIENT} --socket {wal_socket(folder / 'data')} --timeout 30 fetch %f %p"
        return matriarch("restore", *data, "--restore-command", fetch, *words,
                         code=code)  # fmt: skip

    folder = place / "r"
    for moment, says in (
        (datetime.now(UTC) + SECOND, "after the newest archived WAL"),
        (datetime.fromisoformat(opened.body.finished) - SECOND, "before the backup's end"),
    ):
        said = restore(folder, "--target-time", moment.isoformat(), code=1)
        assert says in said
        assert "restorable is" in said
        assert not folder.exists()
    assert "add --wal-archive" in matriarch(
        "restore", "--store", where, "--to-directory", str(folder), "--target-xid", "800", code=2
    )

    first, last = min(commits.values()), max(commits.values())
    moment = first + (last - first) * random.random()  # another one each time
    until = sorted(n for n, at in commits.items() if at <= moment)
    for words, expected in (
        (("--target-time", moment.isoformat()), until),
        (("--target-name", "half"), list(range(12))),
        ((), list(range(24))),
    ):
        restore(folder, *words)
        fetcher = subprocess.Popen(
            [sys.executable, "-m", "matriarch.cli.main", "wal", "--store", where,
             "--directory", str(folder / "data")],
            env={**os.environ, "PYTHONPATH": "operator", "BACKUP_ENCRYPTION_KEY": KEY.secret.hex()},
        )  # fmt: skip
        restored = started(folder)
        try:
            assert rows(restored) == expected, words
            # A name of the first timeline is passed before the second one begins; ours is the newest all the same.
            assert restored.sql("SELECT timeline_id FROM pg_control_checkpoint()") == [(3,)], words
            assert restored.sql("SHOW archive_mode") == [("off",)], "a copy archives among the original's files"
        finally:
            restored.stop()
            fetcher.send_signal(signal.SIGINT)
            assert fetcher.wait(30) == 0
        assert sorted(p.name for p in folder.iterdir()) == ["data", "log"], "something of the recovery is left"
        shutil.rmtree(folder)

"""A real PostgreSQL archives through the compiled client, and another one recovers to the last commit from it."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.s3 import S3Server
from matriarch.archive.names import parse
from matriarch.backup.jobspec import LocalStore, StoreSpec
from tests.postgres.archive.archivebed import Archiver, archiving, done, ready, wait
from tests.postgres.backup.bed import Postgres, s3_spec


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


def load(server: Postgres, megabytes: int) -> None:
    """About that much WAL."""
    server.sql(
        f"INSERT INTO load SELECT g, md5(g::text) || repeat(md5((g * 7)::text), 30) FROM "
        f"generate_series(1, {megabytes * 1024}) g"
    )


def base_backup(server: Postgres, folder: Path) -> None:
    """Without any WAL: all of it has to come from the archive."""
    folder.mkdir()
    subprocess.run(
        [
            "pg_basebackup",
            "-D",
            str(folder / "data"),
            "-d",
            f"host={server.folder} user=postgres",
            "-X",
            "none",
            "-c",
            "fast",
        ],
        check=True,
        capture_output=True,
    )
    with (folder / "data" / "postgresql.conf").open("a") as file:
        file.write(f"unix_socket_directories = '{folder}'\narchive_mode = off\n")


def recover(folder: Path, archiver: Archiver, *more: str) -> Postgres:
    data = folder / "data"
    (data / "recovery.signal").touch()
    with (data / "postgresql.conf").open("a") as file:
        file.write(f"restore_command = '{archiver.command('fetch', '--timeout', '30')}'\n" + "\n".join(more) + "\n")
    return Postgres(folder)


def test_a_backlog_is_archived_and_replays_to_the_last_commit(place: Path, store: StoreSpec) -> None:
    server = Postgres(place / "p").create()
    server.stop()
    archiver = Archiver.create(place / "a", store, server.folder / "data")
    archiving(server, archiver)
    server.start()
    try:
        server.sql("CREATE TABLE load (i int, t text)", "CREATE TABLE marks (n int)")
        archiver.start()
        base_backup(server, place / "r")
        archiver.stop()
        segments = 100 if store.s3 is not None else 20
        for n in range(segments):
            server.sql("SELECT pg_switch_wal()") if n % 2 else load(server, 16)
            server.sql(f"INSERT INTO marks VALUES ({n})")
        server.sql("SELECT pg_switch_wal()")
        assert len(ready(server)) >= segments
        backlog = {n for n in ready(server) if len(n) == 24}
        copies = {n: (server.folder / "data" / "pg_wal" / n).read_bytes() for n in sorted(backlog)[::7]}
        archiver.start()
        wait(lambda: archiver.status()["stored"] >= len(backlog), "all is stored", within=120)
        wait(lambda: not ready(server), "PostgreSQL knows", within=120)
        status = archiver.status()
        assert (status["pending"], status["error"], status["last_name"]) == (0, "", max(backlog))
        vault = archiver.vault()
        for name, content in copies.items():
            found = parse(name)
            assert found is not None
            assert vault.get(found) == content
        server.sql("INSERT INTO marks VALUES (-1)", "SELECT pg_switch_wal()")
        wait(lambda: not ready(server), "the last segment too")
        memory = peak_memory(archiver)
        assert memory < 256, f"the archiver took {memory} MiB"
        archiver.stop()
        server.sql("INSERT INTO marks VALUES (-2)")  # this one's segment does not get into the archive
        expected = server.sql("SELECT n FROM marks WHERE n <> -2 ORDER BY n")
    finally:
        server.stop()
        archiver.stop()
    fetcher = archiver.fetch_mode(place / "f", place / "r" / "data").start()
    restored = recover(place / "r", fetcher)
    try:
        restored.start()
        wait(lambda: restored.sql("SELECT NOT pg_is_in_recovery()") == [(True,)], "the recovery ends")
        assert restored.sql("SELECT n FROM marks ORDER BY n") == expected
    finally:
        restored.stop()
        fetcher.stop()


def peak_memory(archiver: Archiver) -> int:
    """MiB that were ever resident."""
    assert archiver.process is not None
    text = Path(f"/proc/{archiver.process.pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) >> 10


def test_a_timeline_switch_archives_its_history_first(place: Path, store: StoreSpec) -> None:
    primary = Postgres(place / "p").create()
    primary.stop()
    archiver = Archiver.create(place / "a", store, place / "b" / "data", leads=False).start()
    first = Archiver.create(place / "o", store, primary.folder / "data").start()
    archiving(primary, first, mode="always")
    primary.start()
    standby = primary.clone(place / "b")
    try:
        standby.stop()
        archiving(standby, archiver, mode="always")
        standby.start()
        first.stop()  # from here on nothing of the primary's is stored any more
        primary.sql("CREATE TABLE marks (n int)")
        for n in range(4):
            primary.sql(f"INSERT INTO marks VALUES ({n})", "SELECT pg_switch_wal()")
        finished = {n for n in ready(primary) if len(n) == 24}
        assert finished
        wait(lambda: finished <= ready(standby), "the standby holds them back too")
        assert not any(n in done(standby) for n in finished)
        primary.stop(signal.SIGQUIT)
        standby.sql("SELECT pg_promote()")
        standby.sql("INSERT INTO marks VALUES (100)", "SELECT pg_switch_wal()")
        assert archiver.ask("status leads").startswith("{")
        wait(lambda: not ready(standby), "all is archived", within=60)
        keys = {e.key: e.modified for e in archiver.store.list("wal")}
        stored = {k.rpartition("/")[2].removesuffix(".zst.enc") for k in keys}
        assert finished <= stored
        assert "00000002.history" in stored
        assert any(n.endswith(".partial") for n in stored)
        assert any(n.startswith("00000002") and len(n) == 24 for n in stored)
        history = keys["wal/00000002/00000002.history.zst.enc"]
        assert all(history <= at for key, at in keys.items() if key.startswith("wal/00000002/"))
    finally:
        standby.stop()
        primary.stop()
        archiver.stop()
        first.stop()

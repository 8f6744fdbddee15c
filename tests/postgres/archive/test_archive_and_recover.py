"""A real PostgreSQL archives through the compiled client, and another one recovers to the last commit from it."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from matriarch.archive.names import parse
from matriarch.backup.jobspec import StoreSpec
from tests.postgres.archive.archivebed import (
    Archiver,
    archiving,
    base_backup,
    done,
    load,
    ready,
    recover,
    wait,
)  # fmt: skip
from tests.postgres.backup.bed import Postgres


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
        wait(lambda: not ready(primary), "all so far is stored, and the primary knows")
        first.stop()  # from here on nothing of the primary's is stored any more
        primary.sql("CREATE TABLE marks (n int)")
        for n in range(4):
            primary.sql(f"INSERT INTO marks VALUES ({n})", "SELECT pg_switch_wal()")
        primary.sql("INSERT INTO marks VALUES (99)")  # so that the timeline ends within a segment
        finished = {n for n in ready(primary) if len(n) == 24}
        assert finished
        wait(lambda: finished <= ready(standby), "the standby holds them back too")
        assert not any(n in done(standby) for n in finished)
        wait(lambda: standby.sql("SELECT n FROM marks WHERE n = 99"), "the standby has all")
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


def test_a_server_stops_at_once_while_nothing_can_be_archived(place: Path, store: StoreSpec) -> None:
    server = Postgres(place / "p").create()
    server.stop()
    archiver = Archiver.create(place / "a", store, server.folder / "data")  # and it is never started
    archiving(server, archiver)
    server.start()
    server.sql("CREATE TABLE marks (n int)", "SELECT pg_switch_wal()", "INSERT INTO marks VALUES (1)")
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 5
    kept = ready(server)
    assert kept
    archiver.start()
    wait(lambda: archiver.status()["stored"] == len(kept), "what was left is stored, although PostgreSQL is down")
    server.start()
    try:
        wait(lambda: not ready(server) & kept, "and acknowledged when it runs again")
    finally:
        server.stop()
        archiver.stop()

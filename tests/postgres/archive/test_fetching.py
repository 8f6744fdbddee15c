"""What a recovery is given: the very file, or a status by which PostgreSQL stops; `missing` only when it is."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from matriarch.backup.jobspec import StoreSpec
from matriarch.postgres.lsn import SEGMENT_SIZE, segment_name
from tests.postgres.archive.archivebed import Archiver, archiving, base_backup, ready, recover, wait
from tests.postgres.backup.bed import Postgres
from tests.unit.archive_world import DataFolder, named, wal

NAMES = [named(segment_name(1, n * SEGMENT_SIZE)) for n in range(1, 9)]
HISTORY = named("00000002.history")


@pytest.fixture
def archiver(place: Path, store: StoreSpec, tools: Path) -> Iterator[Archiver]:
    """An archive of eight segments, a partial and a history, and a recovery's archiver for it."""
    data = DataFolder(place / "d")
    found = Archiver.create(place / "a", store, data.root, mode="fetch", prefetch=4 * SEGMENT_SIZE)
    vault = found.vault()
    for n, name in enumerate(NAMES, 1):
        vault.put(name, wal(1, n, fill=bytes([n])))
    vault.put(named(f"{segment_name(1, 9 * SEGMENT_SIZE)}.partial"), wal(1, 9))
    vault.put(HISTORY, b"1\t0/9000000\tpromoted\n")
    found.start()
    try:
        yield found
    finally:
        found.stop()


def fetch(client: Path, archiver: Archiver, name: object, target: Path, *, seconds: int = 20) -> tuple[int, str]:
    done = subprocess.run(
        [client, "--socket", archiver.config.socket, "--timeout", str(seconds), "fetch", str(name), str(target)],
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


def test_every_name_exactly(client: Path, archiver: Archiver, place: Path) -> None:
    target = place / "RECOVERYXLOG"
    for n, name in enumerate(NAMES, 1):
        assert fetch(client, archiver, name, target) == (0, "")
        assert target.read_bytes() == wal(1, n, fill=bytes([n]))
        target.unlink()
    assert fetch(client, archiver, HISTORY, target)[0] == 0
    assert target.read_bytes() == b"1\t0/9000000\tpromoted\n"
    target.unlink()
    nine = segment_name(1, 9 * SEGMENT_SIZE)
    for absent in (nine, f"{NAMES[0]}.partial", f"{NAMES[0]}.00000028.backup", "00000003.history"):
        code, text = fetch(client, archiver, absent, target)
        assert (code, "not in the archive" in text) == (1, True)
        assert not target.exists()
    assert fetch(client, archiver, f"{nine}.partial", target)[0] == 0
    assert fetch(client, archiver, "..", target)[0] == 200
    assert fetch(client, archiver, "backup_label", target)[0] == 200


def test_it_reads_ahead_and_no_further_than_it_may(client: Path, archiver: Archiver, place: Path) -> None:
    spool = Path(archiver.config.spool)
    assert fetch(client, archiver, NAMES[0], place / "x")[0] == 0
    wait(lambda: {f.name for f in spool.iterdir()} == {n.text for n in NAMES[1:5]}, "four more are there")
    assert fetch(client, archiver, NAMES[6], place / "x")[0] == 0  # it went elsewhere
    wait(lambda: {f.name for f in spool.iterdir()} == {NAMES[7].text}, "what was left behind is gone")


@pytest.mark.parametrize("how", ["altered", "truncated", "empty", "swapped"])
def test_a_damaged_object_is_refused(client: Path, archiver: Archiver, place: Path, how: str) -> None:
    store, key = archiver.store, NAMES[2].key(encrypted=True)
    raw = store.get(key)
    assert raw is not None
    other = store.get(NAMES[3].key(encrypted=True))
    assert other is not None
    changed = raw[:-20] + bytes([raw[-20] ^ 1]) + raw[-19:]
    store.put(key, {"altered": changed, "truncated": raw[:-20], "empty": b"", "swapped": other}[how])
    code, text = fetch(client, archiver, NAMES[2], place / "x")
    assert (code, "is damaged" in text) == (200, True)
    assert not (place / "x").exists()
    assert not (Path(archiver.config.spool) / NAMES[2].text).exists()


def test_without_an_archiver_nothing_is_missing(client: Path, archiver: Archiver, place: Path) -> None:
    archiver.stop()
    began = time.monotonic()
    code, text = fetch(client, archiver, NAMES[0], place / "x", seconds=1)
    assert (code, "does not answer" in text) == (200, True)
    assert time.monotonic() - began < 5


def test_a_recovery_stops_at_a_damaged_object_and_goes_on_when_it_is_repaired(place: Path, store: StoreSpec) -> None:
    """It must never open with the commits before the damage, as if those after it had never been."""
    server = Postgres(place / "p").create()
    server.stop()
    archiver = Archiver.create(place / "a", store, server.folder / "data").start()
    archiving(server, archiver)
    server.start()
    try:
        server.sql("CREATE TABLE marks (n int)")
        base_backup(server, place / "r")
        for n in range(6):
            server.sql(f"INSERT INTO marks VALUES ({n})", "SELECT pg_switch_wal()")
        wait(lambda: not ready(server), "all is archived")
    finally:
        server.stop()
        archiver.stop()
    keys = [e.key for e in archiver.store.list("wal") if len(Path(e.key).name.partition(".")[0]) == 24]
    victim = [k for k in sorted(keys) if "backup" not in k][-4]
    whole = archiver.store.get(victim)
    assert whole is not None
    archiver.store.put(victim, whole[:-1])
    fetcher = archiver.fetch_mode(place / "f", place / "r" / "data").start()
    restored = recover(place / "r", fetcher)
    with pytest.raises(AssertionError):  # PostgreSQL ended, before anybody could read from it
        restored.start()
    restored.process = None
    assert "is damaged" in (place / "r" / "log").read_text()
    archiver.store.put(victim, whole)
    restored.start()
    try:
        wait(lambda: restored.sql("SELECT NOT pg_is_in_recovery()") == [(True,)], "the recovery ends")
        assert restored.sql("SELECT n FROM marks ORDER BY n") == [(n,) for n in range(6)]
    finally:
        restored.stop()
        fetcher.stop()

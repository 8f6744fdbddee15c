"""Where a physical backup is read: standbys, promotions, bad pages, wrong directories; and kills."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from matriarch.backup import catalog, expire
from matriarch.backup.jobspec import Reason, Retention
from matriarch.backup.physical import backup as engine
from matriarch.backup.physical.exclude import relation
from matriarch.backup.physical.pages import PAGE, check
from matriarch.errors import Refused, Unavailable
from tests.postgres.backup.bed import KEY, Postgres, keys_in, local
from tests.postgres.backup.physbed import amcheck, load, physical_backup, physical_restore, started


def test_a_standby_under_load(source: Postgres, short_folder: Path, tmp_path: Path) -> None:
    store = local(tmp_path / "store")
    standby = source.clone(short_folder / "standby")
    try:
        # As our replicas run. Without it, and with no delay allowed, each change that removes rows cancels a query.
        standby.sql("ALTER SYSTEM SET hot_standby_feedback = on", "SELECT pg_reload_conf()")
        with load(source) as done:
            while len(done) < 30:
                time.sleep(0.05)
            opened = physical_backup(store, standby)
        assert opened.body.origin.source == "standby"
        physical_restore(store, short_folder / "r1" / "data", target="immediate")
        server = started(short_folder / "r1")
        try:
            ids = [r[0] for r in server.sql("SELECT id FROM ledger ORDER BY id")]
            assert ids == list(range(1, len(ids) + 1))
            amcheck(server)
        finally:
            server.stop()
        with pytest.raises(Refused, match="not the data directory"):
            physical_backup(store, standby, pgdata=source.folder / "data")
    finally:
        standby.stop()


def test_a_promotion_in_the_middle(
    source: Postgres, short_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = local(tmp_path / "store")
    standby = source.clone(short_folder / "promoted")
    read = engine.read_control

    def promoting(pgdata: Path) -> bytes:
        standby.sql("SELECT pg_promote(true, 60)")
        return read(pgdata)

    monkeypatch.setattr(engine, "read_control", promoting)
    try:
        with pytest.raises(Unavailable, match="promoted") as error:
            physical_backup(store, standby)
        assert error.value.reason == Reason.SOURCE_CHANGED
        assert keys_in(store) == []
        assert keys_in(store, "physical") == []
        # Of the new timeline, with its history.
        monkeypatch.undo()
        opened = physical_backup(store, standby)
        assert opened.body.physical is not None
        assert opened.body.physical.wal[0] == "00000002.history"
        physical_restore(store, short_folder / "r2" / "data")
        started(short_folder / "r2").stop()
    finally:
        standby.stop()


def test_a_replica_that_follows_a_new_primary(source: Postgres, short_folder: Path, tmp_path: Path) -> None:
    """Its last checkpoint lies in the new timeline's first segment, which begins as a copy of the old one's."""
    store = local(tmp_path / "store")
    heir, replica = source.clone(short_folder / "heir"), source.clone(short_folder / "replica")
    try:
        source.sql("CREATE TABLE kept AS SELECT generate_series(1, 100) AS i")
        source.stop()
        heir.sql("SELECT pg_promote(true, 60)")
        replica.sql(
            f"ALTER SYSTEM SET primary_conninfo = 'host={heir.folder} user=postgres'", "SELECT pg_reload_conf()"
        )
        heir.sql("CREATE TABLE since AS SELECT generate_series(1, 50) AS i")
        wait_for(replica, heir)
        checkpoint = threading.Timer(3, heir.sql, ["CHECKPOINT"])  # its own comes within minutes
        checkpoint.start()
        opened = physical_backup(store, replica)
        checkpoint.join()
        assert opened.body.physical is not None
        assert (opened.body.origin.source, opened.body.physical.timeline) == ("standby", 2)
        physical_restore(store, short_folder / "followed" / "data")
        server = started(short_folder / "followed")
        try:
            assert server.sql("SELECT count(*) FROM kept") == [(100,)]
            assert server.sql("SELECT count(*) FROM since") == [(50,)]
        finally:
            server.stop()
    finally:
        replica.stop()
        heir.stop()
        source.start()
        source.sql("DROP TABLE IF EXISTS kept")


def test_nothing_is_missing_that_a_standby_had_shown(source: Postgres, short_folder: Path, tmp_path: Path) -> None:
    """A primary that was killed and follows its heir, who has made no checkpoint yet: what came since is in it."""
    store = local(tmp_path / "store")
    old = source.clone(short_folder / "old")
    old.sql("SELECT pg_promote(true, 60)", "CHECKPOINT")
    heir = old.clone(short_folder / "next")
    try:
        # Pages that the heir has to write: its first checkpoint takes its time, as in a cluster at work.
        old.sql("CREATE TABLE filler AS SELECT repeat('x', 2000) FROM generate_series(1, 8000)")
        wait_for(heir, old)
        old.stop(signal.SIGKILL)
        heir.sql("SELECT pg_promote(true, 60)", "CREATE TABLE shown AS SELECT generate_series(1, 10) AS i")
        (old.folder / "data" / "standby.signal").touch()
        with (old.folder / "data" / "postgresql.auto.conf").open("a") as file:
            file.write(f"primary_conninfo = 'host={heir.folder} user=postgres'\n")
        (old.folder / "data" / "postmaster.pid").unlink(missing_ok=True)
        old.start()
        wait_for(old, heir)
        assert old.sql("SELECT count(*) FROM shown") == [(10,)]
        checkpoint = threading.Timer(3, heir.sql, ["CHECKPOINT"])
        checkpoint.start()
        opened = physical_backup(store, old)
        checkpoint.join()
        assert opened.body.physical is not None
        assert opened.body.physical.timeline == 3
        physical_restore(store, short_folder / "shown" / "data")
        server = started(short_folder / "shown")
        try:
            assert server.sql("SELECT count(*) FROM shown") == [(10,)]
        finally:
            server.stop()
    finally:
        old.stop()
        heir.stop()


def wait_for(standby: Postgres, primary: Postgres) -> None:
    """Until it has replayed what there is."""
    (end,) = primary.sql("SELECT pg_current_wal_flush_lsn()::text")[0]
    until = time.monotonic() + 60
    while not standby.sql(f"SELECT pg_last_wal_replay_lsn() >= '{end}'")[0][0]:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_what_ends_the_process_after_the_manifest_takes_nothing_away(
    source: Postgres, short_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, complete = local(tmp_path / "store"), engine.complete

    def ended(*given: Any) -> Any:
        complete(*given)
        raise asyncio.CancelledError

    monkeypatch.setattr(engine, "complete", ended)
    with pytest.raises(asyncio.CancelledError):
        physical_backup(store, source)
    (manifest,) = catalog.read_catalog(store).manifests
    assert catalog.is_complete(store, manifest)
    physical_restore(store, short_folder / "ended" / "data")


def test_our_page_check_says_what_pg_checksums_says(source: Postgres, short_folder: Path, tmp_path: Path) -> None:
    """On every page of a server that was stopped, then with one byte changed."""
    store = local(tmp_path / "store")
    physical_backup(store, source)
    physical_restore(store, short_folder / "r3" / "data")
    started(short_folder / "r3").stop()
    data = short_folder / "r3" / "data"
    assert (bad_pages(data), pg_checksums(data)) == (0, 0)
    victim = max(data.glob("base/*/[1-9]*"), key=lambda p: p.stat().st_size)
    with victim.open("r+b") as file:
        file.seek(2 * PAGE + 5000)
        byte = file.read(1)[0]
        file.seek(2 * PAGE + 5000)
        file.write(bytes([byte ^ 1]))
    assert (bad_pages(data), pg_checksums(data)) == (1, 1)


def bad_pages(data: Path) -> int:
    count = pages = 0
    for path in (p for p in data.rglob("*") if p.is_file() and relation(str(p.relative_to(data)))):
        whole = path.read_bytes()
        found = check(whole, range(len(whole) // PAGE), 1 << 63)
        count, pages = count + len(found.bad), pages + found.pages
    assert pages > 1000
    return count


def pg_checksums(data: Path) -> int:
    found = subprocess.run(["pg_checksums", "--check", "-D", str(data)], capture_output=True, text=True, check=False)
    (count,) = re.findall(r"Bad checksums: *(\d+)", found.stdout)
    return int(count)


@pytest.mark.parametrize("offset", [3 * PAGE + 4000, 5 * PAGE + 8, 7 * PAGE + 14])
def test_a_bad_page_makes_the_backup_suspect(source: Postgres, short_folder: Path, tmp_path: Path, offset: int) -> None:
    store = local(tmp_path / "store")
    good = physical_backup(store, source)
    source.sql("CREATE TABLE broken AS SELECT g, md5(g::text) AS t FROM generate_series(1, 10000) g", "CHECKPOINT")
    (name,) = source.sql("SELECT pg_relation_filepath('broken')")[0]
    with (source.folder / "data" / name).open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))
    try:
        opened = physical_backup(store, source)
    finally:
        source.sql("DROP TABLE broken")
    assert opened.body.suspect
    assert any(name in w and f"block {offset // PAGE}" in w for w in opened.body.warnings)
    facts = {f.id: f.good for f in expire.gather(store, catalog.read_catalog(store), [KEY], Retention())}
    assert facts == {good.body.id: True, opened.body.id: False}
    with pytest.raises(Refused, match="Suspect") as error:
        physical_restore(store, tmp_path / "data")
    assert error.value.reason == Reason.SUSPECT
    physical_restore(store, tmp_path / "data", accept_suspect=True)


def test_tablespaces_are_refused(source: Postgres, short_folder: Path, tmp_path: Path) -> None:
    (short_folder / "space").mkdir()
    source.sql(f"CREATE TABLESPACE space LOCATION '{short_folder}/space'")
    try:
        with pytest.raises(Refused, match="tablespace"):
            physical_backup(local(tmp_path / "store"), source)
    finally:
        source.sql("DROP TABLESPACE space")


def test_the_server_forgets_a_backup_that_failed(
    source: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = local(tmp_path / "store")

    def broken(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine.PackReader, "read", broken)
    with pytest.raises(Unavailable, match="No space"):
        physical_backup(store, source)
    for _ in range(50):
        if source.sql("SELECT count(*) FROM pg_replication_slots") == [(0,)]:
            break
        time.sleep(0.1)
    assert source.sql("SELECT count(*) FROM pg_replication_slots") == [(0,)]
    assert keys_in(store, "physical", "manifests", "running") == []


_CHILD = """
import asyncio, sys
from pathlib import Path
from tests.postgres.backup.bed import Postgres, local
from tests.postgres.backup.physbed import physical_request
from matriarch.backup.physical import backup
asyncio.run(backup.backup(physical_request(local(Path(sys.argv[2])), Postgres(Path(sys.argv[1])))))
"""


def test_killed_at_random_moments(source: Postgres, tmp_path: Path) -> None:
    """SIGKILL: whatever is a backup afterwards restores; whatever else lies there is swept."""
    folder = tmp_path / "store"
    dice = random.Random(7)
    command = [sys.executable, "-c", _CHILD, str(source.folder), str(folder)]
    environment = {**os.environ, "PYTHONPATH": "operator:."}
    began = time.monotonic()
    subprocess.run(command, env=environment, check=True)
    whole = time.monotonic() - began
    for _ in range(10):
        child = subprocess.Popen(command, env=environment)
        timer = threading.Timer(dice.uniform(0.3, 1.0) * whole, lambda c=child: c.send_signal(signal.SIGKILL))  # type: ignore[misc]
        timer.start()
        child.wait()
        timer.cancel()
    store = local(folder)
    known = catalog.read_catalog(store)
    assert known.broken == ()
    for number, manifest in enumerate(known.manifests):
        assert catalog.is_complete(store, manifest)
        physical_restore(store, tmp_path / f"r{number}", backup=manifest.body.id)
    # What was left goes once its markers are old.
    old = time.time() - timedelta(days=1).total_seconds()
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (old, old))
    catalog.sweep(store)
    owners = {k.split("/")[1] for k in keys_in(store, "physical")}
    assert owners == {m.body.id for m in known.manifests}
    assert list(store.unfinished()) == []
    assert keys_in(store, "running") == []

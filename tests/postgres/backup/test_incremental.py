"""Incremental physical backups of a real server: chains restored and compared, what ends in a full one, refusals."""

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
from matriarch.postgres.lsn import parse_lsn
from tests.postgres.backup.bed import KEY, Postgres, keys_in, local, s3
from tests.postgres.backup.incrbed import (
    Workload,
    checksums_are_right,
    content,
    incremental,
    summarizing,
)
from tests.postgres.backup.physbed import amcheck, load, physical_restore, started


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


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)])
def test_a_random_history_comes_back_from_its_chain(server: Postgres, folder: Path, tmp_path: Path, seed: int) -> None:
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


def test_under_load_into_s3(server: Postgres, s3server: S3Server, folder: Path, tmp_path: Path) -> None:
    store = s3(s3server, "backups", tmp_path / "c", prefix=f"incremental-{tmp_path.name}")
    server.sql("CREATE TABLE quiet AS SELECT g AS id, repeat(md5(g::text), 8) FROM generate_series(1, 60000) g")
    try:
        with load(server) as done:
            full, own = incremental(store, server)
            assert (own.type, own.because) == ("full", "There is no physical backup in the store to build on.")
            while len(done) < 200:
                time.sleep(0.05)
            first, _ = incremental(store, server)
            before = len(done)
            second, own = incremental(store, server)
        assert (own.parent, own.full, own.increments) == (first.body.id, full.body.id, 2)
        assert second.body.physical is not None
        assert second.body.physical.pages == "passed"
        assert of(second) < of(full) - (30 << 20)  # all but the quiet table and the catalogues
        assert own.whole_size > of(second)
        assert keys_in(store, "running") == []
        below = restore.verify(store, second, Tracker(), Stop(), keys=(KEY,))
        assert below == (first.body.name, full.body.name)
        physical_restore(store, folder / "data")
        restored = started(folder)
        try:
            ids = [r[0] for r in restored.sql("SELECT id FROM ledger ORDER BY id")]
            assert ids == list(range(1, len(ids) + 1))
            assert len(ids) >= before
            assert restored.sql("SELECT count(*), sum(id) FROM quiet") == server.sql(
                "SELECT count(*), sum(id) FROM quiet"
            )
            amcheck(restored)
        finally:
            restored.stop()
        checksums_are_right(folder / "data")
    finally:
        server.sql("DROP TABLE IF EXISTS quiet, ledger")


def test_what_wal_says_only_by_its_limits(server: Postgres, folder: Path, tmp_path: Path) -> None:
    """A database that was dropped and copied as files under its old number, and one whose table shrank and grew."""
    store = local(tmp_path / "store")
    wide = "SELECT g AS id, repeat(md5((g * {0})::text), 20) AS t FROM generate_series(1, 4000) g"
    server.sql("CREATE DATABASE one")
    server.sql(f"CREATE TABLE held AS {wide.format(1)}", database="one")
    server.sql("CREATE DATABASE two TEMPLATE one STRATEGY file_copy")
    server.sql(
        "UPDATE held SET t = reverse(t)", "VACUUM FULL held", "UPDATE held SET t = 'two' WHERE id < 9", database="two"
    )
    server.sql("CREATE DATABASE three OID 77777 TEMPLATE two STRATEGY file_copy")
    server.sql("UPDATE held SET t = 'three'", database="three")
    server.sql(f"CREATE TABLE waves AS {wide.format(3)}", "CREATE INDEX ON waves (id)", "VACUUM waves")
    try:
        incremental(store, server)
        path = server.sql("SELECT pg_relation_filepath('held')", database="three")
        server.sql("DROP DATABASE three", "CREATE DATABASE three OID 77777 TEMPLATE two STRATEGY file_copy")
        assert server.sql("SELECT pg_relation_filepath('held')", database="three") == path  # the same file, other rows
        server.sql(
            "DELETE FROM waves WHERE id > 100", "VACUUM waves", "INSERT INTO waves SELECT -id, t FROM waves",
            "INSERT INTO waves SELECT g, 'again' FROM generate_series(5000, 9000) g",
            "DELETE FROM waves WHERE id > 8000",
        )  # fmt: skip
        _, own = incremental(store, server)
        assert own.type == "incremental"
        told = content(server)
        count = ["SET enable_seqscan = off", "SELECT count(id), sum(id) FROM waves"]
        physical_restore(store, folder / "data")
        restored = started(folder)
        try:
            assert content(restored) == told
            assert restored.sql(*count) == server.sql(*count)
            amcheck(restored)
        finally:
            restored.stop()
        checksums_are_right(folder / "data")
    finally:
        server.sql(*(f"DROP DATABASE IF EXISTS {name}" for name in ("three", "two", "one")), "DROP TABLE waves")


@pytest.fixture
def chain(server: Postgres, tmp_path: Path) -> Iterator[tuple[Store, list[Opened]]]:
    """A full backup and two increments."""
    store = local(tmp_path / "store")
    server.sql("CREATE TABLE c AS SELECT g AS id, md5(g::text) AS t FROM generate_series(1, 5000) g")
    made = []
    for n in range(3):
        server.sql(f"UPDATE c SET t = 'n{n}' WHERE id % 50 = {n}")
        made.append(incremental(store, server)[0])
    yield store, made
    server.sql("DROP TABLE c")


def pack_of(folder: Path, backup: Opened, number: int = 0) -> Path:
    return sorted((folder / "store" / "physical" / backup.body.id).glob("*.pack.*"))[number]


@pytest.mark.parametrize(
    "damage", ["manifest gone", "manifest altered", "map gone", "map altered", "pack gone", "pack cut"]
)
@pytest.mark.parametrize("link", [0, 1])
def test_a_chain_with_a_broken_link_is_refused_before_anything_is_changed(
    chain: tuple[Store, list[Opened]], tmp_path: Path, damage: str, link: int
) -> None:
    store, made = chain
    file = {
        "manifest": tmp_path / "store" / made[link].manifest.key,
        "map": tmp_path / "store" / made[link].body.object.path,
        "pack": pack_of(tmp_path, made[link]),
    }[damage.partition(" ")[0]]
    content = file.read_bytes()
    file.unlink()
    if damage.endswith("altered"):
        file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif damage.endswith("cut"):
        file.write_bytes(content[:-1])
    with pytest.raises((Corrupt, Refused), match=made[link].body.id):
        physical_restore(store, tmp_path / "new", backup=made[2].body.id)
    assert not (tmp_path / "new").exists()
    with pytest.raises((Corrupt, Refused), match=made[link].body.id):
        restore.verify(store, made[2], Tracker(), Stop(), keys=(KEY,))
    known = catalog.read_catalog(store)
    if damage != "map altered":  # which shows only when it is read
        assert lineage.Looks(store, known, [KEY]).fault(made[2].body.id) is not None
        good = {f.id: f.good for f in expire.gather(store, known, [KEY], Retention())}
        assert not good[made[2].body.id]
        assert not any(f.good for f in wal_expire.facts(store, known, [KEY]) if f.id == made[2].body.id)
    plan = expire.plan(store, known, [KEY], Retention(count=1), store.now())
    assert plan.delete == () or made[0].body.id not in plan.delete


def test_a_byte_that_turned_in_a_parent_empties_the_directory_again(
    chain: tuple[Store, list[Opened]], tmp_path: Path
) -> None:
    store, made = chain
    file = pack_of(tmp_path, made[0])
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(0o600)
    file.write_bytes(content)
    with pytest.raises(Corrupt, match=made[0].body.id):
        physical_restore(store, tmp_path / "new", backup=made[2].body.id)
    assert not (tmp_path / "new").exists()
    with pytest.raises(Corrupt, match=made[0].body.id):
        restore.verify(store, made[2], Tracker(), Stop(), keys=(KEY,))


def test_another_backup_can_not_take_the_parents_place(chain: tuple[Store, list[Opened]], tmp_path: Path) -> None:
    """A manifest of the parent's name, whole and signed with the same key."""
    from matriarch.backup.manifest import write

    store, made = chain
    other = write(replace(made[1].body, rows=7), made[1].details, made[1].dek)
    store.delete(other.key)
    store.put(other.key, other.raw)
    with pytest.raises(Corrupt, match="not the one that it was made on"):
        physical_restore(store, tmp_path / "new", backup=made[2].body.id)
    assert not (tmp_path / "new").exists()


def test_a_parent_is_not_deleted_before_its_increments(chain: tuple[Store, list[Opened]]) -> None:
    store, made = chain
    ids = [m.body.id for m in made]
    with pytest.raises(Refused, match="builds on") as error:
        expire.delete(store, [ids[0]], [KEY], allow_last_good=True)
    assert error.value.reason == Reason.NEEDED_BY_INCREMENT
    with pytest.raises(Refused, match="builds on"):
        lineage.delete(store, made[1].manifest)
    assert keys_in(store, "tombstones") == []
    assert expire.retain(store, [KEY], Retention(count=1), None).deleted == ()  # the newest one needs all of them
    # While an increment is made its marker protects what it is made on, from the first moment.
    store.put(catalog.marker_key("running1"), f'{{"attempt":"x","parent":"{ids[2]}"}}'.encode())
    with pytest.raises(Refused, match="running1"):
        lineage.delete(store, made[2].manifest)
    store.delete(catalog.marker_key("running1"))
    assert expire.delete(store, ids, [KEY], allow_last_good=True) == (ids[2], ids[1], ids[0])
    assert keys_in(store, "physical", "manifests") == []


def test_a_parent_that_is_going_is_not_built_on(
    chain: tuple[Store, list[Opened]], server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever deletes has written the tombstone: at the look before the choice, after it, and at the very end."""
    from matriarch.backup.physical import backup as engine
    from matriarch.errors import Unavailable

    store, made = chain
    tombstone = catalog.tombstone_key(made[2].manifest)
    store.put(tombstone, made[2].manifest.raw)
    _, own = incremental(store, server)
    assert own.parent == made[1].body.id  # an older one that is not going
    store.delete(tombstone)
    newest = catalog.read_catalog(store).manifests[0]

    def going(then: object) -> object:
        def late(*how: object) -> object:
            store.put(catalog.tombstone_key(newest), newest.raw)
            return then(*how)  # type: ignore[operator]  # the engine's own

        return late

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_sealing", engine._sealing)
        patch.setattr(engine.Marker, "__aenter__", going(engine.Marker.__aenter__))
        _, own = incremental(store, server)
    assert (own.type, own.because) == ("full", f"{newest.body.id} is being deleted.")
    store.delete(catalog.tombstone_key(newest))
    newest = catalog.read_catalog(store).manifests[0]
    known = len(catalog.read_catalog(store).manifests)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "complete", going(engine.complete))
        with pytest.raises(Unavailable):
            incremental(store, server)
    assert len(catalog.read_catalog(store).manifests) == known


def test_what_ends_in_a_full_backup(
    server: Postgres, chain: tuple[Store, list[Opened]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, made = chain
    other = Kek.of(b"o" * 32)
    _, own = incremental(store, server, key=other)
    assert own.type == "full"
    assert "no key here opens it" in (own.because or "")
    _, own = incremental(store, server, key=None)
    assert own.type == "full"
    lineage.delete(store, catalog.read_catalog(store).manifests[0])
    lineage.delete(store, catalog.read_catalog(store).manifests[0])
    _, own = incremental(store, server, max_increments=2)
    assert (own.type, own.parent) == ("full", None)
    assert "which is the most" in (own.because or "")
    lineage.delete(store, catalog.read_catalog(store).manifests[0])
    pack_of(Path(store.address).parent, made[2]).unlink()
    opened, own = incremental(store, server)
    assert own.parent == made[1].body.id  # past the damaged one
    assert opened.body.physical is not None


def test_missing_and_damaged_summaries_end_in_a_full_backup(server: Postgres, tmp_path: Path) -> None:
    store = local(tmp_path / "store")
    incremental(store, server)
    folder = server.folder / "data" / summaries.FOLDER
    server.sql("CREATE TABLE more AS SELECT generate_series(1, 1000)", "CHECKPOINT", "DROP TABLE more", "CHECKPOINT")
    opened, own = incremental(store, server)
    assert own.type == "incremental"
    assert opened.body.physical is not None
    start = opened.body.physical.start_lsn
    server.sql("CREATE TABLE more AS SELECT generate_series(1, 1000)")
    incremental(store, server)
    (first,) = [p for s, p in summaries.available(server.folder / "data").items() if s.start == parse_lsn(start)]
    server.sql("CHECKPOINT", "DROP TABLE more")
    incremental(store, server)  # now there are summaries on both sides
    for newer in catalog.read_catalog(store).manifests[:2]:
        lineage.delete(store, newer)
    content = first.read_bytes()
    first.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    _, own = incremental(store, server)
    assert own.type == "full"
    assert "damaged" in (own.because or "")
    lineage.delete(store, catalog.read_catalog(store).manifests[0])
    first.unlink()
    _, own = incremental(store, server)
    assert own.type == "full"
    assert "No WAL summary holds" in (own.because or "")
    server.sql("CHECKPOINT")
    summarizing(server, on=False)
    try:
        for path in folder.glob("*.summary"):
            path.unlink()
        _, own = incremental(store, server)
        assert (own.type, own.parent) == ("full", None)
        assert "summarize_wal is off" in (own.because or "")
    finally:
        summarizing(server)
    server.sql("CHECKPOINT")
    incremental(store, server)

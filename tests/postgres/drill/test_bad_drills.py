"""Whatever is wrong with a backup, its drill fails and says what."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.s3 import S3Server
from matriarch.backup import catalog
from matriarch.backup.drillspec import DrillQuery
from matriarch.backup.jobresult import Result
from matriarch.backup.jobspec import LocalStore, Reason, StoreSpec
from matriarch.backup.manifest import Opened
from matriarch.backup.store import Store, open_store
from matriarch.drill import checks
from matriarch.drill.server import Throwaway
from matriarch.errors import Refused
from tests.postgres.backup.bed import KEY, Postgres, in_loop, local, make_backup
from tests.postgres.backup.physbed import physical_backup
from tests.postgres.drill.drillbed import Archived, drill

pytestmark = pytest.mark.timeout(240)


def refused(result: Result, reason: Reason, *words: str) -> None:
    assert (result.ok, result.reason, result.retryable) == (False, reason, False), result.message
    for word in words:
        assert word in result.message


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


@pytest.fixture
def folder_store(tmp_path: Path) -> StoreSpec:
    (tmp_path / "store").mkdir()
    return StoreSpec(local=LocalStore(path=str(tmp_path / "store")))


def test_a_damaged_dump(folder_store: StoreSpec, source: Postgres, tmp_path: Path) -> None:
    backup = make_backup(open_store(folder_store), source)
    path = tmp_path / "store" / backup.body.object.path
    flip(path)
    refused(drill(folder_store, tmp_path / "drill", backup), Reason.OBJECT_CORRUPT, path.name)
    path.unlink()
    refused(drill(folder_store, tmp_path / "drill", backup), Reason.OBJECT_MISSING, path.name)


def test_damaged_files_and_a_backup_that_is_gone(folder_store: StoreSpec, source: Postgres, tmp_path: Path) -> None:
    store = open_store(folder_store)
    backup = physical_backup(store, source)
    pack = max((tmp_path / "store" / "physical" / backup.body.id).glob("*.pack.*"), key=lambda p: p.stat().st_size)
    flip(pack)
    refused(drill(folder_store, tmp_path / "drill", backup), Reason.OBJECT_CORRUPT, pack.name)
    again = drill(folder_store, tmp_path / "drill", backup, manifest_sha256="0" * 64)
    refused(again, Reason.MANIFEST_CORRUPT, "altered or rolled back")
    catalog.delete_backup(store, backup.manifest)
    make_backup(store, source)  # another one is there, and is not taken for it
    refused(drill(folder_store, tmp_path / "drill", backup), Reason.BACKUP_NOT_FOUND)


def test_an_empty_backup(folder_store: StoreSpec, place: Path, tmp_path: Path) -> None:
    """It restores without a fault, and that is the fault."""
    server, store = Postgres(place / "p").create(), open_store(folder_store)
    try:
        server.sql("CREATE DATABASE app")
        nothing = "holds no table"
        made = make_backup(store, server, servers=[server.server()])
        refused(drill(folder_store, tmp_path / "drill", made), Reason.EMPTY_BACKUP, nothing)
        made = physical_backup(store, server)
        refused(drill(folder_store, tmp_path / "drill", made), Reason.EMPTY_BACKUP, nothing)
        server.sql("CREATE TABLE t AS SELECT 1 AS i", database="app")
        for made in (physical_backup(store, server), make_backup(store, server, servers=[server.server()])):
            done = drill(folder_store, tmp_path / "drill", made)
            assert done.ok, done.message
    finally:
        server.stop()


def test_an_index_that_does_not_know_its_table(folder_store: StoreSpec, place: Path, tmp_path: Path) -> None:
    """What no checksum sees: pages that are as they were written, and wrong."""
    server = Postgres(place / "p").create()
    try:
        server.sql(
            "CREATE FUNCTION f(i int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT i'",
            "CREATE TABLE t AS SELECT generate_series(1, 100) AS i",
            "CREATE INDEX ON t (f(i))",
            "CREATE OR REPLACE FUNCTION f(i int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT -i'",
        )
        made = physical_backup(open_store(folder_store), server)
    finally:
        server.stop()
    result = drill(folder_store, tmp_path / "drill", made, amcheck="heapallindexed")
    refused(result, Reason.VERIFICATION_FAILED, "pg_amcheck", "t_f_idx")


@pytest.fixture
def archived(place: Path, s3server: S3Server, tmp_path: Path) -> Iterator[Archived]:
    made = Archived(place, s3server, tmp_path / "credentials", tmp_path.name)
    try:
        yield made
    finally:
        made.stop()


def raw(store: Store, key: str) -> bytes:
    with store.read(key) as pieces:
        return b"".join(bytes(p) for p in pieces)


def test_wal_that_is_missing_or_damaged(archived: Archived, tmp_path: Path) -> None:
    server, store, folder = archived.postgres, archived.store, tmp_path / "drill"
    server.sql("CREATE TABLE marks (n int)")
    backup: Opened = archived.backup()
    ends = []
    for n in range(4):
        server.sql(f"INSERT INTO marks VALUES ({n})")
        ends.append(archived.switch())
    archived.stop()
    asked = (DrillQuery(name="all", sql="SELECT count(*) FROM marks", database="postgres", expect="4"),)
    good = drill(archived.spec, folder, backup, archive=True, archived_to=ends[-1], queries=asked)
    assert good.ok, good.message

    middle, last = archived.key(archived.segments()[-2]), archived.key(archived.segments()[-1])
    kept = raw(store, middle)
    store.delete(middle)
    name = middle.rpartition("/")[2].partition(".")[0]
    refused(drill(archived.spec, folder, backup, archive=True), Reason.WAL_MISSING, name)

    damaged = bytearray(kept)
    damaged[len(damaged) // 2] ^= 0x10
    store.put(middle, bytes(damaged), if_absent=True)
    refused(drill(archived.spec, folder, backup, archive=True), Reason.OBJECT_CORRUPT, name)
    store.delete(middle)
    store.put(middle, kept, if_absent=True)

    # Nothing behind it tells that the last one was ever there, but the cluster knows.
    store.delete(last)
    name = last.rpartition("/")[2].partition(".")[0]
    refused(
        drill(archived.spec, folder, backup, archive=True, archived_to=ends[-1]), Reason.WAL_MISSING, name, ends[-1]
    )
    short = (DrillQuery(name="all", sql="SELECT count(*) FROM marks", database="postgres", expect="3"),)
    good = drill(archived.spec, folder, backup, archive=True, archived_to=ends[-2], queries=short)
    assert good.ok, good.message


@pytest.fixture(scope="module")
def instance(tools: Path, short_folder: Path) -> Iterator[Throwaway]:
    place = Throwaway(short_folder / "throwaway", short_folder / "sockets")
    place.folder.mkdir()
    in_loop(place.create())
    in_loop(place.start())
    try:
        server = Postgres(place.sockets)
        server.sql(
            "CREATE DATABASE app", "REVOKE CONNECT ON DATABASE app FROM PUBLIC",
            "ALTER DATABASE app SET search_path = shop", "ALTER DATABASE app SET statement_timeout = 0",
            "ALTER DATABASE app CONNECTION LIMIT 0",
        )  # fmt: skip
        server.sql(
            "CREATE SCHEMA shop",
            "CREATE TABLE shop.t AS SELECT generate_series(1, 3) AS i",
            "ALTER TABLE shop.t ENABLE ROW LEVEL SECURITY",
            database="app",
        )
        yield place
    finally:
        place.stop()
        shutil.rmtree(place.folder)


@pytest.mark.parametrize(
    ("sql", "expect"),
    [
        ("SELECT true", None),
        ("SELECT i > 0 FROM t", None),
        ("SELECT * FROM shop.t WHERE i > 5", None),
        ("SHOW server_version", None),
        ("SELECT generate_series(1, 100000)", None),
        ("SELECT count(*) FROM t -- all of them", "3"),
        ("WITH a AS (SELECT max(i) AS m FROM t) SELECT m FROM a;", "3"),
        ("VALUES ('a;b')", "a;b"),
        ("SELECT i = 3 FROM t ORDER BY i DESC LIMIT 1", "true"),
    ],
)
def test_a_question_that_is_answered(instance: Throwaway, sql: str, expect: str | None) -> None:
    in_loop(checks.ask(instance, [DrillQuery(name="it", sql=sql, database="app", expect=expect)]))


@pytest.mark.parametrize(
    ("sql", "expect", "says"),
    [
        ("SELECT false", None, "it gave false in place of true"),
        ("SELECT null::bool", None, "it gave nothing in place of true"),
        ("SELECT i < 3 FROM t", None, "it gave false in place of true"),
        ("SELECT true FROM t WHERE i > 5", None, "it gave no row in place of true"),
        ("SELECT count(*) FROM t", "4", "it gave '3' in place of '4'"),
        ("SELECT i FROM t WHERE i > 5", "4", "it gave nothing in place of '4'"),
        ("SELECT i FROM t", "1", "more than one row"),
        ("SELECT * FROM gone", None, "gone"),
        ("SELECT 1/0", None, "division by zero"),
        ("SELECT pg_sleep(20)", None, "statement timeout"),
        ("SELECT true; DROP TABLE t", None, "cannot insert multiple commands"),
        ("SELECT true) FROM t; COMMIT; DROP TABLE t; SELECT (true", "true", "cannot insert multiple commands"),
        ("COMMIT", None, None),
        ("SET statement_timeout = 0", None, None),
        ("DELETE FROM t", None, "read-only"),
        ("CREATE TABLE shop.u (i int)", None, "read-only"),
        ("CREATE TEMP TABLE u AS SELECT 1", None, "read-only"),
        ("COPY t TO PROGRAM 'touch /tmp/drilled'", None, "permission denied"),
        ("SELECT pg_read_file('postgresql.conf')", None, "permission denied"),
        ("SET ROLE postgres", None, "permission denied"),
        ("SELECT rolpassword FROM pg_authid", None, None),
    ],
)
def test_a_question_that_is_not(instance: Throwaway, sql: str, expect: str | None, says: str | None) -> None:
    query = DrillQuery(name="it", sql=sql, database="app", expect=expect, timeout=1.0)
    if says is None:  # allowed and harmless: it ends with its session; pg_read_all_data covers the catalogue
        in_loop(checks.ask(instance, [query]))
        return
    with pytest.raises(Refused) as error:
        in_loop(checks.ask(instance, [query]))
    assert error.value.reason == Reason.QUERY_FAILED
    assert "Query it failed" in str(error.value)
    assert says in str(error.value)
    assert Postgres(instance.sockets).sql("SELECT count(*) FROM shop.t", database="app") == [(3,)]


def test_a_question_to_a_database_that_is_not_there(instance: Throwaway) -> None:
    query = DrillQuery(name="it", sql="SELECT 1", database="ap")
    with pytest.raises(Refused, match="has no database ap"):
        in_loop(checks.ask(instance, [query]))


def test_keys_are_needed_and_not_shown(folder_store: StoreSpec, source: Postgres, tmp_path: Path) -> None:
    backup = make_backup(local(tmp_path / "store"), source, key=None)
    result = drill(folder_store, tmp_path / "drill", backup)
    refused(result, Reason.UNENCRYPTED)
    assert KEY.secret.hex() not in result.to_json()

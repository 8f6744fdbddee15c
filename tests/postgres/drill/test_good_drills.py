"""Drills of good backups: what they find, what they touch, and what they leave."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from dev.s3 import S3Server
from matriarch.backup.drillspec import DrillQuery
from matriarch.backup.jobresult import Result
from matriarch.backup.jobspec import Reason, StoreSpec
from matriarch.backup.store import open_store
from tests.postgres.backup.bed import Postgres, job_environment, local, make_backup
from tests.postgres.backup.test_physical_cli import matriarch
from tests.postgres.drill.drillbed import Archived, drill, everything, left, spec_of, wait_until_it_writes

pytestmark = pytest.mark.timeout(240)


def q(name: str, sql: str, database: str = "app", expect: str | None = None) -> DrillQuery:
    return DrillQuery(name=name, sql=sql, database=database, expect=expect)


def test_sql_is_loaded_compared_and_asked(store: StoreSpec, source: Postgres, tmp_path: Path) -> None:
    backup = make_backup(open_store(store), source)
    rows = source.sql("SELECT count(*) FROM shop.everything", database="app")[0][0]
    asked = (q("rows", "SELECT count(*) FROM shop.everything;", expect=str(rows)), q("there", "SELECT true"))
    result = drill(store, tmp_path / "drill", backup, queries=asked)
    assert result.ok, result.message
    done = result.drill
    assert done is not None
    assert (done.backup_id, done.databases, done.queries) == (backup.body.id, 2, 2)
    assert done.tables == backup.body.tables
    assert done.replay > 0
    assert done.checks > 0
    assert datetime.fromisoformat(done.newest_transaction) == datetime.fromisoformat(backup.body.started)
    assert done.age < 120


@pytest.fixture
def archived(place: Path, s3server: S3Server, tmp_path: Path) -> Iterator[Archived]:
    """Its settings, its catalogue and its clients would keep a careless copy from starting, or have it do things."""
    made = Archived(
        place, s3server, tmp_path / "credentials", tmp_path.name,
        "wal_level = logical", "max_connections = 150", "max_prepared_transactions = 90", "max_replication_slots = 20",
    )  # fmt: skip
    try:
        yield made
    finally:
        made.stop()


def test_files_are_laid_down_and_wal_is_replayed_to_its_end(archived: Archived, tmp_path: Path) -> None:
    server = archived.postgres
    server.sql(
        "CREATE TABLE marks (n int PRIMARY KEY)",
        "CREATE TABLE other (n int)",
        "CREATE PUBLICATION p FOR TABLE other",
        "SELECT pg_create_logical_replication_slot('of_the_source', 'pgoutput')",
        f"CREATE SUBSCRIPTION s CONNECTION 'host={server.folder} user=postgres dbname=postgres' PUBLICATION p "
        "WITH (connect = false, slot_name = 'of_the_source')",
        "CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF current_setting('data_directory') <> '{server.folder}/data' THEN RAISE 'not here'; END IF; END $$",
        "CREATE EVENT TRIGGER greeting ON login EXECUTE FUNCTION no()",
        "ALTER SYSTEM SET shared_preload_libraries = 'no_such_library'",  # the source was not started since
    )
    server.sql("BEGIN", "INSERT INTO marks VALUES (-1)", "PREPARE TRANSACTION 'left over'")
    backup = archived.backup()
    server.sql("INSERT INTO marks SELECT generate_series(1, 5000)", "ALTER SUBSCRIPTION s ENABLE")
    server.sql("INSERT INTO marks VALUES (5001)")
    (commit,) = server.sql("SELECT pg_xact_commit_timestamp(xmin) FROM marks WHERE n = 5001")[0]
    end = archived.switch()
    asked = (
        q("all", "SELECT count(*) FROM marks", "postgres", "5001"),
        q("alone", "SELECT current_setting('listen_addresses') = '' AND current_setting('archive_mode') = 'off'"
          " AND current_setting('shared_preload_libraries') = ''", "postgres"),
        q("nothing-goes-out", "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'logical repl%'",
          "postgres"),
        q("subscribed", "SELECT subenabled FROM pg_subscription", "postgres"),
    )  # fmt: skip
    result = drill(archived.spec, tmp_path / "drill", backup, archive=True, archived_to=end, queries=asked,
                   amcheck="heapallindexed")  # fmt: skip
    assert result.ok, result.message
    done = result.drill
    assert done is not None
    assert datetime.fromisoformat(done.newest_transaction) >= commit - timedelta(milliseconds=1)
    assert done.tables == 2
    assert done.timeline == 2
    assert done.download > 0
    assert done.replay > 0
    # Without the archive the backup alone comes back.
    result = drill(archived.spec, tmp_path / "drill", backup, queries=(q("none", asked[0].sql, "postgres", "0"),))
    assert result.ok, result.message


def test_a_stop_at_any_moment_leaves_nothing(store: StoreSpec, source: Postgres, tmp_path: Path) -> None:
    backup = make_backup(open_store(store), source)
    before = everything(open_store(store))
    folder = tmp_path / "drill"
    folder.mkdir()
    environment = job_environment(spec_of(store, folder, backup), tmp_path)
    for pause in (0.0, 0.5, 1.5, 3.0):
        process = subprocess.Popen([sys.executable, "-m", "matriarch.drill.job"], env=environment)
        wait_until_it_writes(folder)
        time.sleep(pause)
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        word = Result.from_json((tmp_path / "termination-log").read_text())
        assert (code, word.reason) in ((143, Reason.CANCELLED), (0, Reason.COMPLETED)), word
        assert left(folder) == []
    assert everything(open_store(store)) == before


def test_it_ends_at_its_own_limit_and_says_where(store: StoreSpec, source: Postgres, tmp_path: Path) -> None:
    backup = make_backup(open_store(store), source)
    result = drill(store, tmp_path / "drill", backup, timeout=0.5)
    assert (result.ok, result.reason, result.retryable) == (False, Reason.TIMED_OUT, False)
    assert "in its step" in result.message


def test_by_hand_where_the_programs_are(source: Postgres, tmp_path: Path) -> None:
    place = tmp_path / "store"
    made = make_backup(local(place), source)
    room = tmp_path / "room"
    room.mkdir()
    where = ("--store", str(place), "--folder", str(room))
    told = matriarch("drill", *where, "--query", "SELECT 'app' = current_database()")
    assert made.body.file in told
    assert "1 queries found no fault" in told
    told = matriarch("drill", *where, "--query", "SELECT false", code=1)
    assert "Query 1 failed" in told
    assert left(room) == []
    assert "SCHEDULE" in matriarch("drill", "nightly", "--store", str(place), code=2)

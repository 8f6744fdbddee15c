"""Where increments are read: standbys, heirs and those left behind; kills; the Job and the command line."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from matriarch.agent.postgres.bootstrap import _BACKUP_FUNCTIONS
from matriarch.backup import catalog, expire
from matriarch.backup.jobspec import Retention
from matriarch.backup.server import Server
from tests.postgres.backup.bed import KEY, ROLES, Postgres, local
from tests.postgres.backup.incrbed import checksums_are_right, content, incremental, summarizing
from tests.postgres.backup.physbed import amcheck, physical_restore, started
from tests.postgres.backup.test_physical_cli import matriarch
from tests.postgres.backup.test_physical_sources import wait_for


@pytest.fixture
def primary(tools: Path, short_folder: Path) -> Iterator[Postgres]:
    made = Postgres(short_folder / f"p{time.monotonic_ns() % 10**9}")
    try:
        made.create()
        summarizing(made)
        made.sql("CHECKPOINT", "CREATE TABLE t AS SELECT g AS id, md5(g::text) FROM generate_series(1, 20000) g")
        yield made
    finally:
        made.stop()


def same_as(server: Postgres, store: object, folder: Path) -> None:
    """The newest backup restored has what the server has."""
    physical_restore(store, folder / "data")  # type: ignore[arg-type]  # a store
    restored = started(folder)
    try:
        assert content(restored) == content(server)
        amcheck(restored)
    finally:
        restored.stop()
    checksums_are_right(folder / "data")


def test_a_chain_goes_over_standbys_and_a_promotion(primary: Postgres, short_folder: Path, tmp_path: Path) -> None:
    store, place = local(tmp_path / "store"), short_folder / f"s{time.monotonic_ns() % 10**9}"
    standby = primary.clone(place / "a")
    late = primary.clone(place / "b")
    try:
        incremental(store, primary)
        primary.sql("UPDATE t SET md5 = 'one' WHERE id % 100 = 1", "CHECKPOINT")
        wait_for(standby, primary)
        opened, own = incremental(store, standby)
        assert (opened.body.origin.source, own.type, own.because) == ("standby", "incremental", None)
        # Nothing was written since: the standby's last checkpoint is the same, and lies before the parent's end.
        idle, own = incremental(store, standby)
        assert (own.type, own.increments) == ("incremental", 2)
        assert idle.body.physical is not None
        assert opened.body.physical is not None
        assert idle.body.physical.start_lsn == opened.body.physical.start_lsn
        # One that has not replayed as far as the parent is not read as if it had.
        late.sql("SELECT pg_wal_replay_pause()")
        primary.sql("UPDATE t SET md5 = 'two' WHERE id % 100 = 2", "CHECKPOINT")
        wait_for(standby, primary)
        ahead, _ = incremental(store, standby)
        _, own = incremental(store, late)
        assert own.parent != ahead.body.id
        expire.delete(store, ["latest"], [KEY], allow_last_good=True)
        # The heir goes on with the chain; who was left behind does not.
        standby.sql("SELECT pg_promote(true, 60)", "CHECKPOINT")
        standby.sql("UPDATE t SET md5 = 'three' WHERE id % 100 = 3")
        primary.sql("UPDATE t SET md5 = 'lost' WHERE id % 100 = 4")
        opened, own = incremental(store, standby)
        assert opened.body.physical is not None
        assert (opened.body.physical.timeline, own.type, own.increments) == (2, "incremental", 4)
        same_as(standby, store, place / "r")
        _, own = incremental(store, primary)
        assert own.parent != opened.body.id
        assert own.type == "incremental"  # on the last one from before the fork
        same_as(primary, store, place / "q")
    finally:
        standby.stop()
        late.stop()


_CHILD = """
import asyncio, sys
from pathlib import Path
from tests.postgres.backup.bed import Postgres, local
from tests.postgres.backup.physbed import physical_request
from matriarch.backup.physical import backup
source = Postgres(Path(sys.argv[1]))
asyncio.run(backup.backup(physical_request(local(Path(sys.argv[2])), source, max_increments=50)))
"""


def test_killed_at_random_moments(primary: Postgres, short_folder: Path, tmp_path: Path) -> None:
    """SIGKILL: what has a manifest has its whole chain, and retention still takes nothing that is needed."""
    store, dice = local(tmp_path / "store"), random.Random(11)
    command = [sys.executable, "-c", _CHILD, str(primary.folder), str(tmp_path / "store")]
    environment = {**os.environ, "PYTHONPATH": "operator:."}
    began = time.monotonic()
    subprocess.run(command, env=environment, check=True)
    whole = time.monotonic() - began
    for n in range(6):
        primary.sql(f"UPDATE t SET md5 = 'n{n}' WHERE id % 10 = {n}")
        child = subprocess.Popen(command, env=environment)
        timer = threading.Timer(dice.uniform(0.4, 1.1) * whole, lambda c=child: c.send_signal(signal.SIGKILL))  # type: ignore[misc]
        timer.start()
        child.wait()
        timer.cancel()
    _, own = incremental(store, primary, max_increments=20)  # however many of the killed ones were done
    assert own.type == "incremental"
    known = catalog.read_catalog(store)
    assert known.broken == ()
    good = expire.gather(store, known, [KEY], Retention())
    assert all(f.good for f in good)
    assert expire.retain(store, [KEY], Retention(count=1), None).frozen is None
    same_as(primary, store, short_folder / f"k{time.monotonic_ns() % 10**9}")


def test_the_role_of_the_jobs_may_do_it(primary: Postgres, tmp_path: Path) -> None:
    """What a member's bootstrap grants is enough: no superuser."""
    primary.sql(*ROLES[:4], "ALTER ROLE matriarch_backup REPLICATION", "GRANT pg_checkpoint TO matriarch_backup")
    for function in _BACKUP_FUNCTIONS:
        primary.sql(f"GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO matriarch_backup")
    store = local(tmp_path / "store")
    role = Postgres(primary.folder)
    role.server = lambda user="postgres": Server.from_url(primary.url(user="matriarch_backup"))  # type: ignore[method-assign]
    incremental(store, role)
    primary.sql("UPDATE t SET md5 = 'x' WHERE id = 1")
    _, own = incremental(store, role)
    assert (own.type, own.because) == ("incremental", None)
    assert primary.sql(
        "SELECT has_function_privilege('matriarch_backup', 'pg_get_wal_summarizer_state()', 'EXECUTE')"
    ) == [(True,)]


def test_by_the_command_line(primary: Postgres, short_folder: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    (tmp_path / "store").mkdir()
    here = ["--url", primary.url(), "--store", store]
    assert "--method physical --incremental" in matriarch("backup", *here, "--incremental", code=2)
    words = ["backup", *here, "--method", "physical", "--pgdata", str(primary.folder / "data"), "--incremental"]
    full = matriarch(*words).strip()
    primary.sql("UPDATE t SET md5 = 'y' WHERE id = 1")
    second = json.loads(matriarch(*words, "-o", "json"))
    assert second["physical"]["lineage"]["type"] == "incremental"
    listed = matriarch("backups", "--store", store)
    assert [line.split()[1] for line in listed.splitlines()[1:]] == ["incremental", "physical"]
    said = matriarch("verify", "--store", store)
    assert "is whole" in said
    third = json.loads(matriarch(*words, "--max-increments", "1", "-o", "json"))
    assert "which is the most" in third["physical"]["lineage"]["because"]
    matriarch("restore", "--store", store, "--backup", second["id"], "--to-directory", str(tmp_path / "d" / "data"))
    for path in (tmp_path / "store" / "manifests").glob(f"*{full.rpartition('-')[2]}*"):
        path.unlink()
    assert "which is gone" in matriarch("verify", "--store", store, "--backup", second["id"], code=1)
    environment = {**os.environ, "PYTHONPATH": "operator", "BACKUP_ENCRYPTION_KEY": KEY.secret.hex()}
    shown = subprocess.run(
        [sys.executable, "-m", "matriarch.cli.main", "backups", "--store", store],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert shown.returncode == 1
    assert "which is gone" in shown.stdout

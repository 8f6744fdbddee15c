"""A physical backup and its archive become the data of a new cluster's first instance: by the Job, killed anywhere."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from matriarch.backup.job import exit_code
from matriarch.backup.jobresult import Result
from matriarch.backup.jobspec import Exit, JobSpec, LocalStore, Moment, Reason, RecoverTask, StoreSpec, VerifyTask
from matriarch.backup.manifest import Opened
from matriarch.postgres.lsn import parse_lsn
from matriarch.postgres.restored import MARK, restored_by
from matriarch.recovery.job import RecoveryJob
from tests.postgres.archive.archivebed import CLUSTER, Archiver, archiving, ready, wait
from tests.postgres.backup.bed import Postgres
from tests.postgres.backup.physbed import amcheck, physical_backup

pytestmark = pytest.mark.timeout(240)
UID = "11111111-2222-3333-4444-555555555555"


@dataclass
class World:
    """A backup, marks 0 to 11 on timeline 1, a restore point, a failover, marks 12 to 23; all of it archived."""

    place: Path
    archiver: Archiver
    opened: Opened
    commits: dict[int, datetime]

    def spec(self, moment: Moment, volume: Path | None, **more: Any) -> JobSpec:
        task: dict[str, Any] = {"task": "verify", "verify": VerifyTask(method="physical", moment=moment)}
        if volume is not None:
            told = {"backup": self.opened.body.file, "restore_id": UID, **more}
            task = {"task": "recover", "recover": RecoverTask(volume=str(volume), moment=moment, **told)}
        return JobSpec(cluster=CLUSTER, store=self.archiver.config.store, keys=("k",), **task)

    def run(self, moment: Moment, volume: Path | None, **more: Any) -> Result:
        job = RecoveryJob(
            JobSpec.from_json(self.spec(moment, volume, **more).to_json()), self.archiver.config.key_folder
        )
        return asyncio.run(job.run())

    def until(self, moment: datetime) -> list[int]:
        return sorted(n for n, at in self.commits.items() if at <= moment)


@pytest.fixture(scope="module")
def world(tools: Path, short_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    place, stored = short_folder / "rec", tmp_path_factory.mktemp("store")
    place.mkdir()
    server = Postgres(place / "p").create()
    server.stop()
    store = StoreSpec(local=LocalStore(path=str(stored)))
    archiver = Archiver.create(place / "a", store, server.folder / "data")
    archiving(server, archiver, "track_commit_timestamp = on", "max_prepared_transactions = 5")
    archiver.start()
    server.start()
    try:
        server.sql("CREATE TABLE marks (n int)")
        server.sql("CREATE TABLE bulk AS SELECT repeat(md5(g::text), 30) AS t FROM generate_series(1, 100000) g")
        server.sql("VACUUM FREEZE bulk")  # a pack of it that nothing changes afterwards
        opened = physical_backup(archiver.store, server)
        _insert(server, range(12))
        server.sql("SELECT pg_create_restore_point('half')")
        server.stop()
        (server.folder / "data" / "standby.signal").touch()  # a failover, as far as WAL knows
        server.start()
        server.sql("SELECT pg_promote()")
        _insert(server, range(12, 24))
        commits = dict(server.sql("SELECT n, pg_xact_commit_timestamp(xmin) FROM marks"))
        time.sleep(1.5)
        server.sql("SELECT pg_switch_wal()")
        wait(lambda: not ready(server), "all is archived")
    finally:
        server.stop()
        archiver.stop()
    return World(place, archiver, opened, commits)


def _insert(server: Postgres, numbers: range) -> None:
    for n in numbers:
        server.sql(f"INSERT INTO marks VALUES ({n})")
        time.sleep(0.02)


def volume_in(place: Path) -> Path:
    folder = place / f"v{random.randrange(10**9)}"
    folder.mkdir()
    return folder


def looked_at(volume: Path) -> tuple[list[int], dict[str, Any]]:
    """The marks in the filled volume, and what its server says of itself."""
    folder = volume / "s"
    folder.mkdir(exist_ok=True)
    with (volume / "pgdata" / "postgresql.conf").open("a") as file:
        file.write(f"unix_socket_directories = '{folder}'\n")
    data = folder / "data"
    if not data.exists():
        data.symlink_to(volume / "pgdata")
    server = Postgres(folder).start()
    try:
        marks = [row[0] for row in server.sql("SELECT n FROM marks ORDER BY n")]
        ((system, timeline, recovering),) = server.sql(
            "SELECT s.system_identifier::text, c.timeline_id, pg_is_in_recovery() FROM pg_control_system() s, "
            "pg_control_checkpoint() c"
        )
        server.sql("CREATE TABLE IF NOT EXISTS more AS SELECT g FROM generate_series(1, 1000) g")
        stamps = server.sql("SELECT count(pg_xact_commit_timestamp(xmin)) FROM marks")[0][0]
        amcheck(server)
    finally:
        server.stop()
    return marks, {"system": system, "timeline": timeline, "recovering": recovering, "stamps": stamps}


def test_exactly_what_was_committed_before_a_random_moment(world: World) -> None:
    first, last = min(world.commits.values()), max(world.commits.values())
    moment = first + (last - first) * random.random()  # another one each time
    wish = Moment(kind="time", value=moment.isoformat())
    checked = world.run(wish, None)
    assert checked.ok, checked.message
    assert checked.backup is not None
    assert checked.backup.name == world.opened.body.file
    volume = volume_in(world.place)
    done = world.run(wish, volume)
    assert done.ok, done.message
    assert done.recover is not None
    expected = world.until(moment)
    if expected:
        assert done.recover.last_commit is not None
        reached = datetime.fromisoformat(done.recover.last_commit)
        assert abs(reached - max(world.commits[n] for n in expected)) < timedelta(milliseconds=5)
    assert sorted(p.name for p in volume.iterdir()) == ["lock", "pgdata"], "something of the recovery is left"
    assert restored_by((volume / "pgdata" / MARK).read_text()) == UID
    marks, server = looked_at(volume)
    assert marks == expected
    assert server["stamps"] == len(expected), "the times of commits are part of the data"
    assert server["system"] == done.recover.system_identifier != world.opened.body.origin.system_identifier
    assert (server["timeline"], server["recovering"]) == (done.recover.timeline, False)

    again = world.run(wish, volume)  # a Job whose result was lost
    assert again.recover == done.recover
    other = world.run(wish, volume, restore_id="another")
    assert (other.reason, exit_code(other)) == (Reason.TARGET_NOT_EMPTY, Exit.REFUSED)
    assert looked_at(volume)[0] == expected


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        pytest.param(Moment(kind="latest"), range(24), id="latest"),
        pytest.param(Moment(kind="name", value="half"), range(12), id="name"),
        pytest.param(Moment(kind="immediate"), range(0), id="immediate"),
        pytest.param(Moment(), range(0), id="the backup itself"),
    ],
)
def test_to_other_targets(world: World, moment: Moment, expected: range) -> None:
    volume = volume_in(world.place)
    done = world.run(moment, volume)
    assert done.ok, done.message
    assert done.recover is not None
    marks, server = looked_at(volume)
    assert marks == list(expected)
    assert server["timeline"] == done.recover.timeline > 1
    physical = world.opened.body.physical
    assert physical is not None
    assert parse_lsn(done.recover.lsn) >= parse_lsn(physical.stop_lsn)


def test_what_cannot_be_reached_is_refused_and_nothing_is_written(world: World) -> None:
    ended = datetime.fromisoformat(world.opened.body.finished)
    late, early = datetime.now(UTC) + timedelta(seconds=5), ended - timedelta(seconds=5)
    volume = volume_in(world.place)
    for moment, reason in (
        (Moment(kind="time", value=late.isoformat()), Reason.TARGET_TOO_LATE),
        (Moment(kind="time", value=early.isoformat()), Reason.TARGET_TOO_EARLY),
        (Moment(kind="lsn", value="FF/0"), Reason.TARGET_TOO_LATE),
        (Moment(kind="lsn", value="0/1"), Reason.TARGET_TOO_EARLY),
        (Moment(kind="time", value="2026-13-01T00:00:00Z"), Reason.BAD_SPEC),
    ):
        for where in (None, volume):
            refused = world.run(moment, where)
            assert (refused.reason, exit_code(refused)) == (reason, Exit.REFUSED), refused.message
    altered = world.run(Moment(), volume, manifest_sha256="00" * 32)
    assert (altered.reason, exit_code(altered)) == (Reason.MANIFEST_CORRUPT, Exit.CORRUPT)
    assert [p.name for p in volume.iterdir()] == ["lock"]


def test_a_moment_after_the_last_commit_is_not_taken_for_reached(world: World) -> None:
    """Archived WAL ends after it by the store's clock, and nobody knows what was committed in the next segment."""
    moment = max(world.commits.values()) + timedelta(seconds=1)
    volume = volume_in(world.place)
    missed = world.run(Moment(kind="time", value=moment.isoformat()), volume)
    assert (missed.reason, exit_code(missed)) == (Reason.TARGET_NOT_REACHED, Exit.REFUSED), missed.message
    assert "committed at 20" in missed.message
    assert not (volume / "pgdata").exists(), "an instance would start on it"


def test_killed_at_random_it_leaves_nothing_that_passes_as_data(world: World) -> None:
    wish, volume = Moment(kind="latest"), volume_in(world.place)
    environment = {
        **os.environ,
        "PYTHONPATH": "operator",
        "MATRIARCH_JOB": world.spec(wish, volume).to_json(),
        "MATRIARCH_KEY_FOLDER": world.archiver.config.key_folder,
        "MATRIARCH_TERMINATION_LOG": str(volume.with_suffix(".log")),
    }
    kills = 0
    for _ in range(6):
        job = subprocess.Popen(
            [sys.executable, "-m", "matriarch.recovery.job"], env=environment, stderr=subprocess.DEVNULL
        )
        with suppress(subprocess.TimeoutExpired):
            job.wait(random.uniform(0.3, 6))
        if job.poll() is None:
            kills += 1
            job.send_signal(signal.SIGKILL)
            job.wait()
        _end_postmaster(volume / "pgdata.new")  # a container ends with its first process
        if (volume / "pgdata").exists():
            break
    done = world.run(wish, volume)
    assert done.ok, done.message
    assert kills or (volume / "pgdata" / MARK).exists()
    assert looked_at(volume)[0] == list(range(24))
    assert done.recover is not None
    assert json.loads((volume / "pgdata" / MARK).read_text())["result"]["timeline"] == done.recover.timeline


def test_in_place_what_is_there_is_read_and_not_touched(world: World) -> None:
    """The data of now, on which a server crashed; beside it, what was before. An agent exchanges them, not the Job."""
    volume = volume_in(world.place)
    now = world.run(Moment(kind="latest"), volume)
    assert now.ok, now.message
    (volume / "pgdata" / "postmaster.pid").write_text("1\n")
    (volume / "pgdata.new").mkdir()
    before = _digests(volume / "pgdata")
    wish = Moment(kind="name", value="half")
    refused = world.run(wish, volume, restore_id="other")
    assert refused.reason is Reason.TARGET_NOT_EMPTY, "not without being told that it replaces"
    done = world.run(wish, volume, restore_id="other", replaces=True)
    assert done.ok, done.message
    assert done.recover is not None
    assert done.recover.reused > 50 << 20, "what nobody changed is fetched"
    assert _digests(volume / "pgdata") == before
    assert sorted(p.name for p in volume.iterdir() if p.name.startswith("pgdata")) == [
        "pgdata",
        "pgdata.restored-other",
    ]
    again = world.run(wish, volume, restore_id="other", replaces=True)
    assert again.recover == done.recover, "done already, and told again"
    (volume / "pgdata").rename(volume / "pgdata.before-other")
    (volume / "pgdata.restored-other").rename(volume / "pgdata")
    assert looked_at(volume)[0] == list(range(12))


def test_killed_at_random_in_place_the_data_is_as_it_was(world: World) -> None:
    volume = volume_in(world.place)
    assert world.run(Moment(kind="latest"), volume).ok
    before, wish = _digests(volume / "pgdata"), Moment(kind="name", value="half")
    environment = {
        **os.environ,
        "PYTHONPATH": "operator",
        "MATRIARCH_JOB": world.spec(wish, volume, restore_id="other", replaces=True).to_json(),
        "MATRIARCH_KEY_FOLDER": world.archiver.config.key_folder,
        "MATRIARCH_TERMINATION_LOG": str(volume.with_suffix(".log")),
    }
    for _ in range(4):
        job = subprocess.Popen(
            [sys.executable, "-m", "matriarch.recovery.job"], env=environment, stderr=subprocess.DEVNULL
        )
        with suppress(subprocess.TimeoutExpired):
            job.wait(random.uniform(0.3, 5))
        if job.poll() is None:
            job.send_signal(signal.SIGKILL)
            job.wait()
        _end_postmaster(volume / "pgdata.new")
        assert _digests(volume / "pgdata") == before
        beside = volume / "pgdata.restored-other"
        assert not beside.exists() or restored_by((beside / MARK).read_text()) == "other", "half of it passes as whole"
    assert world.run(wish, volume, restore_id="other", replaces=True).ok
    assert _digests(volume / "pgdata") == before


def _digests(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _end_postmaster(pgdata: Path) -> None:
    with suppress(FileNotFoundError, ProcessLookupError, IndexError, ValueError):
        os.kill(int((pgdata / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        time.sleep(0.5)

"""A backup killed at any step leaves none, or a whole one; the next attempt finishes it, the rest is swept."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dev import s3 as s3_server
from dev.s3 import S3Server
from matriarch.backup import backup as engine
from matriarch.backup import catalog, jobspec, restore
from matriarch.backup import s3 as s3_module
from matriarch.backup.jobresult import Result
from matriarch.backup.jobspec import BackupTask, JobSpec, LocalStore, Reason, ServerSpec, StoreSpec
from matriarch.backup.local import Local
from matriarch.backup.progress import Tracker
from matriarch.backup.stop import Stop
from matriarch.errors import MatriarchError, Unavailable
from tests.postgres.backup.bed import CLUSTER, KEY, Postgres, job_environment, keys_in, local, make_backup, s3, s3_spec

NAME = "backup-2024-01-15T02:00:00.000Z-k3vq7m2xw4.sql.gz.enc"


@pytest.fixture(scope="module")
def small(source: Postgres) -> Iterator[str]:
    """A database that is dumped in no time."""
    source.sql("CREATE DATABASE small")
    source.sql("CREATE TABLE t AS SELECT generate_series(1, 100) AS i", database="small")
    yield "small"
    source.sql("DROP DATABASE small WITH (FORCE)")


class Crash(BaseException):
    """The process is gone: nothing after it happens."""


class Dying(Local):
    """A store under a process that dies at its `last`-th call; from then on it can do nothing any more."""

    last = 10**9
    calls = 0

    def _die(self) -> None:
        self.calls += 1
        if self.calls > self.last:
            raise Crash

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name not in ("get", "put", "size", "delete", "upload", "read", "list"):
            return value

        def call(*args: Any, **more: Any) -> Any:
            self._die()
            return value(*args, **more)

        return call


def test_dead_between_any_two_steps(tmp_path: Path, source: Postgres, small: str) -> None:
    last = 0
    finished = False
    while not finished:
        folder = tmp_path / str(last)
        folder.mkdir()
        dying = Dying(LocalStore(path=str(folder)))
        dying.last = last
        try:
            make_backup(dying, source, task={"name": NAME, "databases": (small,)})
            finished = True
        except Crash:
            pass
        store = local(folder)
        known = catalog.read_catalog(store)
        assert known.broken == ()
        for manifest in known.manifests:  # what passes for a backup is one
            whole(store)
            assert manifest.body.file == NAME
        again = make_backup(store, source, task={"name": NAME, "databases": (small,)})
        whole(store)
        assert keys_in(store, "logical") == [f"logical/{NAME}"]
        assert keys_in(store, "manifests") == [again.manifest.key]
        if known.manifests:
            assert again.manifest.raw == known.manifests[0].raw
        last += 1
    assert last > 10


class Stopping(Dying):
    """A store under a Job that is told to stop while its `last`-th call is under way; the call itself succeeds."""

    tell: Callable[[], object] = staticmethod(lambda: None)

    def _die(self) -> None:
        self.calls += 1
        if self.calls == self.last:
            self.tell()
            time.sleep(0.05)  # the loop hears of it before the call has done its work


def stopped_at(store: Stopping, source: Postgres, database: str) -> bool:
    """Whether the backup was still under way when the call came."""
    stop = Stop()
    request = engine.Request(
        store=store,
        servers=[source.server("matriarch_backup")],
        prefer="any",
        key=KEY,
        task=BackupTask(name=NAME, databases=(database,), encryption=True),
        cluster=CLUSTER,
        stop=stop,
    )

    async def run() -> bool:
        work = asyncio.ensure_future(engine.backup(request))
        loop = asyncio.get_running_loop()

        def tell() -> None:
            stop.set()
            loop.call_soon_threadsafe(work.cancel)

        store.tell = tell
        await asyncio.wait([work])
        if work.cancelled():
            return True
        error = work.exception()
        assert error is None or getattr(error, "reason", None) == Reason.CANCELLED, error
        return error is not None

    return asyncio.run(run())


def test_told_to_stop_in_any_call_of_the_store_it_leaves_nothing(tmp_path: Path, source: Postgres, small: str) -> None:
    last = 1
    while True:
        folder = tmp_path / str(last)
        folder.mkdir()
        store = Stopping(LocalStore(path=str(folder)))
        store.last = last
        under_way = stopped_at(store, source, small)
        if store.calls < last:
            break
        after = local(folder)
        if not keys_in(after, "manifests"):  # a stop after the manifest comes too late: that is a backup
            assert under_way
            assert list(after.unfinished()) == [], last
            assert [k for k in keys_in(after) if not k.startswith("keys/")] == [], last
        last += 1
    assert last > 10


def whole(store: Local) -> None:
    opened = restore.find_trusted(store, NAME, (KEY,), False)
    restore.check_object(store, opened, Tracker(), Stop())


def test_the_manifest_of_an_attempt_that_lost_its_object_does_not_count(
    tmp_path: Path, source: Postgres, small: str
) -> None:
    """A zombie wrote its manifest after the next attempt had replaced the data."""
    store = local(tmp_path / "store")
    first = make_backup(store, source, task={"name": NAME, "databases": (small,)})
    path = tmp_path / "store" / first.body.object.path
    path.write_bytes(path.read_bytes()[:-1])
    second = make_backup(store, source, task={"name": NAME, "databases": (small,)})
    assert second.manifest.raw != first.manifest.raw
    whole(store)


def job(spec: JobSpec, folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    (folder / "termination-log").unlink(missing_ok=True)
    with (folder / "stderr").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "matriarch.backup.job"],
            env=dict(job_environment(spec, folder)),
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


def result(folder: Path) -> Result:
    return Result.from_json((folder / "termination-log").read_text())


def backup_spec(source: Postgres, store: StoreSpec, **task: Any) -> JobSpec:
    return JobSpec(
        task="backup",
        cluster=CLUSTER,
        store=store,
        keys=("k",),
        server=ServerSpec(hosts=(str(source.folder),), tls=None),
        backup=BackupTask(name=NAME, **task),
    )


@contextmanager
def blocked(source: Postgres, database: str) -> Iterator[None]:
    """Somebody holds a table, so that the dump waits in its middle."""
    holder = subprocess.Popen(
        ["psql", "-X", "-q", "-d", f"host={source.folder} user=postgres dbname={database}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert holder.stdin is not None
    holder.stdin.write(b"BEGIN; LOCK TABLE t; SELECT 1;\n")
    holder.stdin.flush()
    eventually(lambda: source.sql("SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock'")[0][0] > 0)
    try:
        yield
    finally:
        holder.stdin.close()
        holder.wait(30)


def eventually(condition: Callable[[], object], within: float = 60.0) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_job_that_is_killed_in_its_middle(
    tmp_path: Path, source: Postgres, small: str, number: signal.Signals
) -> None:
    folder = tmp_path / "store"
    store = local(folder)
    spec = backup_spec(source, StoreSpec(local=LocalStore(path=str(folder))), databases=(small,))
    with blocked(source, small):
        process = job(spec, tmp_path / "job")
        eventually(lambda: any(u.key.startswith("logical/") for u in store.unfinished()))
        process.send_signal(number)
        code = process.wait(30)
    if number == signal.SIGTERM:
        assert code == jobspec.Exit.CANCELLED
        found = result(tmp_path / "job")
        assert (found.ok, found.reason, found.retryable) == (False, "Cancelled", True)
        assert list(store.unfinished()) == []
        assert keys_in(store) == []
    assert keys_in(store, "manifests", "logical") == []
    # Nothing of it goes on: no pg_dump, no session, no lock.
    eventually(
        lambda: (
            source.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'matriarch backup%'")
            == [(0,)]
        )
    )
    process = job(spec, tmp_path / "job")
    assert process.wait(60) == 0
    assert result(tmp_path / "job").ok
    whole(store)


def test_the_second_run_of_a_finished_job_tells_the_first_ones_result(
    tmp_path: Path, source: Postgres, small: str
) -> None:
    spec = backup_spec(source, StoreSpec(local=LocalStore(path=str(tmp_path / "store"))), databases=(small,))
    (tmp_path / "store").mkdir()
    assert job(spec, tmp_path / "job").wait(60) == 0
    first = result(tmp_path / "job")
    assert job(spec, tmp_path / "job").wait(60) == 0
    assert result(tmp_path / "job") == first
    assert first.backup is not None
    assert first.backup.name == NAME
    assert [(d.name, d.owner) for d in first.backup.databases] == [(small, "postgres")]


def test_the_store_dies_in_the_middle(
    tmp_path: Path, source: Postgres, small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No manifest, a reason, and the next attempt works."""
    monkeypatch.setattr(s3_module, "OUTAGE", 2.0)
    with s3_server.temporary(tmp_path / "s3") as server:
        server.make_bucket("backups")
        store = s3(server, "backups", tmp_path / "c")

        async def dying(*args: Any, **more: Any) -> Any:
            server.stop()
            return await dump(*args, **more)

        dump = engine.dump_database
        monkeypatch.setattr(engine, "dump_database", dying)
        with pytest.raises(Unavailable) as error:
            make_backup(store, source, task={"name": NAME, "databases": (small,)})
        assert error.value.reason == "StoreUnavailable"
        monkeypatch.setattr(engine, "dump_database", dump)
        server.start()
        assert keys_in(store, "logical", "manifests") == []
        make_backup(store, source, task={"name": NAME, "databases": (small,)})
        whole(store)  # type: ignore[arg-type]  # any store


def test_refusals_reach_the_result_and_the_exit_code(
    tmp_path: Path, source: Postgres, small: str, s3server: S3Server
) -> None:
    found = s3_spec(s3server, "no-such-bucket", tmp_path / "c")
    assert job(backup_spec(source, StoreSpec(s3=found), databases=(small,)), tmp_path / "job").wait(60) == 20
    assert result(tmp_path / "job").reason == "BucketMissing"
    spec = backup_spec(source, StoreSpec(local=LocalStore(path=str(tmp_path / "none"))), databases=(small,))
    environment = {**job_environment(spec, tmp_path / "job", None)}
    (tmp_path / "job" / "keys" / "k").unlink(missing_ok=True)
    code = subprocess.run([sys.executable, "-m", "matriarch.backup.job"], env=environment, check=False).returncode
    assert (code, result(tmp_path / "job").reason) == (20, "KeyMissing")
    environment["MATRIARCH_JOB"] = json.dumps({"task": "backup"})
    code = subprocess.run([sys.executable, "-m", "matriarch.backup.job"], env=environment, check=False).returncode
    assert (code, result(tmp_path / "job").reason) == (20, "BadSpec")


def age(path: Path, by: timedelta) -> None:
    then = time.time() - by.total_seconds()
    os.utime(path, (then, then))


def test_the_sweeper_takes_the_dead_and_leaves_the_living(tmp_path: Path, source: Postgres, small: str) -> None:
    folder = tmp_path / "store"
    store = local(folder)
    complete = make_backup(store, source, task={"databases": (small,)})
    old = timedelta(hours=49)
    age(folder / complete.body.object.path, old)

    def leftover(backup_id: str, *, marker: timedelta | None, by: timedelta) -> list[Path]:
        name = NAME.replace("k3vq7m2xw4", backup_id)
        store.put(f"logical/{name}", b"x")
        upload = store.upload(f"logical/{name}", estimate=0)
        upload.write(b"x")
        paths = [folder / "logical" / name, Path(next(u.id for u in store.unfinished() if backup_id in u.key))]
        for path in paths:
            age(path, by)
        if marker is not None:
            store.put(catalog.marker_key(backup_id), b"{}")
            age(folder / catalog.marker_key(backup_id), marker)
        return paths

    running = leftover("aaaaaaaaaa", marker=timedelta(minutes=2), by=old)  # a very long backup, and well
    dead = leftover("bbbbbbbbbb", marker=timedelta(minutes=20), by=timedelta(minutes=30))
    young = leftover("cccccccccc", marker=None, by=timedelta(hours=1))
    forgotten = leftover("dddddddddd", marker=None, by=old)
    stranger = folder / "logical" / "notes.txt"
    stranger.write_text("somebody else's")
    age(stranger, old)

    catalog.sweep(store)

    assert all(p.exists() for p in (*running, *young, stranger))
    assert not any(p.exists() for p in (*dead, *forgotten))
    assert (folder / complete.body.object.path).exists()
    assert keys_in(store, "running") == [catalog.marker_key("aaaaaaaaaa")]

    # A manifest that can't be read might have named any of them.
    (folder / "manifests" / "0000000009-eeeeeeeeee.json").write_text("{")
    age(running[0], old)
    (folder / catalog.marker_key("aaaaaaaaaa")).unlink()
    assert catalog.sweep(store) == []


def test_a_running_backup_survives_a_sweep_at_any_moment(tmp_path: Path, source: Postgres, small: str) -> None:
    store = local(tmp_path / "store")
    with blocked(source, small):
        spec = backup_spec(source, StoreSpec(local=LocalStore(path=str(tmp_path / "store"))), databases=(small,))
        process = job(spec, tmp_path / "job")
        eventually(lambda: any(u.key.startswith("logical/") for u in store.unfinished()))
        assert catalog.sweep(store) == []
    assert process.wait(60) == 0
    whole(store)


def test_deleting_is_whole_or_not_at_all(tmp_path: Path, source: Postgres, small: str) -> None:
    for last in range(8):
        folder = tmp_path / str(last)
        store = local(folder)
        opened = make_backup(store, source, task={"databases": (small,)})
        dying = Dying(LocalStore(path=str(folder)))
        dying.last = last
        with suppress(Crash):
            catalog.delete_backup(dying, opened.manifest)
        known = catalog.read_catalog(store)
        if known.manifests:
            restore.check_object(store, opened, Tracker(), Stop())
            catalog.delete_backup(store, known.manifests[0])
        for path in (folder / "logical").iterdir():
            age(path, timedelta(minutes=20))
        catalog.sweep(store)
        assert keys_in(store, "logical", "manifests") == []
        with pytest.raises(MatriarchError):
            catalog.find(store, opened.body.id)

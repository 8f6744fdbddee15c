"""A drill as its Job makes it, and what must be as before when it is over."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from dev.s3 import S3Server
from matriarch.backup.drillspec import DrillTask
from matriarch.backup.jobresult import Result
from matriarch.backup.jobspec import JobSpec, StoreSpec
from matriarch.backup.manifest import Opened
from matriarch.backup.store import Store, open_store
from matriarch.drill.job import DrillJob
from tests.postgres.archive.archivebed import Archiver, archiving, ready, wait
from tests.postgres.backup.bed import CLUSTER, KEY, Postgres, in_loop, s3_spec
from tests.postgres.backup.physbed import physical_backup


def spec_of(store: StoreSpec, folder: Path, backup: Opened, **more: Any) -> JobSpec:
    """What the controller would tell the Job about this backup."""
    task: dict[str, Any] = {
        "backup": backup.body.file,
        "method": backup.body.kind,
        "folder": str(folder),
        "manifest_sha256": backup.manifest.sha256,
        "gap_patience": 0.2,
        **more,
    }
    return JobSpec(task="drill", cluster=CLUSTER, store=store, keys=("k",), drill=DrillTask(**task))


def drill(store: StoreSpec, folder: Path, backup: Opened, **more: Any) -> Result:
    """One drill in this process; fails the test when it leaves or changes anything."""
    folder.mkdir(exist_ok=True)
    keys = folder.with_name(f"{folder.name}-keys")
    keys.mkdir(exist_ok=True)
    (keys / "k").write_bytes(KEY.secret)
    spec = JobSpec.from_json(spec_of(store, folder, backup, **more).to_json())
    before = everything(open_store(store))
    result = in_loop(DrillJob(spec, str(keys)).run())
    assert everything(open_store(store)) == before, "a drill changed the store"
    assert left(folder) == [], "a drill left something"
    return Result.from_json(result.to_json())


def everything(store: Store) -> list[tuple[str, int, Any]]:
    return sorted((e.key, e.size, e.modified) for e in store.list(""))


def left(folder: Path) -> list[str]:
    """Files, and processes that work on them."""
    found = [p.name for p in folder.iterdir()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder / "drill-") in line and str(os.getpid()) != process.name:
            found.append(line.replace("\0", " ")[:200])
    return found


class Archived:
    """A server whose WAL goes to an S3 store, and a physical backup of it there."""

    def __init__(self, place: Path, server: S3Server, credentials: Path, prefix: str, *settings: str) -> None:
        self.spec = StoreSpec(s3=s3_spec(server, "backups", credentials, prefix=prefix))
        self.postgres = Postgres(place / "p").create()
        self.postgres.stop()
        self.archiver = Archiver.create(place / "a", self.spec, self.postgres.folder / "data")
        archiving(self.postgres, self.archiver, "track_commit_timestamp = on", *settings)
        self.archiver.start()
        self.postgres.start()

    @property
    def store(self) -> Store:
        return open_store(self.spec)

    def backup(self) -> Opened:
        return physical_backup(self.store, self.postgres)

    def switch(self) -> str:
        """Close the segment and wait until it is stored; where it ends."""
        (row,) = self.postgres.sql("SELECT pg_walfile_name(pg_switch_wal())")
        end = self.postgres.sql("SELECT pg_current_wal_lsn()::text")[0][0]
        wait(lambda: not ready(self.postgres) and self.key(row[0]), "all is archived")
        return str(end)

    def key(self, segment: str) -> str:
        """Of an archived segment in the store; empty while it is not there."""
        return next((e.key for e in self.store.list("wal") if f"/{segment}" in e.key), "")

    def segments(self) -> list[str]:
        keys = (e.key.rpartition("/")[2].partition(".")[0] for e in self.store.list("wal"))
        return sorted(k for k in keys if len(k) == 24)

    def stop(self) -> None:
        self.postgres.stop()
        self.archiver.stop()


def wait_until_it_writes(folder: Path, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not any(folder.glob("drill-*")):
        assert time.monotonic() < end, "the drill never began"
        time.sleep(0.02)

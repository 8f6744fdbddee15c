"""SIGKILL at random moments, as often as wanted, against the real S3 server: what is Complete is whole, always.

    python -m tests.postgres.backup.killing --kills 200 --folder /tmp/kills      goes on where an earlier run ended

Victims are Jobs of logical and physical backups, at a moment drawn from as long as one takes, and the archiver of a
server at work. After each kill every manifest in the store is read to the last byte of what it names, what a Job
reported as done is there, and every WAL file that PostgreSQL counts as archived is in the store. From time to time
everything is restored, started with PostgreSQL, and compared. A killed Job is repeated half of the time, as Kubernetes
would, and has to succeed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from dev import rootfs
from dev import s3 as s3_server
from dev.s3 import S3Server
from matriarch.archive.names import parse
from matriarch.backup import catalog, names, restore
from matriarch.backup.jobresult import Result
from matriarch.backup.jobspec import BackupTask, JobSpec, ServerSpec, StoreSpec
from matriarch.backup.names import BackupName
from matriarch.backup.physical import restore as physical
from matriarch.backup.progress import Tracker
from matriarch.backup.stop import Stop
from matriarch.backup.store import Store, open_store
from tests.postgres.archive.archivebed import Archiver, archiving, done, wait
from tests.postgres.backup.bed import CLUSTER, KEY, Postgres, do_restore, install_tools, job_environment, s3_spec
from tests.postgres.backup.physbed import physical_restore, started

KEPT = 6  # complete backups that stay; older ones are deleted as retention would
EVERY = 20  # kills between two restores of everything for real


@dataclass
class Bed:
    """One server that archives and is written to, one store, and what has been found out so far."""

    place: Path
    server: Postgres
    store_spec: StoreSpec
    archiver: Archiver
    dice: random.Random
    verified: set[str] = field(default_factory=set)
    compared: set[str] = field(default_factory=set)
    reported: set[str] = field(default_factory=set)
    lasts: dict[str, float] = field(default_factory=dict)
    figures: Counter[str] = field(default_factory=Counter)

    @property
    def store(self) -> Store:
        return open_store(self.store_spec)

    def spec(self, method: str, name: BackupName) -> JobSpec:
        task = BackupTask(name=f"{name}{'.sql.gz.enc' if method == 'logical' else ''}")
        if method == "logical":
            task = replace(task, databases=("small",))
        else:
            task = replace(task, method="physical", pgdata=str(self.server.folder / "data"))
        server = ServerSpec(hosts=(str(self.server.folder),), tls=None, user="postgres")
        return JobSpec(task="backup", cluster=CLUSTER, store=self.store_spec, keys=("k",), server=server, backup=task)

    def job(self, spec: JobSpec) -> subprocess.Popen[bytes]:
        folder = self.place / "job"
        folder.mkdir(exist_ok=True)
        (folder / "termination-log").unlink(missing_ok=True)
        with (folder / "stderr").open("wb") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "matriarch.backup.job"],
                env=dict(job_environment(spec, folder)),
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def result(self) -> Result | None:
        try:
            return Result.from_json((self.place / "job" / "termination-log").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def to_its_end(self, spec: JobSpec) -> None:
        began = time.monotonic()
        code = self.job(spec).wait(240)
        found = self.result()
        assert code == 0, (code, found, (self.place / "job" / "stderr").read_text()[-3000:])
        assert found is not None
        assert found.backup is not None
        self.reported.add(found.backup.id)
        assert spec.backup is not None
        self.lasts[spec.backup.method] = time.monotonic() - began


def check(bed: Bed) -> None:
    """The property, at this very moment."""
    store = bed.store
    known = catalog.read_catalog(store)
    assert known.broken == (), [str(b.error) for b in known.broken]
    for manifest in known.manifests:
        assert catalog.is_complete(store, manifest), f"{manifest.body.name} passes for a backup and is not whole"
        if manifest.sha256 not in bed.verified:
            opened = restore.find_trusted(store, manifest.body.id, (KEY,), False, manifest.body.kind)
            if manifest.body.kind == "logical":
                restore.check_object(store, opened, Tracker(), Stop())
            else:
                physical.verify(store, opened, Tracker(), Stop())
            bed.verified.add(manifest.sha256)
            bed.figures[f"{manifest.body.kind} verified"] += 1
    missing = bed.reported - {m.body.id for m in known.manifests}
    assert not missing, f"{missing} was reported as complete and is not there"
    vault = bed.archiver.vault()
    for text in sorted(done(bed.server) - bed.compared):
        name = parse(text)
        assert name is not None
        written = (bed.server.folder / "data" / "pg_wal" / text).read_bytes()
        assert vault.get(name) == written, f"{text} counts as archived and is not in the store as it was written"
        bed.compared.add(text)
        bed.figures["WAL files compared"] += 1


def restored(bed: Bed) -> None:
    """Every backup into PostgreSQL: the physical ones started, the logical ones loaded, rows compared."""
    for manifest in catalog.read_catalog(bed.store).manifests:
        folder = Path(tempfile.mkdtemp(prefix="r", dir=bed.place))
        try:
            if manifest.body.kind == "physical":
                physical_restore(bed.store, folder / "data", backup=manifest.body.id)
                server = started(folder)
            else:
                server = Postgres(folder / "p").create()
                do_restore(bed.store, server, backup=manifest.body.id)
            try:
                assert server.sql("SELECT count(*), sum(i) FROM t", database="small") == [(5000, 12502500)]
                if manifest.body.kind == "physical":
                    ids = [r[0] for r in server.sql("SELECT id FROM ledger ORDER BY id")]
                    assert ids == list(range(1, len(ids) + 1)), "the ledger has a hole"
            finally:
                server.stop(signal.SIGQUIT)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        bed.figures[f"{manifest.body.kind} restored"] += 1


def kill_a_job(bed: Bed, method: str) -> None:
    name = BackupName(datetime.now(UTC), names.new_id())
    spec = bed.spec(method, name)
    process = bed.job(spec)
    time.sleep(bed.dice.uniform(0.02, 1.1) * bed.lasts[method])
    finished = process.poll() is not None
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    found = bed.result()
    bed.figures[f"{method} {'was done before' if finished else 'killed'}"] += 1
    check(bed)
    there = {m.body.id for m in catalog.read_catalog(bed.store).manifests}
    mine = {i for i in there if i.startswith(name.id)}
    if found is not None and found.ok:
        assert found.backup is not None
        assert found.backup.id in there, "a Job said Completed without a manifest"
    if mine and not finished:
        bed.figures[f"{method} killed after its manifest"] += 1
    if bed.dice.random() < 0.5:
        bed.to_its_end(spec)
        again = {m.body.id for m in catalog.read_catalog(bed.store).manifests if m.body.id.startswith(name.id)}
        assert len(again) == 1, f"the second attempt of one Job left {again}"
        assert not mine or again == mine, "a second attempt made another backup beside the finished one"
        check(bed)
    prune(bed)


def kill_the_archiver(bed: Bed) -> None:
    time.sleep(bed.dice.uniform(0.02, 1.0))
    bed.archiver.stop(signal.SIGKILL)
    bed.figures["archiver killed"] += 1
    check(bed)
    bed.archiver.start()


def prune(bed: Bed) -> None:
    for manifest in catalog.read_catalog(bed.store).manifests[KEPT:]:
        catalog.delete_backup(bed.store, manifest)
        bed.reported.discard(manifest.body.id)


@contextlib.contextmanager
def writing(server: Postgres) -> Iterator[None]:
    """Rows and segments all the while, slowly: it is not the machine that is tested."""
    ended = threading.Event()

    def write() -> None:
        number = 0
        while not ended.wait(0.3):
            number += 1
            server.sql(f"INSERT INTO ledger SELECT coalesce(max(id), 0) + 1, repeat('x', 500) FROM ledger -- {number}")
            if number % 5 == 0:
                server.sql("SELECT pg_switch_wal()")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def make(place: Path, s3server: S3Server, seed: int) -> Iterator[Bed]:
    """`place`: short, for sockets. The programs of the image are on PATH already."""
    store = StoreSpec(s3=s3_spec(s3server, "backups", place / "credentials", prefix=f"kills-{seed}"))
    server = Postgres(place / "p").create()
    server.sql("CREATE DATABASE small", "CREATE TABLE ledger (id bigint PRIMARY KEY, filler text)")
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 5000) AS i", database="small")
    server.stop()
    archiver = Archiver.create(place / "a", store, server.folder / "data")
    archiving(server, archiver, "wal_keep_size = 2GB")
    archiver.start()
    server.start()
    bed = Bed(place, server, store, archiver, random.Random(seed))
    try:
        with writing(server):
            for method in ("logical", "physical"):
                bed.to_its_end(bed.spec(method, BackupName(datetime.now(UTC), names.new_id())))
            check(bed)
            yield bed
            wait(lambda: done(server), "something is archived")
    finally:
        server.stop(signal.SIGQUIT)
        archiver.stop()


def one(bed: Bed) -> None:
    """One kill of something."""
    what = bed.dice.choices(("logical", "physical", "archiver"), (4, 4, 2))[0]
    if what == "archiver":
        kill_the_archiver(bed)
    else:
        kill_a_job(bed, what)


def _run(kills: int, folder: Path, seed: int, minutes: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "kills.jsonl"
    before = [json.loads(line) for line in state.read_text().splitlines()] if state.exists() else []
    left = kills - sum(r["kills"] for r in before)
    end = time.monotonic() + minutes * 60
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp", ignore_cleanup_errors=True) as short:
        place = Path(short)
        (place / "bin").mkdir()
        install_tools(rootfs.ensure().path, place / "bin")
        os.environ["PATH"] = f"{place / 'bin'}:{os.environ['PATH']}"
        with s3_server.temporary(folder / "s3") as s3server:
            with contextlib.suppress(Exception):  # there from an earlier run
                s3server.make_bucket("backups")
            while left > 0 and time.monotonic() < end:  # a new server every EVERY kills, so that nothing piles up
                home = place / f"{left}"
                home.mkdir()
                with make(home, s3server, seed + left) as bed:
                    number = 0
                    while number < min(left, EVERY) and time.monotonic() < end:
                        one(bed)
                        number += 1
                        print(f"{kills - left + number}/{kills} {dict(bed.figures)}", flush=True)
                    restored(bed)
                with state.open("a") as file:
                    file.write(json.dumps({"kills": number, "seed": seed + left, **bed.figures}) + "\n")
                left -= number
                shutil.rmtree(home, ignore_errors=True)
    total: Counter[str] = Counter()
    for line in state.read_text().splitlines():
        total.update({k: v for k, v in json.loads(line).items() if k != "seed"})
    print(json.dumps(dict(total)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/kills"))
    parser.add_argument("--seed", type=int, default=random.randrange(1, 1 << 30))
    parser.add_argument("--minutes", type=float, default=1e9, help="end after so long, to go on later")
    given = parser.parse_args()
    _run(given.kills, given.folder, given.seed, given.minutes)


if __name__ == "__main__":
    main()

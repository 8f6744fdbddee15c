"""How fast a backup is and what it costs, on this machine, in one run with its own yardsticks.

    python -m bench.backup [--gib 1.0]        needs root (the postgres image's root file system), writes bench/backup.md

A table as applications have them (integers, texts, times) is backed up to a real S3 server, checked and restored by the
engine's Job, a process of its own. Beside it: `pg_dump | gzip` and `pg_dump | cat`, the same server, the same rows.
CPU seconds are of the client side: for the Job its own and its children's (pg_dump, psql), each apart.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev import rootfs
from dev import s3 as s3_server
from matriarch.backup.jobspec import BackupTask, JobSpec, RestoreTask, Result, ServerSpec, StoreSpec, VerifyTask
from tests.postgres.backup.bed import CLUSTER, Postgres, install_tools, job_environment, s3_spec

OUTPUT = Path(__file__).with_suffix(".md")

_FILL = """
    INSERT INTO orders SELECT i, i % 10000, 'customer-' || i % 50000 || '@example.org',
        'Order number ' || i || ' of the ' || (ARRAY['red', 'green', 'blue', 'yellow'])[i % 4 + 1]
        || ' widgets, to be delivered to street ' || i % 997,
        timestamptz '2024-01-01' + i * interval '1 second', (i::bigint * 7919 % 1000000) / 100.0, md5(i::text)
    FROM generate_series({first}, {last}) i
"""
_ROW = 165  # bytes of SQL


@dataclass(frozen=True)
class Run:
    name: str
    text: int  # bytes of SQL
    stored: int
    wall: float
    cpu: float  # of the process and all its children
    own: float | None  # of the Job's interpreter alone
    rss: int | None  # bytes, of the interpreter

    def row(self) -> str:
        mib = self.text / (1 << 20)
        own = f"{mib / self.own:.0f}" if self.own else "–"
        rss = f"{self.rss >> 20} MiB" if self.rss else "–"
        return (
            f"| {self.name} | {mib:.0f} | {self.stored / (1 << 20):.0f} | {self.wall:.1f} | {mib / self.wall:.0f} | "
            f"{self.cpu:.1f} | {mib / self.cpu:.0f} | {own} | {rss} |"
        )


def job(name: str, folder: Path, text: int | None, **spec: Any) -> tuple[Run, Result]:
    folder.mkdir(exist_ok=True)
    environment = dict(job_environment(JobSpec(cluster=CLUSTER, keys=("k",), **spec), folder))
    environment["PYTHONPATH"] = "operator"
    began = time.monotonic()
    code = "import resource\nfrom matriarch.backup import job\nleave = job._leave\n"
    # The Job ends by _exit: its figures have to be taken just before.
    code += (
        "def note(result):\n"
        "    own, kids = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))\n"
        f"    open({str(folder / 'usage')!r}, 'w').write(str([own.ru_utime + own.ru_stime, own.ru_maxrss,"
        " kids.ru_utime + kids.ru_stime]))\n    leave(result)\n"
        "job._leave = note\njob.main()\n"
    )
    subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL, check=True)
    wall = time.monotonic() - began
    own, rss, kids = json.loads((folder / "usage").read_text())
    result = Result.from_json((folder / "termination-log").read_text())
    size = text or (result.backup.size if result.backup else 0)
    stored = result.backup.stored_size if result.backup else 0
    return Run(name, size, stored, wall, own + kids, own, rss << 10), result


def pipe(name: str, server: Postgres, filter_: list[str], text: int) -> Run:
    with tempfile.NamedTemporaryFile() as out:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.monotonic()
        dump = subprocess.Popen(
            ["pg_dump", "-d", f"host={server.folder} user=postgres dbname=bench"], stdout=subprocess.PIPE
        )
        subprocess.run(filter_, stdin=dump.stdout, stdout=out, check=True)
        assert dump.wait() == 0
        wall = time.monotonic() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Run(name, text, Path(out.name).stat().st_size, wall, cpu, None, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=1.0)
    args = parser.parse_args()
    rows = int(args.gib * (1 << 30) / _ROW)
    with tempfile.TemporaryDirectory(prefix="bed", dir="/tmp", ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        (place / "bin").mkdir()
        install_tools(rootfs.ensure().path, place / "bin")
        os.environ["PATH"] = f"{place / 'bin'}:{os.environ['PATH']}"
        server = Postgres(place / "pg").create()
        try:
            with s3_server.temporary(place / "s3") as store:
                store.make_bucket("backups")
                runs = measure(server, store, place, rows)
        finally:
            server.stop()
    report(runs, rows)


def measure(server: Postgres, store: Any, place: Path, rows: int) -> list[Run]:
    server.sql("CREATE DATABASE bench")
    server.sql(
        """CREATE TABLE orders (id bigint, customer int, email text, note text, at timestamptz,
                                total numeric(12, 2), h text)""",
        database="bench",
    )
    step = 500_000
    for first in range(1, rows + 1, step):
        server.sql(_FILL.format(first=first, last=min(first + step - 1, rows)), database="bench")
    server.sql("VACUUM ANALYZE orders", "CHECKPOINT", database="bench")
    spec = StoreSpec(s3=s3_spec(store, "backups", place / "c"))
    here = ServerSpec(hosts=(str(server.folder),), user="postgres", tls=None)
    backup, result = job(
        "backup to S3", place / "job", None, task="backup", store=spec, server=here, backup=BackupTask()
    )
    assert result.backup is not None
    verify, _ = job("verify", place / "job", backup.text, task="verify", store=spec, verify=VerifyTask())
    task = RestoreTask(backup="latest", mode="in-place", restore_id="bench", amcheck=False)
    restore, _ = job("restore", place / "job", backup.text, task="restore", store=spec, server=here, restore=task)
    return [
        backup,
        pipe("pg_dump \\| cat", server, ["cat"], backup.text),
        pipe("pg_dump \\| gzip -1", server, ["gzip", "-1"], backup.text),
        verify,
        restore,
    ]


def report(runs: list[Run], rows: int) -> None:
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())  # fmt: skip
    load = os.getloadavg()[0]
    lines = [
        "# Backup: speed and cost",
        "",
        (
            f"Made by `python -m bench.backup`: {rows:,} rows of about {_ROW} bytes, PostgreSQL 17, a local S3 server, "
            f"{os.cpu_count()} × {cpu}, load {load:.1f} at the end (others at work make wall times long)."
        ),
        "",
        "| run | MiB of SQL | MiB stored | s | MiB/s | CPU s | MiB per CPU s | … of the engine alone | peak memory |",
        "|---|---|---|---|---|---|---|---|---|",
        *(run.row() for run in runs),
        "",
        (
            "A backup also computes every table's hash in the server meanwhile; a restore reads the object twice, "
            "loads, analyses and compares. CPU seconds are of the client side; the server's are not in them."
        ),
        "",
    ]
    OUTPUT.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()

"""What an incremental backup saves, on the PostgreSQL that ships, beside PostgreSQL's own in the same run.

    python3 bench/incremental.py [--size 1] [--touched 2] [--json]     needs root (the postgres image's file system)

A filled server is backed up in full, some per cent of its rows are changed at random, and it is backed up again; then
the chain is restored. Ours stores encrypted in a real S3 server over TLS; the peer is `pg_basebackup --incremental`
into a folder of plain files, and `pg_combinebackup`, which is less work: nothing is compressed, encrypted or sent.
pgBackRest's blocks came with 2.46; Debian 12 has 2.45, which stores whole files again, and knows no PostgreSQL 17.
What the summaries cost is the summarizer's own processor time for each GB of WAL. The last line is JSON.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file, perhaps by a Python that has nothing of what is imported below
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from bench.environment import enter

    enter("bench.incremental")

import argparse
import json
import os
import shutil
import stat
import subprocess
import tempfile
from dataclasses import replace

from bench.peers import KEY, bytes_in
from bench.timed import GB, HEAD, Run, timed
from dev import rootfs, s3
from dev.host import DevError, need_linux_root
from tests.postgres.backup.bed import Postgres, install_tools
from tests.postgres.pgbox import _ENTER

_ROW = 235  # bytes of a row in its page
_FILL = """CREATE TABLE orders AS SELECT i AS id, i % 10000 AS customer,
    'customer-' || i % 50000 || '@example.org' AS email,
    'Order number ' || i || ' of the ' || (ARRAY['red', 'green', 'blue', 'yellow'])[i % 4 + 1]
    || ' widgets, to be delivered to street ' || i % 997 AS note, md5(i::text) AS h
    FROM generate_series(1, {rows}) i"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="bench/incremental.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--size", type=float, default=1.0, help="GB (10^9 bytes) of tables; default: 1")
    made.add_argument("--touched", type=float, default=2.0, help="per cent of the table's stretches that are changed")
    made.add_argument("--jobs", type=int, default=2)
    made.add_argument("--json", action="store_true", help="nothing but JSON on stdout")
    return made


def tools(folder: Path) -> None:
    root = rootfs.ensure().path
    folder.mkdir()
    install_tools(root, folder)
    for name in ("pg_combinebackup",):
        program = f"/usr/lib/postgresql/17/bin/{name}"
        (folder / name).write_text(_ENTER.format(python=sys.executable, root=str(root), program=program))
        (folder / name).chmod((folder / name).stat().st_mode | stat.S_IXUSR)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"


def change(server: Postgres, rows: int, per_cent: float) -> None:
    """Stretches of 200 rows here and there, as an application's day leaves them."""
    every = round(200 * 100 / per_cent)
    server.sql(f"UPDATE orders SET customer = customer + 1 WHERE id % {every} < 200", "CHECKPOINT")


def summarizer(server: Postgres) -> tuple[float, int, int]:
    """CPU seconds of the process, bytes of WAL so far, bytes of its files."""
    (pid,) = server.sql("SELECT summarizer_pid FROM pg_get_wal_summarizer_state()")[0]
    (wal,) = server.sql("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")[0]
    # The program runs in a namespace of its own users, not of its own processes: the number is this machine's.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return cpu, int(wal), bytes_in(server.folder / "data" / "pg_wal" / "summaries")


class Ours:
    def __init__(self, store: s3.S3Server, server: Postgres, jobs: int) -> None:
        self._server, self._jobs = server, ["--jobs", str(jobs)]
        self._where = ["--store", "s3://ours/c", "--endpoint", store.endpoint]
        self._bucket = Path(store.folder) / "data" / "ours"
        store.make_bucket("ours")
        self._environment = {
            "BACKUP_ENCRYPTION_KEY": KEY,
            "AWS_ACCESS_KEY_ID": store.access_key,
            "AWS_SECRET_ACCESS_KEY": store.secret_key,
            "AWS_REGION": s3.REGION,
            "AWS_CA_BUNDLE": str(store.ca_file),
        }

    def _run(self, name: str, *words: str) -> Run:
        before = bytes_in(self._bucket)
        run = timed(name, [sys.executable, "-m", "matriarch.cli.main", *words, *self._where], self._environment)
        return replace(run, stored=bytes_in(self._bucket) - before)

    def backup(self, name: str) -> Run:
        data = str(self._server.folder / "data")
        how = ["--method", "physical", "--incremental", "--pgdata", data, "--url", self._server.url()]
        return self._run(name, "backup", *how, *self._jobs)

    def restore(self, name: str, to: Path) -> Run:
        return self._run(name, "restore", "--to-directory", str(to), *self._jobs)


def theirs(server: Postgres, name: str, to: Path, parent: Path | None) -> Run:
    how = [] if parent is None else [f"--incremental={parent}/backup_manifest"]
    words = ["pg_basebackup", "-D", str(to), "-d", f"host={server.folder} user=postgres", "-c", "fast", *how]
    run = timed(name, ["sh", "-c", 'exec "$@" && sync', "sh", *words])
    return replace(run, stored=bytes_in(to))


def measure(args: argparse.Namespace, folder: Path) -> tuple[list[Run], int, dict[str, float]]:
    tools(folder / "bin")
    with s3.temporary(folder / "s3", tls=True) as store:
        server = Postgres(folder / "p").create()
        try:
            server.sql("ALTER SYSTEM SET summarize_wal = on", "ALTER SYSTEM SET max_wal_size = '2GB'",
                       "SELECT pg_reload_conf()", "CHECKPOINT")  # fmt: skip
            rows = max(1000, round(args.size * GB / _ROW))
            server.sql(_FILL.format(rows=rows), "CREATE INDEX ON orders (id)", "VACUUM ANALYZE orders", "CHECKPOINT")
            size = bytes_in(server.folder / "data") - bytes_in(server.folder / "data" / "pg_wal")
            ours = Ours(store, server, args.jobs)
            runs = [ours.backup("Matriarch, full"), theirs(server, "pg_basebackup, full", folder / "f", None)]
            cpu, wal, held = summarizer(server)
            change(server, rows, args.touched)
            runs += [ours.backup("Matriarch, incremental")]
            runs += [theirs(server, "pg_basebackup, incremental", folder / "i", folder / "f")]
            cpu_after, wal_after, held_after = summarizer(server)
            runs += [ours.restore("Matriarch, restore of the chain", folder / "r")]
            combine = ["pg_combinebackup", str(folder / "f"), str(folder / "i"), "-o", str(folder / "c")]
            runs += [timed("pg_combinebackup", combine)]
            same(folder / "r", folder / "c")
        finally:
            server.stop()
    full, their_full, incremental, their_incremental, restore, combined = runs
    written = (wal_after - wal) / GB
    return runs, size, {
        "size_vs_full": round(incremental.stored / full.stored, 3),
        "time_vs_full": round(incremental.seconds / full.seconds, 3),
        "their_size_vs_full": round(their_incremental.stored / their_full.stored, 3),
        "their_time_vs_full": round(their_incremental.seconds / their_full.seconds, 3),
        "incremental_vs_pg_basebackup": round(their_incremental.seconds / incremental.seconds, 2),
        "restore_vs_pg_combinebackup": round(combined.seconds / restore.seconds, 2),
        "wal_gb": round(written, 3),
        "summarizer_cpu_s_per_gb_of_wal": round((cpu_after - cpu) / written, 2),
        "summary_kb_per_gb_of_wal": round((held_after - held) / 1000 / written, 1),
    }  # fmt: skip


def same(ours: Path, theirs: Path) -> None:
    """That both hold the same tables, as far as one can see without starting them. Raises SystemExit."""
    names = {str(p.relative_to(theirs)) for p in theirs.glob("base/*/[0-9]*") if p.stat().st_size}
    if lost := [n for n in sorted(names) if not (ours / n).exists()]:
        sys.exit(f"the restored chain lacks {lost[0]}")


def main() -> None:
    args = parser().parse_args()
    need_linux_root("the postgres image's root file system")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="incr", dir="/tmp", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        runs, size, figures = measure(args, Path(name))
        shutil.rmtree(name, ignore_errors=True)
    if not args.json:
        print(
            f"{size / GB:.2f} GB of files, {args.touched} % touched, {args.jobs} threads, {os.cpu_count()} processors,"
        )
        print(f"load {load:.1f} to {os.getloadavg()[0]:.1f}\n")
        print("\n".join([HEAD, *(run.row(size) for run in runs)]))
    print(json.dumps({**figures, "gigabytes": round(size / GB, 2), "load": round(load, 1)}))


if __name__ == "__main__":
    try:
        main()
    except (DevError, subprocess.CalledProcessError) as error:
        sys.exit(f"incremental: {error}")

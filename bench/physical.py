"""How fast a physical backup and its restore are, against pgBackRest on the same data, in one run.

    python -m bench.physical [--scale 50] [--jobs 2]     as root on Debian: packages postgresql-15, pgbackrest

Both encrypt (pgBackRest: AES-256-CBC), use as many threads or processes, sync, and write into a folder on the same
disk. The server is the machine's PostgreSQL 15, since Debian 12's pgBackRest knows no later one; the data is pgbench's.
Prints a table; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BIN = Path("/usr/lib/postgresql/15/bin")
KEY = "00" * 32
CODECS = (("zst", 1), ("gz", 6), ("zst", 3))


@dataclass(frozen=True)
class Run:
    name: str
    seconds: float
    cpu: float  # of the tool and its children
    peak: int  # bytes resident in the biggest process
    stored: int  # bytes

    def row(self, size: int) -> str:
        mib = size / (1 << 20)
        return (
            f"| {self.name} | {self.seconds:.1f} | {mib / self.seconds:.0f} | {self.cpu:.1f} | "
            f"{self.stored >> 20} | {self.peak >> 20} |"
        )


def timed(name: str, words: Sequence[str], store: Path, env: Mapping[str, str] | None = None) -> Run:
    """One command; its CPU and memory from wait4."""
    began = time.monotonic()
    child = subprocess.Popen(words, env={**os.environ, **(env or {})}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, f"{name} failed"
    stored = sum(p.stat().st_size for p in store.rglob("*") if p.is_file())
    run = Run(name, time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10, stored)
    print(f"{name}: {run.seconds:.1f} s, {run.cpu:.1f} CPU s, {run.peak >> 20} MiB peak", file=sys.stderr, flush=True)
    return run


@contextmanager
def server(place: Path, scale: int) -> Iterator[Path]:
    """A filled PostgreSQL 15 with data checksums; its socket is in `place`."""
    data = place / "data"
    user = pwd.getpwnam("postgres")
    os.chown(place, user.pw_uid, user.pw_gid)

    def run(*words: str) -> None:
        subprocess.run(["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *words], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=place)  # fmt: skip

    run(str(BIN / "initdb"), "-k", "-A", "trust", "-D", str(data))
    with (data / "postgresql.conf").open("a") as conf:
        conf.write(
            f"listen_addresses = ''\nunix_socket_directories = '{place}'\nmax_wal_size = 4GB\narchive_mode = on\n"
            "archive_command = 'true'\nshared_buffers = 256MB\n"
        )
    run(str(BIN / "pg_ctl"), "-D", str(data), "-w", "-l", str(place / "log"), "start")
    try:
        run(str(BIN / "pgbench"), "-h", str(place), "-i", "-q", "-s", str(scale), "postgres")
        run("psql", "-h", str(place), "-c", "CHECKPOINT", "postgres")
        yield data
    finally:
        run(str(BIN / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")


def pgbackrest(place: Path, data: Path, codec: str, level: int, jobs: int) -> tuple[Run, Run]:
    repo = place / f"repo-{codec}-{level}"
    common = [
        "--stanza=b", f"--repo1-path={repo}", "--repo1-cipher-type=aes-256-cbc", f"--pg1-path={data}",
        f"--pg1-socket-path={place}", "--pg1-user=postgres", f"--log-path={place}", f"--lock-path={place}/lock",
        "--log-level-console=warn", "--log-level-file=off",
    ]  # fmt: skip
    environment = {"PGBACKREST_REPO1_CIPHER_PASS": KEY}
    subprocess.run(
        ["pgbackrest", *common, "--no-online", "stanza-create"], check=True, env={**os.environ, **environment}
    )
    speed = [f"--compress-type={codec}", f"--compress-level={level}", f"--process-max={jobs}"]
    # Our backup copies its WAL; pgBackRest would wait for an archive, so neither is asked to here.
    backup = timed(
        f"pgBackRest {codec} {level}, backup",
        ["pgbackrest", *common, *speed, "--type=full", "--start-fast", "--no-archive-check", "backup"],
        repo,
        environment,
    )
    restored = place / "restored"
    restored.mkdir(mode=0o700)
    of_the_server = ("--pg1-path=", "--pg1-socket-path=", "--pg1-user=")
    into = [*(w for w in common if not w.startswith(of_the_server)), f"--pg1-path={restored}"]
    restore = timed(
        f"pgBackRest {codec} {level}, restore",
        ["pgbackrest", *into, f"--process-max={jobs}", "restore"], repo, environment,
    )  # fmt: skip
    shutil.rmtree(restored)
    return backup, restore


def ours(place: Path, data: Path, level: int, jobs: int) -> tuple[Run, Run]:
    store = place / f"ours-{level}"
    store.mkdir()
    command = [sys.executable, "-m", "matriarch.cli.main"]
    environment = {"BACKUP_ENCRYPTION_KEY": KEY, "PYTHONPATH": "operator"}
    where = ["--store", str(store), "--jobs", str(jobs)]
    url = f"postgresql://postgres@/postgres?host={place}"
    backup = timed(
        f"Matriarch zstd {level}, backup",
        [
            *command,
            "backup",
            "--method",
            "physical",
            "--pgdata",
            str(data),
            "--url",
            url,
            "--level",
            str(level),
            *where,
        ],
        store,
        environment,
    )
    restored = place / "restored"
    restore = timed(
        f"Matriarch zstd {level}, restore",
        [*command, "restore", "--to-directory", str(restored), *where], store, environment,
    )  # fmt: skip
    shutil.rmtree(restored)
    return backup, restore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, default=50, help="of pgbench; 1 is about 15 MiB")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench", dir="/tmp", ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        with server(place, args.scale) as data:
            size = sum(p.stat().st_size for p in data.rglob("*") if p.is_file() and "pg_wal" not in p.parts)
            mine = {level: ours(place, data, level, args.jobs) for level in (1, 3)}
            theirs = {(codec, level): pgbackrest(place, data, codec, level, args.jobs) for codec, level in CODECS}
    print(f"{size >> 20} MiB of files, {args.jobs} threads or processes, load {os.getloadavg()[0]:.1f} at the end\n")
    print("| run | s | MiB/s | CPU s | MiB stored | MiB peak |\n|---|---|---|---|---|---|")
    for run in (r for pair in (*mine.values(), *theirs.values()) for r in pair):
        print(run.row(size))
    print(
        json.dumps(
            {
                "physical_vs_pgbackrest": round(theirs["gz", 6][0].seconds / mine[1][0].seconds, 2),
                "physical_vs_pgbackrest_zstd": round(theirs["zst", 1][0].seconds / mine[1][0].seconds, 2),
                "physical_vs_pgbackrest_zstd3": round(theirs["zst", 3][0].seconds / mine[3][0].seconds, 2),
                "restore_vs_pgbackrest": round(theirs["zst", 1][1].seconds / mine[1][1].seconds, 2),
                "physical_size_ratio": round(mine[1][0].stored / theirs["zst", 1][0].stored, 3),
                "peak_memory_mib": max(r.peak for pair in mine.values() for r in pair) >> 20,
            }
        )
    )


if __name__ == "__main__":
    main()

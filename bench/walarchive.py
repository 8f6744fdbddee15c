"""How fast a backlog of WAL is archived, and what it costs, on this machine.

    python -m bench.walarchive [--segments 200] [--level 1] [--json]     needs root (the postgres image's file system)

pgbench fills the segments: none is padded by a switch. The archiver, a process of its own, then stores them encrypted
in a real S3 server on the same machine, while PostgreSQL asks for one after the other with the compiled client. Two
rates: until all are stored, and until PostgreSQL knows of all. CPU seconds are the archiver's own; the S3 server and
PostgreSQL take theirs from the same processors. With --json the last line has the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dev import rootfs
from dev import s3 as s3_server
from matriarch.backup.jobspec import StoreSpec
from tests.postgres.archive.archivebed import Archiver, archiving, ready, wait
from tests.postgres.backup.bed import Postgres, install_tools, s3_spec
from tests.postgres.pgbox import _ENTER

SEGMENT = 16 << 20


def fill(server: Postgres, segments: int) -> set[str]:
    """Lets pgbench write until so many segments wait to be archived; their names."""
    where = ["-h", str(server.folder), "-U", "postgres", "postgres"]
    subprocess.run(["pgbench", "-i", "-q", "-s", "20", *where], check=True, capture_output=True)
    # What the initialisation wrote is no work of pgbench's: it goes first, and is not counted.
    server.sql("SELECT pg_switch_wal()", "CHECKPOINT")
    before = ready(server)
    while len(found := {n for n in ready(server) - before if len(n) == 24}) < segments:
        subprocess.run(["pgbench", "-n", "-c", "8", "-j", "2", "-T", "10", *where], check=True, capture_output=True)
        print(f"{len(found)} of {segments} segments", file=sys.stderr)
    return before


def cpu_and_memory(pid: int) -> tuple[float, int]:
    """CPU seconds and the most MiB that were resident."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    peak = int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) >> 10
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), peak


def measure(segments: int, level: int) -> dict[str, float]:
    """Raises AssertionError or CalledProcessError when something does not work."""
    with tempfile.TemporaryDirectory(prefix="wal", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        root = rootfs.ensure().path
        (folder / "bin").mkdir()
        install_tools(root, folder / "bin")
        pgbench = folder / "bin" / "pgbench"
        pgbench.write_text(
            _ENTER.format(python=sys.executable, root=str(root), program="/usr/lib/postgresql/17/bin/pgbench")
        )
        pgbench.chmod(pgbench.stat().st_mode | stat.S_IXUSR)
        os.environ["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
        with s3_server.temporary(folder / "s3") as store:
            store.make_bucket("backups")
            spec = StoreSpec(s3=s3_spec(store, "backups", folder / "credentials"))
            server = Postgres(folder / "p").create()
            server.stop()
            archiver = Archiver.create(folder / "a", spec, server.folder / "data", level=level)
            # Many checkpoints: full pages are what most WAL consists of.
            archiving(server, archiver, "synchronous_commit = off", "max_wal_size = 96MB")
            server.start()
            try:
                return _archive(server, archiver, fill(server, segments))
            finally:
                archiver.stop()
                server.stop()


def _archive(server: Postgres, archiver: Archiver, before: set[str]) -> dict[str, float]:
    archiver.start()
    # The initialisation's segments warm it up.
    wait(lambda: not before & ready(server), "what came before is archived", within=600)
    archiver.stop()
    counted = {n for n in ready(server) if len(n) == 24}
    began = time.monotonic()
    archiver.start()
    started = time.monotonic()
    wait(lambda: archiver.status()["stored"] >= len(counted), "all is stored", within=900)
    stored = time.monotonic() - started
    status = archiver.status()
    wait(lambda: not counted & ready(server), "PostgreSQL knows", within=900)
    known = time.monotonic() - began
    assert archiver.process is not None
    cpu, peak = cpu_and_memory(archiver.process.pid)
    return {
        "segments": len(counted),
        "wal_segments_per_s": round(len(counted) / stored, 1),
        "acknowledged_segments_per_s": round(len(counted) / known, 1),
        "stored_ratio": round(len(counted) * SEGMENT / status["stored_bytes"], 2),
        "cpu_s_per_segment": round(cpu / len(counted), 4),
        "peak_memory_mib": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=200)
    parser.add_argument("--level", type=int, default=1, help="of zstd")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    found = measure(args.segments, args.level)
    print(f"zstd level {args.level}, {os.cpu_count()} processors, {platform.machine()}, load before it {load:.1f}")
    for name, value in found.items():
        print(f"{name:30} {value}")
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()

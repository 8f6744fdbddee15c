"""How fast backups and restores are and what they cost, against pgBackRest and pg_dump, on the same data in one run.

    python3 bench/backup.py                    about 4 GB, some minutes; as root on Debian 12
    python3 bench/backup.py --size 0.2 --json

Runs from a fresh clone: makes the project's environment and installs PostgreSQL 15, pgBackRest and openssl where they
are missing. Half of the data is pgbench's, half rows as applications have them. All store in one real S3 server on this
machine over TLS (the pipeline of pg_dump: in a file), encrypted, with --jobs threads or processes each. The peers take
turns; of several rounds the medians count. Progress goes to stderr. The last line of stdout is one JSON object; its
ratios of speed are above 1 where Matriarch is faster, and its ratios of size below 1 where Matriarch stores less;
`logical_vs_pgdump_alone` is our time over that of pg_dump to /dev/null. The WAL archive is measured by itself, on the
PostgreSQL that ships (bench/walarchive.py), the peers' on the PostgreSQL that they know. barman-cloud encrypts nothing,
and is measured once, as are the restores onto what is there (`--parts delta`, bench/delta.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file, perhaps by a Python that has nothing of what is imported below
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from bench.environment import enter

    enter("bench.backup", also=("peers",))

import argparse
import json
import os
import platform
import signal
import tempfile

from bench import barman, delta, walarchive, walpeers
from bench.peers import Bed, bytes_in, server
from bench.timed import GB, HEAD, Run, middle
from dev import s3
from dev.host import DevError, need_linux_root

PARTS = ("physical", "delta", "logical", "barman", "wal", "walpeers")
OURS, THEIRS, THEIRS_ZSTD = "ours", "gz", "zst"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="bench/backup.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--size", type=float, default=4.0, help="GB (10^9 bytes) of tables; default: 4")
    made.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="physical has the restores with it; all by default"
    )
    made.add_argument("--rounds", type=int, default=1)
    made.add_argument("--jobs", type=int, default=2, help="threads or processes of each")
    made.add_argument("--level", type=int, default=1, help="of zstd, ours and pgBackRest's")
    made.add_argument("--segments", type=int, default=200, help="of WAL to archive")
    made.add_argument("--json", action="store_true", help="nothing but JSON on stdout")
    return made


def physical(bed: Bed, rounds: int) -> dict[str, tuple[Run, Run]]:
    """Backup and restore of each peer."""
    found: dict[str, list[tuple[Run, Run]]] = {OURS: [], THEIRS: [], THEIRS_ZSTD: []}
    for _ in range(rounds):
        found[OURS].append(bed.our_physical())
        found[THEIRS].append(bed.pgbackrest("gz", None))
        found[THEIRS_ZSTD].append(bed.pgbackrest("zst", bed.level))
    return {name: (middle([b for b, _ in pairs]), middle([r for _, r in pairs])) for name, pairs in found.items()}


def logical(bed: Bed, rounds: int) -> tuple[Run, Run, Run]:
    """Ours, pg_dump alone, and the pipeline."""
    runs = [(bed.our_logical(), bed.pg_dump(), bed.pipeline()) for _ in range(rounds)]
    ours, alone, pipeline = ([r[n] for r in runs] for n in range(3))
    return middle(ours), middle(alone), middle(pipeline)


def physical_figures(found: dict[str, tuple[Run, Run]]) -> dict[str, float]:
    (backup, restore), (gz, _), (zstd, zstd_restore) = found[OURS], found[THEIRS], found[THEIRS_ZSTD]
    return {
        "physical_vs_pgbackrest": round(gz.seconds / backup.seconds, 2),
        "physical_vs_pgbackrest_zstd": round(zstd.seconds / backup.seconds, 2),
        "restore_vs_pgbackrest": round(zstd_restore.seconds / restore.seconds, 2),
        "physical_size_ratio": round(backup.stored / zstd.stored, 3),
    }


def logical_figures(ours: Run, alone: Run, pipeline: Run) -> dict[str, float]:
    if ours.stored < pipeline.stored / 4:
        raise DevError(f"the logical backup stored {ours.stored} bytes: that can't be all of the data")
    return {
        "logical_vs_pgdump_alone": round(ours.seconds / alone.seconds, 2),
        "logical_vs_pipeline": round(pipeline.seconds / ours.seconds, 2),
        "logical_size_ratio": round(ours.stored / pipeline.stored, 3),
    }


def warm(place: Path, size: int) -> None:
    """Have the page cache hold `size` more bytes once: memory that a virtual machine never used before is slow the
    first time, and whoever came first would pay for those after it."""
    piece = b"\1" * (1 << 20)
    with place.open("wb") as file:
        for _ in range(-(-size // len(piece))):
            file.write(piece)
    place.unlink()


def measure(args: argparse.Namespace, folder: Path) -> tuple[list[Run], int, dict[str, float]]:
    """The runs of both kinds of backup, the bytes of the server's files, and the figures."""
    runs: list[Run] = []
    figures: dict[str, float] = {}
    with (
        s3.temporary(folder / "s3", tls=True) as store,
        server(folder / "pg", round(args.size * GB)) as data,
    ):
        bed = Bed(folder / "pg", data, store, args.jobs, args.level)
        size = bytes_in(data) - bytes_in(data / "pg_wal")
        warm(folder / "warm", size)
        if "physical" in args.parts:
            found = physical(bed, args.rounds)
            runs += [run for pair in found.values() for run in pair]
            figures.update(physical_figures(found))
        if "delta" in args.parts:
            some, ratios = delta.measure(bed)
            runs += some
            figures.update(ratios)
        if "logical" in args.parts:
            three = logical(bed, args.rounds)
            runs += three
            figures.update(logical_figures(*three))
        if "barman" in args.parts:
            run = barman.physical(bed)
            runs.append(run)
            if "physical" in args.parts:
                figures["physical_vs_barman"] = round(run.seconds / runs[0].seconds, 2)
        if "walpeers" in args.parts:
            figures.update(walpeers.measure(bed, args.segments))
    return runs, size, figures


def main() -> None:
    args = parser().parse_args()
    need_linux_root("a PostgreSQL of the user postgres")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # the servers have to end too
    load = os.getloadavg()[0]
    runs: list[Run] = []
    size = 0
    figures: dict[str, float] = {}
    if set(args.parts) - {"wal"}:
        with tempfile.TemporaryDirectory(prefix="bench", dir="/tmp", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            folder.chmod(0o755)  # PostgreSQL's user has to get to its own
            (folder / "pg").mkdir()
            runs, size, figures = measure(args, folder)
    peaks = [run.peak >> 20 for run in runs if run.name.startswith("Matriarch")]
    if "wal" in args.parts:
        print("Matriarch, WAL: PostgreSQL and its backlog", file=sys.stderr, flush=True)
        found = walarchive.measure(args.segments, args.level)
        figures["wal_segments_per_s"] = found["wal_segments_per_s"]
        figures["wal_cpu_s_per_segment"] = found["cpu_s_per_segment"]
        peaks.append(round(found["peak_memory_mib"]))
    if not args.json:
        print(
            f"{size / GB:.2f} GB of files, {args.jobs} threads or processes, zstd {args.level}, rounds {args.rounds},"
        )
        print(f"{os.cpu_count()} processors, {platform.machine()}, load {load:.1f} to {os.getloadavg()[0]:.1f}\n")
        if runs:
            print("\n".join([HEAD, *(run.row(size) for run in runs)]))
    print(
        json.dumps(
            {
                **figures,
                "peak_memory_mib": max(peaks, default=0),
                "gigabytes": round(size / GB, 2),
                "load": round(load, 1),
            }
        )
    )


if __name__ == "__main__":
    try:
        main()
    except DevError as error:
        sys.exit(f"backup: {error}")

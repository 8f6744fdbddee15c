"""The WAL of pgbench through pgBackRest's archive-push and barman-cloud-wal-archive, into the same S3 server.

On PostgreSQL 15, which the peers of Debian 12 know; ours is measured on the PostgreSQL that ships (walarchive), whose
WAL pgbench fills in the same way. PostgreSQL's own archiver is played by a loop: it calls for one segment after the
other. pgBackRest is asynchronous with --jobs processes, so that most of its calls find their segment stored already.
"""

from __future__ import annotations

import contextlib
import fcntl
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import barman
from bench.peers import BIN
from bench.timed import Run, timed

if TYPE_CHECKING:
    from bench.peers import Bed

_SLOW = 20  # segments for who takes about a second for each


def backlog(bed: Bed, segments: int) -> list[Path]:
    """That many segments full of pgbench's changes that wait to be archived, in order."""
    where = ["-h", str(bed.place), "-U", "postgres"]

    def sql(*statements: str) -> None:
        for statement in statements:
            words = [str(BIN / "psql"), *where, "-qAt", "-c", statement, "bench"]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)

    status = bed.data / "pg_wal" / "archive_status"
    # Many checkpoints: full pages are what most WAL consists of.
    sql("ALTER SYSTEM SET max_wal_size = '96MB'", "ALTER SYSTEM SET synchronous_commit = off", "SELECT pg_switch_wal()")
    sql("ALTER SYSTEM SET archive_command = 'false'", "SELECT pg_reload_conf()", "SELECT pg_sleep(1)")
    before = {f.stem for f in status.glob("*.ready")}
    while len(found := sorted({f.stem for f in status.glob("*.ready")} - before)) < segments:
        words = [str(BIN / "pgbench"), *where, "-n", "-c", "8", "-j", "2", "-T", "10", "bench"]
        subprocess.run(words, check=True, capture_output=True)
        print(f"{len(found)} of {segments} segments for the peers", file=sys.stderr, flush=True)
    return [bed.data / "pg_wal" / name for name in found[:segments]]


def pgbackrest(bed: Bed, segments: list[Path], codec: str, level: int | None) -> Run:
    folder = bed.bucket("theirwal")
    spool = bed.place / f"spool-{codec}"  # it believes what is written down there to be stored
    spool.mkdir()
    common, _, environment = bed.pgbackrest_options("theirwal")
    bed.pgbackrest_stanza("theirwal")
    # The process that it leaves behind to push takes no secrets from its environment.
    config = bed.place / "pgbackrest.conf"
    words = [w.removeprefix("--") for w in common] + [
        f"{n[11:].lower().replace('_', '-')}={v}" for n, v in environment.items()
    ]
    config.write_text("\n".join(["[global]", *(w for w in words if not w.startswith("stanza=")), ""]))
    how = [f"--compress-type={codec}", *([] if level is None else [f"--compress-level={level}"])]
    how += ["--archive-async", f"--process-max={bed.jobs}", f"--spool-path={spool}"]
    push = " ".join(
        f"'{w}'"
        for w in ["pgbackrest", f"--config={config}", "--stanza=b", f"--pg1-path={bed.data}", *how, "archive-push"]
    )
    loop = f'for f in "$@"; do {push} "$f" || exit 1; done'
    name = f"pgBackRest {codec} {'default' if level is None else level}, WAL"
    run = timed(name, ["sh", "-c", loop, "sh", *map(str, segments)], {})
    _ended(bed.place / "lock" / "b-archive.lock")
    stored = sum(1 for f in folder.rglob("0*-*") if f.is_file())
    if stored < len(segments):
        sys.exit(f"pgBackRest stored {stored} of {len(segments)} segments")
    bed.emptied("theirwal")
    return run


def _ended(lock: Path, seconds: float = 120.0) -> None:
    """Until the process that pushes in the background let go of its lock."""
    deadline = time.monotonic() + seconds
    with lock.open("a") as file:
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(0.2)
    sys.exit(f"pgBackRest still pushes after {seconds:.0f} s")


def measure(bed: Bed, segments: int) -> dict[str, float]:
    """Segments a second of each."""
    files = backlog(bed, segments)
    few = files[:_SLOW]
    runs = {
        "wal_pgbackrest_segments_per_s": (pgbackrest(bed, files, "gz", None), len(files)),
        "wal_pgbackrest_zstd_segments_per_s": (pgbackrest(bed, files, "zst", bed.level), len(files)),
        "wal_barman_segments_per_s": (barman.wal(bed, few), len(few)),
    }
    return {name: round(count / run.seconds, 2) for name, (run, count) in runs.items()}

"""A restore beside the present data directory: ours takes from it what is the same, pgBackRest's --delta puts it right.

The same backup is gone back to from two later states: one where the newest rows of the tables changed, as most of an
application's changes are, and one where stretches all over them did. Ours fills a second directory and leaves the
present one as it is; pgBackRest needs its server stopped, and writes only what differs into that very directory, which
is less to write. Both read the present one from the page cache as far as it is there.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bench.peers import BIN, DATABASE, Bed, check
from bench.timed import Run, timed

SHARE = 0.02  # of the rows that change
_STRETCH = 200  # rows that change together, where changes are all over
CHANGES = {  # which rows
    "newest": "{key} > (SELECT max({key}) FROM {table}) * (1 - {share})",
    "scattered": "{key} % {every} < {stretch}",
}
_TABLES = (("orders", "id", "customer"), ("pgbench_accounts", "aid", "abalance"))


def measure(bed: Bed) -> tuple[list[Run], dict[str, float]]:
    """Every run, and the ratios."""
    runs: list[Run] = []
    figures: dict[str, float] = {}
    _back_up(bed)
    for name, rows in CHANGES.items():
        _change(bed, rows)
        four = _restores(bed, name)
        runs += four.values()
        figures.update(ratios(name, four))
    bed.emptied("ours")
    bed.emptied("theirs")
    return runs, figures


def ratios(name: str, runs: Mapping[str, Run]) -> dict[str, float]:
    """Above 1: reuse is faster than all of it; ours is faster than theirs."""
    return {
        f"reuse_vs_full_{name}": round(runs["full"].seconds / runs["reuse"].seconds, 2),
        f"their_delta_vs_full_{name}": round(runs["their full"].seconds / runs["their delta"].seconds, 2),
        f"reuse_vs_pgbackrest_delta_{name}": round(runs["their delta"].seconds / runs["reuse"].seconds, 2),
    }


def _back_up(bed: Bed) -> None:
    bed.bucket("ours")
    bed.bucket("theirs")
    how = ["--method", "physical", "--pgdata", str(bed.data), "--level", str(bed.level), "--url", bed.url]
    bed.ours("Matriarch, physical", "ours", "backup", *how, "--jobs", str(bed.jobs))
    bed.pgbackrest_stanza("theirs")
    common, here, environment = bed.pgbackrest_options("theirs")
    speed = ["--compress-type=zst", f"--compress-level={bed.level}", f"--process-max={bed.jobs}"]
    how = ["--type=full", "--repo1-retention-full=1", "--start-fast", "--no-archive-check", "backup"]
    timed("pgBackRest zst, physical", ["pgbackrest", *common, *here, *speed, *how], environment)


def _change(bed: Bed, rows: str) -> None:
    texts = [
        f"UPDATE {table} SET {column} = {column} + 1 WHERE "
        + rows.format(table=table, key=key, share=SHARE, every=round(_STRETCH / SHARE), stretch=_STRETCH)
        for table, key, column in _TABLES
    ]
    words = [str(BIN / "psql"), "-h", str(bed.place), "-U", "postgres", "-q", "-v", "ON_ERROR_STOP=1"]
    for text in (*texts, "CHECKPOINT"):
        subprocess.run([*words, "-c", text, DATABASE], check=True)


def _restores(bed: Bed, name: str) -> dict[str, Run]:
    """`present`: the directory as it is now, of a server that was lost."""
    present, restored = bed.place / "present", bed.place / "restored"
    subprocess.run(["cp", "-a", str(bed.data), str(present)], check=True)
    (present / "postmaster.pid").unlink()
    common, _, environment = bed.pgbackrest_options("theirs")
    common.append(f"--process-max={bed.jobs}")

    def ours(title: str, *words: str) -> Run:
        jobs = ["--jobs", str(bed.jobs)]
        run = bed.ours(title, "ours", "restore", "--to-directory", str(restored), *jobs, *words)
        check(restored)
        shutil.rmtree(restored)
        return run

    def theirs(title: str, directory: Path, *words: str) -> Run:
        directory.mkdir(mode=0o700, exist_ok=True)
        run = timed(title, ["pgbackrest", *common, f"--pg1-path={directory}", *words, "restore"], environment)
        check(directory)
        shutil.rmtree(directory)
        return run

    return {
        "full": ours(f"Matriarch, restore ({name})"),
        "reuse": ours(f"Matriarch, restore --reuse ({name})", "--reuse", str(present)),
        "their full": theirs(f"pgBackRest, restore ({name})", restored),
        "their delta": theirs(f"pgBackRest, restore --delta ({name})", present, "--delta"),
    }

"""barman-cloud beside ours: a base backup into the same S3 server, and WAL as an archive_command would send it.

It encrypts nothing itself, so it has less to do than the others. Debian's 3.4 knows gzip, and snappy where another
package is there; gzip is what its manual begins with.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bench.timed import Run, timed
from dev.s3 import REGION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.peers import Bed

_PREFIX = "c"
_SERVER = "bench"


def _environment(bed: Bed) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": bed.store.access_key,
        "AWS_SECRET_ACCESS_KEY": bed.store.secret_key,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CA_BUNDLE": str(bed.store.ca_file),
        "PYTHONPATH": "",  # it has its own
    }


def physical(bed: Bed) -> Run:
    """A base backup with gzip."""
    folder = bed.bucket("barman")
    words = ["barman-cloud-backup", "--cloud-provider", "aws-s3", "--endpoint-url", bed.store.endpoint, "--gzip"]
    words += ["--immediate-checkpoint", "--jobs", str(bed.jobs), "--host", str(bed.place), "--user", "postgres"]
    run = timed("barman-cloud gzip, physical", [*words, f"s3://barman/{_PREFIX}", _SERVER], _environment(bed))
    run = replace(run, stored=sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()))
    bed.emptied("barman")
    return run


def wal(bed: Bed, segments: Sequence[Path]) -> Run:
    """One process for each segment, one after the other, as PostgreSQL calls it."""
    bed.bucket("barmanwal")
    send = "barman-cloud-wal-archive --cloud-provider aws-s3 --gzip --endpoint-url"
    loop = f'for f in "$@"; do {send} {bed.store.endpoint} s3://barmanwal/{_PREFIX} {_SERVER} "$f" || exit 1; done'
    run = timed("barman-cloud gzip, WAL", ["sh", "-c", loop, "sh", *map(str, segments)], _environment(bed))
    bed.emptied("barmanwal")
    return run

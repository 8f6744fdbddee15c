"""A few of the kills that `python -m tests.postgres.backup.killing --kills 200` makes by the hundred."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest

from dev.s3 import S3Server
from tests.postgres.backup import killing


@pytest.mark.timeout(420)
def test_sigkill_at_random_moments(tools: Path, s3server: S3Server) -> None:
    seed = int(os.environ.get("SEED", "0")) or random.randrange(1, 1 << 30)
    print("seed", seed)
    place = Path(tempfile.mkdtemp(prefix="k", dir="/tmp"))
    try:
        with killing.make(place, s3server, seed) as bed:
            for method in ("logical", "physical", "logical", "physical"):
                killing.kill_a_job(bed, method)
            for _ in range(2):
                killing.kill_the_archiver(bed)
            killing.restored(bed)
        assert sum(n for what, n in bed.figures.items() if what.endswith(("killed", "before"))) == 6
        assert bed.figures["logical restored"] >= 1
        assert bed.figures["physical restored"] >= 1
        assert bed.figures["WAL files compared"] >= 1
    finally:
        shutil.rmtree(place, ignore_errors=True)

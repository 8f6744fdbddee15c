"""A stream bigger than the memory: a Job with 256 MiB backs up, verifies and restores what does not fit into it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.s3 import S3Server
from matriarch.backup.jobresult import Result
from matriarch.backup.jobspec import BackupTask, JobSpec, RestoreTask, ServerSpec, StoreSpec, VerifyTask
from tests.postgres.backup.bed import CLUSTER, Postgres, job_environment, s3_spec
from tests.postgres.backup.gcsbed import gcs_spec
from tests.postgres.backup.memgroup import MemoryGroup, memory_group

LIMIT = 256 << 20
TEXT = 600 << 20  # bytes of SQL; it hardly compresses, so that what is stored does not fit either


@pytest.fixture(scope="module")
def big(source: Postgres) -> Iterator[str]:
    source.sql("CREATE DATABASE big")
    source.sql(
        "CREATE TABLE t (i int, w bytea)",
        # 100 KiB a row of random bytes, twice as long in SQL
        f"""INSERT INTO t SELECT i, (SELECT string_agg(uuid_send(gen_random_uuid()), ''::bytea)
            FROM generate_series(1, 6400) WHERE i > 0) FROM generate_series(1, {TEXT // 204_800}) i""",
        database="big",
    )
    yield "big"
    source.sql("DROP DATABASE big WITH (FORCE)")


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    try:
        with memory_group(LIMIT) as found:
            yield found
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")


def run(group: MemoryGroup, folder: Path, **spec: Any) -> tuple[Result, int]:
    """The Job's result, and the most memory it held, its children included."""
    folder.mkdir(exist_ok=True)
    environment = job_environment(JobSpec(cluster=CLUSTER, keys=("k",), **spec), folder)
    process = group.popen([sys.executable, "-m", "matriarch.backup.job"], environment)
    peak = 0
    while process.poll() is None:
        peak = max(peak, group.anonymous())
        time.sleep(0.05)
    assert process.returncode == 0, (folder / "termination-log").read_text()
    assert group.killed() == 0
    return Result.from_json((folder / "termination-log").read_text()), peak


@pytest.fixture(params=["s3", "gcs"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> StoreSpec:
    if request.param == "gcs":
        return StoreSpec(gcs=gcs_spec(request.getfixturevalue("gcsserver"), "backups", tmp_path.name))
    s3server: S3Server = request.getfixturevalue("s3server")
    return StoreSpec(s3=s3_spec(s3server, "backups", tmp_path / "c", prefix=tmp_path.name))


def test_a_job_with_256_mib(
    big: str, source: Postgres, target: Postgres, store: StoreSpec, tmp_path: Path, group: MemoryGroup
) -> None:
    server = ServerSpec(hosts=(str(source.folder),), tls=None)
    result, peak = run(
        group, tmp_path / "job", task="backup", store=store, server=server, backup=BackupTask(databases=(big,))
    )
    assert result.backup is not None
    assert result.backup.size > 2 * LIMIT
    assert result.backup.stored_size > LIMIT
    assert peak < 200 << 20
    print(f"backup: {result.backup.size >> 20} MiB of SQL, peak {peak >> 20} MiB")

    _, peak = run(group, tmp_path / "job", task="verify", store=store, verify=VerifyTask())
    assert peak < 150 << 20
    print(f"verify: peak {peak >> 20} MiB")

    there = ServerSpec(hosts=(str(target.folder),), user="postgres", tls=None)
    task = RestoreTask(backup="latest", mode="new", restore_id="r", amcheck=False)
    result, peak = run(group, tmp_path / "job", task="restore", store=store, server=there, restore=task)
    assert result.restore is not None
    assert result.restore.rows == TEXT // 204_800
    assert peak < 200 << 20
    print(f"restore: peak {peak >> 20} MiB")


def test_the_limit_is_one(group: MemoryGroup) -> None:
    """The same box ends a program that holds it all."""
    process = group.popen([sys.executable, "-c", "x = bytearray(400 << 20)"], os.environ, stderr=subprocess.DEVNULL)
    assert process.wait(60) != 0

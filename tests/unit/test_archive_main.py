"""The archiver's process ends with the one that started it: an agent that was killed leaves none behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from matriarch.archive.config import ENVIRONMENT, ArchiveConfig
from matriarch.backup.jobspec import ClusterIdentity, LocalStore, StoreSpec

PARENT = """
import subprocess, sys
print(subprocess.Popen([sys.executable, "-m", "matriarch.archive.main"], stdout=subprocess.DEVNULL).pid, flush=True)
sys.stdin.read()
"""


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """The path of a socket has an end after 107 bytes."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.timeout(60)
def test_it_ends_when_whoever_started_it_was_killed(short_folder: Path) -> None:
    config = ArchiveConfig(
        cluster=ClusterIdentity(namespace="prod", name="orders", uid="u"),
        store=StoreSpec(local=LocalStore(path=str(short_folder))),
        own_folder=False,
        pgdata=str(short_folder / "pgdata"),
        keys=(),
        key_folder=str(short_folder),
        socket=str(short_folder / "s"),
        spool=str(short_folder / "spool"),
    )
    environment = {**os.environ, ENVIRONMENT: config.to_json()}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    archiver = int(parent.stdout.readline())
    try:
        end = time.monotonic() + 30
        while not (short_folder / "s").exists() and time.monotonic() < end:
            time.sleep(0.05)
        assert (short_folder / "s").exists()
        assert _runs(archiver)
        parent.kill()
        parent.wait()
        end = time.monotonic() + 15
        while _runs(archiver) and time.monotonic() < end:
            time.sleep(0.1)
        assert not _runs(archiver)
    finally:
        parent.stdin.close()
        parent.stdout.close()
        parent.kill()
        parent.wait()
        if _runs(archiver):
            os.kill(archiver, signal.SIGKILL)

"""The archiver's process ends with the one that started it: an agent that was killed leaves none behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from matriarch.archive.config import ENVIRONMENT, ArchiveConfig
from matriarch.backup.jobspec import ClusterIdentity, LocalStore, StoreSpec
from tests.unit.archive_world import SYSTEM, DataFolder

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


def config(folder: Path) -> ArchiveConfig:
    return ArchiveConfig(
        cluster=ClusterIdentity(namespace="prod", name="orders", uid="u"),
        store=StoreSpec(local=LocalStore(path=str(folder))),
        own_folder=False,
        pgdata=str(folder / "pgdata"),
        keys=(),
        key_folder=str(folder),
        socket=str(folder / "s"),
        spool=str(folder / "spool"),
    )


def until(seen: Callable[[], bool], limit: float) -> bool:
    end = time.monotonic() + limit
    while not seen() and time.monotonic() < end:
        time.sleep(0.05)
    return seen()


@pytest.mark.timeout(60)
def test_it_ends_when_whoever_started_it_was_killed(short_folder: Path) -> None:
    environment = {**os.environ, ENVIRONMENT: config(short_folder).to_json()}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    archiver = int(parent.stdout.readline())
    try:
        assert until((short_folder / "s").exists, 30)
        assert _runs(archiver)
        parent.kill()
        parent.wait()
        assert until(lambda: not _runs(archiver), 15)
    finally:
        parent.stdin.close()
        parent.stdout.close()
        parent.kill()
        parent.wait()
        if _runs(archiver):
            os.kill(archiver, signal.SIGKILL)


@pytest.mark.timeout(60)
def test_it_ends_when_other_data_took_the_place(short_folder: Path) -> None:
    """So that whoever started it starts one for that data: with a Restore in place the agent's process lives on."""
    DataFolder(short_folder / "pgdata")
    environment = {**os.environ, ENVIRONMENT: config(short_folder).to_json()}
    archiver = subprocess.Popen([sys.executable, "-m", "matriarch.archive.main"], env=environment)
    try:
        assert until((short_folder / "s").exists, 30)
        time.sleep(2.5)  # it has looked at the data
        assert archiver.poll() is None
        (short_folder / "pgdata").rename(short_folder / "before")
        time.sleep(1.5)  # nothing is there for a while, as in a clone
        assert archiver.poll() is None
        DataFolder(short_folder / "pgdata", system=SYSTEM + 1)
        assert archiver.wait(15) == 0
    finally:
        archiver.kill()
        archiver.wait()

"""The commands of physical backups, as a person gives them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.postgres.backup.bed import KEY, Postgres
from tests.postgres.backup.physbed import started


def matriarch(*words: str, code: int = 0, said: bool = False) -> str:
    """Its output; what it said beside it when it failed, or when that is wanted."""
    environment = {**os.environ, "PYTHONPATH": "operator", "BACKUP_ENCRYPTION_KEY": KEY.secret.hex()}
    done = subprocess.run(
        [sys.executable, "-m", "matriarch.cli.main", *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 and not said else done.stderr


def test_from_backup_to_a_server(source: Postgres, short_folder: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    (tmp_path / "store").mkdir()
    here = ["--url", source.url(), "--store", store]
    assert "--pgdata" in matriarch("backup", *here, "--method", "physical", code=2)
    data = str(source.folder / "data")
    name = matriarch("backup", *here, "--method", "physical", "--pgdata", data).strip()
    listed = matriarch("backups", "--store", store)
    assert name in listed
    assert "physical" in listed
    assert "complete, authentic" in listed
    (found,) = json.loads(matriarch("backups", "--store", store, "-o", "json"))["backups"]
    assert (found["type"], found["suspect"], found["physical"]["pages"]) == ("physical", False, "passed")
    assert "is whole" in matriarch("verify", "--store", store)
    folder = short_folder / "cli"
    matriarch("restore", "--store", store, "--to-directory", str(folder / "data"), "--target", "immediate")
    assert "not empty" in matriarch("restore", "--store", store, "--to-directory", str(folder / "data"), code=1)
    onto = ["--store", store, "--to-directory", str(tmp_path / "beside"), "--reuse"]
    assert "no directory" in matriarch("restore", *onto, str(tmp_path / "gone"), code=2)
    assert "read and filled" in matriarch("restore", *onto, str(tmp_path), code=2)
    assert "--to-directory" in matriarch("restore", "--store", store, "--to", source.url(), "--reuse", data, code=2)
    told = json.loads(matriarch("restore", *onto, str(folder / "data"), "-o", "json"))
    assert (told["name"], told["bytesTaken"] > 20 << 20) == (name, True)
    taken = f"{told['bytesTaken']:,} bytes"
    shutil.rmtree(tmp_path / "beside")
    assert taken in matriarch("restore", *onto, str(folder / "data"), said=True)
    server = started(folder)
    try:
        assert server.databases() == source.databases()
    finally:
        server.stop()

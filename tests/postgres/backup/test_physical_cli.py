"""The commands of physical backups, as a person gives them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.postgres.backup.bed import KEY, Postgres
from tests.postgres.backup.physbed import started


def matriarch(*words: str, code: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": "operator", "BACKUP_ENCRYPTION_KEY": KEY.secret.hex()}
    done = subprocess.run(
        [sys.executable, "-m", "matriarch.cli.main", *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


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
    server = started(folder)
    try:
        assert server.databases() == source.databases()
    finally:
        server.stop()

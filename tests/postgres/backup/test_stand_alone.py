"""Restores made with docs/recovery/matriarch-decrypt.py alone: nothing of Matriarch is imported."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dev.s3 import S3Server
from matriarch.backup.jobspec import StoreSpec
from matriarch.backup.keys import PrivateKey
from tests.postgres.archive.archivebed import Archiver, archiving, done, wait
from tests.postgres.backup.bed import KEY, ODD, Postgres, make_backup, s3_spec
from tests.postgres.backup.physbed import physical_backup, started

SCRIPT = Path(__file__).parents[3] / "docs" / "recovery" / "matriarch-decrypt.py"
PAIR = PrivateKey(bytes(range(7, 39)))


def decrypt(*words: Any, fails: bool = False) -> str:
    """Its output. -I and another folder: neither this tree nor anything installed beside it is importable as ours."""
    ran = subprocess.run([sys.executable, "-I", SCRIPT, *words], capture_output=True, text=True, check=False, cwd="/")
    assert (ran.returncode != 0) == fails, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def download(spec: StoreSpec, s3server: S3Server, folder: Path) -> Path:
    """What `aws s3 sync` does."""
    assert spec.s3 is not None
    client = s3server.client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="backups", Prefix=f"{spec.s3.prefix}/"):
        for found in page.get("Contents", []):
            path = folder / found["Key"].removeprefix(f"{spec.s3.prefix}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file("backups", found["Key"], str(path))
    return folder


@pytest.mark.timeout(420)
def test_a_store_becomes_servers_again(tools: Path, short_folder: Path, tmp_path: Path, s3server: S3Server) -> None:
    """Logical for a key, physical for a public key, and an archive that goes on after it."""
    from matriarch.backup.store import open_store
    from tests.postgres.backup.bed import fill

    spec = StoreSpec(s3=s3_spec(s3server, "backups", tmp_path / "credentials", prefix=f"alone-{tmp_path.name}"))
    server = Postgres(short_folder / "alone").create()
    fill(server)
    server.stop()
    archiver = Archiver.create(short_folder / "alone-a", spec, server.folder / "data")
    archiving(server, archiver)
    archiver.start()
    server.start()
    try:
        store = open_store(spec)
        logical = make_backup(store, server)
        physical = physical_backup(store, server, key=PAIR.public)
        with pytest.raises(Exception, match="only the public half"):
            physical.manifest.open([PAIR.public])
        server.sql("CREATE TABLE later AS SELECT generate_series(1, 1000) AS i")
        server.sql("SELECT pg_switch_wal()")
        last = server.sql("SELECT pg_walfile_name(pg_current_wal_lsn() - 16777216)")[0][0]
        wait(lambda: last in done(server), f"{last} is archived")
        wanted = {name: server.dump(name) for name in ("app", ODD)}
    finally:
        server.stop(signal.SIGQUIT)
        archiver.stop()
    here = download(spec, s3server, tmp_path / "store")
    (tmp_path / "key").write_text(KEY.secret.hex())
    (tmp_path / "private").write_text(PAIR.text)
    (tmp_path / "public").write_text(PAIR.public.text)

    assert "authentic" in decrypt("list", tmp_path / "key", here)
    decrypt("backup", tmp_path / "key", here, tmp_path / "sql", "--id", logical.body.id)
    assert "public key" in decrypt("backup", tmp_path / "public", here, tmp_path / "no", fails=True)
    target = Postgres(short_folder / "alone-l").create()
    try:
        where = f"host={target.folder} user=postgres dbname=postgres"
        script = tmp_path / "sql" / "backup.sql"
        subprocess.run(
            ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", where, "-f", script], check=True, capture_output=True
        )
        assert {name: target.dump(name) for name in wanted} == wanted
    finally:
        target.stop(signal.SIGQUIT)

    decrypt("wal", tmp_path / "key", here, short_folder / "alone-w")
    for number, more in enumerate(((), ("--wal", short_folder / "alone-w"))):
        folder = short_folder / f"alone-{number}"
        decrypt("backup", tmp_path / "private", here, folder / "data", "--id", physical.body.id, *more)
        copy = started(folder)
        try:
            later = copy.sql("SELECT to_regclass('later') IS NOT NULL")[0][0]
            assert later == bool(more)
            copy.sql("INSERT INTO shop.cache SELECT generate_series(1, 10)", database="app")  # unlogged
            assert {name: copy.dump(name) for name in wanted} == wanted
        finally:
            copy.stop(signal.SIGQUIT)


@pytest.mark.timeout(300)
def test_what_it_refuses_and_that_it_leaves_nothing(source: Postgres, tmp_path: Path) -> None:
    from tests.postgres.backup.bed import local

    folder = tmp_path / "store"
    made = physical_backup(local(folder), source)
    (tmp_path / "key").write_bytes(KEY.secret)
    out = tmp_path / "out"
    packs = sorted((folder / "physical" / made.body.id).glob("*"))
    manifest = folder / made.manifest.key
    for path in (*packs, manifest):
        whole = path.read_bytes()
        for at in (0, 40, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            assert "refused" in decrypt("backup", tmp_path / "key", folder, out, fails=True)
            assert list(out.iterdir()) == []
        for altered in (whole[:-1], whole + b"\0", b"", packs[0].read_bytes() if path != packs[0] else b"x"):
            path.write_bytes(altered)
            assert "refused" in decrypt("backup", tmp_path / "key", folder, out, fails=True)
        path.unlink()
        decrypt("backup", tmp_path / "key", folder, out, fails=True)
        assert list(out.iterdir()) == []
        path.write_bytes(whole)
    assert "every check passed" in decrypt("backup", tmp_path / "key", folder, out)
    assert "is not empty" in decrypt("backup", tmp_path / "key", folder, out, fails=True)
    assert (out / "global" / "pg_control").stat().st_size == 8192
    assert ", well" in decrypt("verify", tmp_path / "key", folder)

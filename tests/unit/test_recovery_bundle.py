"""The recovery bundle: it holds the key sealed and no other secret, and the stand-alone reader restores with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from matriarch.backup import bundle, catalog
from matriarch.backup.jobspec import LocalStore
from matriarch.backup.keys import Kek, LocalKey, PrivateKey
from matriarch.backup.local import Local
from matriarch.cli.main import app
from matriarch.errors import Corrupt, Refused
from tests.unit.test_backup_catalog import KEY, SYSTEM, add
from tests.unit.test_backup_standalone import SCRIPT

PHRASE = "correct horse battery staple"
OFFLINE = PrivateKey(bytes(range(9, 41)))


@pytest.fixture
def store(tmp_path: Path) -> Local:
    (tmp_path / "store").mkdir()
    found = Local(LocalStore(path=str(tmp_path / "store")))
    catalog.claim(found, None, SYSTEM, "now")
    add(found, 2, text=b"SELECT 'older';\n")
    add(found, 1, text=b"SELECT 'newest';\n")
    return found


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATRIARCH_PASSPHRASE", PHRASE)
    monkeypatch.delenv("BACKUP_ENCRYPTION_KEY", raising=False)


def made(tmp_path: Path, key: str, *more: str) -> Path:
    (tmp_path / "key").write_text(key)
    out = tmp_path / f"bundle{len(list(tmp_path.iterdir()))}"
    words = ["keys", "bundle", str(out), "--store", str(tmp_path / "store"), "--key-file", str(tmp_path / "key"), *more]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert out.stat().st_mode & 0o777 == 0o600
    return out


def alone(*words: object, phrase: str = PHRASE) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MATRIARCH_PASSPHRASE": phrase}
    return subprocess.run(
        [sys.executable, "-I", *map(str, words)], capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.parametrize("sealed", ["passphrase", "public key"])
@pytest.mark.parametrize("key", [KEY, PrivateKey(bytes(range(5, 37)))], ids=["key", "pair"])
def test_a_bundle_and_the_store_are_enough(
    tmp_path: Path, store: Local, sealed: str, key: LocalKey | PrivateKey
) -> None:
    if isinstance(key, PrivateKey):
        add(store, 0.5, key=key.public, text=b"SELECT 'newest';\n")
    (tmp_path / "offline").write_text(OFFLINE.text)
    (tmp_path / "offline.pub").write_text(OFFLINE.public.text)
    text = key.text if isinstance(key, PrivateKey) else key.secret.hex()
    file = made(tmp_path, text, *(["--for", str(tmp_path / "offline.pub")] if sealed == "public key" else []))
    for secret in (text, key.secret.hex(), PHRASE):
        assert secret not in file.read_text()
    held = json.loads(file.read_text())
    assert [m["sha256"] for m in held["newest"]] == [m.sha256 for m in catalog.read_catalog(store).manifests]
    if sealed == "public key":
        assert bundle.open_bundle(file.read_bytes(), private=OFFLINE) == key
    else:
        assert bundle.open_bundle(file.read_bytes(), passphrase=PHRASE) == key
    # As its instructions say: the reader comes out of the bundle itself.
    (tmp_path / "reader.py").write_text(held["decryptor"])
    private = ["--private", tmp_path / "offline"] if sealed == "public key" else []
    done = alone(tmp_path / "reader.py", "backup", file, tmp_path / "store", tmp_path / "sql", *private)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sql" / "backup.sql").read_bytes() == b"SELECT 'newest';\n"


def test_the_wrong_passphrase_and_a_damaged_bundle(tmp_path: Path, store: Local) -> None:
    file = made(tmp_path, KEY.secret.hex())
    with pytest.raises(Refused) as error:
        bundle.open_bundle(file.read_bytes(), passphrase="wrong" * 3)
    assert error.value.reason == "WrongKey"
    refused = alone(SCRIPT, "list", file, tmp_path / "store", phrase="wrong" * 3)
    assert (refused.returncode, "not the bundle's passphrase" in refused.stderr) == (1, True)
    held = json.loads(file.read_text())
    for where, value in (
        ("id", "00" * 8),
        ("sealed", {}),
        ("alg", "X25519"),
        ("sealed", {**held["key"]["sealed"], "n": 1 << 30}),
    ):
        damaged = json.dumps({**held, "key": {**held["key"], where: value}}).encode()
        with pytest.raises((Corrupt, Refused)):
            bundle.open_bundle(damaged, passphrase=PHRASE)
    with pytest.raises(Refused, match="shorter"):
        bundle.with_passphrase(KEY.id, KEY.secret, "short")


def test_a_store_that_was_set_back_shows(tmp_path: Path, store: Local) -> None:
    file = made(tmp_path, KEY.secret.hex())
    newest, older = catalog.read_catalog(store).manifests
    (tmp_path / "store" / newest.key).unlink()
    note = alone(SCRIPT, "list", file, tmp_path / "store")
    assert note.returncode == 0
    assert f"{newest.key} of the bundle is not here" in note.stderr
    # Another backup in its place, made by a holder of the key: the bundle knows better.
    again = add(store, 0, sequence=newest.body.sequence, id=newest.body.id, name=newest.body.name)
    assert again.key == newest.key
    refused = alone(SCRIPT, "list", file, tmp_path / "store")
    assert (refused.returncode, "not the one that the bundle knows" in refused.stderr) == (1, True)
    assert older.key not in refused.stderr


def test_a_public_key_makes_a_bundle_without_a_key(tmp_path: Path, store: Local) -> None:
    file = made(tmp_path, OFFLINE.public.text)
    assert json.loads(file.read_text())["key"] == {"id": OFFLINE.id, "alg": "X25519", "sealed": None}
    with pytest.raises(Refused, match="holds no key"):
        bundle.open_bundle(file.read_bytes(), passphrase=PHRASE)


def test_a_pair_is_made_once_and_never_written_over(tmp_path: Path) -> None:
    words = ["keys", "make", "--private", str(tmp_path / "a"), "--public", str(tmp_path / "b")]
    assert CliRunner().invoke(app, words).exit_code == 0
    private, public = Kek.read(tmp_path / "a"), Kek.read(tmp_path / "b")
    assert isinstance(private, PrivateKey)
    assert private.public == public
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    before = (tmp_path / "a").read_bytes()
    assert CliRunner().invoke(app, words).exit_code != 0
    assert (tmp_path / "a").read_bytes() == before

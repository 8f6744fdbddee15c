"""docs/recovery/matriarch-decrypt.py: the reader for a day with nothing else, held to the same vectors."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from matriarch.backup.format import seal
from matriarch.backup.keys import Dek, Kek

SCRIPT = Path(__file__).parents[2] / "docs" / "recovery" / "matriarch-decrypt.py"
VECTORS = json.loads((Path(__file__).parent / "backup_format_vectors.json").read_text())


def decrypt(folder: Path, key: bytes, data: bytes) -> subprocess.CompletedProcess[bytes]:
    (folder / "key").write_bytes(key)
    (folder / "object").write_bytes(data)
    # -I: neither this tree nor anything else of ours is importable.
    return subprocess.run(
        [sys.executable, "-I", SCRIPT, "object", folder / "key", folder / "object"], capture_output=True, check=False
    )


@pytest.mark.parametrize("vector", VECTORS, ids=[v["name"] for v in VECTORS])
def test_vectors(vector: dict[str, str], tmp_path: Path) -> None:
    kek = bytes.fromhex(vector["kek"])
    for form in (kek, kek.hex().encode() + b"\n", base64.b64encode(kek), base64.urlsafe_b64encode(kek).rstrip(b"=")):
        done = decrypt(tmp_path, form, bytes.fromhex(vector["object"]))
        assert done.returncode == 0, done.stderr
        assert done.stdout == bytes.fromhex(vector["plain_seed"]) * int(vector["plain_repeat"])
    assert json.loads(done.stderr) == vector["context"]


def test_what_it_refuses(tmp_path: Path) -> None:
    kek, dek = Kek.of(bytes(range(32))), Dek.generate()
    whole = seal(dek, {"backup": "x"}, "none", bytes(3 << 20), [kek.wrap(dek)])
    for data in (
        whole[:-1],
        whole[: -(1 << 20) - 16],
        whole + b"\0",
        whole[:50],
        b"",
        b"SELECT 1",
        whole[:-9] + whole[-8:],
    ):
        assert decrypt(tmp_path, kek.secret, data).returncode != 0
    flipped = bytearray(whole)
    for position in (8, 30, 60, 100, len(whole) // 2, len(whole) - 1):
        flipped[position] ^= 1
        assert decrypt(tmp_path, kek.secret, bytes(flipped)).returncode != 0
        flipped[position] ^= 1
    assert decrypt(tmp_path, kek.secret, bytes(flipped)).stdout == bytes(3 << 20)
    refused = decrypt(tmp_path, bytes(32), whole)
    assert refused.stdout == b""
    assert kek.id in refused.stderr.decode()

"""Public-key slots: whoever has the public half writes what only the private half opens."""

from __future__ import annotations

import base64
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.archive import rotation
from matriarch.archive.keyring import Keyring
from matriarch.archive.vault import Vault
from matriarch.backup import catalog, sealedbox
from matriarch.backup.format import Opener, seal
from matriarch.backup.jobspec import LocalStore
from matriarch.backup.keys import Dek, Kek, LocalKey, PrivateKey, PublicKey, open_slots
from matriarch.backup.local import Local
from matriarch.errors import Corrupt, Refused
from tests.unit.archive_world import CLUSTER, named, wal
from tests.unit.test_backup_catalog import KEY, SYSTEM, add, files
from tests.unit.test_backup_standalone import SCRIPT

PAIR = PrivateKey(bytes(range(32)))
DEK = Dek(bytes(range(50, 82)), "00112233445566778899aabbccddeeff")
# Made once; a later version that reads it otherwise reads no old backup.
SLOT = {
    "alg": "X25519",
    "kek": "47917ad7f5137c6a",
    "epk": "7d9c24316539825c1896e57f28197746793ce60cbee3ad47da9d07b85fa55e2a",
    "wrapped": "4b6327b71c6639ad96a5f20280e64b9c7af3baa0eb53d1923be47db1ba9be459078c23b8cfe62b8fc47ff61d7f7cff04",
}


@pytest.fixture
def store(tmp_path: Path) -> Local:
    (tmp_path / "store").mkdir()
    found = Local(LocalStore(path=str(tmp_path / "store")))
    catalog.claim(found, None, SYSTEM, "now")
    return found


def test_the_slot_of_the_documentation() -> None:
    assert PAIR.id == SLOT["kek"]
    assert open_slots(DEK.id, [SLOT], [PAIR], what="it") == DEK


@given(st.binary(min_size=32, max_size=32))
def test_only_the_private_half_opens(secret: bytes) -> None:
    pair, dek = PrivateKey(secret), Dek.generate()
    for writer in (pair.public, pair):
        slot = writer.wrap(dek)
        assert open_slots(dek.id, [slot], [KEY, pair], what="it") == dek
        with pytest.raises(Refused, match="only the public half") as error:
            open_slots(dek.id, [slot], [pair.public], what="it")
        assert error.value.reason == "WrongKey"
        with pytest.raises(Refused, match="is encrypted with key"):
            open_slots(dek.id, [slot], [KEY, PrivateKey(bytes(31) + b"\1")], what="it")


def test_nothing_of_a_slot_can_be_altered_or_moved() -> None:
    with pytest.raises(Corrupt):
        PAIR.unwrap("ff" * 16, SLOT)  # of another backup
    for field in ("epk", "wrapped"):
        for at in range(0, len(SLOT[field]), 7):
            digit = "0" if SLOT[field][at] != "0" else "1"
            with pytest.raises(Corrupt):
                PAIR.unwrap(DEK.id, {**SLOT, field: SLOT[field][:at] + digit + SLOT[field][at + 1 :]})
    for field in ("epk", "wrapped"):
        for value in ("", "zz", "00" * 32, None):  # all zeros: a point of low order
            with pytest.raises(Corrupt):
                PAIR.unwrap(DEK.id, {**SLOT, field: value})
        with pytest.raises(Corrupt):
            PAIR.unwrap(DEK.id, {k: v for k, v in SLOT.items() if k != field})
    # What is sealed for one purpose is nothing for another.
    sealed = sealedbox.seal(PAIR.public.public, DEK.secret, sealedbox.BUNDLE, DEK.id)
    with pytest.raises(Corrupt):
        PAIR.unwrap(DEK.id, sealed)
    # A slot of one way of wrapping under the name of the other is passed over.
    with pytest.raises(Refused):
        open_slots(DEK.id, [{**SLOT, "alg": "A256GCM"}], [PAIR], what="it")


def test_the_forms_of_a_pair() -> None:
    assert Kek.parse(PAIR.text.encode() + b"\n", origin="x") == PAIR
    assert Kek.parse(PAIR.public.text.encode(), origin="x") == PAIR.public
    assert PAIR.text[15:] not in repr(PAIR) + str(PAIR)
    assert Kek.parse(KEY.secret, origin="x") == LocalKey(KEY.secret)
    for text in (b"x25519-public:", b"x25519-private:AAAA", b"rsa:" + base64.b64encode(bytes(32)), b":" * 5):
        with pytest.raises(Refused, match="holds no encryption key"):
            Kek.parse(text, origin="x")


def test_a_writer_of_backups_reads_none(store: Local) -> None:
    made = add(store, 1, key=PAIR.public)
    with pytest.raises(Refused, match="only the public half"):
        catalog.open_manifest(store, made, [PAIR.public])
    assert catalog.open_manifest(store, made, [PAIR]).dek is not None
    # A second attempt of the same Job may say that the first one is there, and no more.
    own = catalog.open_own(store, made, PAIR.public)
    assert (own.body, own.dek, own.details.databases) == (made.body, None, ())
    with pytest.raises(Refused):  # of somebody else's
        catalog.open_own(store, add(store, 1), PAIR.public)


def test_from_a_key_to_a_pair_and_back(store: Local) -> None:
    add(store, 2)
    add(store, 1, key=PAIR.public)
    name = named("000000010000000000000001")
    Vault(store, Keyring([KEY], lambda: 0.0), system=int(SYSTEM), cluster=CLUSTER).put(
        name, wal(1, 1, system=int(SYSTEM))
    )
    before = files(store)
    with pytest.raises(Refused, match="only its private key can prove"):
        rotation.rotate(store, [KEY], PAIR.public)
    assert files(store) == before
    done = rotation.rotate(store, [KEY], PAIR)
    assert [h.error for h in done] == [""] * 3
    added = list(files(store) - before)
    assert len(added) == 2  # the third had its slot
    assert all(k.endswith(f"/{PAIR.id}.json") for k in added)
    later = Kek.of(b"l" * 32)
    assert [h.error for h in rotation.rotate(store, [PAIR], later)] == [""] * 3
    for manifest in catalog.read_catalog(store).manifests:
        catalog.open_manifest(store, manifest, [later])
        catalog.open_manifest(store, manifest, [PAIR])


def test_an_archive_does_not_change_to_a_key_that_only_writes() -> None:
    ring = Keyring([KEY], lambda: 0.0, lambda: [PAIR.public])
    _, slots = ring.current()
    assert [s["alg"] for s in slots] == ["A256GCM"]


def test_another_service_is_one_more_subclass() -> None:
    """Nothing but `id`, `algorithm`, `wrap` and `unwrap` is asked of a key."""

    class Service(Kek):
        algorithm = "A256GCM"

        @property
        def id(self) -> str:
            return "service"

        def wrap(self, dek: Dek) -> dict[str, str]:
            return {"alg": self.algorithm, "kek": self.id, "at": dek.secret.hex()}

        def unwrap(self, dek_id: str, slot: object) -> Dek:
            return Dek(bytes.fromhex(slot["at"]), dek_id)  # type: ignore[index]

    service = Service()
    whole = seal(DEK, {"backup": "x"}, "none", b"text", [service.wrap(DEK)])
    opener = Opener(keys=[service])
    assert b"".join((*opener.update(whole), opener.finish())) == b"text"


@pytest.mark.parametrize("key", [PAIR, replace(KEY)], ids=["pair", "key"])
def test_the_stand_alone_reader_opens_both_kinds(tmp_path: Path, key: PrivateKey | LocalKey) -> None:
    whole = seal(DEK, {"backup": "x"}, "none", b"text" * 999, [PAIR.wrap(DEK), KEY.wrap(DEK)])
    (tmp_path / "key").write_text(key.text if isinstance(key, PrivateKey) else key.secret.hex())
    (tmp_path / "object").write_bytes(whole)
    words = [sys.executable, "-I", SCRIPT, "object", tmp_path / "key", tmp_path / "object"]
    assert subprocess.run(words, capture_output=True, check=True).stdout == b"text" * 999
    (tmp_path / "key").write_text(PAIR.public.text)
    refused = subprocess.run(words, capture_output=True, check=False)
    assert refused.returncode == 1
    assert b"public key" in refused.stderr


def test_a_public_key_opens_nothing_by_itself() -> None:
    with pytest.raises(Refused, match="writes and can't read"):
        PublicKey(PAIR.public.public).unwrap(DEK.id, SLOT)

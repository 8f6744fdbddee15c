"""The recovery bundle: one file with what a person needs when all else is gone, its key sealed.

The key is sealed with a passphrase (scrypt) or for the public key of a pair that is kept elsewhere. Nothing else in it
is secret: the store's address, the newest manifests by their digests, the reader's source, what to type. The format is
in docs/reference/backup-format.md.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from matriarch.backup import sealedbox
from matriarch.backup.jobspec import Reason
from matriarch.backup.keys import Kek, LocalKey, PrivateKey, PublicKey
from matriarch.backup.manifest import Manifest
from matriarch.errors import Corrupt, Refused

FORMAT = "matriarch-recovery-bundle/1"
NEWEST = 20  # manifests that are remembered
SHORTEST = 12  # characters of a passphrase
_SCRYPT = "SCRYPT-A256GCM"
_N, _R, _P = 1 << 17, 8, 1  # 128 MiB and about half a second for each guess
_MOST = (1 << 20, 32, 16)  # more is no bundle of ours, and would only keep a machine busy

INSTRUCTIONS = """\
MATRIARCH RECOVERY BUNDLE
What you need: this file, its passphrase (or the private key it is sealed for), the store, and Python 3.11 or later.
1. Take the reader out of this file:
   python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["decryptor"])' BUNDLE > matriarch-decrypt.py
   pip install cryptography zstandard
2. Download the store named below (all objects, names unchanged) into a folder named `store`:
   aws s3 sync s3://... store      or: gcloud storage rsync -r gs://... store
3. python3 matriarch-decrypt.py list   BUNDLE store
   python3 matriarch-decrypt.py verify BUNDLE store
4. A logical backup, into any new server:
   python3 matriarch-decrypt.py backup BUNDLE store sql --id ID
   psql -X -v ON_ERROR_STOP=1 -d postgres -f sql/backup.sql
   A physical one, with the archived WAL after it:
   python3 matriarch-decrypt.py wal    BUNDLE store wal
   python3 matriarch-decrypt.py backup BUNDLE store data --id ID --wal wal
   postgres -D data            (the same major version; as a user that is not root)
With Matriarch at hand: `matriarch restore --store ...` with the key that this bundle holds.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is not secret."""

    created: str
    address: str
    endpoint: str | None
    owner: Mapping[str, Any]
    manifests: tuple[Manifest, ...]  # newest first
    decryptor: str


def make(known: Known, key: Kek, sealed: Mapping[str, Any] | None) -> str:
    """The bundle's text. `sealed`: of `with_passphrase` or `for_public_key`, None for a key that only writes."""
    value = {
        "format": FORMAT,
        "created": known.created,
        "instructions": INSTRUCTIONS,
        "store": {"address": known.address, "endpoint": known.endpoint},
        "owner": dict(known.owner),
        "newest": [
            {
                "manifest": m.key,
                "sha256": m.sha256,
                "name": m.body.name,
                "kind": m.body.kind,
                "finished": m.body.finished,
            }
            for m in known.manifests[:NEWEST]
        ],
        "key": {"id": key.id, "alg": key.algorithm, "sealed": None if sealed is None else dict(sealed)},
        "decryptor": known.decryptor,
    }
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def secret_of(key: Kek) -> bytes | None:
    """What has to be sealed; None for a public key. Raises Refused (BadKey) for a key in other hands than ours."""
    if isinstance(key, (LocalKey, PrivateKey)):
        return key.secret
    if isinstance(key, PublicKey):
        return None
    raise Refused(f"Key {key.id} cannot be taken out of its service, so no bundle can hold it.", reason=Reason.BAD_KEY)


def with_passphrase(key_id: str, secret: bytes, passphrase: str) -> dict[str, Any]:
    """Raises Refused (BadKey) for a passphrase that is guessed too soon."""
    if len(passphrase) < SHORTEST:
        raise Refused(
            f"The passphrase is shorter than {SHORTEST} characters; take several words.", reason=Reason.BAD_KEY
        )
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    wrapping = _scrypt(passphrase, salt, _N, _R, _P)
    wrapped = AESGCM(wrapping).encrypt(nonce, secret, _aad(key_id, _N, _R, _P))
    return {
        "alg": _SCRYPT, "n": _N, "r": _R, "p": _P,
        "salt": salt.hex(), "nonce": nonce.hex(), "wrapped": wrapped.hex(),
    }  # fmt: skip


def for_public_key(key_id: str, secret: bytes, recipient: PublicKey) -> dict[str, Any]:
    return dict(sealedbox.seal(recipient.public, secret, sealedbox.BUNDLE, key_id))


def open_bundle(text: bytes, *, passphrase: str | None = None, private: PrivateKey | None = None) -> Kek:
    """The key in a bundle. Raises Refused (KeyMissing, WrongKey) and Corrupt (ManifestCorrupt)."""
    try:
        held = json.loads(text)
        if held["format"] != FORMAT:
            raise Refused("This is no recovery bundle of version 1.", reason=Reason.VERSION_UNSUPPORTED)
        key_id, algorithm, sealed = held["key"]["id"], held["key"]["alg"], held["key"]["sealed"]
        if sealed is None:
            raise Refused(f"The bundle holds no key: {key_id} only writes.", reason=Reason.KEY_MISSING)
        secret = _unseal(key_id, sealed, passphrase, private)
        key: Kek = PrivateKey(secret) if algorithm == PrivateKey.algorithm else LocalKey(secret)
        if key.id != key_id:
            raise ValueError(key_id)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Corrupt("The recovery bundle is damaged.", reason=Reason.MANIFEST_CORRUPT) from None
    return key


def _unseal(key_id: str, sealed: Mapping[str, Any], passphrase: str | None, private: PrivateKey | None) -> bytes:
    try:
        if sealed["alg"] == sealedbox.ALGORITHM:
            if private is None:
                raise Refused(f"The bundle is sealed for key {sealed['kek']}; give it.", reason=Reason.KEY_MISSING)
            return sealedbox.unseal(private.secret, sealed, sealedbox.BUNDLE, key_id)
        n, r, p = int(sealed["n"]), int(sealed["r"]), int(sealed["p"])
        if sealed["alg"] != _SCRYPT or any(not 0 < v <= most for v, most in zip((n, r, p), _MOST, strict=True)):
            raise ValueError(sealed["alg"])
        if passphrase is None:
            raise Refused("The bundle is sealed with a passphrase; give it.", reason=Reason.KEY_MISSING)
        wrapping = _scrypt(passphrase, bytes.fromhex(sealed["salt"]), n, r, p)
        nonce, wrapped = bytes.fromhex(sealed["nonce"]), bytes.fromhex(sealed["wrapped"])
        return AESGCM(wrapping).decrypt(nonce, wrapped, _aad(key_id, n, r, p))
    except InvalidTag:
        raise Refused("This does not open the bundle; give the right one.", reason=Reason.WRONG_KEY) from None


def _scrypt(passphrase: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(passphrase.encode(), salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=32)


def _aad(key_id: str, n: int, r: int, p: int) -> bytes:
    return f"matriarch/bundle/1 {_SCRYPT} {key_id} {n} {r} {p}".encode()


def check_opens(manifests: Iterable[Manifest], key: Kek) -> list[str]:
    """Names of backups that have no slot for `key` in their manifest."""
    return [
        m.body.name
        for m in manifests
        if m.body.encryption is not None and all(slot.get("kek") != key.id for slot in m.body.encryption.slots)
    ]

"""Keys: the one a person keeps, the one each backup gets, and how the first wraps the second.

A key encryption key (KEK) is 32 bytes that a person keeps outside the cluster too. Every backup has a random data key
(DEK) of its own, stored beside it in slots: wrapped once for each KEK that may open it. A KEK is changed by adding a
slot (keys/<dek id>/<kek id>.json); the backup's objects never change. See docs/backup-format.md.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from matriarch.backup.jobspec import Reason
from matriarch.errors import Corrupt, Refused

KEY_BYTES = 32
ENVIRONMENT = "BACKUP_ENCRYPTION_KEY"
SLOT_ALGORITHM = "A256GCM"


def derive(secret: bytes, *, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA-256 (RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(secret)


@dataclass(frozen=True, slots=True)
class Kek:
    """32 secret bytes and their public fingerprint. `str` and `repr` never show the secret."""

    secret: bytes = field(repr=False)
    id: str = ""  # 16 hex digits, derived: names the key in messages, manifests and slots

    @classmethod
    def of(cls, secret: bytes) -> Self:
        return cls(secret, derive(secret, salt=b"", info=b"matriarch/kek-id/1", length=8).hex())

    @classmethod
    def generate(cls) -> Self:
        return cls.of(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def parse(cls, text: bytes, *, origin: str) -> Self:
        """A key as people store it: 32 raw bytes, 64 hex digits, or base64 (standard or URL-safe).

        Raises Refused (BadKey) that names `origin` and never quotes the content.
        """
        if len(text) == KEY_BYTES:
            return cls.of(text)
        compact = b"".join(text.split())
        if len(compact) == 2 * KEY_BYTES:
            try:
                return cls.of(binascii.unhexlify(compact))
            except binascii.Error:
                pass
        try:
            padded = compact.replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
            secret = base64.b64decode(padded + b"=" * (-len(padded) % 4), validate=True)
        except binascii.Error:
            secret = b""
        if len(secret) != KEY_BYTES:
            raise Refused(
                f"{origin} holds no encryption key: 32 bytes are needed, raw, as 64 hex digits or as base64; "
                "make one with `openssl rand -base64 32`.",
                reason=Reason.BAD_KEY,
            )
        return cls.of(secret)

    @classmethod
    def read(cls, path: Path) -> Self:
        try:
            text = path.read_bytes()
        except OSError as error:
            raise Refused(
                f"The encryption key file {path} can't be read ({error.strerror}).", reason=Reason.KEY_MISSING
            ) from None
        return cls.parse(text, origin=f"The key file {path}")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self | None:
        text = environment.get(ENVIRONMENT)
        return cls.parse(text.encode(), origin=f"The environment variable {ENVIRONMENT}") if text else None

    def wrap(self, dek: Dek) -> dict[str, str]:
        """A slot: the data key, readable with this KEK only."""
        nonce = secrets.token_bytes(12)
        wrapped = AESGCM(self._wrapping_key(dek.id)).encrypt(nonce, dek.secret, _slot_aad(dek.id, self.id))
        return {"alg": SLOT_ALGORITHM, "kek": self.id, "nonce": nonce.hex(), "wrapped": wrapped.hex()}

    def unwrap(self, dek_id: str, slot: Mapping[str, Any]) -> Dek:
        """Raises Corrupt when the slot was altered: the fingerprint has said before that the key is the right one."""
        try:
            secret = AESGCM(self._wrapping_key(dek_id)).decrypt(
                bytes.fromhex(slot["nonce"]), bytes.fromhex(slot["wrapped"]), _slot_aad(dek_id, self.id)
            )
            return Dek(secret, dek_id)
        except (InvalidTag, ValueError, KeyError, TypeError):
            raise Corrupt(
                f"The wrapped key {dek_id} was altered: key {self.id} does not open it.",
                reason=Reason.MANIFEST_CORRUPT,
            ) from None

    def _wrapping_key(self, dek_id: str) -> bytes:
        return derive(self.secret, salt=bytes.fromhex(dek_id), info=b"matriarch/kek-wrap/1", length=KEY_BYTES)


def _slot_aad(dek_id: str, kek_id: str) -> bytes:
    return f"matriarch/slot/1 {SLOT_ALGORITHM} {dek_id} {kek_id}".encode()


@dataclass(frozen=True, slots=True)
class Dek:
    """The data key of one backup. `id` is 32 hex digits."""

    secret: bytes = field(repr=False)
    id: str = ""

    @classmethod
    def generate(cls) -> Self:
        return cls(secrets.token_bytes(KEY_BYTES), secrets.token_hex(16))

    def manifest_key(self) -> bytes:
        """For the HMAC of the manifest; never used for anything else."""
        return derive(self.secret, salt=bytes.fromhex(self.id), info=b"matriarch/manifest/1", length=32)


def open_slots(dek_id: str, slots: Iterable[Mapping[str, Any]], keys: Iterable[Kek], *, what: str) -> Dek:
    """The data key, by whichever of `keys` has a slot.

    Raises Refused: KeyMissing when no key was given, WrongKey (with the fingerprints) when none fits.
    """
    given = {key.id: key for key in keys}
    usable = [s for s in slots if isinstance(s, Mapping) and s.get("alg") == SLOT_ALGORITHM]
    for slot in usable:
        if (key := given.get(str(slot.get("kek")))) is not None:
            return key.unwrap(dek_id, slot)
    needed = " or ".join(str(s.get("kek")) for s in usable) or "unknown"
    if not given:
        raise Refused(
            f"{what} is encrypted with key {needed}, and no key was given; set {ENVIRONMENT} or give a key file.",
            reason=Reason.KEY_MISSING,
        )
    raise Refused(
        f"{what} is encrypted with key {needed}, but the given key is {', '.join(given)}; give the right one.",
        reason=Reason.WRONG_KEY,
    )

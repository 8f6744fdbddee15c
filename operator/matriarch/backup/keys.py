"""Keys: the one a person keeps, the one each backup gets, and how the first wraps the second.

A key encryption key (KEK) is 32 bytes, or an X25519 pair, that a person keeps outside the cluster too. Every backup has
a random data key (DEK) of its own, stored beside it in slots: wrapped once for each KEK that may open it. A KEK is
changed by adding a slot (keys/<dek id>/<kek id>.json); the backup's objects never change. See
docs/reference/backup-format.md.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from matriarch.backup import sealedbox
from matriarch.backup.jobspec import Reason
from matriarch.errors import Corrupt, Refused

KEY_BYTES = 32
derive = sealedbox.derive
ENVIRONMENT = "BACKUP_ENCRYPTION_KEY"
ALGORITHMS = ("A256GCM", sealedbox.ALGORITHM)  # of slots that are understood here


class Kek(ABC):
    """Something that wraps data keys, and unwraps them where it can: the one interface that the engine knows.

    A key service (KMS) is one more subclass, with `id` naming its key and an `algorithm` of its own; those here hold
    their key themselves. Nothing shows a secret by `str` or `repr`.
    """

    __slots__ = ()

    algorithm: ClassVar[str]
    """Names the way of wrapping in every slot; a reader passes over what it does not know."""

    opens: ClassVar[bool] = True
    """False: it wraps only, so that who holds it writes backups that it cannot read."""

    @property
    @abstractmethod
    def id(self) -> str:
        """16 hex digits, public: names the key in messages, manifests and slots."""

    @abstractmethod
    def wrap(self, dek: Dek) -> dict[str, str]:
        """A slot: the data key, readable with this key only. Raises Unavailable where a service has to be asked."""

    @abstractmethod
    def unwrap(self, dek_id: str, slot: Mapping[str, Any]) -> Dek:
        """Raises Corrupt when the slot was altered: its fingerprint has said before that the key is the right one."""

    @staticmethod
    def of(secret: bytes) -> LocalKey:
        return LocalKey(secret)

    @staticmethod
    def generate() -> LocalKey:
        return LocalKey(secrets.token_bytes(KEY_BYTES))

    @staticmethod
    def parse(text: bytes, *, origin: str) -> Kek:
        """A key as people store it: 32 raw bytes, 64 hex digits, base64 (standard or URL-safe), or half of a pair as
        `x25519-public:` or `x25519-private:` and base64.

        Raises Refused (BadKey) that names `origin` and never quotes the content.
        """
        if len(text) == KEY_BYTES:
            return LocalKey(text)
        compact = b"".join(text.split())
        if len(compact) == 2 * KEY_BYTES:
            with contextlib.suppress(binascii.Error):
                return LocalKey(binascii.unhexlify(compact))
        kind, _, rest = compact.rpartition(b":")
        padded = rest.replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
        try:
            secret = base64.b64decode(padded + b"=" * (-len(padded) % 4), validate=True)
        except binascii.Error:
            secret = b""
        if len(secret) != KEY_BYTES or kind not in (b"", b"x25519-public", b"x25519-private"):
            raise Refused(
                f"{origin} holds no encryption key: 32 bytes are needed, raw, as 64 hex digits or as base64; "
                "make one with `openssl rand -base64 32`, or a pair with `matriarch keys make`.",
                reason=Reason.BAD_KEY,
            )
        if kind == b"":
            return LocalKey(secret)
        return PublicKey(secret) if kind == b"x25519-public" else PrivateKey(secret)

    @staticmethod
    def read(path: Path) -> Kek:
        try:
            text = path.read_bytes()
        except OSError as error:
            raise Refused(
                f"The encryption key file {path} can't be read ({error.strerror}).", reason=Reason.KEY_MISSING
            ) from None
        return Kek.parse(text, origin=f"The key file {path}")

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Kek | None:
        text = environment.get(ENVIRONMENT)
        return Kek.parse(text.encode(), origin=f"The environment variable {ENVIRONMENT}") if text else None


@dataclass(frozen=True, slots=True)
class LocalKey(Kek):
    """32 secret bytes in our own hands."""

    secret: bytes = field(repr=False)

    algorithm: ClassVar[str] = "A256GCM"

    @property
    def id(self) -> str:
        return derive(self.secret, salt=b"", info=b"matriarch/kek-id/1", length=8).hex()

    def wrap(self, dek: Dek) -> dict[str, str]:
        nonce = secrets.token_bytes(12)
        wrapped = AESGCM(self._wrapping_key(dek.id)).encrypt(nonce, dek.secret, self._aad(dek.id))
        return {"alg": self.algorithm, "kek": self.id, "nonce": nonce.hex(), "wrapped": wrapped.hex()}

    def unwrap(self, dek_id: str, slot: Mapping[str, Any]) -> Dek:
        try:
            secret = AESGCM(self._wrapping_key(dek_id)).decrypt(
                bytes.fromhex(slot["nonce"]), bytes.fromhex(slot["wrapped"]), self._aad(dek_id)
            )
            return Dek(secret, dek_id)
        except (InvalidTag, ValueError, KeyError, TypeError):
            raise altered(dek_id, self.id) from None

    def _wrapping_key(self, dek_id: str) -> bytes:
        return derive(self.secret, salt=bytes.fromhex(dek_id), info=b"matriarch/kek-wrap/1", length=KEY_BYTES)

    def _aad(self, dek_id: str) -> bytes:
        return f"matriarch/slot/1 {self.algorithm} {dek_id} {self.id}".encode()


@dataclass(frozen=True, slots=True)
class PublicKey(Kek):
    """The public half of an X25519 pair: enough to write a backup, and not to read one."""

    public: bytes

    algorithm: ClassVar[str] = sealedbox.ALGORITHM
    opens: ClassVar[bool] = False

    @property
    def id(self) -> str:
        return sealedbox.key_id(self.public)

    @property
    def text(self) -> str:
        """As it is stored in a file."""
        return f"x25519-public:{base64.b64encode(self.public).decode()}"

    def wrap(self, dek: Dek) -> dict[str, str]:
        return sealedbox.seal(self.public, dek.secret, sealedbox.SLOT, dek.id)

    def unwrap(self, dek_id: str, slot: Mapping[str, Any]) -> Dek:
        raise Refused(
            f"{self.id} is a public key, which writes and can't read; give its private key.", reason=Reason.WRONG_KEY
        )


@dataclass(frozen=True, slots=True)
class PrivateKey(Kek):
    """The private half, kept where restores are made; it can do what the public one can as well."""

    secret: bytes = field(repr=False)

    algorithm: ClassVar[str] = sealedbox.ALGORITHM

    @property
    def public(self) -> PublicKey:
        return PublicKey(sealedbox.public_of(self.secret))

    @property
    def id(self) -> str:
        return self.public.id

    @property
    def text(self) -> str:
        """As it is stored in a file: the secret itself."""
        return f"x25519-private:{base64.b64encode(self.secret).decode()}"

    def wrap(self, dek: Dek) -> dict[str, str]:
        return self.public.wrap(dek)

    def unwrap(self, dek_id: str, slot: Mapping[str, Any]) -> Dek:
        try:
            secret = sealedbox.unseal(self.secret, slot, sealedbox.SLOT, dek_id)
            return Dek(secret, dek_id)
        except (InvalidTag, ValueError, KeyError, TypeError):
            raise altered(dek_id, self.id) from None


def altered(dek_id: str, kek_id: str) -> Corrupt:
    return Corrupt(
        f"The wrapped key {dek_id} was altered: key {kek_id} does not open it.", reason=Reason.MANIFEST_CORRUPT
    )


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

    Raises Refused: KeyMissing when no key was given, WrongKey (with the fingerprints) when none fits or the one that
    does is only a public key.
    """
    given = {key.id: key for key in keys}
    known = [s for s in slots if isinstance(s, Mapping) and s.get("alg") in ALGORITHMS]
    for slot in known:
        key = given.get(str(slot.get("kek")))
        if key is not None and key.opens and key.algorithm == slot["alg"]:
            return key.unwrap(dek_id, slot)
    needed = " or ".join(str(s.get("kek")) for s in known) or "unknown"
    if not given:
        raise Refused(
            f"{what} is encrypted with key {needed}, and no key was given; set {ENVIRONMENT} or give a key file.",
            reason=Reason.KEY_MISSING,
        )
    if any(not key.opens and str(s.get("kek")) == key.id for s in known for key in given.values()):
        raise Refused(
            f"{what} is encrypted for key {needed}, of which only the public half was given, and that can't read; give "
            "its private key.",
            reason=Reason.WRONG_KEY,
        )
    raise Refused(
        f"{what} is encrypted with key {needed}, but the given key is {', '.join(given)}; give the right one.",
        reason=Reason.WRONG_KEY,
    )

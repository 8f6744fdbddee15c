"""A few secret bytes for the holder of a private key: X25519, HKDF-SHA-256, AES-256-GCM.

As HPKE's base mode (RFC 9180) with one message: a key pair for the occasion, whose private half is forgotten at once,
so that not even the writer can open what it wrote. What the bytes are for and which key they are is bound to them.
Byte for byte in docs/reference/backup-format.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

ALGORITHM = "X25519"
SLOT = "slot"  # a data key in a key slot
BUNDLE = "bundle"  # a key in a recovery bundle


def derive(secret: bytes, *, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA-256 (RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(secret)


def generate() -> bytes:
    """A private key."""
    return X25519PrivateKey.generate().private_bytes_raw()


def public_of(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def key_id(public: bytes) -> str:
    return derive(public, salt=b"", info=b"matriarch/x25519-id/1", length=8).hex()


def seal(public: bytes, secret: bytes, purpose: str, name: str) -> dict[str, str]:
    """`name`: the id of what is sealed. Raises ValueError for a public key that no pair has."""
    ephemeral = X25519PrivateKey.generate()
    sender = ephemeral.public_key().public_bytes_raw()
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(public))
    aad = _bound(purpose, name, public)
    key, nonce = _key(shared, sender, public, aad)
    wrapped = AESGCM(key).encrypt(nonce, secret, aad)
    return {"alg": ALGORITHM, "kek": key_id(public), "epk": sender.hex(), "wrapped": wrapped.hex()}


def unseal(private: bytes, slot: Mapping[str, Any], purpose: str, name: str) -> bytes:
    """Raises InvalidTag, ValueError, KeyError or TypeError for what was not sealed for this key, purpose and name."""
    sender, public = bytes.fromhex(slot["epk"]), public_of(private)
    shared = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(sender))
    aad = _bound(purpose, name, public)
    key, nonce = _key(shared, sender, public, aad)
    return AESGCM(key).decrypt(nonce, bytes.fromhex(slot["wrapped"]), aad)


def _bound(purpose: str, name: str, public: bytes) -> bytes:
    return f"matriarch/{purpose}/1 {ALGORITHM} {name} {key_id(public)}".encode()


def _key(shared: bytes, sender: bytes, public: bytes, aad: bytes) -> tuple[bytes, bytes]:
    # The nonce is derived with the key: a fresh pair makes both unique.
    both = derive(shared, salt=sender + public, info=b"matriarch/x25519-wrap/1 " + aad, length=44)
    return both[:32], both[32:]

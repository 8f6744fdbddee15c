"""The object format: a header that commits to its key, then authenticated chunks that can't be cut, moved or mixed.

Byte for byte in docs/reference/backup-format.md, with test vectors beside this module's test. In short:

    header   fixed part | context (canonical JSON) | commitment       immutable; its SHA-256 is every chunk's AAD
    slots    length | JSON                                             wrapped data keys, may be replaced by a copy
    chunks   AES-256-GCM of 1 MiB each, the last one shorter           nonce = prefix 7 | counter 4 | last 1

The construction is STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015) with a key of its own for each object, by HKDF
over the context: a chunk from another place, object or backup fails its tag; a missing end has no last chunk. GCM
alone commits to no key, so a commitment is compared before anything is decrypted.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from matriarch.backup.jobspec import Reason
from matriarch.backup.keys import Dek, Kek, derive
from matriarch.errors import Corrupt, Refused

MAGIC = b"MTRBKUP\x00"
VERSION = 1
SUITE = 1  # HKDF-SHA-256, AES-256-GCM in STREAM, SHA-256
CHUNK_LOG2 = 20
CODECS = {"none": 0, "gzip": 1, "zstd": 2}
TAG = 16
_FIXED = struct.Struct(">8sHHIIBB16s16s32s7sxI")
_COMMITMENT = 32
_LIMIT = 1 << 20  # bytes of header or slots: more is no header of ours


def canonical(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8; no fractions."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


@dataclass(frozen=True, slots=True)
class Header:
    """The immutable part. `context` says what the object is and where it belongs; all of it is authenticated."""

    dek_id: str
    object_id: str
    salt: bytes
    nonce_prefix: bytes
    codec: str
    chunk_log2: int
    context: Mapping[str, Any]
    commitment: bytes
    raw: bytes

    @classmethod
    def create(cls, dek: Dek, context: Mapping[str, Any], codec: str, *, chunk_log2: int = CHUNK_LOG2) -> Self:
        return cls.build(
            dek,
            context,
            codec,
            chunk_log2=chunk_log2,
            object_id=secrets.token_bytes(16),
            salt=secrets.token_bytes(32),
            nonce_prefix=secrets.token_bytes(7),
        )

    @classmethod
    def build(
        cls,
        dek: Dek,
        context: Mapping[str, Any],
        codec: str,
        *,
        chunk_log2: int,
        object_id: bytes,
        salt: bytes,
        nonce_prefix: bytes,
    ) -> Self:
        """With given random values; only for test vectors."""
        text = canonical(context)
        length = _FIXED.size + len(text) + _COMMITMENT
        fixed = _FIXED.pack(
            MAGIC,
            VERSION,
            SUITE,
            0,
            length,
            chunk_log2,
            CODECS[codec],
            bytes.fromhex(dek.id),
            object_id,
            salt,
            nonce_prefix,
            len(text),
        )
        _, commitment = _object_keys(dek, salt, text)
        raw = fixed + text + commitment
        return cls(dek.id, object_id.hex(), salt, nonce_prefix, codec, chunk_log2, context, commitment, raw)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """From exactly the header's bytes. Refuses what this version does not know in place of guessing."""
        try:
            _, version, suite, flags, length, log2, codec, dek, obj, salt, prefix, text_length = _FIXED.unpack_from(raw)
        except struct.error:
            raise _corrupt("its header is cut off") from None
        if version != VERSION or suite != SUITE or flags or codec not in CODECS.values() or not 10 <= log2 <= 26:
            raise Refused(
                f"The object has format version {version}, suite {suite}, flags {flags:#x}, codec {codec}, chunks of "
                f"2^{log2} bytes; this program reads version {VERSION}, suite {SUITE}, no flags: use a newer one.",
                reason=Reason.VERSION_UNSUPPORTED,
            )
        if length != len(raw) or _FIXED.size + text_length + _COMMITMENT != length:
            raise _corrupt("its header's lengths contradict each other")
        text = raw[_FIXED.size : _FIXED.size + text_length]
        try:
            context = json.loads(text)
        except (ValueError, RecursionError):
            raise _corrupt("its context is no JSON") from None
        if not isinstance(context, dict) or canonical(context) != text:
            raise _corrupt("its context is not canonical")
        name = next(n for n, c in CODECS.items() if c == codec)
        return cls(dek.hex(), obj.hex(), salt, prefix, name, log2, context, raw[-_COMMITMENT:], raw)

    def cipher(self, dek: Dek) -> _Chunks:
        """Raises Refused (WrongKey) when the commitment does not fit, before anything is decrypted."""
        key, commitment = _object_keys(dek, self.salt, canonical(self.context))
        if dek.id != self.dek_id or not hmac.compare_digest(commitment, self.commitment):
            raise Refused(
                f"The object was made with data key {self.dek_id} and the given key {dek.id} does not fit its header.",
                reason=Reason.WRONG_KEY,
            )
        return _Chunks(AESGCM(key), self.nonce_prefix, hashlib.sha256(self.raw).digest())


def _object_keys(dek: Dek, salt: bytes, context: bytes) -> tuple[bytes, bytes]:
    info = b"matriarch/object/1" + struct.pack(">H", SUITE) + context
    both = derive(dek.secret, salt=salt, info=info, length=64)
    return both[:32], both[32:]


def _corrupt(why: str) -> Corrupt:
    return Corrupt(f"The object is damaged: {why}.", reason=Reason.OBJECT_CORRUPT)


@dataclass(slots=True)
class _Chunks:
    aead: AESGCM
    prefix: bytes
    aad: bytes
    counter: int = 0

    def nonce(self, *, last: bool) -> bytes:
        if self.counter >= 1 << 32:
            raise Refused("An object holds at most 2^32 chunks.", reason=Reason.VERSION_UNSUPPORTED)
        nonce = self.prefix + struct.pack(">IB", self.counter, last)
        self.counter += 1
        return nonce


class Sealer:
    """Plaintext in pieces of any size → the object's bytes, in order. Holds at most one chunk."""

    def __init__(self, header: Header, dek: Dek, slots: Iterable[Mapping[str, str]]) -> None:
        self._chunks = header.cipher(dek)
        self._size = 1 << header.chunk_log2
        self._held = bytearray()
        text = canonical({"slots": list(slots)})
        self.prologue = header.raw + struct.pack(">I", len(text)) + text

    def update(self, data: bytes | memoryview) -> Iterator[bytes]:
        # A full chunk is held back until more follows, since only then is it known not to be the last.
        self._held += data
        while len(self._held) > self._size:
            chunk = bytes(memoryview(self._held)[: self._size])
            del self._held[: self._size]
            yield self._seal(chunk, last=False)

    def finish(self) -> bytes:
        return self._seal(bytes(self._held), last=True)

    def _seal(self, chunk: bytes, *, last: bool) -> bytes:
        return self._chunks.aead.encrypt(self._chunks.nonce(last=last), chunk, self._chunks.aad)


class Opener:
    """The object's bytes in pieces of any size → plaintext that is authentic. Holds at most one chunk and the header.

    Nothing of a chunk comes out before its tag was checked; `finish` says that the end is the real one, so a caller
    must not act on the whole before it returned.
    """

    def __init__(self, dek: Dek | None = None, *, keys: Iterable[Kek] = (), context: Mapping[str, Any] | None = None):
        self._dek, self._keys, self._context = dek, tuple(keys), context
        self._held = bytearray()
        self._chunks: _Chunks | None = None
        self._sealed = 0
        self._opened = 0
        self.header: Header | None = None

    def update(self, data: bytes | memoryview) -> Iterator[bytes]:
        self._held += data
        if self._chunks is None and not self._begin():
            return
        while len(self._held) > self._sealed:
            sealed = bytes(memoryview(self._held)[: self._sealed])
            del self._held[: self._sealed]
            yield self._open(sealed, last=False)

    def finish(self) -> bytes:
        if self._chunks is None:
            raise _corrupt("it ends inside its header")
        if len(self._held) < TAG:
            raise _corrupt(f"it ends after chunk {self._chunks.counter} without a last chunk")
        if len(self._held) == TAG and self._chunks.counter > 0:
            raise _corrupt("its last chunk is empty")
        return self._open(bytes(self._held), last=True)

    def _open(self, sealed: bytes, *, last: bool) -> bytes:
        assert self._chunks is not None
        number = self._chunks.counter
        try:
            return self._chunks.aead.decrypt(self._chunks.nonce(last=last), sealed, self._chunks.aad)
        except InvalidTag:
            raise _corrupt(
                f"chunk {number} is not authentic (altered, moved, cut off or from another object)"
            ) from None

    def _begin(self) -> bool:
        held = self._held
        if len(held) >= len(MAGIC) and not held.startswith(MAGIC):
            raise _corrupt("it does not begin as an encrypted backup does")
        if len(held) < _FIXED.size:
            return False
        (length,) = struct.unpack_from(">I", held, 16)
        if not _FIXED.size + _COMMITMENT <= length <= _LIMIT:
            # The version comes first: a later format may have another layout.
            Header.parse(bytes(held[: _FIXED.size]))
            raise _corrupt("its header has an impossible length")
        if len(held) < length + 4:
            return False
        (slots_length,) = struct.unpack_from(">I", held, length)
        if slots_length > _LIMIT:
            raise _corrupt("its key slots have an impossible length")
        if len(held) < length + 4 + slots_length:
            return False
        header = Header.parse(bytes(held[:length]))
        slots = bytes(held[length + 4 : length + 4 + slots_length])
        del held[: length + 4 + slots_length]
        if self._context is not None and canonical(self._context) != canonical(header.context):
            raise Corrupt(
                f"The object is another one than its name says: it is {header.context.get('path')} of backup "
                f"{header.context.get('backup')}.",
                reason=Reason.OBJECT_CORRUPT,
            )
        self._chunks = header.cipher(self._dek or _dek_from(header.dek_id, slots, self._keys))
        self._sealed = (1 << header.chunk_log2) + TAG
        self.header = header
        return True


def _dek_from(dek_id: str, slots: bytes, keys: Iterable[Kek]) -> Dek:
    from matriarch.backup.keys import open_slots

    try:
        found = json.loads(slots)["slots"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _corrupt("its key slots are no JSON") from None
    return open_slots(dek_id, found, keys, what="The object")


def seal(dek: Dek, context: Mapping[str, Any], codec: str, data: bytes, slots: Iterable[Mapping[str, str]]) -> bytes:
    """A whole small object."""
    sealer = Sealer(Header.create(dek, context, codec), dek, slots)
    return b"".join((sealer.prologue, *sealer.update(data), sealer.finish()))


def unseal(data: bytes, *, dek: Dek, context: Mapping[str, Any]) -> bytes:
    """The reverse. Raises Corrupt or Refused."""
    opener = Opener(dek, context=context)
    return b"".join((*opener.update(data), opener.finish()))

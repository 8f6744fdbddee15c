"""One archived file as an object of a store, and back: compressed, then sealed, and bound to its name.

The format is the one of backups (docs/reference/backup-format.md). What the context adds is what a later writer needs
to tell whether it holds the same file without reading the object: a digest of the content, keyed so that the store
learns nothing from it, and the size of the compressed content, from which the object's whole size follows.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import zstandard

from matriarch.archive.names import WalName
from matriarch.archive.segment import TEXT_LIMIT
from matriarch.backup.format import MAGIC, TAG, Header, Opener, Sealer
from matriarch.backup.jobspec import Reason
from matriarch.backup.keys import Dek, derive
from matriarch.errors import Corrupt
from matriarch.postgres.lsn import SEGMENT_SIZE

CHUNK_LOG2 = 16  # 64 KiB: a segment of little content is one short chunk
LEVEL = 1  # see docs/decisions/wal-archive.md
_LENGTH_AT = 16  # of the header, see backup/format.py
_LIMIT = 1 << 20  # bytes of a header or of slots


@dataclass(frozen=True, slots=True)
class Peeked:
    """The beginning of an object: its header, its slots, and how many bytes it has in all if it is whole."""

    header: Header
    slots: tuple[Mapping[str, Any], ...]
    size: int


_compressors = threading.local()  # its tables are made once for each thread and level


def compress(data: bytes | bytearray, level: int = LEVEL) -> bytes:
    known: dict[int, zstandard.ZstdCompressor] | None = getattr(_compressors, "by_level", None)
    if known is None:
        known = _compressors.by_level = {}
    if level not in known:
        known[level] = zstandard.ZstdCompressor(level=level)
    return known[level].compress(data)


def expand(name: WalName, packed: bytes) -> bytes:
    """Raises Corrupt. Never makes more than such a file can have."""
    limit = SEGMENT_SIZE if name.holds_wal else TEXT_LIMIT
    try:
        size = zstandard.get_frame_parameters(packed).content_size
        if not 0 <= size <= limit:
            raise _corrupt(name, f"its content would have {size} bytes")
        return zstandard.ZstdDecompressor().decompress(packed, max_output_size=limit, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _corrupt(name, f"it cannot be decompressed ({error})") from None


def seal(
    name: WalName,
    data: bytes | bytearray,
    packed: bytes,
    *,
    system: int,
    cluster: str,
    dek: Dek,
    slots: tuple[Any, ...],
) -> bytes:
    """`packed` is `data` compressed; `cluster` the uid of the cluster that writes, which is recorded only."""
    context = {
        **_bound(name, system),
        "cluster": cluster,
        "digest": digest(dek, data),
        "packed": len(packed),
    }
    sealer = Sealer(Header.create(dek, context, "zstd", chunk_log2=CHUNK_LOG2), dek, slots)
    return b"".join((sealer.prologue, *sealer.update(packed), sealer.finish()))


def digest(dek: Dek, data: bytes | bytearray) -> str:
    """HMAC-SHA-256 of the content under a key of its own."""
    key = derive(dek.secret, salt=bytes.fromhex(dek.id), info=b"matriarch/wal-digest/1", length=32)
    return hmac.new(key, data, hashlib.sha256).hexdigest()


def peek(name: WalName, raw: bytes) -> Peeked:
    """From the first bytes of an object. Raises Corrupt; nothing of it is authentic before `trust`."""
    try:
        if not raw.startswith(MAGIC):
            raise _corrupt(name, "it does not begin as an encrypted object does")
        (length,) = struct.unpack_from(">I", raw, _LENGTH_AT)
        if not length <= _LIMIT:
            raise _corrupt(name, "its header has an impossible length")
        (slots_length,) = struct.unpack_from(">I", raw, length)
        if slots_length > _LIMIT or len(raw) < length + 4 + slots_length:
            raise _corrupt(name, "its key slots are cut off")
        header = Header.parse(raw[:length])
        slots = tuple(json.loads(raw[length + 4 : length + 4 + slots_length])["slots"])
        packed = int(header.context["packed"])
    except (struct.error, ValueError, KeyError, TypeError, RecursionError):
        raise _corrupt(name, "its header or its key slots cannot be read") from None
    chunks = max(1, -(-packed // (1 << header.chunk_log2)))
    return Peeked(header, slots, length + 4 + slots_length + packed + chunks * TAG)


def trust(name: WalName, header: Header, dek: Dek, system: int) -> str:
    """The digest in the header, once the header is proven to be of `dek` and of this very file.

    Raises Refused (WrongKey) and Corrupt (ObjectCorrupt).
    """
    header.cipher(dek)  # compares the commitment, by which the key holder vouches for the context
    wanted = _bound(name, system)
    if any(header.context.get(field) != value for field, value in wanted.items()):
        raise _corrupt(
            name, f"it is {header.context.get('name')} of system {header.context.get('system')} under another name"
        )
    return str(header.context.get("digest"))


def unseal(name: WalName, raw: bytes, *, system: int, dek: Dek) -> bytes:
    """The file's content. Raises Refused and Corrupt before anything of it may be used."""
    claimed = trust(name, peek(name, raw).header, dek, system)
    opener = Opener(dek)
    packed = b"".join((*opener.update(raw), opener.finish()))
    data = expand(name, packed)
    if not hmac.compare_digest(digest(dek, data), claimed):
        raise _corrupt(name, "its content is not what its header says")
    return data


def _bound(name: WalName, system: int) -> dict[str, Any]:
    return {
        "format": 1,
        "role": "wal",
        "system": str(system),
        "timeline": name.timeline,
        "name": name.text,
        "path": name.key(encrypted=True),
        "codec": "zstd",
    }


def _corrupt(name: WalName, why: str) -> Corrupt:
    return Corrupt(f"The object of {name} is damaged: {why}.", reason=Reason.OBJECT_CORRUPT)

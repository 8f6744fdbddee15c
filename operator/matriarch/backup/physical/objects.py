"""One stored object of a physical backup: independent zstd frames in a sealed stream, out and in.

Every frame holds at most a MiB, so that whoever reads needs no more memory than that, and `zstd -d` reads the whole
once it is decrypted. Digests of the content are the map's; here is the one of the stored bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Self, cast

import zstandard

from matriarch.backup.format import Header, Opener, Sealer
from matriarch.backup.jobspec import Reason
from matriarch.backup.keys import Dek
from matriarch.backup.manifest import Encryption, Origin, object_context
from matriarch.backup.physical.contents import Pack
from matriarch.backup.store import Store
from matriarch.errors import Corrupt, Refused

FRAME = 1 << 20  # bytes of plaintext in a frame, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing:
    """What all objects of one backup share. `dek` None: in the clear."""

    backup_id: str
    origin: Origin
    dek: Dek | None
    encryption: Encryption | None

    @property
    def ending(self) -> str:
        return ".zst.enc" if self.dek is not None else ".zst"

    def pack(self, number: int) -> str:
        return f"{folder(self.backup_id)}/{number:06d}.pack{self.ending}"

    @property
    def map(self) -> str:
        return f"{folder(self.backup_id)}/map.json{self.ending}"

    def context(self, path: str, role: str) -> dict[str, Any]:
        return object_context(origin=self.origin, backup_id=self.backup_id, path=path, codec="zstd", role=role)


def folder(backup_id: str) -> str:
    """Where all objects of a physical backup lie."""
    return f"physical/{backup_id}"


class ObjectWriter:
    """Frames → object. Used as a context: leaving it without `finish` aborts the upload and leaves nothing behind."""

    def __init__(
        self,
        store: Store,
        path: str,
        context: Mapping[str, Any],
        sealing: Sealing,
        compressor: zstandard.ZstdCompressor,
        *,
        estimate: int,
    ) -> None:
        self._path, self._compressor = path, compressor
        self._sealer: Sealer | None = None
        self._object_id: str | None = None
        self._stored = hashlib.sha256()
        self._size = self._stored_size = 0
        self._upload = store.upload(path, estimate=estimate)
        if sealing.dek is not None:
            assert sealing.encryption is not None
            header = Header.create(sealing.dek, context, "zstd")
            self._object_id = header.object_id
            self._sealer = Sealer(header, sealing.dek, sealing.encryption.slots)
            self._store(self._sealer.prologue)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._upload.abort()  # after `finish` nothing is left to abort

    def write(self, frame: bytes | memoryview) -> None:
        """One frame of at most FRAME bytes."""
        self._size += len(frame)
        packed = self._compressor.compress(frame)
        if self._sealer is None:
            self._store(packed)
            return
        for sealed in self._sealer.update(packed):
            self._store(sealed)

    def finish(self) -> Pack:
        """Make it visible. Raises store.Exists."""
        if self._sealer is not None:
            self._store(self._sealer.finish())
        self._upload.finish()
        return Pack(
            path=self._path,
            object_id=self._object_id,
            stored_size=self._stored_size,
            stored_sha256=self._stored.hexdigest(),
            size=self._size,
        )

    def _store(self, data: bytes) -> None:
        self._stored.update(data)
        self._stored_size += len(data)
        self._upload.write(data)


class _Source:
    """The stored object as zstandard wants to read it: decrypted, digested on the way."""

    def __init__(self, store: Store, wanted: Pack, sealing: Sealing, role: str) -> None:
        self.digest, self.size = hashlib.sha256(), 0
        self._pieces = self._opened(store, wanted, sealing, role)
        self._held = b""
        self._at = 0

    def _opened(self, store: Store, wanted: Pack, sealing: Sealing, role: str) -> Iterator[bytes]:
        opener = Opener(sealing.dek, context=sealing.context(wanted.path, role)) if sealing.dek is not None else None
        with store.read(wanted.path) as incoming:
            for piece in incoming:
                self.digest.update(piece)
                self.size += len(piece)
                if opener is None:
                    yield piece
                else:
                    yield from opener.update(piece)
        if opener is not None:
            yield opener.finish()
            assert opener.header is not None
            if opener.header.object_id != wanted.object_id:
                raise damaged(wanted.path, "it is another object than the one the backup names")

    def read(self, size: int = -1) -> bytes:
        while self._at >= len(self._held):
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._held, self._at = piece, 0
        part = self._held[self._at :] if size < 0 else self._held[self._at : self._at + size]
        self._at += len(part)
        return part


def read_object(store: Store, wanted: Pack, sealing: Sealing, role: str) -> Iterator[memoryview]:
    """The object's content in pieces, each authentic, valid until the next one is asked for.

    That all of it was there, and nothing else, is known when the iterator ends without an error. Raises Corrupt
    (ObjectCorrupt, ObjectMissing) that names the object.
    """
    source = _Source(store, wanted, sealing, role)
    buffer = memoryview(bytearray(FRAME))
    size = 0
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 23).stream_reader(
            cast(IO[bytes], source), read_size=FRAME, read_across_frames=True
        )
        while count := reader.readinto(buffer):
            size += count
            if size > wanted.size:
                raise damaged(wanted.path, f"it holds more than {wanted.size} bytes")
            yield buffer[:count]
    except (Corrupt, Refused, zstandard.ZstdError) as error:
        reason = getattr(error, "reason", None)
        if reason == Reason.OBJECT_MISSING or (isinstance(error, Corrupt) and wanted.path in str(error)):
            raise
        if isinstance(error, Refused) and reason not in (Reason.WRONG_KEY, Reason.VERSION_UNSUPPORTED):
            raise  # the store's word
        # The map is authentic and has the right key and version: what contradicts it was altered.
        raise damaged(wanted.path, str(error)) from error
    if source.size != wanted.stored_size:
        raise damaged(wanted.path, f"it has {source.size} bytes in place of {wanted.stored_size}")
    if source.digest.hexdigest() != wanted.stored_sha256:
        raise damaged(wanted.path, "its SHA-256 is not the one the backup names")
    if size != wanted.size:
        raise damaged(wanted.path, f"it holds {size} bytes in place of {wanted.size}")


def damaged(path: str, why: str) -> Corrupt:
    return Corrupt(f"{path}: {why}", reason=Reason.OBJECT_CORRUPT)

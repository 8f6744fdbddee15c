"""SQL text into a stored object and back, as a stream: compress, seal, digest, upload; and the reverse.

Memory is bounded by the upload's parts and a few chunks, whatever the size of the database (docs/backup.md). The
stream inside the envelope is one plain gzip member, so that standard tools can read it once it is decrypted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from types import TracebackType
from typing import Literal, Self

from isal import isal_zlib

from matriarch.backup.format import CHUNK_LOG2, Header, Opener, Sealer
from matriarch.backup.jobspec import Reason
from matriarch.backup.keys import Dek
from matriarch.backup.manifest import DataObject, Encryption, Section
from matriarch.backup.store import Store
from matriarch.errors import Corrupt, Refused

_LEVEL = 1  # isal's 1 is 5 times stdlib zlib's 1 at a like ratio (research figures in docs/decisions/backup-engine.md)
_PIECE = 1 << 20


class Packer:
    """SQL text → object. Used as a context: leaving it without `finish` aborts the upload and leaves nothing behind."""

    def __init__(
        self,
        store: Store,
        path: str,
        *,
        codec: Literal["none", "gzip"],
        context: dict[str, object],
        dek: Dek | None,
        encryption: Encryption | None,
        estimate: int,
    ) -> None:
        self._path, self._codec = path, codec
        self._deflate = isal_zlib.compressobj(_LEVEL, wbits=31) if codec == "gzip" else None
        self._sealer: Sealer | None = None
        self._object_id: str | None = None
        self._text, self._stored = hashlib.sha256(), hashlib.sha256()
        self.text_size = self.stored_size = 0
        self._sections: list[Section] = []
        self._upload = store.upload(path, estimate=estimate)
        if dek is not None:
            assert encryption is not None
            header = Header.create(dek, context, codec)
            self._object_id = header.object_id
            self._sealer = Sealer(header, dek, encryption.slots)
            self._store(self._sealer.prologue)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.abort()

    def abort(self) -> None:
        """Nothing is left of the object; after `finish` nothing is left to abort."""
        self._upload.abort()

    def write(self, text: bytes | memoryview) -> None:
        self._text.update(text)
        self.text_size += len(text)
        self._seal(self._deflate.compress(text) if self._deflate is not None else bytes(text))

    def end_section(self, kind: Literal["roles", "create", "database"], database: str | None = None) -> None:
        """What was written since the section before is one section."""
        offset = self._sections[-1].offset + self._sections[-1].size if self._sections else 0
        self._sections.append(Section(kind=kind, database=database, offset=offset, size=self.text_size - offset))

    @property
    def sections(self) -> tuple[Section, ...]:
        return tuple(self._sections)

    def finish(self) -> DataObject:
        """Make the object visible. Raises store.Exists."""
        if self._deflate is not None:
            self._seal(self._deflate.flush())
        if self._sealer is not None:
            self._store(self._sealer.finish())
        self._upload.finish()
        return DataObject(
            path=self._path,
            object_id=self._object_id,
            stored_size=self.stored_size,
            stored_sha256=self._stored.hexdigest(),
            text_size=self.text_size,
            text_sha256=self._text.hexdigest(),
            codec=self._codec,
            chunk_log2=CHUNK_LOG2 if self._sealer is not None else None,
        )

    def _seal(self, data: bytes) -> None:
        if self._sealer is None:
            self._store(data)
            return
        for sealed in self._sealer.update(data):
            self._store(sealed)

    def _store(self, data: bytes) -> None:
        if data:
            self._stored.update(data)
            self.stored_size += len(data)
            self._upload.write(data)


def unpack(store: Store, wanted: DataObject, dek: Dek | None, context: dict[str, object]) -> Iterator[bytes]:
    """The object's SQL text in pieces, checked against the manifest.

    Every piece is authentic when it comes out; that all of them were there is known when the iterator ends without an
    error. Raises Corrupt (ObjectCorrupt, ObjectMissing) that names the object.
    """
    stored, text = hashlib.sha256(), hashlib.sha256()
    stored_size = text_size = 0

    def pieces() -> Iterator[bytes]:
        nonlocal stored_size
        opener = Opener(dek, context=context) if dek is not None else None
        with store.read(wanted.path) as incoming:
            for piece in incoming:
                stored.update(piece)
                stored_size += len(piece)
                if opener is None:
                    yield piece
                else:
                    yield from opener.update(piece)
        if opener is not None:
            yield opener.finish()
            assert opener.header is not None
            if opener.header.object_id != wanted.object_id:
                raise _corrupt(wanted, "it is another object than the one the manifest names")

    plain = _inflate(pieces(), wanted) if wanted.codec == "gzip" else pieces()
    try:
        for piece in plain:
            text.update(piece)
            text_size += len(piece)
            yield piece
    except (Corrupt, Refused) as error:
        if isinstance(error, Corrupt) and error.reason == Reason.OBJECT_MISSING:
            raise
        if isinstance(error, Refused) and error.reason not in (Reason.WRONG_KEY, Reason.VERSION_UNSUPPORTED):
            raise  # the store's word
        # The manifest is authentic and has the right key and version: what contradicts it was altered.
        raise _corrupt(wanted, str(error)) from error
    if stored_size != wanted.stored_size:
        raise _corrupt(wanted, f"it has {stored_size} bytes in place of {wanted.stored_size}")
    if stored.hexdigest() != wanted.stored_sha256:
        raise _corrupt(wanted, "its SHA-256 is not the manifest's")
    if text_size != wanted.text_size or text.hexdigest() != wanted.text_sha256:
        raise _corrupt(wanted, "its text is not the one the manifest was made of")


def _inflate(packed: Iterator[bytes], wanted: DataObject) -> Iterator[bytes]:
    inflate = isal_zlib.decompressobj(wbits=31)
    try:
        for piece in packed:
            if inflate.eof and piece:
                raise _corrupt(wanted, "bytes follow after the end of its gzip stream")
            data = piece
            while data:
                if out := inflate.decompress(data, _PIECE):
                    yield out
                data = inflate.unconsumed_tail
            if inflate.unused_data:
                raise _corrupt(wanted, "bytes follow after the end of its gzip stream")
        while out := inflate.flush():
            yield out
    except isal_zlib.error as error:  # type: ignore[misc]  # its stub has no class
        raise _corrupt(wanted, f"its gzip stream is broken ({error})") from None
    if not inflate.eof:
        raise _corrupt(wanted, "its gzip stream ends too early")


def _corrupt(wanted: DataObject, why: str) -> Corrupt:
    return Corrupt(f"{wanted.path}: {why}", reason=Reason.OBJECT_CORRUPT)

"""A small store, the same on every machine and in every run: what the fuzzer alters, and what must come out of it.

It holds two physical backups, a logical one, a piece of a WAL archive, all sealed, and one physical and one logical
backup in the clear. Everything random comes from a counter, so that an input of the corpus means the same tomorrow.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from unittest import mock

import zstandard

from matriarch.archive import objects
from matriarch.archive import segment as wal_segment
from matriarch.archive.names import WalName, parse
from matriarch.backup import catalog, manifest
from matriarch.backup.format import CHUNK_LOG2, SUITE, Header, Sealer, canonical
from matriarch.backup.jobspec import Reason
from matriarch.backup.keys import Dek, Kek, PrivateKey
from matriarch.backup.manifest import Body, Details, Encryption, Manifest, Origin, Physical
from matriarch.backup.physical.contents import VERSION, Contents, Directory, File, Pack, Piece
from matriarch.backup.physical.objects import ObjectWriter, Sealing
from matriarch.backup.pipeline import Packer
from matriarch.backup.store import Entry, Exists, Unfinished
from matriarch.errors import Corrupt
from matriarch.postgres.lsn import PAGE_SIZE, SEGMENT_SIZE

KEK = Kek.of(bytes(range(32)))
PAIR = PrivateKey(bytes(range(1, 33)))
SYSTEM = 7300000000000000001
THEN = datetime(2026, 1, 15, 2, tzinfo=UTC)


class Memory:
    """A store in a dictionary: what is fuzzed is who reads it."""

    address = "memory"

    def __init__(self, content: dict[str, bytes] | None = None, piece: int = 1 << 20) -> None:
        self.content = content if content is not None else {}
        self.piece = piece

    def check(self) -> None: ...

    def get(self, key: str) -> bytes | None:
        return self.content.get(key)

    @contextmanager
    def read(self, key: str) -> Iterator[Iterator[bytes]]:
        if key not in self.content:
            raise Corrupt(f"The object {key} is gone.", reason=Reason.OBJECT_MISSING)
        file = io.BytesIO(self.content[key])
        yield iter(lambda: file.read(self.piece), b"")

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        if if_absent and key in self.content:
            raise Exists(key)
        self.content[key] = data

    def upload(self, key: str, *, estimate: int) -> MemoryUpload:
        return MemoryUpload(self, key)

    def size(self, key: str) -> int | None:
        return len(self.content[key]) if key in self.content else None

    def list(self, folder: str) -> Iterator[Entry]:
        for key in sorted(self.content):
            if not folder or key.startswith(f"{folder}/"):
                yield Entry(key, len(self.content[key]), THEN)

    def delete(self, key: str) -> None:
        self.content.pop(key, None)

    def unfinished(self) -> Iterator[Unfinished]:
        return iter(())

    def discard(self, upload: Unfinished) -> None: ...

    def now(self) -> datetime:
        return THEN


@dataclass
class MemoryUpload:
    store: Memory
    key: str
    data: bytearray = field(default_factory=bytearray)

    def write(self, data: bytes) -> None:
        self.data += data

    def finish(self) -> None:
        self.store.put(self.key, bytes(self.data), if_absent=True)

    def abort(self) -> None: ...


@dataclass(frozen=True)
class World:
    """`sealed` and `clear` are stores by their keys. `texts` and `trees` say by backup id what a restore gives."""

    sealed: dict[str, bytes]
    clear: dict[str, bytes]
    texts: dict[str, bytes]
    trees: dict[str, dict[str, bytes]]
    wal: dict[WalName, bytes]
    plain: dict[str, bytes]  # the JSON inside sealed parts: map, details, body


@contextmanager
def _no_chance(seed: bytes) -> Iterator[None]:
    """Random bytes that are always the same."""
    numbers = itertools.count()

    def token(size: int = 32) -> bytes:
        return hashlib.shake_128(seed + struct.pack(">Q", next(numbers))).digest(size)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch("secrets.token_bytes", token))
        stack.enter_context(mock.patch("secrets.token_hex", lambda n=32: token(n).hex()))
        yield


FILES = {
    "PG_VERSION": b"17\n",
    "backup_label": b"START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n",
    "global/pg_control": bytes(range(256)) * 32,
    "base/1/1259": hashlib.shake_128(b"noise").digest(40_000) + bytes(24_000),
    "base/1/2600": b"",
    "pg_wal/000000010000000000000002": b"wal" * 5000,
}
TEXT = b"".join(
    b"INSERT INTO t VALUES (%d, '%s');\n" % (i, hashlib.md5(b"%d" % i).hexdigest().encode()) for i in range(1500)
)
ORIGIN = Origin(
    namespace="prod", cluster="orders", cluster_uid="0000-1111", instance="orders-1", system_identifier=str(SYSTEM),
    timeline=1, source="primary", server_version="17.6", tool_version="fuzz",
)  # fmt: skip


def build() -> World:
    with _no_chance(b"matriarch"):
        sealed, clear = Memory(), Memory()
        texts: dict[str, bytes] = {}
        trees: dict[str, dict[str, bytes]] = {}
        plain: dict[str, bytes] = {}
        for store, encrypted in ((sealed, True), (clear, False)):
            catalog.claim(store, None, str(SYSTEM), "2026-01-15T02:00:00.000Z")
            letter = "s" if encrypted else "c"
            _logical(store, f"{letter}logicalaa", 1, texts, plain, encrypted=encrypted)
            _physical(store, f"{letter}physicala", 2, trees, plain, FILES, encrypted=encrypted)
            if encrypted:
                _physical(store, "sphysicalb", 3, trees, plain, {**FILES, "base/1/2601": b"x"}, encrypted=True)
        return World(sealed.content, clear.content, texts, trees, _wal(sealed), plain)


def _keys(encrypted: bool) -> tuple[Dek | None, Encryption | None]:
    if not encrypted:
        return None, None
    dek = Dek.generate()
    return dek, Encryption(suite=SUITE, dek=dek.id, slots=(KEK.wrap(dek),))


def _logical(
    store: Memory, name: str, sequence: int, texts: dict[str, bytes], plain: dict[str, bytes], *, encrypted: bool
) -> None:
    dek, encryption = _keys(encrypted)
    path = f"logical/backup-2026-01-15T02:00:00.000Z-{name}.sql.gz{'.enc' if encrypted else ''}"
    context = manifest.object_context(origin=ORIGIN, backup_id=name, path=path, codec="gzip")
    with Packer(store, path, codec="gzip", context=context, dek=dek, encryption=encryption, estimate=0) as packer:
        packer.write(TEXT)
        packer.end_section("roles")
        data = packer.finish()
    details = Details(sections=packer.sections, databases=(), role_passwords=True)
    body = _body("logical", name, sequence, encryption, data, path.rpartition("/")[2])
    _finish(store, body, details, dek, plain)
    texts[name] = TEXT


def _physical(
    store: Memory, name: str, sequence: int, trees: dict[str, dict[str, bytes]], plain: dict[str, bytes],
    files: dict[str, bytes], *, encrypted: bool,
) -> None:  # fmt: skip
    dek, encryption = _keys(encrypted)
    sealing = Sealing(backup_id=name, origin=ORIGIN, dek=dek, encryption=encryption)
    compressor = zstandard.ZstdCompressor(level=1)
    packs, listed = [], []
    for number, some in enumerate((list(files)[:3], list(files)[3:])):
        path, at = sealing.pack(number), 0
        with ObjectWriter(store, path, sealing.context(path, "pack"), sealing, compressor, estimate=0) as writer:
            for file in some:
                content = files[file]
                pieces: tuple[Piece, ...] = ()
                if content:
                    digest = hashlib.sha256(content).hexdigest()
                    pieces = (Piece(pack=number, at=at, offset=0, size=len(content), sha256=digest),)
                    writer.write(content)
                    at += len(content)
                listed.append(File(path=file, size=len(content), mtime=1_700_000_000, mode=0o600, pieces=pieces))
            packs.append(writer.finish())
    contents = Contents(
        version=VERSION,
        backup=name,
        directories=tuple(Directory(path=p, mode=0o700) for p in ("base", "base/1", "global", "pg_wal")),
        files=tuple(listed),
        packs=tuple(packs),
        bad_pages=(),
    )
    text = contents.to_json()
    plain[f"map-{name}"] = text
    with ObjectWriter(
        store, sealing.map, sealing.context(sealing.map, "map"), sealing, compressor, estimate=0
    ) as writer:
        writer.write(text)
        stored = writer.finish()
    body = _body("physical", name, sequence, encryption, _map_object(stored, text, dek), "")
    _finish(store, replace(body, physical=_physical_part(packs, contents)), _NOTHING, dek, plain)
    trees[name] = dict(files)


_NOTHING = Details(sections=(), databases=(), role_passwords=False)


def _map_object(stored: Pack, text: bytes, dek: Dek | None) -> manifest.DataObject:
    return manifest.DataObject(
        path=stored.path, object_id=stored.object_id, stored_size=stored.stored_size,
        stored_sha256=stored.stored_sha256, text_size=len(text), text_sha256=hashlib.sha256(text).hexdigest(),
        codec="zstd", chunk_log2=CHUNK_LOG2 if dek is not None else None,
    )  # fmt: skip


def _physical_part(packs: list[Pack], contents: Contents) -> Physical:
    return Physical(
        start_lsn="0/2000028", stop_lsn="0/2000100", timeline=1, wal=("000000010000000000000002",),
        wal_segment_size=SEGMENT_SIZE, files=len(contents.files), size=contents.size, packs=len(packs),
        stored_size=sum(p.stored_size for p in packs), pages="passed", pages_checked=5, bad_pages=0, zstd_level=1,
    )  # fmt: skip


def _body(
    kind: Any, name: str, sequence: int, encryption: Encryption | None, data: manifest.DataObject, file: str
) -> Body:
    full = f"backup-2026-01-15T02:00:00.000Z-{name}"
    return Body(
        format=manifest.FORMAT, kind=kind, sequence=sequence, previous=None, id=name, name=full, file=file or full,
        started="2026-01-15T02:00:00.000Z", finished=f"2026-01-15T02:0{sequence}:00.000Z", resource=None,
        schedule=None, scheduled_for=None, origin=ORIGIN, snapshot_lsn="0/2000100", encryption=encryption, object=data,
        tables=0, rows=0, warnings=(), details="",
    )  # fmt: skip


def _finish(store: Memory, body: Body, details: Details, dek: Dek | None, plain: dict[str, bytes]) -> None:
    made = manifest.write(body, details, dek)
    store.put(made.key, made.raw)
    plain[f"body-{body.id}"] = canonical(json.loads(made.raw)["body"])
    if dek is not None:
        opened = Manifest.parse(made.raw, where=made.key).open([KEK])
        plain[f"details-{body.id}"] = canonical(manifest.encode(opened.details))


def segment(name: WalName) -> bytes:
    """A segment that passes for one, of little content."""
    head = struct.pack(
        "=HHIQI4xQII", wal_segment.MAGIC, 2, name.timeline, name.start, 0, SYSTEM, SEGMENT_SIZE, PAGE_SIZE
    )
    noise = hashlib.shake_128(name.text.encode()).digest(70_000)
    return head + noise + bytes(SEGMENT_SIZE - len(head) - len(noise))


def _wal(store: Memory) -> dict[WalName, bytes]:
    dek = Dek.generate()
    found: dict[WalName, bytes] = {}
    for text in ("000000010000000000000002", "000000010000000000000003", "00000002.history"):
        name = parse(text)
        assert name is not None
        data = segment(name) if name.holds_wal else b"1\t0/3000000\tno recovery target specified\n"
        found[name] = data
        packed = objects.compress(data)
        body = objects.seal(name, data, packed, system=SYSTEM, cluster="0000-1111", dek=dek, slots=(KEK.wrap(dek),))
        store.put(name.key(encrypted=True), body)
    return found


def small_object(data: bytes, log2: int = 10) -> bytes:
    """A sealed object with many chunks in few bytes."""
    dek = Dek.generate()
    sealer = Sealer(
        Header.create(dek, {"backup": "x", "path": "y"}, "none", chunk_log2=log2), dek, [KEK.wrap(dek), PAIR.wrap(dek)]
    )
    return b"".join((sealer.prologue, *sealer.update(data), sealer.finish()))


def small_objects() -> dict[bytes, bytes]:
    """Sealed → plain."""
    with _no_chance(b"objects"):
        return {small_object(p): p for p in (b"", b"a", bytes(range(256)) * 12, hashlib.shake_128(b"1").digest(2048))}

"""The manifest: what a complete backup is, written last. No manifest, no backup.

Its body is readable without a key (times, sizes, digests: enough to list), its details are not (names of databases,
tables and roles). An HMAC under a key derived from the backup's data key covers every byte of the body; the stored
form is canonical JSON, so that one changed byte is seen even before a key is there.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from isal import isal_zlib

from matriarch.backup import names
from matriarch.backup.format import canonical, seal, unseal
from matriarch.backup.jobspec import Reason
from matriarch.backup.jsonclass import LEFT_OUT, decode, encode
from matriarch.backup.keys import Dek, Kek, open_slots
from matriarch.backup.names import BackupName
from matriarch.errors import Corrupt, Refused

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """`hash` is an order-independent digest over the rows the dump saw: with `columns`, of the lines of COPY's text
    with the columns in that order (backup.rowsum); without, the server's own (backup.fingerprint).
    """

    schema: str
    name: str
    rows: int
    hash: str  # 32 hex digits
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """A sequence goes on while it is dumped, so what is restored lies between two readings, first and last."""

    schema: str
    name: str
    increment: int
    first: int
    first_called: bool
    last: int
    last_called: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeObjects:
    count: int
    hash: str | None  # of (oid, content); None when the role may not read them or one is too big to be read whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """ALTER DATABASE … SET, for all roles or for one."""

    role: str | None
    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    grantee: str | None  # None: PUBLIC
    privilege: str
    grantable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Properties:
    """What CREATE DATABASE and ALTER DATABASE need; pg_dump leaves it out of a single database's dump."""

    owner: str
    encoding: str
    provider: str  # c, i, b as in pg_database.datlocprovider
    collate: str
    ctype: str
    locale: str | None
    icu_rules: str | None
    connection_limit: int
    comment: str | None
    grants: tuple[Grant, ...] | None  # None: the defaults
    settings: tuple[Setting, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A stretch of the SQL text: for plain psql all of it in order, for a restore each by itself."""

    kind: Literal["roles", "create", "database"]
    database: str | None
    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """One application database as its own snapshot saw it."""

    name: str
    size: int  # bytes in the server
    properties: Properties
    snapshot_lsn: str
    source: Literal["primary", "standby"]
    tables: tuple[Table, ...]
    sequences: tuple[Sequence, ...]
    large_objects: LargeObjects
    unlogged_skipped: tuple[str, ...]  # read on a standby, which has none of their rows
    extensions: tuple[str, ...]
    restricted: bool  # the dump is wrapped in \restrict (CVE-2025-8714)


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """The part that names the user's things; sealed when the backup is encrypted."""

    sections: tuple[Section, ...]
    databases: tuple[Database, ...]
    role_passwords: bool

    @property
    def tables(self) -> int:
        return sum(len(d.tables) for d in self.databases)

    @property
    def rows(self) -> int:
        return sum(t.rows for d in self.databases for t in d.tables)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataObject:
    """The one data object. Sizes in bytes; `text` is the SQL before compression. Physical: the map of the packs."""

    path: str
    object_id: str | None  # of the header; None in the clear
    stored_size: int
    stored_sha256: str
    text_size: int
    text_sha256: str
    codec: Literal["none", "gzip", "zstd"]
    chunk_log2: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    suite: int
    dek: str
    slots: tuple[dict[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The cluster and the server that was read."""

    namespace: str | None
    cluster: str | None
    cluster_uid: str | None
    instance: str | None
    system_identifier: str
    timeline: int
    source: Literal["primary", "standby"]
    server_version: str
    tool_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where a backup that was asked for as an incremental one stands in its chain.

    A program that does not know this field takes the manifest for damaged, and so never deletes what it needs.
    """

    type: Literal["full", "incremental"]
    because: str | None = None  # why it is full all the same
    parent: str | None = None  # id
    parent_sha256: str | None = None  # of the parent's manifest file: nothing else can take its place
    full: str | None = None  # id of the full backup that the chain begins with
    increments: int = 0  # from there to this one
    whole_size: int = 0  # bytes of all files, what is inherited included


@dataclass(frozen=True, slots=True, kw_only=True)
class Physical:
    """What a physical backup is, beside its map. LSNs as PostgreSQL writes them, sizes in bytes."""

    start_lsn: str
    stop_lsn: str  # replay is consistent from here on
    timeline: int
    wal: tuple[str, ...]  # names of all that consistency needs; they are in the backup
    wal_segment_size: int
    files: int
    size: int  # of all files, the WAL's included
    packs: int
    stored_size: int  # of all packs, without the map
    pages: Literal["passed", "suspect", "off"]  # off: the server has no checksums
    pages_checked: int
    bad_pages: int
    zstd_level: int
    lineage: Lineage | None = field(default=None, metadata=LEFT_OUT)  # None: a full one was asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What is signed. `previous` is the SHA-256 of the manifest file before: a store that was rolled back shows."""

    format: int
    kind: Literal["logical", "physical"]
    sequence: int
    previous: str | None
    id: str
    name: str
    file: str
    started: str
    finished: str
    resource: str | None
    schedule: str | None
    scheduled_for: str | None
    origin: Origin
    snapshot_lsn: str
    encryption: Encryption | None
    object: DataObject
    tables: int
    rows: int
    warnings: tuple[str, ...]
    details: Any  # base64 of a sealed gzip of canonical JSON; in the clear: the JSON itself
    physical: Physical | None = None

    @property
    def suspect(self) -> bool:
        """Pages were bad when it was made: kept, never counted as good."""
        return self.physical is not None and self.physical.pages == "suspect"

    @property
    def size(self) -> int:
        """Bytes of what was backed up: SQL text or files."""
        return self.object.text_size if self.physical is None else self.physical.size

    @property
    def restored_size(self) -> int:
        """Bytes that a restore needs room for: of an incremental backup also what it inherits."""
        own = self.physical.lineage if self.physical is not None else None
        return self.size if own is None or own.parent is None else own.whole_size

    @property
    def stored_size(self) -> int:
        """Bytes in the store, all data objects together."""
        return self.object.stored_size + (0 if self.physical is None else self.physical.stored_size)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest whose bytes are as they were written. Who wrote them is only known after `open`."""

    body: Body
    raw: bytes

    @property
    def name(self) -> BackupName:
        name = names.parse(self.body.name)
        assert name is not None
        return name

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def key(self) -> str:
        """Its key in the store."""
        return manifest_key(self.body.sequence, self.body.id)

    @classmethod
    def parse(cls, raw: bytes, *, where: str) -> Self:
        """Raises Corrupt (ManifestCorrupt) for any altered byte, Refused (VersionUnsupported) for a later format."""
        try:
            outer = json.loads(raw)
            body, digest = outer["body"], outer["sha256"]
            intact = canonical(outer) == raw and hashlib.sha256(canonical(body)).hexdigest() == digest
            intact = intact and isinstance(body, dict)
        except (ValueError, KeyError, TypeError, UnicodeError, RecursionError):
            intact = False
        if not intact:
            raise Corrupt(f"The manifest {where} is damaged: it is not as it was written.", reason=_CORRUPT)
        if body.get("format") != FORMAT:
            raise Refused(
                f"The manifest {where} has format {body.get('format')}; this program reads {FORMAT}: use a newer one.",
                reason=Reason.VERSION_UNSUPPORTED,
            )
        try:
            parsed = cls(decode(Body, body), raw)
        except (ValueError, TypeError) as error:
            raise Corrupt(f"The manifest {where} is no manifest: {error}.", reason=_CORRUPT) from None
        name = names.parse(parsed.body.name)
        if name is None or name.id != parsed.body.id or not where.endswith(parsed.key):
            raise Corrupt(f"The manifest {where} belongs elsewhere: it is {parsed.key}.", reason=_CORRUPT)
        return parsed

    def open(self, keys: Iterable[Kek], extra_slots: Iterable[Mapping[str, Any]] = ()) -> Opened:
        """Authenticate and read all. Raises Refused (KeyMissing, WrongKey) and Corrupt (ManifestCorrupt)."""
        encryption = self.body.encryption
        if encryption is None:
            if not isinstance(self.body.details, dict):
                raise Corrupt(f"The manifest of {self.body.name} has no details.", reason=_CORRUPT)
            return Opened(self, None, _details(self.body.details, self.body.name))
        slots = (*encryption.slots, *extra_slots)
        return self.open_with(open_slots(encryption.dek, slots, keys, what=f"Backup {self.body.name}"))

    def open_with(self, dek: Dek) -> Opened:
        """The same with the data key itself, as its writer has it. Raises Corrupt (ManifestCorrupt)."""
        outer = json.loads(self.raw)
        if not hmac.compare_digest(_mac(dek, outer["body"]).encode(), str(outer.get("hmac")).encode()):
            raise Corrupt(
                f"The manifest of {self.body.name} was not written by a holder of its key, or was altered since.",
                reason=_CORRUPT,
            )
        try:
            sealed = base64.b64decode(str(self.body.details), validate=True)
        except ValueError:  # not base64, or not even ASCII
            raise Corrupt(f"The manifest of {self.body.name} has no details.", reason=_CORRUPT) from None
        packed = unseal(sealed, dek=dek, context=_details_context(self.body))
        try:
            details = json.loads(isal_zlib.decompress(packed, wbits=31))
        # What a holder of the key wrote that is no details. isal's stub has no class.
        except (isal_zlib.error, ValueError, RecursionError):  # type: ignore[misc]
            raise Corrupt(f"The details of {self.body.name} are not readable.", reason=_CORRUPT) from None
        return Opened(self, dek, _details(details, self.body.name))

    def unread(self) -> Opened:
        """For who may write and not read: what can be said without the key, and no details."""
        return Opened(self, None, Details(sections=(), databases=(), role_passwords=False))


_CORRUPT = Reason.MANIFEST_CORRUPT


@dataclass(frozen=True, slots=True)
class Opened:
    """An authenticated manifest with its details and the data key (None: a backup in the clear, or `unread`)."""

    manifest: Manifest
    dek: Dek | None
    details: Details

    @property
    def body(self) -> Body:
        return self.manifest.body


def manifest_key(sequence: int, backup_id: str) -> str:
    return f"manifests/{sequence:010d}-{backup_id}.json"


def write(body: Body, details: Details, dek: Dek | None) -> Manifest:
    """The finished manifest; `body.details` is filled in here."""
    if dek is None:
        filled = _with_details(body, encode(details))
    else:
        assert body.encryption is not None
        packed = isal_zlib.compress(canonical(encode(details)), 1, wbits=31)
        sealed = seal(dek, _details_context(body), "gzip", packed, body.encryption.slots)
        filled = _with_details(body, base64.b64encode(sealed).decode())
    value = encode(filled)
    outer = {
        "body": value,
        "sha256": hashlib.sha256(canonical(value)).hexdigest(),
        "hmac": None if dek is None else _mac(dek, value),
    }
    return Manifest(filled, canonical(outer))


def _with_details(body: Body, details: str | dict[str, Any]) -> Body:
    return dataclasses.replace(body, details=details)


def _mac(dek: Dek, body: Any) -> str:
    return hmac.digest(dek.manifest_key(), canonical(body), "sha256").hex()


def _details(value: Any, name: str) -> Details:
    try:
        return decode(Details, value)
    except (ValueError, TypeError) as error:
        raise Corrupt(f"The details of {name} are not readable: {error}.", reason=_CORRUPT) from None


def object_context(*, origin: Origin, backup_id: str, path: str, codec: str, role: str = "logical") -> dict[str, Any]:
    """What a data object is bound to: its key fits nothing else. Roles: logical, pack, map."""
    return {
        "format": FORMAT,
        "cluster": origin.cluster_uid,
        "system": origin.system_identifier,
        "backup": backup_id,
        "role": role,
        "path": path,
        "codec": codec,
    }


def _details_context(body: Body) -> dict[str, Any]:
    return {"format": FORMAT, "backup": body.id, "role": "details", "sequence": body.sequence}

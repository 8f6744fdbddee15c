"""Looks for itself whether a restored database is what was backed up.

The manifest is read from the store and opened with the key; every table of the restored database is counted and hashed
anew through an ordinary client connection. Nothing is taken from what the restore said of itself.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dev.host import DevError
from dev.product import Database
from matriarch.backup import fingerprint
from matriarch.backup.keys import Kek
from matriarch.backup.manifest import Manifest, Opened
from matriarch.backup.manifest import Table as Wanted
from matriarch.backup.server import Server

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


@dataclass(frozen=True, slots=True)
class Compared:
    """One table: what the manifest says and what the database has (None: the table is missing)."""

    table: str
    rows: int
    hash: str
    found: tuple[int, str] | None

    @property
    def equal(self) -> bool:
        return self.found == (self.rows, self.hash)

    def __str__(self) -> str:
        found = "is missing" if self.found is None else f"has {self.found[0]} rows, hash {self.found[1]}"
        return f"{self.table} {found}; the manifest says {self.rows} rows, hash {self.hash}"


def find_manifest(client: S3Client, bucket: str, status: Mapping[str, Any]) -> Manifest:
    """The manifest that a Backup's status names, by its own SHA-256."""
    seen = []
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", []):
            if "/manifests/" not in f"/{entry['Key']}":
                continue
            seen.append(entry["Key"])
            raw = client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
            if hashlib.sha256(raw).hexdigest() == status["manifestSha256"]:
                return Manifest.parse(raw, where=entry["Key"])
    raise DevError(f"no manifest in bucket {bucket} has the SHA-256 that the Backup's status names; seen: {seen}")


def compare(client: S3Client, bucket: str, status: Mapping[str, Any], key: str, restored: Database) -> list[Compared]:
    """Every table of the backup's only application database, in the manifest's order."""
    opened: Opened = find_manifest(client, bucket, status).open(
        [Kek.parse(key.encode(), origin="the Secret with the backup's key")]
    )
    name = restored.uri.rpartition("/")[2]
    database = next((d for d in opened.details.databases if d.name == name), None)
    if database is None:
        raise DevError(f"the backup holds no database `{name}`; it has {[d.name for d in opened.details.databases]}")
    return asyncio.run(_compare(database.tables, restored))


async def _compare(wanted: tuple[Wanted, ...], restored: Database) -> list[Compared]:
    uri = restored.uri
    for host, address in restored.names.items():
        uri = uri.replace(f"@{host}", f"@{address}")
    # The engine's own session: it fixes the text forms of values, on which a hash depends.
    session = await Server.from_url(uri).connect()
    try:
        found = {(t.schema, t.name): t for t in await fingerprint.find_tables(session)}
        seen = []
        for table in wanted:
            there = found.get((table.schema, table.name))
            actual = await fingerprint.measured(session, table, there) if there else None
            label = f"{table.schema}.{table.name}"
            seen.append(Compared(label, table.rows, table.hash, (actual.rows, actual.hash) if actual else None))
        return seen
    finally:
        await session.close(timeout=5)

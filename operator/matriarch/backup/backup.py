"""A logical backup from its first look at the store to the manifest that makes it one.

Order: store and key are looked at before the database, the prefix's owner before anything is written, the data object
before the manifest, the manifest read back before success. Killed between any two of these there is no manifest, the
next attempt starts over, and the sweeper finds the rest by its marker.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from matriarch.backup import catalog, names
from matriarch.backup.children import tool_version
from matriarch.backup.completing import Marker, complete
from matriarch.backup.databases import Known, application_databases
from matriarch.backup.dump import dump_database, explained
from matriarch.backup.format import SUITE, Header
from matriarch.backup.jobspec import BackupTask, ClusterIdentity, Prefer, Reason
from matriarch.backup.keys import Dek, Kek
from matriarch.backup.manifest import (
    FORMAT,
    Body,
    DataObject,
    Details,
    Encryption,
    Opened,
    object_context,
)
from matriarch.backup.names import BackupName
from matriarch.backup.origin import origin_of
from matriarch.backup.pipeline import Packer
from matriarch.backup.progress import Tracker
from matriarch.backup.roles import dump_roles
from matriarch.backup.server import Facts, Server, choose, look
from matriarch.backup.stop import Stop, in_thread
from matriarch.backup.store import Exists, Store, beginning
from matriarch.errors import Refused, Unavailable

RENEW = 60.0  # seconds between renewals of the marker
_HEADER = 1 << 20  # bytes: more than an object's header


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Everything a backup needs. `servers` are tried in order."""

    store: Store
    servers: list[Server]
    prefer: Prefer
    key: Kek | None
    task: BackupTask
    cluster: ClusterIdentity | None = None
    tracker: Tracker = field(default_factory=Tracker)
    stop: Stop = field(default_factory=Stop)


async def backup(request: Request) -> tuple[Opened, tuple[str, ...]]:
    """Make the backup; returns its manifest and warnings. A name that is complete already is only reported."""
    task, store = request.task, request.store
    if task.encryption and request.key is None:
        raise Refused(
            "The backup is to be encrypted and no key was given; set BACKUP_ENCRYPTION_KEY or give a key file.",
            reason=Reason.KEY_MISSING,
        )
    request.tracker.step("Connecting")
    await asyncio.to_thread(store.check)
    name = _name(task)
    if task.name is not None and (done := await asyncio.to_thread(_finished, request, name)) is not None:
        return done, done.body.warnings
    version = await asyncio.to_thread(tool_version, "pg_dump")
    try:
        opened = await _attempt(request, name, version, request.prefer)
    except Unavailable as error:
        # A standby cancels what stands in the way of replay: the primary does not.
        if error.reason != Reason.SOURCE_CHANGED or request.prefer != "standby":
            raise
        request.tracker.note = "the standby interrupted the dump; again from the primary"
        opened = await _attempt(request, name, version, "primary")
    return opened, opened.body.warnings


def _name(task: BackupTask) -> BackupName:
    if task.name is None:
        return BackupName(datetime.now(UTC), names.new_id())
    name = names.parse(task.name)
    if name is None:
        raise Refused(f"{task.name!r} is no name of a backup.", reason=Reason.BAD_SPEC)
    return name


def _path(name: BackupName, task: BackupTask) -> str:
    return f"logical/{name.file(compressed=task.compression, encrypted=task.encryption)}"


def _finished(request: Request, name: BackupName) -> Opened | None:
    """The manifest of an earlier attempt, if its object is really the one it names."""
    store = request.store
    for manifest in catalog.read_catalog(store).manifests:
        if manifest.name == name:
            opened = catalog.open_own(store, manifest, request.key)
            if is_whole(store, manifest.body.object):
                return opened
            catalog.delete_backup(store, manifest)  # of an attempt that lost its object to a later one
    return None


def is_whole(store: Store, wanted: DataObject) -> bool:
    """Size and object id, without reading it all."""
    if store.size(wanted.path) != wanted.stored_size:
        return False
    if wanted.object_id is None:
        return True
    head = beginning(store, wanted.path, _HEADER)
    length = int.from_bytes(head[16:20], "big")
    return Header.parse(head[:length]).object_id == wanted.object_id


async def _attempt(request: Request, name: BackupName, version: tuple[int, int], prefer: Prefer) -> Opened:
    store, task, tracker = request.store, request.task, request.tracker
    server = await choose(request.servers, prefer)
    session = await server.connect()
    try:
        with explained():
            facts = await look(session)
            known = await application_databases(session, task.databases)
            roles = await dump_roles(session)
    finally:
        await session.close(timeout=5)
    if version[0] < facts.version_number // 10000:
        raise Refused(
            f"pg_dump is version {version[0]}, the server {facts.version}: install client tools of that version.",
            reason=Reason.VERSION_UNSUPPORTED,
        )
    begun = names.timestamp(datetime.now(UTC))
    await asyncio.to_thread(catalog.claim, store, request.cluster, facts.system_identifier, begun)
    warnings = [] if roles.passwords else ["Roles are saved without passwords: this login may not read pg_authid."]
    if not task.encryption:
        warnings.append("This backup is not encrypted: whoever reads the store reads the data.")
    if prefer == "standby" and facts.role == "primary":
        warnings.append("No standby was usable; the primary was read.")

    origin = origin_of(request.cluster, facts, f"pg_dump {version[0]}.{version[1]}")
    dek = Dek.generate() if task.encryption else None
    encryption = None
    if dek is not None:
        assert request.key is not None
        encryption = Encryption(suite=SUITE, dek=dek.id, slots=(request.key.wrap(dek),))
    path = _path(name, task)
    codec: Literal["none", "gzip"] = "gzip" if task.compression else "none"
    estimate = sum(d.size for d in known)
    tracker.step("Dumping", bytes_total=estimate, tables_total=0)

    async with Marker(store, name.id) as marker:
        # What an attempt before left under this name; it has no manifest, or we were not here. Looked for first: the
        # identity that writes may have no right to delete.
        if await asyncio.to_thread(store.size, path) is not None:
            await asyncio.to_thread(store.delete, path)
        packer = await in_thread(
            lambda: Packer(
                store,
                path,
                codec=codec,
                context=object_context(origin=origin, backup_id=name.id, path=path, codec=codec),
                dek=dek,
                encryption=encryption,
                estimate=estimate // (2 if task.compression else 1),
            ),
            undo=Packer.abort,
        )
        try:
            with packer:
                await in_thread(lambda: packer.write(_preamble(name, facts, roles.sql).encode()))
                packer.end_section("roles")
                dumped = [await dump_database(server, d.name, packer, tracker, request.stop) for d in known]
                tracker.step("Completing")
                request.stop.check()
                data = await in_thread(packer.finish)
        except Exists:
            raise Unavailable(
                f"Another attempt wrote {path} at the same time; the next one starts over.",
                reason=Reason.STORE_UNAVAILABLE,
            ) from None
        details = Details(sections=packer.sections, databases=tuple(dumped), role_passwords=roles.passwords)
        warnings += _warnings(details, known)
        body = Body(
            format=FORMAT,
            kind="logical",
            sequence=0,
            previous=None,
            id=name.id,
            name=str(name),
            file=path.rpartition("/")[2],
            started=begun,
            finished="",
            resource=task.resource,
            schedule=task.schedule,
            scheduled_for=task.scheduled_for,
            origin=origin,
            snapshot_lsn=dumped[0].snapshot_lsn if dumped else "0/0",
            encryption=encryption,
            object=data,
            tables=details.tables,
            rows=details.rows,
            warnings=tuple(warnings),
            details="",
        )
        keys = [request.key] if request.key else []
        return await in_thread(
            lambda: complete(store, body, details, dek, marker, keys, lambda b: is_whole(store, b.object))
        )


def _preamble(name: BackupName, facts: Facts, roles: str) -> str:
    return (
        f"-- {name}: roles and databases of PostgreSQL {facts.version}, system {facts.system_identifier}\n"
        "-- For psql as a superuser, into a server that has none of the databases: psql -X -v ON_ERROR_STOP=1\n"
        f"SET client_encoding = 'UTF8';\n\n{roles}\n"
    )


def _warnings(details: Details, known: list[Known]) -> list[str]:
    warnings = [
        f"Rows of unlogged tables in {d.name} are not in the backup (it was read on a standby): "
        f"{', '.join(d.unlogged_skipped[:5])}."
        for d in details.databases
        if d.unlogged_skipped
    ]
    if not known:
        warnings.append("The server has no application database; only roles are in the backup.")
    if any(not d.restricted for d in details.databases):
        warnings.append("This pg_dump is too old to restrict psql's commands; update to 17.6, 16.10, 15.14 or later.")
    return warnings

"""Backup, list, verify and restore with nothing but a store, a key and a database: no Kubernetes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from matriarch.archive.restorable import Restorable, restorable
from matriarch.backup import backup as engine
from matriarch.backup import catalog, lineage, restore
from matriarch.backup.catalog import Catalog
from matriarch.backup.fingerprint import Difference
from matriarch.backup.jobspec import BackupTask, GcsStore, LocalStore, Reason, RestoreTask, S3Store, StoreSpec
from matriarch.backup.jsonclass import encode
from matriarch.backup.keys import Kek
from matriarch.backup.manifest import Manifest, Opened
from matriarch.backup.progress import Tracker, size
from matriarch.backup.server import Server, Session, choose
from matriarch.backup.stop import Stop
from matriarch.backup.store import Store, open_store
from matriarch.cli import terminal
from matriarch.cli.reach import recovery_json, tell_recovery
from matriarch.cli.terminal import Exit, note, show, show_json
from matriarch.errors import Corrupt, Refused


def parse_store(text: str, endpoint: str | None) -> StoreSpec:
    """`s3://bucket/prefix` or `gs://bucket/prefix` with the environment of AWS or Google for credentials, or a folder.

    `?as-of=2026-03-01T14:05:00Z` behind an S3 bucket's prefix reads what it held then. Raises Refused (BadSpec).
    """
    parts = urlsplit(text)
    if parts.scheme == "s3":
        if not parts.netloc:
            raise Refused(f"{text} names no bucket; write s3://bucket/prefix.", reason=Reason.BAD_SPEC)
        endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        prefix = unquote(parts.path).strip("/")
        asked = parse_qs(parts.query, keep_blank_values=True)
        if set(asked) - {"as-of"}:
            raise Refused(f"{text} asks for what no store has; write s3://bucket/prefix.", reason=Reason.BAD_SPEC)
        moment = asked["as-of"][0].replace(" ", "+") if asked else None
        where = S3Store(bucket=parts.netloc, prefix=prefix, endpoint=endpoint, credentials="", as_of=moment)
        return StoreSpec(s3=where)
    if parts.scheme == "gs":
        return StoreSpec(gcs=_gcs(text, endpoint))
    if parts.scheme not in ("", "file"):
        raise Refused(
            f"{text} is no store; write s3://bucket/prefix, gs://bucket/prefix or a folder.", reason=Reason.BAD_SPEC
        )
    path = unquote(parts.path) if parts.scheme == "file" else text
    return StoreSpec(local=LocalStore(path=str(Path(path).expanduser().absolute())))


def _gcs(text: str, endpoint: str | None) -> GcsStore:
    parts = urlsplit(text)
    if not parts.netloc:
        raise Refused(f"{text} names no bucket; write gs://bucket/prefix.", reason=Reason.BAD_SPEC)
    if "as-of" in parse_qs(parts.query, keep_blank_values=True):
        raise Refused(
            "An earlier state is read from S3 buckets only; leave as-of out, and see docs/backup.md for what Google "
            "Cloud Storage keeps of deleted objects.",
            reason=Reason.BAD_SPEC,
        )
    if parts.query:
        raise Refused(f"{text} asks for what no store has; write gs://bucket/prefix.", reason=Reason.BAD_SPEC)
    return GcsStore(
        bucket=parts.netloc,
        prefix=unquote(parts.path).strip("/"),
        project=os.environ.get("GOOGLE_CLOUD_PROJECT"),
        endpoint=endpoint or os.environ.get("STORAGE_EMULATOR_HOST"),
        credentials="",
    )


def read_keys(files: list[Path]) -> tuple[Kek, ...]:
    """Those of the files, then that of BACKUP_ENCRYPTION_KEY."""
    found = [Kek.read(path) for path in files]
    if (key := Kek.from_environment()) is not None:
        found.append(key)
    return tuple({key.id: key for key in found}.values())


def backup(
    url: str, store: str, *, endpoint: str | None, key_files: list[Path], unencrypted: bool, compress: bool,
    databases: list[str], as_json: bool,
) -> None:  # fmt: skip
    stop, tracker = Stop(), Tracker()

    async def work() -> tuple[Opened, tuple[str, ...], Store]:
        keys = read_keys(key_files)
        server = Server.from_url(url)
        # A URL that names an application's database means that one; `postgres` or none means all of them.
        chosen = tuple(databases) or ((server.database,) if server.database not in (None, "postgres") else ())
        where = open_store(parse_store(store, endpoint), stop)
        task = BackupTask(databases=chosen, compression=compress, encryption=not unencrypted)
        request = engine.Request(
            store=where,
            servers=[server],
            prefer="any",
            key=None if unencrypted or not keys else keys[0],
            task=task,
            tracker=tracker,
            stop=stop,
        )
        opened, warnings = await engine.backup(request)
        return opened, warnings, where

    opened, warnings, where = terminal.run(work(), line=lambda: line(tracker), stop=stop.set)
    body = opened.body
    for warning in warnings:
        note(f"warning: {warning}")
    if as_json:
        show_json(describe(opened.manifest))
        return
    show(body.file)
    note(
        f"{body.tables} tables, {body.rows} rows, {size(body.object.text_size)} of SQL in "
        f"{size(body.object.stored_size)}, in {where.address}"
    )


def backups(store: str, *, endpoint: str | None, key_files: list[Path], as_json: bool) -> None:
    async def work() -> tuple[Catalog, dict[str, str], list[str]]:
        keys = read_keys(key_files)
        where = open_store(parse_store(store, endpoint))
        await asyncio.to_thread(where.check)
        known = await asyncio.to_thread(catalog.read_catalog, where)
        looks = lineage.Looks(where, known, keys)
        states = {m.body.id: await asyncio.to_thread(_state, where, m, keys, looks) for m in known.manifests}
        elsewhere = [] if known.manifests or known.broken else await asyncio.to_thread(catalog.folders, where)
        return known, states, elsewhere

    known, states, elsewhere = terminal.run(work(), line=lambda: "reading manifests")
    if as_json:
        show_json(
            {
                "backups": [{**describe(m), "state": states[m.body.id]} for m in known.manifests],
                "damaged": [{"manifest": b.key, "error": str(b.error)} for b in known.broken],
            }
        )
    elif known.manifests:
        rows = [
            (m.body.name, _type(m), terminal.ago(m.body.finished), size(m.body.size), size(m.body.stored_size),
             m.body.origin.cluster or "-", m.body.origin.server_version,
             states[m.body.id])
            for m in known.manifests
        ]  # fmt: skip
        show(terminal.table(("BACKUP", "TYPE", "FINISHED", "SIZE", "STORED", "CLUSTER", "POSTGRESQL", "STATE"), rows))
    elif elsewhere:
        note("No backups lie here, but clusters have them below; choose one:")
        for folder in elsewhere:
            show(f"{store.rstrip('/')}/{folder}")
        raise SystemExit(Exit.NOT_FOUND)
    else:
        note("The store holds no complete backup.")
    for broken in known.broken:
        note(f"damaged: {broken.error}")
    if known.broken or any(s.startswith(("damaged", "incomplete", "Suspect")) for s in states.values()):
        raise SystemExit(Exit.DEGRADED)


def _type(manifest: Manifest) -> str:
    return "incremental" if lineage.parent_of(manifest.body) is not None else manifest.body.kind


def _state(store: Store, manifest: Manifest, keys: tuple[Kek, ...], looks: lineage.Looks) -> str:
    """One word that says what can be said without reading the data."""
    stored = store.size(manifest.body.object.path)
    if stored is None:
        return "incomplete: its data is missing"
    if not catalog.is_complete(store, manifest):
        return "incomplete: its data has another size"
    if manifest.body.suspect:
        return "Suspect: pages were bad when it was made"
    if lineage.parent_of(manifest.body) is not None and (fault := looks.fault(manifest.body.id)) is not None:
        return f"incomplete: {fault}"
    if manifest.body.encryption is None:
        return "complete, unencrypted"
    if not keys:
        return "complete, encrypted"
    try:
        catalog.open_manifest(store, manifest, keys)
    except Refused as error:
        return "complete, another key" if error.reason == Reason.WRONG_KEY else f"complete, {error.reason}"
    except Corrupt:
        return "damaged: its manifest is not authentic"
    return "complete, authentic"


def verify(
    store: str, backup_id: str, *, endpoint: str | None, key_files: list[Path], against: str | None,
    allow_unencrypted: bool, as_json: bool,
) -> None:  # fmt: skip
    stop, tracker = Stop(), Tracker()

    below: list[str] = []

    async def check() -> tuple[Opened, dict[str, list[Difference]]]:
        keys = read_keys(key_files)
        where = open_store(parse_store(store, endpoint), stop)
        opened = await asyncio.to_thread(restore.find_trusted, where, backup_id, keys, allow_unencrypted, None)
        if opened.body.kind == "physical":
            if against is not None:
                raise Refused(
                    f"{opened.body.name} is a physical backup: it can't be compared with a server's rows; restore it.",
                    reason=Reason.BAD_SPEC,
                )
            from matriarch.backup.physical.restore import verify as verify_physical

            below.extend(await asyncio.to_thread(verify_physical, where, opened, tracker, stop, keys=keys))
            return opened, {}
        if against is not None:
            return opened, await _compare(Server.from_url(against), opened, tracker)
        await asyncio.to_thread(restore.check_object, where, opened, tracker, stop)
        return opened, {}

    async def work() -> tuple[Opened, dict[str, list[Difference]], Restorable | None]:
        opened, differences = await check()
        if against is not None:
            return opened, differences, None
        tracker.step("Looking at the WAL")
        return (
            opened,
            differences,
            await asyncio.to_thread(restorable, open_store(parse_store(store, endpoint), stop), read_keys(key_files)),
        )

    opened, differences, reach = terminal.run(work(), line=lambda: line(tracker), stop=stop.set)
    found = {name: [str(d) for d in some] for name, some in differences.items() if some}
    if as_json:
        tables = [
            {"database": d.name, "schema": t.schema, "table": t.name, "rows": t.rows, "hash": t.hash}
            for d in opened.details.databases
            for t in d.tables
        ]
        recovery = {} if reach is None else {"recovery": recovery_json(reach)}
        show_json({**describe(opened.manifest), "differences": found, "tables": tables, **recovery})
    elif against is None:
        what = "SQL" if opened.body.physical is None else "files"
        show(f"{opened.body.name} is whole: every byte is as it was written, {size(opened.body.size)} of {what}.")
        if below:
            note(f"so is all that it builds on: {', '.join(below)}")
        if opened.body.suspect:
            note("Suspect: pages failed their checksum when it was made, so it does not count as good")
        if reach is not None:
            tell_recovery(reach)
    elif not found:
        show(
            f"The database is equal to {opened.body.name}: {opened.body.tables} tables with {opened.body.rows} rows, "
            "every count and hash."
        )
    for name, some in found.items():
        for difference in some:
            note(f"differs: database {name}, {difference}")
    if found or (reach is not None and reach.recovery.gaps):
        raise SystemExit(Exit.DEGRADED)


async def _compare(server: Server, opened: Opened, tracker: Tracker) -> dict[str, list[Difference]]:
    tracker.step("Comparing", tables_total=opened.details.tables)
    found: dict[str, list[Difference]] = {}
    for database in opened.details.databases:
        session: Session = await server.connect(database.name, name="matriarch verify")
        try:
            async with session.transaction(isolation="repeatable_read", readonly=True):
                found[database.name] = await restore.compare_database(session, database, tracker)
        finally:
            await session.close(timeout=5)
    return found


def restore_to(
    store: str, backup_id: str, to: str, *, endpoint: str | None, key_files: list[Path], in_place: bool, drop_old: bool,
    databases: list[str], allow_unencrypted: bool, trust_source: bool, amcheck: bool, as_json: bool,
) -> None:  # fmt: skip
    from matriarch.backup.names import new_id

    stop, tracker = Stop(), Tracker()

    async def work() -> Any:
        keys = read_keys(key_files)
        server = Server.from_url(to)
        await choose([server], "any")  # before the store is read for minutes
        request = restore.Request(
            store=open_store(parse_store(store, endpoint), stop),
            servers=[server],
            keys=keys,
            task=RestoreTask(
                backup=backup_id,
                mode="in-place" if in_place else "new",
                restore_id=f"cli-{new_id()}",
                databases=tuple(databases),
                keep_old=not drop_old,
                allow_unencrypted=allow_unencrypted,
                trust_source=trust_source,
                amcheck=amcheck,
            ),
            tracker=tracker,
            stop=stop,
        )
        return await restore.restore(request)

    done = terminal.run(work(), line=lambda: line(tracker), stop=stop.set)
    if as_json:
        show_json(encode(done))
        return
    show(
        f"{done.backup_name} is restored: {', '.join(map(terminal.printable, done.databases))}; "
        f"{done.tables} tables with {done.rows} rows are equal to the backup's."
    )
    for name in done.kept:
        note(f"the replaced database is kept as {terminal.printable(name)}; drop it when you are sure")


def line(tracker: Tracker) -> str:
    progress = tracker.read()
    percent = f" {progress.percent} %" if progress.percent is not None else ""
    return f"{progress.step}{percent}" + (f": {progress.message}" if progress.message else "")


def describe(manifest: Manifest) -> dict[str, Any]:
    body = manifest.body
    return {
        "id": body.id,
        "type": body.kind,
        "name": body.file,
        "sequence": body.sequence,
        "started": body.started,
        "finished": body.finished,
        "cluster": body.origin.cluster,
        "namespace": body.origin.namespace,
        "resource": body.resource,
        "schedule": body.schedule,
        "serverVersion": body.origin.server_version,
        "systemIdentifier": body.origin.system_identifier,
        "timeline": body.origin.timeline,
        "snapshotLsn": body.snapshot_lsn,
        "source": body.origin.source,
        "encrypted": body.encryption is not None,
        "keyId": body.encryption.slots[0]["kek"] if body.encryption else None,
        "size": body.size,
        "storedSize": body.stored_size,
        "sha256": body.object.stored_sha256,
        "manifest": manifest.key,
        "manifestSha256": manifest.sha256,
        "tables": body.tables,
        "rows": body.rows,
        "warnings": list(body.warnings),
        **({} if body.physical is None else {"physical": encode(body.physical), "suspect": body.suspect}),
    }

"""The parent of an incremental backup: chosen, still whole, and with WAL summaries for all that happened since.

Whatever is in doubt ends in `Full` with a reason. Only a store that does not answer fails the backup.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import asyncpg

from matriarch.backup import catalog, lineage
from matriarch.backup.catalog import Catalog
from matriarch.backup.keys import Kek
from matriarch.backup.manifest import Lineage, Manifest
from matriarch.backup.physical import summaries
from matriarch.backup.physical.delta import Known, known_files
from matriarch.backup.physical.restore import read_map
from matriarch.backup.physical.session import Begun, explained, patient
from matriarch.backup.physical.summaries import Changes
from matriarch.backup.server import Session
from matriarch.backup.stop import Stop, in_thread
from matriarch.backup.store import Store
from matriarch.decide.chain import Candidate, Full, Source, Stretch, choose_parent, covering, needed
from matriarch.errors import Corrupt, Refused, Unavailable
from matriarch.postgres.lsn import parse_lsn
from matriarch.postgres.timeline import Switch, history_file, parse_history

_LOOKED_AT = 5  # of the newest backups, each with its whole chain
_PATIENCE = 75.0  # seconds without progress: an idle summarizer sleeps for up to 30
_AT_MOST = 900.0
_EVERY = 0.5
_SINCE = 170000  # summarize_wal


@dataclass(frozen=True, slots=True)
class Base:
    """What to build on. `files`: what the parent has, `changes`: what happened to relations since it began."""

    parent: Manifest
    lineage: Lineage
    files: Mapping[str, Known]
    changes: Changes


async def find_base(
    session: Session,
    begun: Begun,
    *,
    store: Store,
    key: Kek | None,
    pgdata: Path,
    max_increments: int,
    stop: Stop,
) -> Base | Full:
    """Raises Unavailable for the store."""
    if begun.facts.version_number < _SINCE:
        return Full(f"PostgreSQL {begun.facts.version} has no WAL summaries; they came with 17.")
    with explained():
        reached = begun.start_lsn
        if begun.facts.role == "standby":
            said = await patient(lambda: session.fetchval("SELECT pg_catalog.pg_last_wal_replay_lsn()::text"))
            reached = max(reached, parse_lsn(str(said)))
    line = await asyncio.to_thread(_line, pgdata, begun.facts.timeline)
    if isinstance(line, Full):
        return line
    source = Source(
        system=begun.facts.system_identifier,
        timeline=begun.facts.timeline,
        line=line,
        start=begun.start_lsn,
        reached=reached,
        encrypted=key is not None,
        checksums=begun.checksums,
    )
    known = await asyncio.to_thread(catalog.read_catalog, store)
    found = await in_thread(lambda: candidates(store, known, [key] if key else []))
    parent = choose_parent(found, source, max_increments)
    if isinstance(parent, Full):
        return parent
    files = await _summaries(session, pgdata, needed(parent, source), stop)
    if isinstance(files, Full):
        return files
    try:
        changes = await in_thread(partial(summaries.read, files))
    except Unavailable as error:
        return Full(f"{str(error)[0].upper()}{str(error)[1:]}.")
    manifest = next(m for m in known.manifests if m.body.id == parent.id)
    return await in_thread(lambda: _base(store, manifest, key, changes))


def _base(store: Store, manifest: Manifest, key: Kek | None, changes: Changes) -> Base | Full:
    try:
        opened = catalog.open_manifest(store, manifest, [key] if key else [])
        _, contents = read_map(store, opened)
    except (Corrupt, Refused) as error:
        return Full(f"{manifest.body.id} can't be built on: {error}")
    physical = manifest.body.physical
    assert physical is not None
    own = physical.lineage
    of_it = Lineage(
        type="incremental",
        parent=manifest.body.id,
        parent_sha256=manifest.sha256,
        full=own.full if own is not None and own.type == "incremental" else manifest.body.id,
        increments=(own.increments if own is not None else 0) + 1,
    )
    return Base(manifest, of_it, known_files(contents), changes)


def candidates(store: Store, known: Catalog, keys: Iterable[Kek]) -> list[Candidate]:
    """The newest physical backups, newest first. For each its whole chain is looked at, but no data read."""
    keys = tuple(keys)
    physical = [m for m in known.manifests if m.body.physical is not None]
    looks = lineage.Looks(store, known, keys)
    return [_candidate(m, looks) for m in physical[:_LOOKED_AT]]


def _candidate(manifest: Manifest, looks: lineage.Looks) -> Candidate:
    body = manifest.body
    assert body.physical is not None
    own = body.physical.lineage
    try:
        start, stop = parse_lsn(body.physical.start_lsn), parse_lsn(body.physical.stop_lsn)
        fault = looks.fault(body.id, strict=True)
    except ValueError:
        start, stop, fault = 0, 0, "it does not say where it begins"
    return Candidate(
        id=body.id,
        system=body.origin.system_identifier,
        timeline=body.physical.timeline,
        start=start,
        stop=stop,
        increments=own.increments if own is not None else 0,
        encrypted=body.encryption is not None,
        checksums=body.physical.pages != "off",
        fault=fault,
    )


def _line(pgdata: Path, timeline: int) -> tuple[Switch, ...] | Full:
    if timeline == 1:
        return ()
    try:
        return parse_history(timeline, (pgdata / "pg_wal" / history_file(timeline)).read_text())
    except (OSError, ValueError) as error:
        return Full(f"The history of timeline {timeline} can't be read: {error}.")


async def _summaries(session: Session, pgdata: Path, wanted: tuple[Stretch, ...], stop: Stop) -> list[Path] | Full:
    """The files that cover `wanted`, once the summarizer has got as far as this backup's beginning."""
    ends, patience, last = time.monotonic() + _AT_MOST, time.monotonic() + _PATIENCE, ""
    while True:
        stop.check()
        there = await asyncio.to_thread(summaries.available, pgdata)
        found = covering(wanted, there)
        if not isinstance(found, Stretch):
            return [there[s] for s in found]
        if await patient(lambda: session.fetchval("SELECT current_setting('summarize_wal')")) != "on":
            return Full(f"summarize_wal is off and no WAL summary holds {found}.")
        if any(s.timeline >= found.timeline and s.start > found.start for s in there):
            return Full(f"No WAL summary holds {found}: summarize_wal was off then, or wal_summary_keep_time is over.")
        now = f"{len(there)} {await _progress(session)}"
        if now != last:
            last, patience = now, time.monotonic() + _PATIENCE
        if time.monotonic() > min(patience, ends):
            return Full(f"The server has not summarized {found} yet; its log may say why.")
        await asyncio.sleep(_EVERY)


async def _progress(session: Session) -> str:
    try:
        return str(await session.fetchval("SELECT pending_lsn::text FROM pg_catalog.pg_get_wal_summarizer_state()"))
    except asyncpg.PostgresError:
        return ""

"""WAL that goes: the archive is gathered, decide.wal_retention decides, and here one step of it is carried out.

A run looks, then marks, waits, or deletes what an earlier run marked. Nothing but the mark is remembered, every step
can be repeated, and a kill between any two leaves an archive that the next run understands.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta

from matriarch.archive.listing import Listing, Stored, read_listing
from matriarch.backup import catalog, intact, lineage, names
from matriarch.backup.catalog import Catalog
from matriarch.backup.format import canonical
from matriarch.backup.jobspec import ExpectedStore, Reason
from matriarch.backup.keys import Kek
from matriarch.backup.manifest import Manifest
from matriarch.backup.store import Store
from matriarch.decide.chain import sound
from matriarch.decide.wal_retention import (
    Archive,
    Mark,
    PhysicalFact,
    Step,
    Turn,
    WalFact,
    WalPlan,
    next_step,
    plan_wal,
)
from matriarch.errors import Corrupt, Refused
from matriarch.postgres.lsn import SEGMENT_SIZE, format_lsn, parse_lsn, segment_start

MARK = "expire/wal.json"
AT_ONCE = 20_000  # files in one run


@dataclass(frozen=True, slots=True)
class Looked:
    archive: Archive
    plan: WalPlan
    mark: Mark | None
    listing: Listing
    known: Catalog

    @property
    def turn(self) -> Turn:
        return next_step(self.plan, self.mark, self.archive)

    def size(self, texts: Iterable[str]) -> int:
        """Bytes in the store of the files with these names."""
        wanted = set(texts)
        return sum(s.size for s in self.listing.files if s.name.text in wanted)


def facts(store: Store, known: Catalog, keys: Iterable[Kek]) -> tuple[PhysicalFact, ...]:
    """One for each physical backup; what a manifest says of its WAL and cannot be is 0."""
    keys = tuple(keys)
    found = [_fact(store, m, keys) for m in known.manifests if m.body.physical is not None]
    parents = lineage.parents(known)
    good = sound({f.id: f.good for f in found}, {f.id: parents[f.id] for f in found})
    return tuple(replace(f, good=f.id in good) for f in found)


def _fact(store: Store, manifest: Manifest, keys: tuple[Kek, ...]) -> PhysicalFact:
    body = manifest.body
    assert body.physical is not None
    try:
        start = parse_lsn(body.physical.start_lsn)
    except ValueError:
        start = 0
    try:
        catalog.open_manifest(store, manifest, keys)
        authentic = True
    except Refused as error:  # of another key: nobody can say here
        authentic = error.reason in (Reason.WRONG_KEY, Reason.KEY_MISSING)
    except Corrupt:
        authentic = False
    return PhysicalFact(
        id=body.id,
        timeline=body.physical.timeline,
        start=start,
        finished=names.parse_timestamp(body.finished),
        good=authentic and not body.suspect and catalog.is_complete(store, manifest),
        authentic=authentic,
        segment_size=body.physical.wal_segment_size,
    )


def look(
    store: Store,
    keys: Iterable[Kek],
    window: timedelta | None,
    *,
    expected: ExpectedStore | None = None,
    elsewhere: Iterable[int] = (),
) -> Looked:
    """Changes nothing. `expected`: what the store is to have; `elsewhere`: LSNs where backups in other stores begin.

    Raises MatriarchError when the store does not answer or is no cluster's."""
    store.check()
    catalog.require_cluster(store)
    listing = read_listing(store)
    # Markers before manifests: a backup that ends in between is then in both, never in neither.
    now = store.now()
    running = tuple(
        e.key.removeprefix("running/").removesuffix(".json")
        for e in store.list("running")
        if now - e.modified <= catalog.FRESH
    )
    known = catalog.read_catalog(store)
    done = {m.body.id for m in known.manifests}  # its marker may outlive it where its writer may not delete
    lost = intact.what_is_lost(store, known, expected, listing.segment_names) if expected is not None else ()
    archive = Archive(
        now=now,
        backups=facts(store, known, keys),
        files=tuple(_wal_fact(s) for s in listing.files),
        running=tuple(r for r in running if r not in done),
        broken=tuple(b.key for b in known.broken),
        elsewhere=tuple(elsewhere),
        lost=lost,
    )
    return Looked(archive, plan_wal(archive, window), _read_mark(store), listing, known)


def _wal_fact(stored: Stored) -> WalFact:
    name = stored.name
    end = None if name.kind == "history" else segment_start(name.text) + SEGMENT_SIZE
    return WalFact(name.timeline, end, name.text, stored.modified)


def _read_mark(store: Store) -> Mark | None:
    """None also for one that cannot be read: then it is made again, and the wait with it."""
    entry = next((e for e in store.list("expire") if e.key == MARK), None)
    raw = store.get(MARK)
    if entry is None or raw is None:
        return None
    try:
        return Mark(parse_lsn(str(json.loads(raw)["before"])), entry.modified)
    except (ValueError, KeyError, TypeError, RecursionError):
        return Mark(0, entry.modified)


def carry_out(store: Store, looked: Looked) -> Turn:
    """Take the step that `looked` leads to; what was deleted is in its `gone`, at most AT_ONCE files."""
    turn = looked.turn
    if turn.step is Step.UNMARK:
        store.delete(MARK)
    elif turn.step is Step.MARK:
        store.put(MARK, canonical({"format": 1, "before": format_lsn(looked.plan.before)}))
    elif turn.step is Step.DELETE:
        turn = replace(turn, gone=turn.gone[:AT_ONCE])
        where: dict[str, list[str]] = {}
        for stored in looked.listing.files:
            where.setdefault(stored.name.text, []).append(stored.key)
        for text in turn.gone:
            for key in where[text]:
                store.delete(key)
    return turn

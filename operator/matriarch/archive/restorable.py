"""What a store's physical backups and its WAL archive can restore: gathered by listing, told by decide.recovery.

Of the archive only the histories are read; a segment counts as there when the listing has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from matriarch.archive import expire
from matriarch.archive.listing import histories, read_listing
from matriarch.backup import catalog, names
from matriarch.backup.keys import Kek
from matriarch.backup.manifest import Body
from matriarch.backup.store import Store
from matriarch.decide.pitr import Archive, Route, Target, route
from matriarch.decide.recovery import Base, Recovery, Segment, recovery
from matriarch.decide.verdict import Verdict
from matriarch.errors import Refused
from matriarch.postgres.lsn import SEGMENT_SIZE, parse_lsn


@dataclass(frozen=True, slots=True)
class Restorable:
    """`good`: ids of backups whose data is whole, whose pages were sound and that no key says are forged."""

    recovery: Recovery
    good: frozenset[str]
    segments: int
    strange: tuple[str, ...]


def base_of(body: Body) -> Base:
    """A physical backup as decisions take it."""
    assert body.physical is not None
    return Base(
        id=body.id,
        timeline=body.physical.timeline,
        stop=parse_lsn(body.physical.stop_lsn),
        finished=names.parse_timestamp(body.finished),
    )


def look_for(store: Store, body: Body, keys: tuple[Kek, ...], target: Target) -> tuple[Archive, Route]:
    """The way from a physical backup to `target`.

    Raises Refused before anything is changed when the archive does not lead there, and what kept a history from being
    read: it may be the one that counts.
    """
    listing = read_listing(store)
    lines, unread = histories(store, listing, keys)
    for error in unread.values():
        raise error
    archive = Archive(histories=lines, segments=listing.segments)
    found = route(base_of(body), archive, target)
    if isinstance(found, Verdict):
        raise Refused(found.message, reason=found.reason)
    return archive, found


def restorable(store: Store, keys: Iterable[Kek]) -> Restorable:
    """Changes nothing. Raises Unavailable, and Refused or Corrupt for the store itself; a file's fault is a gap."""
    keys = tuple(keys)
    listing = read_listing(store)
    known = catalog.read_catalog(store)
    good = frozenset(f.id for f in expire.facts(store, known, keys) if f.good)
    bases = [base_of(m.body) for m in known.manifests if m.body.physical is not None]
    segments = [
        Segment(timeline=timeline, start=number * SEGMENT_SIZE, stored=stored)
        for (timeline, number), stored in listing.segments.items()
    ]
    lines, unread = histories(store, listing, keys)
    told = recovery(bases, segments, lines, {timeline: str(error) for timeline, error in unread.items()})
    return Restorable(told, good, len(segments), listing.strange)

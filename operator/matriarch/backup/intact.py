"""A store compared with what it had: gathered by listing and reading, decided by decide.intact."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from matriarch.backup import catalog
from matriarch.backup.catalog import Catalog
from matriarch.backup.jobspec import ExpectedStore, Seen
from matriarch.backup.store import Store
from matriarch.decide import intact
from matriarch.decide.intact import Expected, Holdings, Known, Link


def what_is_lost(
    store: Store, known: Catalog, expected: ExpectedStore, segments: Iterable[str] | None = None
) -> tuple[str, ...]:
    """One sentence for each loss. `segments`: names in the archive; None: they were not looked at."""
    # A manifest that cannot be read is damage, which freezes for itself: it is not gone, and says nothing of others.
    damaged = {b.id for b in known.broken}
    head = expected.head
    wanted = Expected(
        head=None if head is None or head.id in damaged else Link(head.sequence, head.id, head.sha256),
        wal=expected.wal,
        backups=tuple(Known(b.id, b.sha256) for b in expected.backups if b.id not in damaged),
        accepted=known.newest_sequence if damaged else expected.accepted,
    )
    there = links(known)
    holdings = Holdings(
        owned=store.get(catalog.OWNER) is not None,
        there=there,
        buried=_buried(store, there, wanted),
        wal=None if segments is None else frozenset(segments),
    )
    return intact.what_is_lost(wanted, holdings)


def links(known: Catalog) -> tuple[Link, ...]:
    return tuple(Link(m.body.sequence, m.body.id, m.sha256, m.body.previous) for m in known.manifests)


def head(store: Store, known: Catalog, remembered: Seen | None) -> Seen | None:
    """The newest there is or was, to be remembered; one that went by retention is still the newest that was seen."""
    newest = intact.head_of(links(known))
    if newest is None or (remembered is not None and remembered.sequence > newest.sequence):
        return remembered
    return Seen(id=newest.id, sha256=newest.sha256, sequence=newest.sequence)


def _buried(store: Store, there: tuple[Link, ...], wanted: Expected) -> tuple[Link, ...]:
    """Tombstones that matter: of what is looked for, and the one before each manifest. Years of others are not read."""
    named = {}
    for entry in store.list("tombstones"):
        digits, _, backup_id = entry.key.rpartition("/")[2].removesuffix(".json").partition("-")
        if digits.isdecimal():
            named[entry.key] = (int(digits), backup_id)
    ids = {k.id for k in wanted.backups} | ({wanted.head.id} if wanted.head is not None else set())
    numbers = {link.sequence for link in there} | {number for number, _ in named.values()}
    before = {max((n for n in numbers if n < link.sequence), default=0) for link in there}
    found = []
    for key, (number, backup_id) in named.items():
        if backup_id in ids or number in before:
            raw = store.get(key)
            if raw is not None:
                # What preceded it is not asked: that chain ends where nobody looks any more.
                found.append(Link(number, backup_id, hashlib.sha256(raw).hexdigest()))
    return tuple(found)

"""What a store's physical backups and its WAL archive can restore: gathered by listing, told by decide.recovery.

Of the archive only the histories are read; a segment counts as there when the listing has it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass

from matriarch.archive import expire
from matriarch.archive.keyring import Keyring
from matriarch.archive.names import ENCRYPTED
from matriarch.archive.vault import Vault
from matriarch.backup import catalog, names
from matriarch.backup.jobspec import ClusterIdentity
from matriarch.backup.keys import Kek
from matriarch.backup.store import Store
from matriarch.decide.recovery import Base, Recovery, Segment, recovery
from matriarch.errors import Corrupt, Refused
from matriarch.postgres.lsn import parse_lsn
from matriarch.postgres.timeline import Switch, parse_history


@dataclass(frozen=True, slots=True)
class Restorable:
    """`good`: ids of backups whose data is whole, whose pages were sound and that no key says are forged."""

    recovery: Recovery
    good: frozenset[str]
    segments: int
    strange: tuple[str, ...]


def restorable(store: Store, keys: Iterable[Kek]) -> Restorable:
    """Changes nothing. Raises Unavailable, and Refused or Corrupt for the store itself; a file's fault is a gap."""
    keys = tuple(keys)
    listing = expire.read_listing(store)
    known = catalog.read_catalog(store)
    good = frozenset(f.id for f in expire.facts(store, known, keys) if f.good)
    bases = [
        Base(
            id=m.body.id,
            timeline=m.body.physical.timeline,
            stop=parse_lsn(m.body.physical.stop_lsn),
            finished=names.parse_timestamp(m.body.finished),
        )
        for m in known.manifests
        if m.body.physical is not None
    ]
    segments = [
        Segment(timeline=s.name.timeline, start=s.name.start, stored=s.modified)
        for s in listing.files
        if s.name.kind == "segment"
    ]
    histories, unread = _histories(store, listing, keys)
    return Restorable(recovery(bases, segments, histories, unread), good, len(segments), listing.strange)


def _histories(
    store: Store, listing: expire.Listing, keys: tuple[Kek, ...]
) -> tuple[dict[int, tuple[Switch, ...]], dict[int, str]]:
    found: dict[int, tuple[Switch, ...]] = {}
    unread: dict[int, str] = {}
    files = [s for s in listing.files if s.name.kind == "history"]
    if not files:
        return found, unread
    system = system_of(store)
    for stored in files:
        encrypted = stored.key.endswith(ENCRYPTED)
        if encrypted and not keys:
            unread[stored.name.timeline] = "no key was given"
            continue
        vault = Vault(
            store,
            Keyring(keys if encrypted else (), time.time),
            system=system,
            cluster=ClusterIdentity(namespace="", name="", uid=""),
        )
        try:
            data = vault.get(stored.name)
        except (Refused, Corrupt) as error:
            unread[stored.name.timeline] = str(error)
            continue
        if data is not None:
            found[stored.name.timeline] = parse_history(stored.name.timeline, data.decode())
    return found, unread


def system_of(store: Store) -> int:
    try:
        return int(json.loads(store.get(catalog.OWNER) or b"")["system_identifier"])
    except (ValueError, KeyError, TypeError):
        raise Corrupt(f"{store.address}/{catalog.OWNER} is damaged or missing.", reason="ManifestCorrupt") from None

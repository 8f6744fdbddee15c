"""What lies below wal/ in a store: files by listing, the lines of timelines by reading their histories."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import datetime

from matriarch.archive.keyring import Keyring
from matriarch.archive.names import ENCRYPTED, PLAIN, WalName, parse
from matriarch.archive.vault import Vault
from matriarch.backup import catalog
from matriarch.backup.jobspec import ClusterIdentity, Reason
from matriarch.backup.keys import Kek
from matriarch.backup.store import Store
from matriarch.errors import Corrupt, Refused
from matriarch.postgres.lsn import SEGMENT_SIZE
from matriarch.postgres.timeline import Switch, parse_history


@dataclass(frozen=True, slots=True)
class Stored:
    """An archived file as it lies in the store."""

    name: WalName
    key: str
    size: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Listing:
    files: tuple[Stored, ...]
    strange: tuple[str, ...]
    """Keys below wal/ that are none of ours: shown, never deleted."""

    @property
    def segments(self) -> dict[tuple[int, int], datetime]:
        """(timeline, number) → when the store received it."""
        whole = (s for s in self.files if s.name.kind == "segment")
        return {(s.name.timeline, s.name.start // SEGMENT_SIZE): s.modified for s in whole}

    @property
    def segment_names(self) -> frozenset[str]:
        return frozenset(s.name.text for s in self.files if s.name.kind == "segment")


def read_listing(store: Store) -> Listing:
    files, strange = [], []
    for entry in store.list("wal"):
        text = entry.key.rpartition("/")[2]
        name = parse(text.removesuffix(ENCRYPTED) if text.endswith(ENCRYPTED) else text.removesuffix(PLAIN))
        if name is not None and entry.key in (name.key(encrypted=True), name.key(encrypted=False)):
            files.append(Stored(name, entry.key, entry.size, entry.modified))
        else:
            strange.append(entry.key)
    return Listing(tuple(files), tuple(strange))


def histories(
    store: Store, listing: Listing, keys: tuple[Kek, ...]
) -> tuple[dict[int, tuple[Switch, ...]], dict[int, Refused | Corrupt]]:
    """The whole line of each timeline, and why that of others cannot be read. Raises Unavailable."""
    found: dict[int, tuple[Switch, ...]] = {}
    unread: dict[int, Refused | Corrupt] = {}
    files = [s for s in listing.files if s.name.kind == "history"]
    if not files:
        return found, unread
    system = system_of(store)
    for stored in files:
        encrypted = stored.key.endswith(ENCRYPTED)
        if encrypted and not keys:
            unread[stored.name.timeline] = Refused("no key was given", reason=Reason.KEY_MISSING)
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
            unread[stored.name.timeline] = error
            continue
        if data is not None:
            found[stored.name.timeline] = parse_history(stored.name.timeline, data.decode())
    return found, unread


def system_of(store: Store) -> int:
    try:
        return int(json.loads(store.get(catalog.OWNER) or b"")["system_identifier"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Corrupt(f"{store.address}/{catalog.OWNER} is damaged or missing.", reason="ManifestCorrupt") from None

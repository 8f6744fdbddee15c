"""What a store holds: its owner, its backups by their manifests, what was left behind, and how a backup goes away.

Manifests are believed, listings are not: an object without a manifest is no backup, and what the catalogue does not
understand is shown and never deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from matriarch.backup import names
from matriarch.backup.format import canonical
from matriarch.backup.jobspec import ClusterIdentity, Reason
from matriarch.backup.keys import Kek
from matriarch.backup.manifest import Manifest, Opened
from matriarch.backup.store import Exists, Store
from matriarch.errors import Corrupt, MatriarchError, Refused

OWNER = "owner.json"
DATA = ("logical", "physical")  # folders of data objects
Kind = Literal["logical", "physical"]
FRESH = timedelta(minutes=15)  # a running backup renews its marker every minute; older than this, it is dead
FORGOTTEN = timedelta(hours=48)  # leftovers without any marker: longer than any backup of ours takes


@dataclass(frozen=True, slots=True)
class Broken:
    """A manifest that can't be read: shown, never deleted, and whatever it stood for stays."""

    key: str
    error: MatriarchError

    @property
    def id(self) -> str:
        return self.key.removesuffix(".json").rpartition("-")[2]


@dataclass(frozen=True, slots=True)
class Catalog:
    """Newest first. `broken` are manifests that are damaged or of a later format."""

    manifests: tuple[Manifest, ...]
    broken: tuple[Broken, ...]

    @property
    def newest_sequence(self) -> int:
        """The highest number used, counting broken ones by their names."""
        used = [m.body.sequence for m in self.manifests]
        used += [int(number) for b in self.broken if (number := _sequence(b.key)).isdecimal()]
        return max(used, default=0)


def _sequence(key: str) -> str:
    return key.rpartition("/")[2].partition("-")[0]


def read_catalog(store: Store) -> Catalog:
    """Every manifest in the store, each checked for damage (no key needed)."""
    manifests: list[Manifest] = []
    broken: list[Broken] = []
    for entry in store.list("manifests"):
        try:
            raw = store.get(entry.key)
            if raw is not None:  # deleted since it was listed
                manifests.append(Manifest.parse(raw, where=entry.key))
        except (Corrupt, Refused) as error:
            broken.append(Broken(entry.key, error))
    manifests.sort(key=lambda m: (m.body.sequence, m.body.finished), reverse=True)
    return Catalog(tuple(manifests), tuple(broken))


def newest(store: Store) -> tuple[int, str | None]:
    """The highest sequence number in use and the SHA-256 of its manifest: what the next one builds on."""
    keys = [e.key for e in (*store.list("manifests"), *store.list("tombstones"))]
    last = max((k for k in keys if _sequence(k).isdecimal()), key=lambda k: (int(_sequence(k)), k), default=None)
    if last is None:
        return 0, None
    raw = store.get(last)
    return int(_sequence(last)), None if raw is None else hashlib.sha256(raw).hexdigest()


def find(store: Store, wanted: str, kind: Kind | None = None) -> Manifest:
    """The one backup `wanted` names, see names.find; with `kind`, `latest` is the newest of that kind.

    Raises Refused (BackupNotFound, BackupAmbiguous, ManifestMissing) and Corrupt (ManifestCorrupt); never falls back
    from a damaged backup to another one.
    """
    catalog = read_catalog(store)
    exact = names.parse(wanted)
    wanted_id = exact.id if exact else wanted
    for broken in catalog.broken:
        newest = _sequence(broken.key).isdecimal() and int(_sequence(broken.key)) == catalog.newest_sequence
        if broken.id == wanted_id or (wanted == "latest" and newest):
            raise broken.error
    chosen = [m for m in catalog.manifests if wanted != "latest" or kind in (None, m.body.kind)]
    if not chosen and catalog.manifests:
        raise Refused(f"The store holds no complete {kind} backup.", reason=Reason.BACKUP_NOT_FOUND)
    known = [names.Known(m.name, m.body.resource) for m in chosen]
    try:
        name = names.find(wanted, known)
    except Refused as error:
        if error.reason == Reason.BACKUP_NOT_FOUND and _has_object(store, wanted_id):
            raise Refused(
                f"{wanted} has data in the store but no manifest: it was never completed, or its manifest was deleted. "
                "It can't be trusted; choose another backup.",
                reason=Reason.MANIFEST_MISSING,
            ) from None
        raise
    manifest = next(m for m in catalog.manifests if m.name == name)
    if kind not in (None, manifest.body.kind):
        how = "into an empty directory" if manifest.body.kind == "physical" else "into a running server"
        raise Refused(
            f"{manifest.body.name} is a {manifest.body.kind} backup: it is restored {how}.", reason=Reason.BAD_SPEC
        )
    return manifest


def folders(store: Store) -> list[str]:
    """Folders below that are a cluster's: for somebody who named the folder above them."""
    found = {e.key.removesuffix(f"/{OWNER}") for e in store.list("") if e.key.endswith(f"/{OWNER}")}
    return sorted(found)[:50]


def require_cluster(store: Store) -> None:
    """Raises Refused (BackupNotFound) for a folder that is no cluster's, with those below it: what is said of an empty
    one is always true."""
    if store.get(OWNER) is None:
        below = ", ".join(folders(store)[:5])
        raise Refused(
            f"{store.address} is no cluster's folder: it has no {OWNER}."
            + (f" Name one of those below it: {below}." if below else ""),
            reason=Reason.BACKUP_NOT_FOUND,
        )


def _has_object(store: Store, backup_id: str) -> bool:
    return any(_backup_of(e.key) == backup_id for folder in DATA for e in store.list(folder))


def _backup_of(key: str) -> str | None:
    """The id of the backup that a data object belongs to; None for what is none of ours."""
    parts = key.split("/")
    if parts[0] == "physical" and len(parts) == 3:
        return parts[1]
    name = names.parse(parts[-1])
    return name.id if name is not None else None


def is_complete(store: Store, manifest: Manifest) -> bool:
    """Its data is there in full size, as far as a listing tells."""
    body = manifest.body
    if body.physical is None:
        return store.size(body.object.path) == body.object.stored_size
    sizes = {e.key: e.size for e in store.list(body.object.path.rpartition("/")[0])}
    map_size = sizes.pop(body.object.path, None)
    packs = (len(sizes), sum(sizes.values()))
    return map_size == body.object.stored_size and packs == (body.physical.packs, body.physical.stored_size)


def open_manifest(store: Store, manifest: Manifest, keys: Iterable[Kek]) -> Opened:
    """Authenticate, with the manifest's own key slots and those that were added to the store later."""
    keys = tuple(keys)
    encryption = manifest.body.encryption
    if encryption is None:
        return manifest.open(keys)
    return manifest.open(keys, added_slots(encryption.dek, encryption.slots, keys, store.get))


def open_own(store: Store, manifest: Manifest, key: Kek | None) -> Opened:
    """What an earlier attempt with the same key completed. One that was written for a public key stays unread: that it
    is there in whole is all that its writer may know. Raises as `open_manifest` does.
    """
    encryption = manifest.body.encryption
    slots = encryption.slots if encryption is not None else ()
    if key is not None and not key.opens and any(slot.get("kek") == key.id for slot in slots):
        return manifest.unread()
    return open_manifest(store, manifest, [key] if key else [])


def added_slots(
    dek_id: str, own: Iterable[Mapping[str, Any]], keys: Iterable[Kek], read: Callable[[str], bytes | None]
) -> list[dict[str, Any]]:
    """The key slots that `read` finds in the store for those of `keys` that have none among an object's `own`.

    Raises Corrupt (ManifestCorrupt).
    """
    known = {slot.get("kek") for slot in own}
    found: list[dict[str, Any]] = []
    for key in keys:
        if key.id not in known and (text := read(slot_key(dek_id, key.id))) is not None:
            try:
                found.append(dict(json.loads(text)))
            except (ValueError, TypeError, RecursionError):
                raise Corrupt(
                    f"The key slot {slot_key(dek_id, key.id)} is damaged.", reason=Reason.MANIFEST_CORRUPT
                ) from None
    return found


def slot_key(dek_id: str, kek_id: str) -> str:
    return f"keys/{dek_id}/{kek_id}.json"


def add_key(store: Store, manifest: Manifest, keys: Iterable[Kek], new: Kek) -> None:
    """Let `new` open this backup too. No object changes; the slot is proven before it counts."""
    opened = open_manifest(store, manifest, keys)
    if opened.dek is None:
        return
    slot = new.wrap(opened.dek)
    new.unwrap(opened.dek.id, slot)
    try:
        store.put(slot_key(opened.dek.id, new.id), canonical(slot), if_absent=True)
    except Exists:
        open_manifest(store, manifest, [new])


def claim(store: Store, cluster: ClusterIdentity | None, system_identifier: str, now: str) -> None:
    """Make the prefix this system's, or see that it is. Raises Refused (PrefixOwnedByAnother) before any other write.

    The system identifier is what counts: a recreated resource over kept data is the same system, a new cluster of the
    same name is not, and its retention must never meet the old one's backups.
    """
    mine = {
        "format": 1,
        "system_identifier": system_identifier,
        "cluster": None
        if cluster is None
        else {"namespace": cluster.namespace, "name": cluster.name, "uid": cluster.uid},
        "claimed": now,
    }
    if (found := store.get(OWNER)) is None:
        with contextlib.suppress(Exists):  # somebody was faster: read who
            store.put(OWNER, canonical(mine), if_absent=True)
        found = store.get(OWNER)
    check_owner(store, found, system_identifier)


def check_owner(store: Store, found: bytes | None, system_identifier: str) -> None:
    try:
        owner = json.loads(found or b"")
        other, cluster = owner["system_identifier"], owner.get("cluster") or {}
        whose = f"cluster {cluster['namespace']}/{cluster['name']}" if cluster else "another server"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Corrupt(
            f"{store.address}/{OWNER} is damaged; look whose backups lie there before anything is written.",
            reason=Reason.MANIFEST_CORRUPT,
        ) from None
    if other != system_identifier:
        raise Refused(
            f"{store.address} holds the backups of {whose} (system {other}), this is system {system_identifier}; "
            "give this cluster a prefix of its own.",
            reason=Reason.PREFIX_OWNED_BY_ANOTHER,
        )


def marker_key(backup_id: str) -> str:
    """Renewed while a backup runs: whoever sweeps leaves its objects alone."""
    return f"running/{backup_id}.json"


def tombstone_key(manifest: Manifest) -> str:
    return f"tombstones/{manifest.key.rpartition('/')[2]}"


def delete_backup(store: Store, manifest: Manifest, look: Callable[[], None] | None = None) -> None:
    """Tombstone, manifest, data, key slots, in this order: after any of them it is a whole backup or none at all.

    `look` is called once the tombstone is there: what it raises takes it away again, and the backup stays.
    """
    tombstone = tombstone_key(manifest)
    with contextlib.suppress(Exists):  # an earlier try got this far
        store.put(tombstone, manifest.raw, if_absent=True)
    if look is not None:
        try:
            look()
        except Refused:
            store.delete(tombstone)
            raise
    store.delete(manifest.key)
    store.delete(manifest.body.object.path)
    if manifest.body.kind == "physical":
        for entry in list(store.list(manifest.body.object.path.rpartition("/")[0])):
            store.delete(entry.key)
    if manifest.body.encryption is not None:
        for entry in list(store.list(f"keys/{manifest.body.encryption.dek}")):
            store.delete(entry.key)


def sweep(store: Store) -> list[str]:
    """Remove what dead backups left; returns the keys. Never a running backup; nothing while a manifest is broken.

    A leftover is an object under logical/ or physical/, or an unfinished upload, that belongs to no manifest's backup:
    gone at once when its marker is stale or its deletion was begun, else after FORGOTTEN.
    """
    now = store.now()
    markers = {e.key.removeprefix("running/").removesuffix(".json"): now - e.modified for e in store.list("running")}
    objects = [e for folder in DATA for e in store.list(folder)]
    uploads = list(store.unfinished())
    # Manifests after objects: one that was completed in between is then known.
    catalog = read_catalog(store)
    if catalog.broken:
        return []
    # Another attempt of a logical backup may have left an object of another name; packs go by their folder.
    named = {m.body.object.path for m in catalog.manifests}
    complete = {m.body.id for m in catalog.manifests}
    tombstones = {e.key.removesuffix(".json").rpartition("-")[2] for e in store.list("tombstones")}
    gone: list[str] = []

    def dead(backup_id: str | None, age: timedelta) -> bool:
        if backup_id in markers:
            return markers[backup_id] > FRESH and age > FRESH
        return age > FORGOTTEN or (backup_id in tombstones and age > FRESH)

    for upload in uploads:
        if dead(_backup_of(upload.key), now - upload.begun):
            store.discard(upload)
            gone.append(f"upload of {upload.key}")
    for entry in objects:
        owner = _backup_of(entry.key)
        kept = entry.key in named or (entry.key.startswith("physical/") and owner in complete)
        if owner is not None and not kept and dead(owner, now - entry.modified):
            store.delete(entry.key)
            gone.append(entry.key)
    for backup_id, age in markers.items():
        if age > FRESH or backup_id in complete:
            store.delete(marker_key(backup_id))
    return gone

"""Which backups in a store need which: chains of incremental ones, and the deletion of a parent beside the making of a
child.

Both sides write before they look. Who makes an increment writes its marker, which names the parent, and then looks for
the parent's tombstone; its manifest comes before the last such look. Who deletes writes the tombstone, and then looks
for markers and manifests that name the backup. Whatever the order, one of the two sees the other and gives way.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator
from itertools import pairwise

from matriarch.backup import catalog
from matriarch.backup.catalog import Catalog
from matriarch.backup.jobspec import Reason
from matriarch.backup.keys import Kek
from matriarch.backup.manifest import Body, Lineage, Manifest, Opened
from matriarch.backup.store import Store
from matriarch.decide.chain import chain_of, children_first
from matriarch.errors import Corrupt, Refused


def parent_of(body: Body) -> str | None:
    """The id of the backup that it takes pages from; None for a full or a logical one."""
    own = _lineage(body)
    return own.parent if own is not None else None


def parents(known: Catalog) -> dict[str, str | None]:
    return {m.body.id: parent_of(m.body) for m in known.manifests}


def links(store: Store, opened: Opened, keys: Iterable[Kek]) -> Iterator[Opened]:
    """The backup itself, then what it builds on, down to the full one: each is the one that the one before names.

    Raises Corrupt (ObjectMissing, ManifestCorrupt) that names the link that is not as it should be, Refused (WrongKey).
    """
    yield opened
    own = _lineage(opened.body)
    if own is None or own.parent is None:
        return
    keys = tuple(keys)
    known = catalog.read_catalog(store)
    by_id, broken = {m.body.id: m for m in known.manifests}, {b.id: b for b in known.broken}
    passed = {opened.body.id}
    while own is not None and own.parent is not None:
        name, parent = opened.body.name, by_id.get(own.parent)
        if own.parent in broken:
            raise Corrupt(f"{name} builds on {own.parent}: {broken[own.parent].error}", reason=Reason.MANIFEST_CORRUPT)
        if parent is None or own.parent in passed:
            raise Corrupt(
                f"{name} builds on {own.parent}, which is gone from {store.address}: it can't be restored. Choose a "
                "backup of another chain.",
                reason=Reason.OBJECT_MISSING,
            )
        if parent.sha256 != own.parent_sha256:
            raise Corrupt(
                f"{name} builds on {own.parent}, whose manifest is not the one that it was made on.",
                reason=Reason.MANIFEST_CORRUPT,
            )
        opened = catalog.open_manifest(store, parent, keys)
        passed.add(own.parent)
        yield opened
        own = _lineage(opened.body)


def _lineage(body: Body) -> Lineage | None:
    return body.physical.lineage if body.physical is not None else None


class Looks:
    """What can be said of backups and their chains without reading their data. Each is looked at once."""

    def __init__(self, store: Store, known: Catalog, keys: Iterable[Kek]) -> None:
        self._store, self._keys = store, tuple(keys)
        self._by_id = {m.body.id: m for m in known.manifests}
        self._parents = parents(known)
        self._faults: dict[tuple[str, bool], str | None] = {}

    def fault(self, backup: str, *, strict: bool = False) -> str | None:
        """What keeps it from being restored, as the end of a sentence about it; None: nothing that shows.

        `strict`: also what keeps others from building on it: nobody here has its key, or it is being deleted.
        """
        if (own := self._own(backup, strict)) is not None:
            return own
        chain = chain_of(backup, self._parents)
        if isinstance(chain, str):
            return f"it builds on {chain}, which is gone"
        for child, link in pairwise(chain):
            if (fault := self._own(link, strict)) is not None:
                return f"it builds on {link}: {fault}"
            own_lineage = _lineage(self._by_id[child].body)
            if own_lineage is None or own_lineage.parent_sha256 != self._by_id[link].sha256:
                return f"it builds on {link}, which is not the one that it was made on"
        return None

    def _own(self, backup: str, strict: bool) -> str | None:
        if (backup, strict) not in self._faults:
            self._faults[backup, strict] = self._look(self._by_id[backup], strict)
        return self._faults[backup, strict]

    def _look(self, manifest: Manifest, strict: bool) -> str | None:
        if manifest.body.suspect:
            return "pages were bad when it was made"
        if not catalog.is_complete(self._store, manifest):
            return "its data is not there in full size"
        try:
            catalog.open_manifest(self._store, manifest, self._keys)
        except Refused as error:  # of an older key: nobody can say here
            if strict or error.reason not in (Reason.WRONG_KEY, Reason.KEY_MISSING):
                return "no key here opens it"
        except Corrupt:
            return "its manifest is not authentic"
        if strict and is_going(self._store, manifest):
            return "it is being deleted"
        return None


def is_going(store: Store, manifest: Manifest) -> bool:
    """Whether somebody has begun to delete it."""
    return store.get(catalog.tombstone_key(manifest)) is not None


def is_there(store: Store, parent: Manifest) -> bool:
    """Whether an increment of `parent` may be completed: to be asked after the increment's own mark is in the store."""
    return store.get(parent.key) == parent.raw and not is_going(store, parent)


def needed_by(store: Store, backup: str, seen: Container[str] = ()) -> str | None:
    """Who builds on it, running or complete: a key in the store. `seen`: manifests that are known not to.

    A manifest that can't be read counts as one that does.
    """
    now = store.now()
    for entry in list(store.list("running")):
        if now - entry.modified <= catalog.FRESH and _named_in(store.get(entry.key)) == backup:
            return entry.key
    for entry in list(store.list("manifests")):
        if entry.key in seen or (raw := store.get(entry.key)) is None:
            continue
        try:
            if parent_of(Manifest.parse(raw, where=entry.key).body) == backup:
                return entry.key
        except (Corrupt, Refused):
            return entry.key
    return None


def _named_in(marker: bytes | None) -> str | None:
    try:
        return str(json.loads(marker or b"{}").get("parent"))
    except (ValueError, AttributeError, RecursionError):
        return None


def delete(store: Store, manifest: Manifest, seen: Container[str] = ()) -> None:
    """Take a backup away. Raises Refused (NeededByIncrement) with everything as it was when something builds on it."""

    def look() -> None:
        if (who := needed_by(store, manifest.body.id, seen)) is not None:
            raise Refused(
                f"{manifest.body.name} stays: {who} builds on it. Delete the increments of it first.",
                reason=Reason.NEEDED_BY_INCREMENT,
            )

    catalog.delete_backup(store, manifest, look if manifest.body.kind == "physical" else None)


def in_order(ids: Iterable[str], known: Catalog) -> tuple[str, ...]:
    """Those to delete, increments before what they build on."""
    return children_first(tuple(ids), parents(known))

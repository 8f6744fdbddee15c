"""A new key for what exists: a slot beside each backup and each data key of the archive. No object is written again.

Repeatable at any point: what has a slot that the new key opens is only looked at. The old slots stay where they are, in
manifests and headers: the old key goes on opening what it opened.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from matriarch.archive import objects
from matriarch.archive.listing import read_listing, system_of
from matriarch.archive.names import ENCRYPTED, WalName
from matriarch.backup import catalog
from matriarch.backup.catalog import added_slots, slot_key
from matriarch.backup.format import Header, canonical
from matriarch.backup.keys import Dek, Kek, open_slots
from matriarch.backup.store import Exists, Store, beginning
from matriarch.errors import Corrupt, Refused

_BEGINNING = 2 << 20  # bytes: more than any header with its slots


@dataclass(frozen=True, slots=True)
class Holder:
    """One data key: of a backup, or of a stretch of the archive (`what`), and who opens it."""

    what: str
    dek_id: str
    keys: tuple[str, ...]
    """Ids of the keys that have a slot."""
    error: str = ""
    """Why the new key does not open it, in a rotation."""


def holders(store: Store) -> Iterator[Holder]:
    """Every data key in the store. Reads the beginning of each archived file; raises Corrupt at a damaged one, and
    Refused (BackupNotFound) for a folder that is no cluster's."""
    catalog.require_cluster(store)
    known = catalog.read_catalog(store)
    yield from _broken(known)
    for what, dek_id, own, _ in _each(store, known):
        yield Holder(what, dek_id, _ids(store, dek_id, own))


def rotate(
    store: Store, old: Iterable[Kek], new: Kek, progress: Callable[[], None] = lambda: None, *, look: bool = False
) -> list[Holder]:
    """Let `new` open all that `old` opens, each proven by opening it from what the store then has.

    With `look` nothing is added.

    A backup or data key that could not be done carries its reason and stops nothing. Raises Refused (BadKey) when `new`
    is an old one, Refused (BackupNotFound) for a folder that is no cluster's, Corrupt at an archived file whose header
    is damaged: move it away, and run it again.
    """
    old = tuple(old)
    if any(key.id == new.id for key in old):
        raise Refused(f"The new key {new.id} is one of the old ones; give another.", reason="BadKey")
    if not new.opens:
        raise Refused(
            f"{new.id} is a public key, and only its private key can prove that the new slots open; give that one.",
            reason="BadKey",
        )
    catalog.require_cluster(store)
    known = catalog.read_catalog(store)  # once: what could not be read is said, and not left out
    done = list(_broken(known))
    for what, dek_id, own, prove in _each(store, known):
        progress()
        error = ""
        try:
            if not look:
                _add(store, what, dek_id, own, old, new)
            prove(_open(store, what, dek_id, own, (new,)))
        except (Refused, Corrupt) as failure:
            error = str(failure)
        done.append(Holder(what, dek_id, _ids(store, dek_id, own), error))
    return done


def _broken(known: catalog.Catalog) -> Iterator[Holder]:
    for broken in known.broken:
        yield Holder(broken.key, "", (), str(broken.error))


Slots = tuple[Mapping[str, Any], ...]
Each = tuple[str, str, Slots, Callable[[Dek], None]]


def _each(store: Store, known: catalog.Catalog) -> Iterator[Each]:
    """What, data key, its own slots, and a proof that a key is it."""
    for manifest in known.manifests:
        encryption = manifest.body.encryption
        if encryption is None:
            continue

        def prove(dek: Dek, manifest: Any = manifest, encryption: Any = encryption) -> None:
            # The manifest's HMAC says whether this is its data key: it is opened by a slot made for the occasion.
            once = Kek.generate()
            manifest.open([once], [*encryption.slots, once.wrap(dek)])

        yield manifest.body.name, encryption.dek, encryption.slots, prove
    seen: set[str] = set()
    encrypted = [s for s in read_listing(store).files if s.key.endswith(ENCRYPTED)]
    system = system_of(store) if encrypted else 0
    for stored in encrypted:
        peeked = objects.peek(stored.name, beginning(store, stored.key, _BEGINNING))
        if peeked.header.dek_id in seen:
            continue
        seen.add(peeked.header.dek_id)

        def trust(dek: Dek, name: WalName = stored.name, header: Header = peeked.header) -> None:
            objects.trust(name, header, dek, system)

        yield f"WAL from {stored.name}", peeked.header.dek_id, peeked.slots, trust


def _add(store: Store, what: str, dek_id: str, own: Slots, old: tuple[Kek, ...], new: Kek) -> None:
    if any(slot.get("kek") == new.id for slot in own) or store.size(slot_key(dek_id, new.id)) is not None:
        return
    slot = new.wrap(_open(store, what, dek_id, own, old))
    with contextlib.suppress(Exists):  # another run was faster; what it wrote is proven below
        store.put(slot_key(dek_id, new.id), canonical(slot), if_absent=True)


def _open(store: Store, what: str, dek_id: str, own: Slots, keys: tuple[Kek, ...]) -> Dek:
    return open_slots(dek_id, (*own, *added_slots(dek_id, own, keys, store.get)), keys, what=what)


def _ids(store: Store, dek_id: str, own: Slots) -> tuple[str, ...]:
    added = [e.key.rpartition("/")[2].removesuffix(".json") for e in store.list(f"keys/{dek_id}")]
    return tuple(dict.fromkeys([*(str(s.get("kek")) for s in own), *added]))

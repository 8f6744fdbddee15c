"""The archive's data keys: a new one every day, wrapped for the cluster's key, and those of objects that exist.

A data key a day and process, because a key service would otherwise be asked for every segment. Each object carries the
slots of its key, so reading needs the object and a key encryption key, and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from matriarch.backup.catalog import added_slots
from matriarch.backup.keys import Dek, Kek, open_slots
from matriarch.errors import Refused

DAY = 86400.0  # seconds

Slots = tuple[Mapping[str, str], ...]


class Keyring:
    """Used by several threads. `keys`: the first one wraps new data keys, all of them open what exists.

    `reread` gives them as they are now: a Secret that is replaced under a process that goes on for months. The new key
    wraps from then on, and the earlier ones still open. What raises Refused, or only writes, changes nothing.
    """

    def __init__(
        self, keys: Iterable[Kek], now: Callable[[], float], reread: Callable[[], Iterable[Kek]] | None = None
    ) -> None:
        self._keys = tuple(keys)
        self._reread = reread
        self._now = now
        self._lock = threading.Lock()
        self._known: dict[str, Dek] = {}
        self._current: tuple[float, Dek, Slots] | None = None

    @property
    def encrypts(self) -> bool:
        return bool(self._keys)

    def current(self) -> tuple[Dek, Slots]:
        """Today's data key and its slots."""
        day = self._now() // DAY
        with self._lock:
            self._renew()
            if self._current is None or self._current[0] != day:
                dek = Dek.generate()
                self._current = (day, dek, (self._keys[0].wrap(dek),))
                self._known[dek.id] = dek
            return self._current[1:]

    def _renew(self) -> None:
        if self._reread is None or not self._keys:
            return
        try:
            fresh = tuple(self._reread())
        except Refused:
            return
        if fresh and fresh[0].opens and fresh[0].id != self._keys[0].id:
            ids = {key.id for key in fresh}
            self._keys = (*fresh, *(key for key in self._keys if key.id not in ids))
            self._current = None

    def open(self, dek_id: str, slots: Iterable[Mapping[str, Any]], read: Callable[[str], bytes | None]) -> Dek:
        """The data key of an object, by its own slots or by one that was added to the store later (`read`).

        Raises Refused (KeyMissing, WrongKey) and Corrupt (ManifestCorrupt).
        """
        with self._lock:
            if (known := self._known.get(dek_id)) is not None:
                return known
        found = list(slots)
        found += added_slots(dek_id, found, self._keys, read)
        dek = open_slots(dek_id, found, self._keys, what="The WAL")
        with self._lock:
            self._known[dek_id] = dek
        return dek

"""The archive in its store: a file is put there once, compared when it is there already, and read back with proof.

Blocks; called from worker threads. A name is never written twice: the store refuses by itself (conditional create),
so that also two servers that both believe to be the primary can't replace each other's WAL.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable
from typing import Literal

from matriarch.archive import objects, segment
from matriarch.archive.keyring import Keyring
from matriarch.archive.names import WalName
from matriarch.archive.report import Reason
from matriarch.backup import catalog
from matriarch.backup.jobspec import ClusterIdentity
from matriarch.backup.jobspec import Reason as StoreReason
from matriarch.backup.names import timestamp
from matriarch.backup.store import Exists, Store, beginning
from matriarch.errors import Corrupt, Refused

_BEGINNING = 1 << 20  # bytes: more than a header with its slots


class Vault:
    """`system` is the identifier of the database system whose WAL this is."""

    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        *,
        system: int,
        cluster: ClusterIdentity,
        level: int = objects.LEVEL,
        before_put: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._store, self._keys = store, keyring
        self._system, self._cluster, self._level = system, cluster, level
        self._before_put = before_put

    @property
    def address(self) -> str:
        return self._store.address

    def claim(self) -> None:
        """Make the folder this system's, or see that it is. Raises Refused (PrefixOwnedByAnother)."""
        catalog.claim(self._store, self._cluster, str(self._system), timestamp(self._store.now()))

    def put(self, name: WalName, data: bytes | bytearray) -> int:
        """Stored when it returns: the bytes of the object, 0 when it was there with this very content.

        Raises Refused (BadSegment, SplitBrain), Corrupt (the object that is there is damaged), Unavailable.
        """
        segment.check(name, data, self._system)
        packed = objects.compress(data, self._level)
        if self._keys.encrypts:
            dek, slots = self._keys.current()
            body = objects.seal(
                name, data, packed, system=self._system, cluster=self._cluster.uid, dek=dek, slots=slots
            )
        else:
            body = packed
        del packed
        self._before_put(len(body))
        try:
            self._store.put(name.key(encrypted=self._keys.encrypts), body, if_absent=True)
        except Exists:
            if not self._compare(name, data):
                raise self._split(name) from None
            return 0
        return len(body)

    def confirm(self, name: WalName, data: bytes | bytearray) -> bool:
        """Whether it is stored with this very content. Raises as `put` does."""
        segment.check(name, data, self._system)
        found = self._compare(name, data)
        if found is False:
            raise self._split(name)
        return bool(found)

    def _compare(self, name: WalName, data: bytes | bytearray) -> Literal[True, False, None]:
        """Same, other, absent. Of an encrypted object only the beginning is read, and its size."""
        key = name.key(encrypted=self._keys.encrypts)
        size = self._store.size(key)
        if size is None:
            return None
        if not self._keys.encrypts:
            found = self._store.get(key)
            return None if found is None else objects.expand(name, found) == data
        peeked = objects.peek(name, beginning(self._store, key, _BEGINNING))
        dek = self._keys.open(peeked.header.dek_id, peeked.slots, self._store.get)
        claimed = objects.trust(name, peeked.header, dek, self._system)
        if size != peeked.size:
            raise Corrupt(
                f"The object of {name} is damaged: it has {size} bytes in place of {peeked.size}. It is never "
                "overwritten; move it away, and it is stored again.",
                reason=StoreReason.OBJECT_CORRUPT,
            )
        return hmac.compare_digest(objects.digest(dek, data), claimed)

    def get(self, name: WalName) -> bytes | None:
        """The file, proven; None when the archive has none of that name.

        Raises Refused (KeyMissing, WrongKey, Unencrypted, BadSegment), Corrupt, Unavailable.
        """
        body = self._store.get(name.key(encrypted=self._keys.encrypts))
        if body is None:
            self._refuse_other_form(name)
            return None
        if self._keys.encrypts:
            peeked = objects.peek(name, body)
            dek = self._keys.open(peeked.header.dek_id, peeked.slots, self._store.get)
            data = objects.unseal(name, body, system=self._system, dek=dek)
        else:
            data = objects.expand(name, body)
        segment.check(name, data, self._system)
        return data

    def has(self, name: WalName) -> bool:
        return self._store.size(name.key(encrypted=self._keys.encrypts)) is not None

    def _refuse_other_form(self, name: WalName) -> None:
        """A recovery must not end early because it was given a key too few or too many."""
        other = name.key(encrypted=not self._keys.encrypts)
        if self._store.size(other) is None:
            return
        if self._keys.encrypts:
            raise Refused(
                f"{name} lies in the archive unencrypted although a key is given: somebody may have put it there.",
                reason=StoreReason.UNENCRYPTED,
            )
        raise Refused(f"{name} is encrypted in the archive; give its key.", reason=StoreReason.KEY_MISSING)

    def _split(self, name: WalName) -> Refused:
        return Refused(
            f"{self._store.address} has {name} with other content: two servers write to this archive, or one was set "
            "back. Nothing was overwritten; find out which history is the right one.",
            reason=Reason.SPLIT_BRAIN,
        )


class Throttle:
    """At most `rate` bytes a second on average, with a burst of a second's worth; for several threads."""

    def __init__(self, rate: int, sleep: Callable[[float], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._sleep, self._clock = rate, sleep, clock
        self._lock = threading.Lock()
        self._free_at = clock()

    def __call__(self, size: int) -> None:
        with self._lock:
            now = self._clock()
            start = max(self._free_at, now - 1.0)
            self._free_at = start + size / self._rate
        if start > now:
            self._sleep(start - now)

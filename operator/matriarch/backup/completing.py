"""The last steps every backup takes: the marker of a running one, and the manifest that makes it one."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from matriarch.backup import catalog, names
from matriarch.backup.format import canonical
from matriarch.backup.jobspec import Reason
from matriarch.backup.keys import Dek, Kek
from matriarch.backup.manifest import Body, Details, Manifest, Opened, write
from matriarch.backup.stop import in_thread
from matriarch.backup.store import Exists, Store
from matriarch.errors import Corrupt, Refused, Unavailable

RENEW = 60.0  # seconds between renewals of the marker


def complete(
    store: Store,
    body: Body,
    details: Details,
    dek: Dek | None,
    marker: Marker,
    keys: Iterable[Kek],
    is_whole: Callable[[Body], bool],
) -> Opened:
    """The manifest, last of all, and proof that it and its objects are there and can be opened."""
    keys = tuple(keys)
    if not is_whole(body):
        raise Unavailable(
            f"{body.object.path} is not in the store as it was sent; the backup is made again.",
            reason=Reason.STORE_UNAVAILABLE,
        )
    for _ in range(5):
        marker.check()
        sequence, previous = catalog.newest(store)
        body = dataclasses.replace(
            body,
            sequence=sequence + 1,
            previous=previous,
            finished=names.timestamp(datetime.now(UTC)),
        )
        manifest = write(body, details, dek)
        try:
            store.put(manifest.key, manifest.raw, if_absent=True)
        except Exists:
            continue
        if store.get(manifest.key) == manifest.raw and is_whole(body):
            again = Manifest.parse(manifest.raw, where=manifest.key)
            if dek is not None and not any(key.opens for key in keys):
                return again.open_with(dek)  # the last time that anybody can without the private key
            return catalog.open_manifest(store, again, keys)
        # Another attempt took over in between: what this one wrote must not pass as a backup.
        # Where these credentials may not delete, its digests tell: they are not those of the data.
        with contextlib.suppress(Refused):
            store.delete(manifest.key)
        break
    raise Unavailable(
        "The backup could not be completed: another attempt of the same name interfered.",
        reason=Reason.STORE_UNAVAILABLE,
    )


class Marker:
    """`running/<id>.json`, renewed while we work, with a token of this attempt: who finds another's stops."""

    def __init__(self, store: Store, backup_id: str, parent: str | None = None) -> None:
        """`parent`: id of the backup that must not be deleted meanwhile."""
        self._store, self._key = store, catalog.marker_key(backup_id)
        self._token = canonical({"attempt": secrets.token_hex(16), **({"parent": parent} if parent else {})})
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Marker:
        await in_thread(lambda: self._store.put(self._key, self._token), undo=lambda _: self._drop_quietly())
        self._task = asyncio.create_task(self._renew())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(self._drop_quietly), timeout=20)

    def check(self) -> None:
        if self._store.get(self._key) != self._token:
            raise Unavailable(
                "Another attempt of this backup took over, or this one was taken for dead.",
                reason=Reason.STORE_UNAVAILABLE,
            )

    def _drop_quietly(self) -> None:
        """What can't be taken away is the sweeper's."""
        with contextlib.suppress(Corrupt, Refused, Unavailable):
            if self._store.get(self._key) == self._token:
                self._store.delete(self._key)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW)
            with contextlib.suppress(Unavailable):
                await in_thread(self._renew_once)  # one that ended later would write the marker anew

    def _renew_once(self) -> None:
        self.check()
        self._store.put(self._key, self._token)

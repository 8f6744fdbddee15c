"""Where backups lie: the few operations the engine needs of a bucket (S3, Google Cloud Storage) or a folder.

Every implementation promises: `put` and `Upload.finish` with `if_absent` never replace an object (two writers, one
wins); a key is either absent or complete; nothing waits for ever. Failures come as errors.Refused, Unavailable and
Corrupt with a reason of jobspec.Reason. Keys are relative to the store's prefix.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from matriarch.backup.jobspec import StoreSpec
from matriarch.backup.stop import Stop

SMALL = 64 << 20  # bytes; more than any manifest: `get` reads no more


class Exists(Exception):  # noqa: N818 - reads as the outcome it is
    """The key is taken; nothing was changed. Never leaves the engine."""


@dataclass(frozen=True, slots=True)
class Entry:
    key: str
    size: int
    modified: datetime  # by the store's clock


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An upload that was begun and neither finished nor aborted."""

    key: str
    id: str
    begun: datetime


class Upload(Protocol):
    """One object being written. Nothing is visible before `finish`."""

    def write(self, data: bytes) -> None:
        """May block while earlier data is on its way."""

    def finish(self) -> None:
        """Make it visible, durably. Raises Exists."""

    def abort(self) -> None:
        """Leave nothing behind, as far as the store can be reached; never raises."""


class Store(Protocol):
    """All calls block; the engine makes them from worker threads."""

    @property
    def address(self) -> str:
        """For people: `s3://bucket/prefix`, `gs://bucket/prefix` or a path."""

    def check(self) -> None:
        """Raise what is wrong with bucket, credentials or folder before any work is done."""

    def get(self, key: str) -> bytes | None:
        """A small object, None when it is not there."""

    def read(self, key: str) -> AbstractContextManager[Iterator[bytes]]:
        """A big object in pieces of about a MiB. Raises Corrupt (ObjectMissing)."""

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """A small object. Raises Exists when `if_absent` and it is there."""

    def upload(self, key: str, *, estimate: int) -> Upload:
        """Begin a big object of about `estimate` bytes, never replacing one."""

    def size(self, key: str) -> int | None:
        """In bytes, None when it is not there."""

    def list(self, folder: str) -> Iterator[Entry]:
        """Everything below `folder/`; all of the store for an empty one."""

    def delete(self, key: str) -> None:
        """That it is not there is success."""

    def unfinished(self) -> Iterator[Unfinished]: ...

    def discard(self, upload: Unfinished) -> None: ...

    def now(self) -> datetime:
        """The store's clock, by which ages of entries are judged."""


def beginning(store: Store, key: str, size: int) -> bytes:
    """At least `size` bytes of a big object, or all of it. A first piece alone may be short: its connection broke."""
    found = bytearray()
    with store.read(key) as pieces:
        for piece in pieces:
            found += piece
            if len(found) >= size:
                break
        if hasattr(pieces, "close"):
            pieces.close()
    return bytes(found)


def open_store(
    spec: StoreSpec, stop: Stop | None = None, *, outage: float | None = None, connections: int | None = None
) -> Store:
    """The store that `spec` describes; nothing is contacted yet. `stop` ends its waiting.

    `outage`: seconds that one call waits for a store that is away; `connections`: how many calls are made at a time.
    """
    if spec.s3 is not None:
        from matriarch.backup.s3 import S3

        s3 = S3(spec.s3, stop or Stop(), outage=outage, connections=connections)
        if spec.s3.as_of is not None:
            from matriarch.backup.s3versions import AsOf

            return AsOf(s3, spec.s3.as_of)
        return s3
    if spec.gcs is not None:
        from matriarch.backup.gcs import Gcs

        return Gcs(spec.gcs, stop or Stop(), outage=outage, connections=connections)
    assert spec.local is not None
    from matriarch.backup.local import Local

    return Local(spec.local)

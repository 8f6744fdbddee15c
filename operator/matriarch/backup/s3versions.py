"""What a versioned bucket held at an earlier time: read it as if whatever came after had not happened.

For the day on which somebody deleted or overwrote backups: a bucket with versions still has them. Nothing can be
written, so that looking at the past never changes the present.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NoReturn

from matriarch.backup.jobspec import Reason
from matriarch.backup.s3 import S3
from matriarch.backup.store import SMALL, Entry, Unfinished, Upload
from matriarch.errors import Corrupt, Refused


@dataclass(frozen=True, slots=True)
class Version:
    """`id` None: it was deleted then."""

    modified: datetime
    id: str | None
    size: int


_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def written(version: str, modified: datetime) -> datetime:
    """When this version began to be.

    S3 says so by LastModified. A server whose version ids are ULIDs (versitygw) says there when the version was set
    aside, and has the time of writing, in milliseconds, as the first ten characters of the id.
    """
    if _ULID.fullmatch(version):
        milliseconds = 0
        for letter in version[:10]:
            milliseconds = milliseconds * 32 + _CROCKFORD.index(letter)
        if milliseconds < 1 << 42:  # the year 2109; and AWS' own ids have small letters in all likelihood
            return datetime.fromtimestamp(milliseconds / 1000, UTC)
    return modified.replace(microsecond=0)  # some servers tell fractions of deletions and not of objects


class AsOf:
    """See store.Store; of an S3 bucket, at a moment."""

    def __init__(self, bucket: S3, moment: str) -> None:
        """`moment`: RFC 3339, with its zone. Raises Refused (BadSpec)."""
        self._bucket = bucket
        try:
            self._when = datetime.fromisoformat(moment)
        except ValueError:
            raise Refused(f"{moment!r} is no time; write 2026-03-01T14:05:00Z.", reason=Reason.BAD_SPEC) from None
        if self._when.tzinfo is None:
            raise Refused(f"{moment!r} does not say its zone; append Z for UTC.", reason=Reason.BAD_SPEC)
        self._known: dict[str, Version | None] = {}

    @property
    def address(self) -> str:
        return f"{self._bucket.address} (as of {self._when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ})"

    def check(self) -> None:
        self._bucket.check()
        if not self._bucket.is_versioned():
            raise Refused(
                f"The bucket of {self._bucket.address} keeps no versions, so it has no earlier state to read.",
                reason=Reason.NOT_VERSIONED,
            )

    def _at(self, begin: str) -> dict[str, Version | None]:
        """What each key that begins so was then."""
        found: dict[str, tuple[tuple[object, ...], Version]] = {}
        for key, size, modified, latest, version in self._bucket.versions(begin):
            when = written(version, modified)
            if when > self._when:
                continue
            # A deletion within the second of the version it ended comes after it, unless that is the latest.
            order = (when, latest, size is None)
            if key not in found or order > found[key][0]:
                found[key] = (order, Version(when, version if size is not None else None, size or 0))
        return {key: version if version.id is not None else None for key, (_, version) in found.items()}

    def _of(self, key: str) -> Version | None:
        if key not in self._known:
            self._known[key] = self._at(key).get(key)
        return self._known[key]

    def get(self, key: str) -> bytes | None:
        if (version := self._of(key)) is None:
            return None
        if version.size > SMALL:
            raise Corrupt(f"{self.address}/{key} is too big for what it is.", reason=Reason.OBJECT_CORRUPT)
        return b"".join(self._bucket.pieces(key, VersionId=version.id))

    @contextmanager
    def read(self, key: str) -> Iterator[Iterator[bytes]]:
        if (version := self._of(key)) is None:
            raise Corrupt(f"The object {self.address}/{key} is gone.", reason=Reason.OBJECT_MISSING)
        yield self._bucket.pieces(key, VersionId=version.id)

    def size(self, key: str) -> int | None:
        version = self._of(key)
        return None if version is None else version.size

    def list(self, folder: str) -> Iterator[Entry]:
        at = self._at(f"{folder}/" if folder else "")
        self._known |= at
        for key in sorted(at):
            if (version := at[key]) is not None:
                yield Entry(key, version.size, version.modified)

    def now(self) -> datetime:
        return self._bucket.now()

    def unfinished(self) -> Iterator[Unfinished]:
        yield from ()

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        self._refuse()

    def upload(self, key: str, *, estimate: int) -> Upload:
        self._refuse()

    def delete(self, key: str) -> None:
        self._refuse()

    def discard(self, upload: Unfinished) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise Refused(
            f"{self.address} is the past, which is only read; leave the time out to change the store.",
            reason=Reason.BAD_SPEC,
        )

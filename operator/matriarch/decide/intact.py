"""Whether a store still has what it had: the chain of manifests, and the newest that was seen of it.

A bucket that is emptied, set back to an older state, or from which backups are taken looks like a healthy store with
fewer backups. What it had is remembered outside of it, in statuses; what goes by retention leaves a tombstone, which is
the manifest itself. So whatever is neither there nor buried was lost. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Link:
    """A manifest, or the tombstone of one; `sha256` is that of its bytes, `previous` that of the one before it."""

    sequence: int
    id: str
    sha256: str
    previous: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """A backup that was complete in this store."""

    id: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is remembered of a store. Nothing is remembered of one that was never looked at."""

    head: Link | None = None
    """The newest that was there, whether or not it has gone by retention since."""
    wal: str | None = None
    """The newest segment of its archive."""
    backups: tuple[Known, ...] = ()
    accepted: int = 0
    """A person looked at what was lost up to the manifest of this number."""

    @property
    def nothing(self) -> bool:
        return self.head is None and self.wal is None and not self.backups


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What a store has. `buried`: tombstones of what was looked for, and of those that precede a manifest."""

    owned: bool
    """It says whose folder it is."""
    there: tuple[Link, ...] = ()
    buried: tuple[Link, ...] = ()
    wal: frozenset[str] | None = None
    """Names of its segments; None: they were not looked at."""


def what_is_lost(expected: Expected, holds: Holdings) -> tuple[str, ...]:
    """One sentence for each thing that should be there. Empty: the store is as it was left."""
    if not holds.owned:
        return () if expected.nothing else ("The folder is empty or says no more whose it is, and had backups.",)
    links = (*holds.there, *holds.buried)
    digests = {link.sha256 for link in links}
    ids = {link.id for link in holds.there}
    found = []
    if (head := expected.head) is not None and head.sha256 not in digests:
        found.append(f"Backup {head.id} (number {head.sequence}) was the newest here and is gone without a trace.")
    for known in expected.backups:
        if known.sha256 in digests or (head is not None and known.id == head.id):
            continue
        what = "has been replaced by another of its name" if known.id in ids else "is gone without a trace"
        found.append(f"Backup {known.id} {what}.")
    found += _broken_chain(expected.accepted, links, digests)
    if expected.wal is not None and holds.wal is not None and expected.wal not in holds.wal:
        found.append(f"WAL segment {expected.wal} was the newest here and is gone.")
    return tuple(found)


def _broken_chain(accepted: int, links: Iterable[Link], digests: set[str]) -> list[str]:
    return [
        f"Backup {link.id} (number {link.sequence}) follows one that is gone without a trace."
        for link in sorted(links)
        if link.sequence > accepted and link.previous is not None and link.previous not in digests
    ]


def head_of(links: Iterable[Link]) -> Link | None:
    return max(links, default=None)

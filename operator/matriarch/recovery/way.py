"""Which backup, and whether it and the archive lead to the moment: everything that can be refused, before anything is
changed. Reads the manifest, the map, the list of packs, the list of WAL and the histories; no data.
"""

from __future__ import annotations

from dataclasses import dataclass

from matriarch.archive import expire
from matriarch.archive.restorable import base_of, look_for
from matriarch.backup import catalog
from matriarch.backup.children import tool_version
from matriarch.backup.jobspec import Moment, Reason
from matriarch.backup.keys import Kek
from matriarch.backup.manifest import Opened
from matriarch.backup.physical import restore as filling
from matriarch.backup.store import Store
from matriarch.decide.pitr import LATEST, Archive, Route, Target, expected_end, newest_before
from matriarch.errors import Corrupt, Refused
from matriarch.postgres.lsn import SEGMENT_SIZE, parse_lsn


@dataclass(frozen=True, slots=True)
class Way:
    """`route` and `archive` are None when only the backup's own WAL is replayed. LSNs in bytes."""

    opened: Opened
    target: Target
    archive: Archive | None
    route: Route | None

    @property
    def wal(self) -> int:
        """About how many bytes of WAL are replayed."""
        physical = self.opened.body.physical
        assert physical is not None
        end = parse_lsn(physical.stop_lsn)
        if self.route is not None and self.archive is not None:
            end = expected_end(base_of(self.opened.body), self.archive, self.route, self.target)
        return max(0, end - parse_lsn(physical.start_lsn))


def target_of(moment: Moment) -> Target:
    """Raises Refused for a value that PostgreSQL would not take."""
    try:
        return LATEST if moment.kind == "backup" else Target(moment.kind, moment.value)
    except ValueError as error:
        raise Refused(f"{error}.", reason=Reason.BAD_SPEC) from None


def find_way(
    store: Store,
    wanted: str,
    keys: tuple[Kek, ...],
    moment: Moment,
    *,
    allow_unencrypted: bool = False,
    manifest_sha256: str | None = None,
) -> Way:
    """`wanted`: any form of a backup's id; `latest` is the newest good one that ended before the moment.

    Raises Refused, Corrupt and Unavailable, each with what to do.
    """
    target = target_of(moment)
    store.check()
    name = _newest(store, keys, target) if wanted == "latest" else wanted
    opened = filling.find(store, name, keys, allow_unencrypted)
    if manifest_sha256 is not None and opened.manifest.sha256 != manifest_sha256:
        raise Corrupt(
            f"The manifest of {opened.body.name} is not the one that was written when the backup was made; the store "
            "was altered or rolled back.",
            reason=Reason.MANIFEST_CORRUPT,
        )
    if opened.body.suspect:
        raise Refused(
            f"{opened.body.name} is Suspect: pages failed their checksum when it was made; choose another backup.",
            reason=Reason.SUSPECT,
        )
    _same_version(opened)
    filling.read_map(store, opened)
    if moment.kind == "backup":
        return Way(opened, target, None, None)
    archive, route = look_for(store, opened.body, keys, target)
    return Way(opened, target, archive, route)


def _newest(store: Store, keys: tuple[Kek, ...], target: Target) -> str:
    known = catalog.read_catalog(store)
    good = {f.id for f in expire.facts(store, known, keys) if f.good}
    bodies = {m.body.id: m.body for m in known.manifests if m.body.physical is not None}
    found = newest_before([base_of(body) for body in bodies.values() if body.id in good], target)
    if found is not None:
        return bodies[found.id].file
    if not bodies:
        raise Refused("The store holds no complete physical backup.", reason=Reason.BACKUP_NOT_FOUND)
    first = min(base_of(body).finished for body in bodies.values())
    raise Refused(
        f"No good physical backup ended before {target.value or 'now'}; the first one ended at "
        f"{first:%Y-%m-%dT%H:%M:%SZ}.",
        reason=Reason.TARGET_TOO_EARLY if bodies.keys() & good else Reason.BACKUP_NOT_FOUND,
    )


def _same_version(opened: Opened) -> None:
    physical = opened.body.physical
    if physical is not None and physical.wal_segment_size != SEGMENT_SIZE:
        raise Refused(
            f"{opened.body.name} has WAL segments of {physical.wal_segment_size >> 20} MiB, and clusters here have 16 "
            "MiB: restore it by the command line, into a directory.",
            reason=Reason.VERSION_UNSUPPORTED,
        )
    made, here = int(opened.body.origin.server_version.split(".")[0]), tool_version("postgres")[0]
    if made != here:
        raise Refused(
            f"{opened.body.name} is of PostgreSQL {made}, and a physical backup is read by that major version only; "
            f"this image has {here}. Name an image of {made}, or restore a logical backup.",
            reason=Reason.VERSION_UNSUPPORTED,
        )

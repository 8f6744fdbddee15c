"""Backups that go: by retention, or because somebody named them.

The catalogue is gathered, decide.retention decides, and here it is carried out, oldest first. A manifest that is broken
freezes everything: what it stood for is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from matriarch.backup import catalog, intact, lineage, names
from matriarch.backup.catalog import Broken, Catalog
from matriarch.backup.format import canonical
from matriarch.backup.jobspec import Reason, Retention
from matriarch.backup.keys import Kek
from matriarch.backup.manifest import Manifest
from matriarch.backup.store import Store
from matriarch.decide.chain import sound
from matriarch.decide.expiry import plan_expiry
from matriarch.decide.retention import BackupFact, RetentionPlan, RetentionPolicy, plan_retention
from matriarch.errors import Corrupt, Refused

MARKS = "expiring"
"""Folder of announcements, one of each schedule's backups below its name: `expiring/<schedule>/<id>.json`."""
AT_ONCE = 100  # deletions in one run: a rule that was mistyped is seen before all is gone


@dataclass(frozen=True, slots=True)
class Expired:
    deleted: tuple[str, ...]
    kept: int
    frozen: str | None
    waiting: Mapping[str, datetime] = field(default_factory=dict)
    """Names of backups that no rule keeps any more → from when on they may go."""


def gather(store: Store, known: Catalog, keys: Iterable[Kek], rules: Retention) -> list[BackupFact]:
    """A fact for each manifest. Good: its data is there in full size, no page was bad, and it is authentic as far as a
    key can tell; and so is all that it builds on."""
    keys = tuple(keys)
    parents = lineage.parents(known)
    own = {
        m.body.id: not m.body.suspect and catalog.is_complete(store, m) and _authentic(store, m, keys)
        for m in known.manifests
    }
    good = sound(own, parents)
    facts = []
    for manifest in known.manifests:
        body = manifest.body
        facts.append(
            BackupFact(
                id=body.id,
                finished=names.parse_timestamp(body.finished),
                good=body.id in good,
                schedule=body.schedule,
                verified=body.id in rules.verified,
                pinned=body.id in rules.pinned,
                physical=body.physical is not None,
                parent=parents[body.id],
            )
        )
    return facts


def _authentic(store: Store, manifest: Manifest, keys: tuple[Kek, ...]) -> bool:
    try:
        catalog.open_manifest(store, manifest, keys)
    except Refused as error:  # of an older key: nobody can say here
        return error.reason in (Reason.WRONG_KEY, Reason.KEY_MISSING)
    except Corrupt:
        return False
    return True


def plan(store: Store, known: Catalog, keys: Iterable[Kek], rules: Retention, now: datetime) -> RetentionPlan:
    if rules.expected is not None and (lost := intact.what_is_lost(store, known, rules.expected)):
        why = f"{lost[0]} Nothing is deleted."
        return RetentionPlan({m.body.id: (why,) for m in known.manifests}, (), frozen=why)
    if known.broken:
        why = f"{_what_is_wrong(known.broken[0])} Nothing is deleted."
        return RetentionPlan({m.body.id: (why,) for m in known.manifests}, (), frozen=why)
    policy = RetentionPolicy(
        days=rules.days,
        count=rules.count,
        daily=rules.daily,
        weekly=rules.weekly,
        monthly=rules.monthly,
        yearly=rules.yearly,
        schedule=rules.schedule,
        window=None if rules.window_days is None else timedelta(days=rules.window_days),
    )
    return plan_retention(gather(store, known, keys, rules), policy, now)


def _what_is_wrong(broken: Broken) -> str:
    if isinstance(broken.error, Corrupt):
        return f"{broken.key} is damaged; look at it or remove it by hand."
    return f"{broken.key} cannot be read: {broken.error}"  # of a later format, or kept from us: it may be a good one


def retain(store: Store, keys: Iterable[Kek], rules: Retention, system_identifier: str | None) -> Expired:
    """Announce what the rules leave, and delete what was announced for long enough, at most AT_ONCE.

    Raises Refused (PrefixOwnedByAnother) in another's prefix.
    """
    if system_identifier is not None:
        catalog.check_owner(store, store.get(catalog.OWNER), system_identifier)
    known = catalog.read_catalog(store)
    # The store's clock: a wrong one here would make backups old at once.
    now = store.now()
    planned = plan(store, known, keys, rules, now)
    by_id = {m.body.id: m for m in known.manifests}
    deleted, stays, parents = [], None, lineage.parents(known)
    grace = timedelta(hours=rules.grace_hours)
    expiry = plan_expiry(planned, _announced(store, rules), parents, grace, now, dry_run=rules.dry_run)
    for backup_id in expiry.recall:
        store.delete(_mark(rules, backup_id))
    for backup_id in expiry.announce:
        store.put(_mark(rules, backup_id), canonical({"backup": backup_id, "announced": names.timestamp(now)}))
    for backup_id in expiry.delete[:AT_ONCE]:
        try:
            lineage.delete(store, by_id[backup_id], _known_not_to(known, backup_id, parents))
        except Refused as error:
            if error.reason != Reason.NEEDED_BY_INCREMENT:
                raise
            stays = str(error)  # an increment was begun, or made, after the catalogue was read
            continue
        deleted.append(backup_id)
        if grace:
            store.delete(_mark(rules, backup_id))
    waiting = {by_id[backup_id].body.file: after for backup_id, after in expiry.waiting.items()}
    return Expired(tuple(deleted), len(known.manifests) - len(deleted), planned.frozen or stays, waiting)


def _mark(rules: Retention, backup_id: str) -> str:
    return f"{MARKS}/{rules.schedule or '-'}/{backup_id}.json"


def _announced(store: Store, rules: Retention) -> dict[str, datetime]:
    """Since when, by the clock that the store goes by itself."""
    folder = f"{MARKS}/{rules.schedule or '-'}"
    return {e.key.rpartition("/")[2].removesuffix(".json"): e.modified for e in store.list(folder)}


def _known_not_to(known: Catalog, backup_id: str, parents: Mapping[str, str | None]) -> frozenset[str]:
    """Keys of the manifests that are known not to build on it, so that they need not be read again."""
    return frozenset(m.key for m in known.manifests if parents[m.body.id] != backup_id)


def delete(store: Store, wanted: Iterable[str], keys: Iterable[Kek], *, allow_last_good: bool) -> tuple[str, ...]:
    """Delete the named backups. Before the first one goes it raises Refused: LastGoodBackup if no good one would stay,
    NeededByIncrement if one that is not named builds on one that is."""
    known = catalog.read_catalog(store)
    chosen = {m.body.id: m for m in (catalog.find(store, name) for name in wanted)}
    facts = gather(store, known, keys, Retention())
    if not allow_last_good and not any(f.good for f in facts if f.id not in chosen) and any(f.good for f in facts):
        raise Refused(
            "No good backup would be left after this; make one first, or say that the last one may go.",
            reason=Reason.LAST_GOOD_BACKUP,
        )
    parents = lineage.parents(known)
    for manifest in known.manifests:
        if manifest.body.id not in chosen and (parent := parents[manifest.body.id]) in chosen:
            raise Refused(
                f"{manifest.body.name} builds on {parent}: name it too, or leave both.",
                reason=Reason.NEEDED_BY_INCREMENT,
            )
    ordered = lineage.in_order(chosen, known)
    for backup_id in ordered:
        lineage.delete(store, chosen[backup_id], _known_not_to(known, backup_id, parents))
    return ordered

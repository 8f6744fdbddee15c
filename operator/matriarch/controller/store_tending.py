"""Stores of a cluster are tended to by Jobs: looked at after each backup and once a day, and freed of WAL that goes.

What a store had is remembered here, in the cluster's status, outside of the store: so that one that was emptied or set
back is seen. The decisions are in decide.tending, decide.intact and decide.wal_retention.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from matriarch.api.backup import Backup
from matriarch.api.stores import BackupStore
from matriarch.backup import jobresult, jobspec
from matriarch.backup.progress import size
from matriarch.controller import backup_jobs, backup_store
from matriarch.controller.backup_around import Around, cluster_place
from matriarch.controller.backup_status import parse_time, rfc3339
from matriarch.controller.backup_store import Place
from matriarch.controller.backup_task import identity, job_wish
from matriarch.controller.env import Env
from matriarch.decide.backups import JobState, Phase, newest
from matriarch.decide.conditions import Condition
from matriarch.decide.tending import Expiry, LastRun, TendingFacts, due, expiry_verdict
from matriarch.errors import Refused
from matriarch.kube.errors import Conflict, Forbidden, Invalid
from matriarch.resources.job import TENDING, job, job_name

ACCEPT = "matriarch.dev/accept-store"
"""Annotation of the cluster: `<store>@<lostSince>` says that somebody looked at what this store lost."""
AT_MOST = 500
"""Backups that a Job is told to look for, the newest: its task is one variable of its environment."""


@dataclass(frozen=True, slots=True)
class Tended:
    stores: tuple[dict[str, Any], ...] = ()
    """`status.backup.stores`."""
    conditions: tuple[Condition, ...] = ()


async def tend(env: Env, around: Around) -> Tended:
    """Look at the Jobs of all stores, and make those that are due."""
    cluster = around.cluster
    if cluster is None or cluster.spec.backup is None or cluster.metadata.deletion_timestamp is not None:
        return Tended()
    known = {entry.name: entry for entry in (cluster.status.backup.stores if cluster.status.backup else None) or ()}
    found = []
    for store in cluster.spec.backup.stores:
        place = cluster_place(around, store.name)
        if place is None or not place.folder:
            continue
        remembered = known.get(store.name)
        entry = remembered.model_dump(by_alias=True, exclude_none=True) if remembered is not None else {}
        entry = await _one(env, around, store, place, entry)
        if entry.get("run"):
            found.append(entry)
    return Tended(tuple(found), tuple(_conditions(around, found)))


async def _one(env: Env, around: Around, store: BackupStore, place: Place, entry: dict[str, Any]) -> dict[str, Any]:
    where = backup_store.address(place)
    if entry.get("place") != where and entry:  # another bucket: what is remembered is of the old one
        entry = {"run": entry.get("run", 0), "finishedAt": rfc3339(around.now)}
    entry |= {"name": store.name, "place": where}
    if entry.get("startedAt") and not entry.get("finishedAt"):
        looked = await backup_jobs.look(
            env.kube, around.namespace, _name(around, store.name, entry["run"]), _uid(around), around.now
        )
        entry = _heard(entry, looked, around.now)
    here = [b for b in _complete(around) if _where(b) == where]
    if due(_facts(around, store, entry, here)):
        entry = await _start(env, around, store, place, entry, here)
    return entry


def _facts(around: Around, store: BackupStore, entry: Mapping[str, Any], here: list[Backup]) -> TendingFacts:
    started, wal = parse_time(entry.get("startedAt")), entry.get("wal") or {}
    last = None
    if started is not None:
        last = LastRun(
            started=started,
            finished=parse_time(entry.get("finishedAt")),
            again=parse_time(wal.get("nextAt")),
            failures=int(entry.get("failures") or 0),
        )
    return TendingFacts(
        now=around.now,
        filled=bool(here) or (_archives_to(around, store) and _newest_stored(around) is not None),
        newest_backup=newest(parse_time(b.status.finished_at) for b in here),
        busy=_busy(around),
        asked=_accepts(around, entry),
        last=last,
    )


def _busy(around: Around) -> bool:
    begun = any((b.get("status") or {}).get("backupName") for b in around.open)
    passes = [(s.get("status") or {}).get("retention") or {} for s in around.schedules]
    return begun or around.restoring is not None or any(p.get("after") and not p.get("finishedAt") for p in passes)


def _archives_to(around: Around, store: BackupStore) -> bool:
    wanted = around.defaults.wal_archive if around.defaults is not None else None
    return wanted is not None and wanted.name == store.name


def _newest_stored(around: Around) -> str | None:
    archive = around.cluster.status.wal_archive if around.cluster is not None else None
    return archive.last_segment if archive is not None else None


def _accepts(around: Around, entry: Mapping[str, Any]) -> bool:
    """Somebody looked at this very loss."""
    annotations = around.cluster.metadata.annotations if around.cluster is not None else {}
    since = entry.get("lostSince")
    return bool(since) and annotations.get(ACCEPT) == f"{entry['name']}@{since}" and entry.get("accepted") != since


def _complete(around: Around) -> list[Backup]:
    parsed = (Backup.model_validate(b) for b in around.backups)
    return [b for b in parsed if b.status.phase == Phase.COMPLETE and b.status.store is not None and b.status.folder]


def _where(backup: Backup) -> str:
    status = backup.status
    assert status.store is not None
    return backup_store.address(
        Place(store=status.store, folder=status.folder or "", key=None, cluster=backup.spec.cluster)
    )


async def _start(
    env: Env, around: Around, store: BackupStore, place: Place, entry: dict[str, Any], here: list[Backup]
) -> dict[str, Any]:
    """The Job first, then the status that names it: after a crash in between it is made again under its name."""
    if _accepts(around, entry):
        forgotten = ("sequence", "newestBackup", "manifestSha256", "newestSegment")
        accepted = {"accepted": entry["lostSince"], "acceptedSequence": entry.get("sequence") or 0}
        entry = {k: v for k, v in entry.items() if k not in forgotten} | accepted
    run = int(entry.get("run") or 0) + 1
    wanted = around.defaults.wal_archive if around.defaults is not None else None
    archives = _archives_to(around, store) and wanted is not None
    task = jobspec.JobSpec(
        task="tend",
        cluster=identity(around),
        store=backup_store.spec(place),
        keys=backup_store.key_names(place),
        tend=jobspec.TendTask(
            expected=expected(entry, here, _newest_stored(around) if archives else None),
            wal=archives,
            window_days=wanted.window_days if archives and wanted else 0,
            delete=archives and wanted is not None and wanted.expires,
            sweep=backup_store.deletes_apart(place),
            elsewhere=_elsewhere(around, place) if archives else (),
        ),
    )
    entry = {k: v for k, v in entry.items() if k != "finishedAt"} | {"run": run, "startedAt": rfc3339(around.now)}
    assert around.cluster_object is not None
    try:
        name = _name(around, store.name, run)
        wish = job_wish(
            env, around, place, name=name, owner=around.cluster_object, purpose="tend", task=task, tls=None,
            command=TENDING, deleting=True,
        )  # fmt: skip
        await env.kube.create(job(wish))
    except Conflict as e:
        if not e.exists:
            raise
    except (Forbidden, Invalid, Refused) as e:  # a quota, an admission policy, no image
        return _failed(entry, f"The Job could not be made: {e}", around.now)
    return entry


def remembered(around: Around, place: Place) -> jobspec.ExpectedStore:
    """What a store is to have, for another Job that deletes from it."""
    where = backup_store.address(place)
    stores = around.cluster.status.backup.stores if around.cluster and around.cluster.status.backup else None
    entry = next((e for e in stores or () if e.place == where), None)
    here = [b for b in _complete(around) if _where(b) == where]
    return expected(entry.model_dump(by_alias=True, exclude_none=True) if entry is not None else {}, here, None)


def window_of(around: Around, place: Place) -> int | None:
    """Days of the recovery window where this place has the cluster's archive."""
    wanted = around.defaults.wal_archive if around.defaults is not None else None
    archive = cluster_place(around, wanted.name) if wanted is not None else None
    if wanted is None or archive is None or backup_store.address(archive) != backup_store.address(place):
        return None
    return wanted.window_days


def expected(entry: Mapping[str, Any], here: Iterable[Backup], stored: str | None) -> jobspec.ExpectedStore:
    """What the store is to have: the newest that was seen of it, and every backup whose record says so."""
    head = None
    if entry.get("manifestSha256"):
        head = jobspec.Seen(
            id=entry.get("newestBackup") or "", sha256=entry["manifestSha256"], sequence=entry.get("sequence") or 0
        )
    accepted = parse_time(entry.get("accepted"))
    records = [
        jobspec.Seen(id=b.status.id, sha256=b.status.manifest_sha256)
        for b in here
        if b.status.id
        and b.status.manifest_sha256
        and (accepted is None or (done := parse_time(b.status.finished_at)) is None or done > accepted)
    ]
    # The archiver's word counts where it is newer than the last look: names sort by timeline, then by LSN.
    segments = [s for s in (entry.get("newestSegment"), stored if accepted is None else None) if s and len(s) == 24]
    return jobspec.ExpectedStore(
        head=head,
        wal=max(segments, default=None),
        backups=tuple(records[-AT_MOST:]),
        accepted=entry.get("acceptedSequence") or 0,
    )


def _elsewhere(around: Around, place: Place) -> tuple[str, ...]:
    """Where physical backups in other stores begin: whoever restores one may go on with this archive's WAL."""
    where = backup_store.address(place)
    starts = (b.status.physical.start_lsn for b in _complete(around) if b.status.physical and _where(b) != where)
    return tuple(sorted({start or "" for start in starts}))


def _heard(entry: dict[str, Any], looked: backup_jobs.Seen, now: datetime) -> dict[str, Any]:
    """The entry after a look at the Job it names."""
    found = looked.job
    if found is None:
        return _failed(entry, "The Job vanished before its word was heard.", now)
    report = looked.report
    if found.state is JobState.ACTIVE:
        return entry | {"error": found.waiting[:1024]} if found.waiting else entry
    if report is None or not report.ok or report.tend is None:
        said = report.message if report is not None else f"Job {found.name} ended without a word ({found.reason})."
        return _failed(entry, said, now)
    return _succeeded(entry, report.tend, now)


def _failed(entry: dict[str, Any], why: str, now: datetime) -> dict[str, Any]:
    return entry | {
        "finishedAt": rfc3339(now),
        "failures": int(entry.get("failures") or 0) + 1,
        "error": why[:1024],
    }


def _succeeded(entry: dict[str, Any], found: jobresult.TendResult, now: datetime) -> dict[str, Any]:
    at = rfc3339(now)
    new = {k: v for k, v in entry.items() if k not in ("failures", "error", "lost")}
    new |= {"finishedAt": at, "lookedAt": at, "backups": found.backups}
    if found.lost:  # what was remembered stays what is looked for
        new |= {"lost": [text[:1024] for text in found.lost[:20]], "lostSince": entry.get("lostSince") or at}
    else:
        new.pop("lostSince", None)
        if found.head is not None:
            new |= {
                "sequence": found.head.sequence,
                "newestBackup": found.head.id,
                "manifestSha256": found.head.sha256,
            }
        if found.wal is not None and found.wal.newest is not None:
            new["newestSegment"] = found.wal.newest
    if found.wal is not None:
        new["wal"] = _wal(entry.get("wal") or {}, found.wal, at)
    return new


def _wal(before: Mapping[str, Any], found: jobresult.WalResult, at: str) -> dict[str, Any]:
    status: dict[str, Any] = {
        "step": found.step,
        "goingFiles": found.going,
        "goingBytes": found.going_bytes,
        "keptFiles": found.kept,
        "keptBytes": found.kept_bytes,
        "keptFrom": found.before,
        "keptFor": found.because[:256] or None,
        "nextAt": rfc3339(datetime.fromisoformat(found.again)) if found.again else None,
        "frozen": found.frozen[:1024] if found.frozen else None,
        "frozenSince": (before.get("frozenSince") or at) if found.frozen else None,
    }
    deletion = {k: before[k] for k in ("deletedFiles", "deletedBytes", "deletedAt") if k in before}
    if found.deleted:
        deletion = {"deletedFiles": found.deleted, "deletedBytes": found.deleted_bytes, "deletedAt": at}
    return {k: v for k, v in status.items() if v is not None} | deletion


def _conditions(around: Around, stores: list[dict[str, Any]]) -> list[Condition]:
    found = []
    if stores:
        found.append(_intact(stores))
    wanted = around.defaults.wal_archive if around.defaults is not None else None
    if wanted is not None:
        entry = next((e for e in stores if e["name"] == wanted.name), {})
        wal = entry.get("wal") or {}
        status, reason, message = expiry_verdict(
            Expiry(
                now=around.now,
                automatic=wanted.expires,
                ran=bool(wal),
                frozen=wal.get("frozen"),
                frozen_since=parse_time(wal.get("frozenSince")),
                failures=int(entry.get("failures") or 0),
                error=entry.get("error") or "",
                outcome=_outcome(wal),
            )
        )
        found.append(Condition("WalExpiry", status, reason, message[:4096]))
    return found


def _outcome(wal: Mapping[str, Any]) -> str:
    kept = f"{wal.get('keptFiles', 0)} files stay, of which the oldest is needed by {wal.get('keptFor') or 'nothing'}."
    if not wal.get("goingFiles"):
        return kept
    when = f" and go after {wal['nextAt']}" if wal.get("nextAt") else ""
    return f"{wal['goingFiles']} files ({size(wal.get('goingBytes') or 0)}) are needed by nothing{when}; {kept}"


def _intact(stores: list[dict[str, Any]]) -> Condition:
    for entry in stores:
        if entry.get("lost"):
            more = f" And {len(entry['lost']) - 1} more." if len(entry["lost"]) > 1 else ""
            message = (
                f"Store {entry['name']} lacks what it had: {entry['lost'][0]}{more} It was emptied, set back or "
                "tampered with; nothing is deleted from it now. docs/runbooks/MatriarchBackupStoreLost.md says what to "
                f"do. When it was looked at: kubectl annotate dbc {ACCEPT}={entry['name']}@{entry['lostSince']}"
            )
            return Condition("StoreIntact", "False", "BackupsLost", message[:4096])
    for entry in stores:
        if entry.get("failures"):
            message = f"Store {entry['name']} could not be looked at: {entry.get('error', '')}"
            return Condition("StoreIntact", "Unknown", "NotChecked", message[:4096])
    if not all(entry.get("lookedAt") for entry in stores):
        return Condition("StoreIntact", "Unknown", "FirstLook", "Stores are being looked at for the first time.")
    return Condition("StoreIntact", "True", "Intact", "Every store has all that was seen in it.")


def _name(around: Around, store: str, run: int) -> str:
    """One for each run of each store."""
    digest = hashlib.sha256(f"{_uid(around)}/{store}".encode()).hexdigest()
    return job_name(around.name, "tend", digest, run)


def _uid(around: Around) -> str:
    return around.cluster.metadata.uid if around.cluster is not None else ""

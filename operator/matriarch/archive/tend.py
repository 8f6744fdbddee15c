"""The process of a Job that tends to a store: `python -m matriarch.archive.tend`.

It compares the store with what it had, and takes one step of the archive's expiry: look, mark, wait or delete. What it
found is its result; the controller keeps that in a status. A kill at any moment leaves a store that the next run
understands, and nothing is deleted while anything is missing that should be there.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from matriarch.archive import expire
from matriarch.archive.expire import Looked
from matriarch.backup import catalog, intact
from matriarch.backup.job import Job, main
from matriarch.backup.jobresult import Result, TendResult, WalResult
from matriarch.backup.jobspec import Reason, TendTask
from matriarch.backup.keys import Kek
from matriarch.backup.names import timestamp
from matriarch.backup.progress import size
from matriarch.backup.store import Store
from matriarch.decide.wal_retention import Step, Turn
from matriarch.postgres.lsn import format_lsn, parse_lsn


def tend(store: Store, keys: tuple[Kek, ...], task: TendTask) -> TendResult:
    """One look, and one step of the expiry. Raises MatriarchError when the store does not answer."""
    store.check()
    if store.get(catalog.OWNER) is None:
        lost = intact.what_is_lost(store, catalog.Catalog((), ()), task.expected)
        return TendResult(backups=0, head=task.expected.head, lost=lost)
    if not task.wal:
        known = catalog.read_catalog(store)
        lost = intact.what_is_lost(store, known, task.expected)
        return TendResult(backups=len(known.manifests), head=intact.head(store, known, task.expected.head), lost=lost)
    looked = expire.look(
        store,
        keys,
        timedelta(days=task.window_days),
        expected=task.expected,
        elsewhere=tuple(_lsn(text) for text in task.elsewhere),
    )
    turn = expire.carry_out(store, looked) if task.delete else looked.turn
    return TendResult(
        backups=len(looked.known.manifests),
        head=intact.head(store, looked.known, task.expected.head),
        lost=looked.archive.lost,
        wal=_wal(looked, turn, task),
    )


def _lsn(text: str) -> int:
    """0 for what is none, which freezes."""
    try:
        return parse_lsn(text)
    except ValueError:
        return 0


def _wal(looked: Looked, turn: Turn, task: TendTask) -> WalResult:
    plan, files = looked.plan, looked.listing.files
    deleted = turn.gone if task.delete and turn.step is Step.DELETE else ()
    going, taken = set(plan.gone), set(deleted)
    left = going - taken
    kept = [s for s in files if s.name.text not in going]
    segments = [s.name for s in files if s.name.kind == "segment" and s.name.text not in taken]
    # When the step was not taken, nothing comes back for it; when more is left than one run takes, the next goes on.
    again = _rest(turn, looked) if task.delete else None
    newest = max((n.text for n in segments), default=None)  # by timeline, then by LSN
    return WalResult(
        step=turn.step.value if task.delete else Step.NOTHING.value,
        going=len(left),
        going_bytes=looked.size(left),
        deleted=len(deleted),
        deleted_bytes=looked.size(deleted),
        kept=len(kept),
        kept_bytes=sum(s.size for s in kept),
        before=format_lsn(plan.before) if plan.frozen is None else None,
        because=plan.because,
        again=None if again is None else timestamp(again),
        frozen=plan.frozen,
        newest=newest,
    )


def _rest(turn: Turn, looked: Looked) -> datetime | None:
    if turn.step is Step.DELETE and len(turn.gone) < len(looked.plan.gone):
        return looked.archive.now
    return turn.until


def said(found: TendResult) -> str:
    """The result as a sentence."""
    if found.lost:
        return f"The store lacks what it had: {found.lost[0]}"
    if found.wal is None:
        return f"The store has all {found.backups} backups that it should."
    wal = found.wal
    if wal.frozen is not None:
        return wal.frozen
    if wal.deleted:
        return f"{wal.deleted} files ({size(wal.deleted_bytes)}) of the archive are deleted, {wal.kept} stay."
    if wal.going:
        when = f" and go after {wal.again}" if wal.again else ""
        idle = f"{wal.going} files ({size(wal.going_bytes)})"
        return f"{idle} of the archive are needed by nothing{when}; {wal.kept} stay."
    return f"All {wal.kept} files of the archive stay: {wal.because} needs them."


class Tending(Job):
    """A Job that knows the archive."""

    def tend(self, store: Store, keys: tuple[Kek, ...]) -> Result:
        task = self.spec.tend
        assert task is not None
        owner, system = store.get(catalog.OWNER), self.spec.cluster.system_identifier
        if owner is not None and system is not None:
            catalog.check_owner(store, owner, system)
        found = tend(store, keys, task)
        if task.sweep and owner is not None and not found.lost:
            catalog.sweep(store)
        return Result(
            ok=True,
            task="tend",
            reason=Reason.COMPLETED,
            message=said(found),
            tend=found,
            backups=found.backups,
        )


if __name__ == "__main__":
    main(Tending)

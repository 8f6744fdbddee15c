"""The WAL archive by hand: what of it goes, and how far it reaches."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

from matriarch.archive import expire as engine
from matriarch.archive.restorable import Restorable, restorable
from matriarch.backup.progress import size
from matriarch.backup.store import open_store
from matriarch.cli import terminal
from matriarch.cli.bare import parse_store, read_keys
from matriarch.cli.reach import recovery_json, tell_recovery
from matriarch.cli.terminal import Exit, note, show, show_json
from matriarch.decide.wal_retention import Step, Turn
from matriarch.postgres.lsn import format_lsn


def expire(
    store: str, *, endpoint: str | None, key_files: list[Path], window_days: int | None, dry_run: bool, as_json: bool
) -> None:
    window = None if window_days is None else timedelta(days=window_days)

    async def work() -> tuple[engine.Looked, Turn]:
        where = open_store(parse_store(store, endpoint))
        looked = await asyncio.to_thread(engine.look, where, read_keys(key_files), window)
        if dry_run:
            return looked, looked.turn
        return looked, await asyncio.to_thread(engine.carry_out, where, looked)

    looked, turn = terminal.run(work(), line=lambda: "looking at the archive")
    plan, going = looked.plan, turn.gone or looked.plan.gone
    if as_json:
        show_json(
            {
                "step": turn.step.value,
                "dryRun": dry_run,
                "before": format_lsn(plan.before),
                "files": list(going),
                "bytes": looked.size(going),
                "kept": len(looked.archive.files) - len(going),
                "until": None if turn.until is None else turn.until.isoformat(timespec="seconds"),
                "frozen": plan.frozen,
                "notUnderstood": list(looked.listing.strange),
            }
        )
        return
    if plan.frozen is not None:
        note(f"warning: {plan.frozen}")
        return
    if not going:
        show(f"Nothing goes: every backup and the window need all {len(looked.archive.files)} files.")
        return
    if dry_run:
        for name in going:
            show(name)
    show(f"{len(going)} files, {size(looked.size(going))}, {_said(turn, dry_run=dry_run)}")
    if window is not None and not any(b.finished <= looked.archive.now - window for b in looked.archive.backups):
        note(f"warning: no physical backup is {window_days} days old, so the archive reaches back to the oldest only")


def _said(turn: Turn, *, dry_run: bool) -> str:
    when = "" if turn.until is None else f" Run it again after {turn.until:%Y-%m-%d %H:%M:%S} UTC, and they go."
    if turn.step is Step.DELETE:
        return "would be deleted now." if dry_run else "are deleted."
    if turn.step is Step.MARK:
        return "would be marked." if dry_run else f"are marked: nothing needs them.{when}"
    return f"are marked.{when}"


def show_recovery(store: str, *, endpoint: str | None, key_files: list[Path], as_json: bool) -> None:
    async def work() -> Restorable:
        where = open_store(parse_store(store, endpoint))
        await asyncio.to_thread(where.check)
        return await asyncio.to_thread(restorable, where, read_keys(key_files))

    found = terminal.run(work(), line=lambda: "looking at the archive")
    if as_json:
        show_json(recovery_json(found))
    else:
        tell_recovery(found)
        if not found.recovery.reaches and not found.segments:
            note("The store has no physical backup and no WAL.")
    if found.recovery.gaps:
        raise SystemExit(Exit.DEGRADED)

"""How far backups and archive reach, as people and programs read it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from matriarch.archive.restorable import Restorable
from matriarch.cli import terminal
from matriarch.cli.terminal import note, show
from matriarch.postgres.lsn import format_lsn


def tell_recovery(found: Restorable) -> None:
    """Nothing where there is neither a physical backup nor an archive."""
    if found.recovery.reaches:
        head = ("BACKUP", "TIMELINE", "FROM", "TO", "FROM LSN", "TO LSN", "STATE")
        rows = [
            (
                r.backup,
                str(r.timeline),
                _time(r.first_time),
                _time(r.last_time),
                format_lsn(r.first),
                format_lsn(r.last),
                f"gap: {r.gap}" if r.gap else "good" if r.backup in found.good else "not good",
            )
            for r in found.recovery.reaches
        ]
        show(terminal.table(head, rows))
        note(
            "FROM is when the backup ended, TO when the store received the last segment, by its clock: what was "
            "committed in it is older, by the archive's delay."
        )
    elif found.segments:
        note(f"There is no physical backup: the archive's {found.segments} segments cannot be restored by themselves.")
    for gap in found.recovery.gaps:
        note(f"missing: {gap}")
    if found.recovery.reaches:
        for timeline in found.recovery.unreachable:
            note(f"no backup leads to the WAL of timeline {timeline}")
    for key in found.strange[:10]:
        note(f"not understood, and never deleted: {key}")


def recovery_json(found: Restorable) -> dict[str, Any]:
    return {
        "reaches": [
            {
                "backup": r.backup,
                "good": r.backup in found.good,
                "timeline": r.timeline,
                "firstLsn": format_lsn(r.first),
                "lastLsn": format_lsn(r.last),
                "firstTime": _time(r.first_time),
                "lastTime": _time(r.last_time),
                "gap": r.gap or None,
            }
            for r in found.recovery.reaches
        ],
        "timesFrom": "the backup's manifest and the store's clock",
        "gaps": list(found.recovery.gaps),
        "unreachableTimelines": list(found.recovery.unreachable),
        "notUnderstood": list(found.strange),
    }


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"

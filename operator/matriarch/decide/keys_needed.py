"""Whether the Secrets that hold the keys of live backups are still there. Pure.

A Secret that is deleted takes nothing away at once: the next backup waits, and the old ones are noise from then on. So
it is said while somebody may still have a copy. Which key is in a Secret is not compared: after a rotation another one
opens the same backups.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from matriarch.decide.conditions import Condition

TYPE = "BackupKeysPresent"
_SHOWN = 3  # Backups that a message names


@dataclass(frozen=True, slots=True)
class Needs:
    """A complete Backup, and the Secret that it was encrypted with."""

    backup: str
    secret: str


def keys_present(needed: Iterable[Needs], present: Set[str]) -> Condition | None:
    """`present`: the Secrets that are there and hold a key. None while none is missing."""
    missing: dict[str, list[str]] = {}
    for need in needed:
        if need.secret not in present:
            missing.setdefault(need.secret, []).append(need.backup)
    if not missing:
        return None
    texts = []
    for secret, backups in sorted(missing.items()):
        some = sorted(backups)
        more = f" and {len(some) - _SHOWN} more" if len(some) > _SHOWN else ""
        texts.append(f"Secret {secret}, which Backup {', '.join(some[:_SHOWN])}{more} can be read with alone")
    message = (
        f"Gone, or without a key: {'; '.join(texts)}. Put your copy back (a recovery bundle holds one), or delete "
        "those Backups if they are given up."
    )
    return Condition(TYPE, "False", "KeyGone", message)

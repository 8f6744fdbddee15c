"""The mark in a data directory that a Restore of a physical backup made: which Restore, and how far it came.

It lies inside, so that data and mark appear by one rename. Standard library only: the agent reads it too.
"""

from __future__ import annotations

import json

MARK = "matriarch_restored.json"

RESTORED, BEFORE = "restored-", "before-"
"""With the uid of a Restore in place, endings of folders beside `pgdata`: what it brought, and what it replaced."""


def restored_by(text: str) -> str:
    """The Restore's uid; empty for what is no mark: nothing may be taken for filled that does not say so."""
    try:
        found = json.loads(text)
    except ValueError:
        return ""
    uid = found.get("restore") if isinstance(found, dict) else None
    return uid if isinstance(uid, str) else ""

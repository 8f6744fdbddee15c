"""Whether the WAL archive keeps up, as a condition. Pure."""

from __future__ import annotations

from matriarch.decide.conditions import Condition
from matriarch.decide.facts import Facts

LATE = 60.0  # seconds that a finished file may wait: with archive_timeout this is when the promised RPO is missed


def condition(facts: Facts) -> Condition | None:
    """ArchivingWal; None when the spec asks for no archive. The figures are in the status: they move all the time."""
    if not facts.wish.archives:
        return None
    holder = facts.get(facts.holder) if facts.holder is not None else None
    told = holder.agent.archive if holder is not None and holder.agent is not None else None
    if told is None:
        message = "No instance says anything of its archive yet: it begins when its Pod was replaced and leads."
        return Condition("ArchivingWal", "Unknown", "NotStarted", message)
    assert holder is not None
    if told.error:
        message = (
            f"{holder.name} cannot store its WAL: {told.error} It is tried again all the time and nothing is dropped, "
            "so the volume fills meanwhile."
        )
        return Condition("ArchivingWal", "False", told.reason or "StoreUnavailable", message)
    if told.oldest_pending > LATE:
        message = (
            f"{holder.name} writes more WAL than it stores, so a loss of the whole cluster would lose more than a "
            "minute. The store, its network or maxRate is too slow; see status.walArchive."
        )
        return Condition("ArchivingWal", "False", "ArchiveBehind", message)
    return Condition("ArchivingWal", "True", "Archiving", f"{holder.name} stores what it writes within a minute.")

"""When a store is tended to: a Job compares it with what it had, and deletes WAL that nothing needs any more.

It follows each backup, comes back when what it marked may go, and looks once a day in any case. It never works beside a
backup, a restore or another deletion, unless those leave it no room for two days: then it looks, and says what keeps it
from deleting. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

DAILY = timedelta(days=1)
STARVED = timedelta(days=2)
FIRST_PAUSE = timedelta(minutes=15)
LONGEST_PAUSE = timedelta(hours=6)
FROZEN_LONG = timedelta(days=3)
"""A frozen expiry is a healthy answer to a doubt; this long, and somebody has to look at the doubt."""
FAILED_OFTEN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRun:
    """The newest run as the status remembers it. `again`: when it asked to be run again."""

    started: datetime
    finished: datetime | None
    again: datetime | None = None
    failures: int = 0
    """How many in a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TendingFacts:
    """One store of one cluster."""

    now: datetime
    filled: bool
    """A backup was completed there, or WAL was stored."""
    newest_backup: datetime | None
    busy: bool
    """A backup, a restore or a retention pass of this cluster is at work."""
    asked: bool = False
    """A person said something that only a new run can take up."""
    last: LastRun | None = None


def due(facts: TendingFacts) -> bool:
    """Whether a Job is to be made now."""
    last = facts.last
    if last is None:
        return facts.filled and not facts.busy
    if last.finished is None:
        return False
    if facts.busy and facts.now - last.finished < STARVED:
        return False
    if last.failures:
        pause = min(FIRST_PAUSE * (1 << min(last.failures - 1, 10)), LONGEST_PAUSE)
        return facts.now - last.finished >= pause
    return (
        facts.asked
        or (facts.newest_backup is not None and facts.newest_backup > last.started)
        or (last.again is not None and facts.now >= last.again)
        or facts.now - last.started >= DAILY
        or last.started - facts.now > DAILY  # a clock that was put right
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """How the expiry of an archive stands."""

    now: datetime
    automatic: bool
    ran: bool
    frozen: str | None = None
    frozen_since: datetime | None = None
    failures: int = 0
    error: str = ""
    outcome: str = ""
    """What the newest run found, as a sentence."""


def expiry_verdict(e: Expiry) -> tuple[Literal["True", "False", "Unknown"], str, str]:
    """Status, reason and message of the condition WalExpiry."""
    if e.failures >= FAILED_OFTEN or (e.failures and not e.ran):
        return "False", "ExpiryFailed", f"The last {e.failures} looks at the archive failed: {e.error}"
    if not e.ran:
        return "Unknown", "NotYetRun", "The archive has not been looked at yet; that follows the first backup."
    if e.frozen is not None:
        since = e.frozen_since or e.now
        if e.now - since >= FROZEN_LONG:
            return "False", "Frozen", f"Nothing was deleted since {since:%Y-%m-%dT%H:%M:%SZ}: {e.frozen}"
        return "True", "Waiting", e.frozen
    if not e.automatic:
        return "True", "ByHand", f"spec.backup.walArchive.expiry is Manual, so nothing is deleted. {e.outcome}"
    return "True", "Expiring", e.outcome

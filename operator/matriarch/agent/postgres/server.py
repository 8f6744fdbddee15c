"""One PostgreSQL of this pod, as the agent's loop sees it.

Every call has an end: past its `timeout` (seconds) it raises Unavailable, and nothing is known about the outcome.
Calls may be repeated. Own writes are made with synchronous_commit=local: an agent never waits for voters.

The parts, each on top of the one before: `datadir` (made, completed, read), `lifecycle` (configured, started,
stopped), `following` (whom it follows, how far its WAL reaches), `promotion`, `looking` (status), `quorum` (who must
have flushed a commit), `slots` (who receives), `logical` (slots that survive failovers), `care` (what a replica doctor
looks at and does), `copying` (clone, rewind), `bootstrap` (roles and database).
The order of a life: Server(…), settle(), configure(), then initdb() or clone(), then start_primary() or
start_standby().
"""

from __future__ import annotations

from matriarch.agent.postgres.bootstrap import Bootstrap
from matriarch.agent.postgres.facts import (
    CloneProgress,
    Identity,
    Paths,
    PendingRestart,
    Promotion,
    ReceiverStatus,
    RewindResult,
    ServerStatus,
    Slot,
    WalSender,
)

__all__ = [
    "CloneProgress",
    "Identity",
    "Paths",
    "PendingRestart",
    "Promotion",
    "ReceiverStatus",
    "RewindResult",
    "Server",
    "ServerStatus",
    "Slot",
    "WalSender",
]


class Server(Bootstrap):
    """One PostgreSQL server of this pod. Not for use from several event loops."""

"""Whether a switchover goes on in a new WAL segment first.

At a promotion the heir copies what is in the present segment, and every replica asks for it anew from its start, all
while clients wait. But the stop before it waits for every WAL sender, and what is left of the old segment is sent as
zeros: so it is only worth it where all of them are voters that keep up. With an archive PostgreSQL begins a segment by
itself when it stops (ShutdownXLOG in xlog.c).
"""

from __future__ import annotations

from collections.abc import Sequence

from matriarch.decide.lease import LeaseState
from matriarch.decide.voters import Stream
from matriarch.postgres.lsn import SEGMENT_SIZE

LITTLE = 1 << 20  # bytes of WAL


def begins_segment(
    lease: LeaseState, streams: Sequence[Stream], *, flushed: int, strangers: bool, archives: bool
) -> bool:
    """`flushed`: LSN of the primary; `strangers`: WAL senders to others than members."""
    return (
        lease.mode == "quorum"
        and not archives
        and not strangers
        and flushed % SEGMENT_SIZE >= LITTLE
        and sorted(s.member for s in streams) == sorted(lease.voters)
        and all(s.streaming and s.lag_bytes < LITTLE for s in streams)
    )

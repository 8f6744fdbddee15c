"""A standby that streams a timeline from behind its beginning, and so lacks the beginning.

A primary that dies may leave a record of which the rest was never written. What there is of it ends with a page,
and the standby's replay waits for the next one. When that one would begin a new segment, and the heir's timeline
begins where the record does, PostgreSQL (17.12) asks for the new timeline from that segment on: all before it, from
the fork, is never asked for. First it waits for the heir to get so far, while the heir's clients wait for this
voter. Then replay finds that the record does not go on, looks for the segment that was left out, and PANICs. After
a restart nothing counts as received, and it asks from the fork's segment on. Seen when the disk of a busy primary
was full. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from matriarch.postgres.timeline import Switch, WalPosition


def lacks_beginning(start: WalPosition, replayed: int, line: Iterable[Switch]) -> Switch | None:
    """The fork of which what follows was never asked for; None when all is well.

    `start`: where the WAL receiver began to stream, and on which timeline; `replayed`: where the last replayed record
    ends (LSN); `line`: the line of the primary. A receiver that connects again in the middle of a timeline has replayed
    its beginning, or has it.
    """
    fork = next((s for s in line if s.timeline == start.timeline), None)
    return fork if fork is not None and replayed <= fork.lsn < start.lsn else None

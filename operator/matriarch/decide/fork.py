"""What a voter's word is worth right after a promotion: it may have flushed the new timeline without its beginning.

A primary that dies may leave the first part of a record. A standby waits for the page that goes on, and where that page
begins a new segment, PostgreSQL (17.12) asks the heir for the new timeline from that segment on, although the timeline
begins before. Once the heir has got so far the standby receives and flushes, and says so, and lacks what lies between:
it cannot replay past the fork, and finds out some seconds later. Until then its word that it has flushed a later record
would open the door to clients on the strength of a copy with a hole. Pure.
"""

from __future__ import annotations

from matriarch.postgres.lsn import SEGMENT_SIZE


def vouches(*, record: int, fork: int, sent: int, flushed: int, replayed: int) -> bool:
    """Whether a standby has all up to `record`, the first record that counts after a promotion at `fork`. LSNs all.

    What was not sent beyond the fork's segment was asked for from that segment's beginning at the latest, for streams
    begin with segments. Of the others only what they have replayed counts. `fork` 0: there was no promotion.
    """
    if flushed < record:
        return False
    return not fork or sent < (fork // SEGMENT_SIZE + 1) * SEGMENT_SIZE or replayed >= record

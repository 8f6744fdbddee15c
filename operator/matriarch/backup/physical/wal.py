"""The WAL a backup needs to become consistent: which segments, and whether a file really is the one its name says."""

from __future__ import annotations

import struct
from pathlib import Path

from matriarch.backup.jobspec import Reason
from matriarch.backup.physical.plan import Found
from matriarch.errors import Unavailable
from matriarch.postgres.lsn import segment_name, segment_start
from matriarch.postgres.timeline import history_file

# XLogLongPageHeaderData: magic, info, timeline, address, length that remains, system, segment size, page size.
_HEADER = struct.Struct("<HHIQIxxxxQII")
_LONG = 0x0002  # XLP_LONG_HEADER


def segments(timeline: int, start_lsn: int, stop_lsn: int, segment_size: int) -> tuple[str, ...]:
    """Every file from the one that holds `start_lsn` to the one that holds the byte before `stop_lsn`. Pure."""
    first, last = start_lsn // segment_size, (stop_lsn - 1) // segment_size
    return tuple(segment_name(timeline, n * segment_size, segment_size) for n in range(first, last + 1))


def timeline_of(pgdata: Path, lsn: int, segment_size: int) -> int | None:
    """The newest timeline with a segment for `lsn`: the one that a standby replays there. None: no such file."""
    of_first = segment_name(1, lsn // segment_size * segment_size, segment_size)
    found = [p.name for p in (pgdata / "pg_wal").glob(f"????????{of_first[8:]}")]
    return max((int(name[:8], 16) for name in found), default=None)


def fault(head: bytes, name: str, size: int, system_identifier: str, segment_size: int) -> str | None:
    """What is wrong with a segment whose first bytes are `head`; None for a good one. Pure."""
    if size != segment_size:
        return f"it has {size} bytes in place of {segment_size}"
    if len(head) < _HEADER.size:
        return "it has no header"
    magic, info, timeline, address, _, system, length, _ = _HEADER.unpack_from(head)
    if magic >> 8 != 0xD1 or not info & _LONG:
        return "it does not begin as WAL does"
    # A timeline's first segment begins as a copy of its parent's, under the parent's number.
    if not 1 <= timeline <= int(name[:8], 16):
        return f"it is of timeline {timeline}"
    if address != segment_start(name, segment_size):
        return "it holds another stretch of WAL"
    if str(system) != system_identifier or length != segment_size:
        return f"it is of system {system}"
    return None


def find(pgdata: Path, names: tuple[str, ...], system_identifier: str, segment_size: int) -> list[Found]:
    """The segments as files of the backup. Raises Unavailable (SourceChanged) when one is not there in full."""
    found = []
    for name in names:
        path = pgdata / "pg_wal" / name
        try:
            with path.open("rb") as file:
                head = file.read(_HEADER.size)
            facts = path.stat()
        except OSError as error:
            raise _gone(name, str(error.strerror)) from error
        if why := fault(head, name, facts.st_size, system_identifier, segment_size):
            raise _gone(name, why)
        found.append(Found(f"pg_wal/{name}", facts.st_size, int(facts.st_mtime), 0o600))
    return found


def history(pgdata: Path, timeline: int) -> list[Found]:
    """The history of the backup's timeline: none for the first one. Raises Unavailable (SourceChanged)."""
    if timeline == 1:
        return []
    name = history_file(timeline)
    try:
        facts = (pgdata / "pg_wal" / name).stat()
    except OSError as error:
        raise _gone(name, str(error.strerror)) from error
    return [Found(f"pg_wal/{name}", facts.st_size, int(facts.st_mtime), 0o600)]


def _gone(name: str, why: str) -> Unavailable:
    return Unavailable(
        f"The backup needs the WAL file {name}, and {why}; it is not completed. Try again.",
        reason=Reason.SOURCE_CHANGED,
    )

"""Whether a file is what its name says, before it is stored and before it is given back.

A segment that is cut off, empty, left over from recycling or from another server would be found in the middle of a
restore, when it is too late. What is read here is PostgreSQL's XLogLongPageHeaderData. Pure.
"""

from __future__ import annotations

import struct

from matriarch.archive.names import WalName
from matriarch.archive.report import Reason
from matriarch.errors import Refused
from matriarch.postgres.lsn import PAGE_SIZE, SEGMENT_SIZE, format_lsn
from matriarch.postgres.timeline import parse_history

MAGIC = 0xD116  # XLOG_PAGE_MAGIC of PostgreSQL 17
TEXT_LIMIT = 1 << 20  # bytes of a history or a label

# magic, info, timeline, address, remaining length, padding, system identifier, segment size, page size
_HEADER = struct.Struct("=HHIQI4xQII")
_LONG = 0x0002


def check(name: WalName, data: bytes | bytearray, system: int) -> None:
    """Raises Refused (BadSegment) with the first thing that is wrong. `system`: the cluster's system identifier."""
    if name.holds_wal:
        _check_wal(name, data, system)
    elif name.kind == "history":
        _check_history(name, data)
    elif len(data) > TEXT_LIMIT or not data.startswith(b"START WAL LOCATION: "):
        raise _bad(name, "it is no label of a base backup")


def _check_wal(name: WalName, data: bytes | bytearray, system: int) -> None:
    if len(data) != SEGMENT_SIZE:
        raise _bad(name, f"it has {len(data)} bytes and not {SEGMENT_SIZE}")
    magic, info, timeline, address, _, found, segment_size, page_size = _HEADER.unpack_from(data)
    if magic != MAGIC or not info & _LONG:
        raise _bad(name, f"it does not begin as WAL of PostgreSQL 17 does (magic {magic:#06x}, info {info:#06x})")
    if found != system:
        raise _bad(name, f"it was written by system {found}, and this is system {system}")
    if address != name.start:
        raise _bad(name, f"it begins at {format_lsn(address)}: it is another segment, or an old one recycled")
    # A timeline's first segment begins as a copy of its parent's, under the parent's number.
    if not 1 <= timeline <= name.timeline:
        raise _bad(name, f"its first page is of timeline {timeline}")
    if (segment_size, page_size) != (SEGMENT_SIZE, PAGE_SIZE):
        raise _bad(name, f"its segments have {segment_size} bytes and its pages {page_size}")


def _check_history(name: WalName, data: bytes | bytearray) -> None:
    try:
        if len(data) > TEXT_LIMIT or not parse_history(name.timeline, data.decode()):
            raise _bad(name, "it names no parent")
    except ValueError as error:
        raise _bad(name, f"it cannot be read ({error})") from None


def _bad(name: WalName, why: str) -> Refused:
    return Refused(f"{name} is not what its name says: {why}.", reason=Reason.BAD_SEGMENT)

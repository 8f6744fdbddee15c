"""LSN: a position in the write-ahead log, a byte offset from its beginning.

Inside Matriarch an LSN is an `int`; the text `0/3000148` is for people and for PostgreSQL. Pure.
"""

from __future__ import annotations

import re

INVALID = 0  # PostgreSQL's InvalidXLogRecPtr: no record starts there

SEGMENT_SIZE = 16 * 1024 * 1024  # initdb's default; the agent makes no other
PAGE_SIZE = 8192  # XLOG_BLCKSZ of every distribution's build

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def parse_lsn(text: str) -> int:
    """The offset that `text` names, e.g. `0/3000148`. Raises ValueError for anything else."""
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        msg = f"not an LSN: {text!r}"
        raise ValueError(msg)
    return int(match[1], 16) << 32 | int(match[2], 16)


def format_lsn(lsn: int) -> str:
    """As PostgreSQL prints it. Raises ValueError for what does not fit 64 bits."""
    if not 0 <= lsn < 1 << 64:
        msg = f"not an LSN: {lsn}"
        raise ValueError(msg)
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def segment_name(timeline: int, lsn: int, segment_size: int = SEGMENT_SIZE) -> str:
    """File in pg_wal that holds the byte at `lsn` on `timeline` (PostgreSQL's XLogFileName)."""
    number = lsn // segment_size
    per_id = (1 << 32) // segment_size
    return f"{timeline:08X}{number // per_id:08X}{number % per_id:08X}"


def segment_start(name: str, segment_size: int = SEGMENT_SIZE) -> int:
    """The LSN of the first byte in the WAL file of that name. Raises ValueError for what is no such name."""
    per_id = (1 << 32) // segment_size
    return (int(name[8:16], 16) * per_id + int(name[16:24], 16)) * segment_size

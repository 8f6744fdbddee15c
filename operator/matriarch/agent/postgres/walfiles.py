"""What lies in pg_wal: history files, tombstones, and which timeline the last byte of WAL belongs to.

SQL cannot say the last on a standby: pg_control knows the last restartpoint's timeline, the receiver's view the
requested one, and both are wrong just after a change (I4). Functions here block on the disk.
"""

from __future__ import annotations

import functools
import os
import struct
from pathlib import Path

from matriarch.agent.postgres.files import fsync_folder
from matriarch.errors import Unavailable
from matriarch.postgres.lsn import PAGE_SIZE, SEGMENT_SIZE, format_lsn, segment_name, segment_start
from matriarch.postgres.timeline import (
    TOMBSTONE,
    Switch,
    WalPosition,
    canonical,
    history_file,
    history_number,
    parse_history,
    tombstones_needed,
    tombstones_to_prune,
)

# XLogPageHeaderData: magic, info, timeline, address of the page
_PAGE_HEADER = struct.Struct("=HHIQ")


def histories(pg_wal: Path) -> dict[int, bool]:
    """Each timeline number with a history file → whether it is real, that is, not a tombstone."""
    numbers = (history_number(name) for name in os.listdir(pg_wal))  # noqa: PTH208 - names are all that is wanted
    return {n: _is_real(pg_wal, n) for n in numbers if n is not None}


def _is_real(pg_wal: Path, timeline: int) -> bool:
    try:
        return bool(_line(pg_wal, timeline))
    except FileNotFoundError:
        return False
    except ValueError:
        return True  # not understood: nothing that may be thrown away


def line_of(pg_wal: Path, timeline: int) -> tuple[Switch, ...]:
    """The line of `timeline`, empty when there is no history or it is a tombstone or unreadable."""
    try:
        return _line(pg_wal, timeline)
    except (FileNotFoundError, ValueError):
        return ()


def _line(pg_wal: Path, timeline: int) -> tuple[Switch, ...]:
    path = pg_wal / history_file(timeline)
    found = path.stat()
    return _parsed(path, timeline, (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@functools.lru_cache(maxsize=1024)
def _parsed(path: Path, timeline: int, _version: tuple[int, ...]) -> tuple[Switch, ...]:
    """After n failovers there are n files of up to n lines, and a failover is no time to read them all again."""
    return tuple(map(_same, parse_history(timeline, path.read_text())))


@functools.lru_cache(maxsize=4096)
def _same(switch: Switch) -> Switch:
    """One object for the same switch in all files: otherwise n failovers cost n * n / 2 of them."""
    return switch


def newest_line(pg_wal: Path) -> tuple[Switch, ...]:
    """The line of the newest real history."""
    newest = max((n for n, real in histories(pg_wal).items() if real), default=1)
    return line_of(pg_wal, newest)


def end_of_wal(pg_wal: Path, lsn: int) -> WalPosition:
    """The canonical position of WAL that ends at `lsn`. Raises Unavailable when no file holds its last byte.

    A segment of a younger timeline begins as a copy of its parent's, so the youngest file that holds the byte tells
    the line, and the history tells which part of the line the byte belongs to.
    """
    last = max(lsn - 1, 0)
    suffix = segment_name(0, last)[8:]
    timelines = sorted(
        (int(name[:8], 16) for name in os.listdir(pg_wal) if len(name) == 24 and name[8:] == suffix),  # noqa: PTH208 - the same
        reverse=True,
    )
    # A segment that was switched away from half full ends in pages that nobody wrote: there its first one must do.
    pages = (last,) if lsn % SEGMENT_SIZE else (last, last - last % SEGMENT_SIZE)
    for page in pages:
        for timeline in timelines:
            if _page_address(pg_wal / segment_name(timeline, page), page) == page - page % PAGE_SIZE:
                return canonical(WalPosition(timeline, lsn), line_of(pg_wal, timeline))
    msg = f"no WAL file here ends at {format_lsn(lsn)}"
    raise Unavailable(msg)


def oldest_lsn(pg_wal: Path) -> int:
    """Where the oldest WAL file begins, of whatever timeline; 0 without any. PostgreSQL removes the oldest first."""
    names = (name for name in os.listdir(pg_wal) if len(name) == 24)  # noqa: PTH208 - the same
    return min(map(segment_start, names), default=0)


def newest_segment_timeline(pg_wal: Path) -> int:
    """The highest timeline that any WAL file here is named after; 0 without one."""
    names = (name for name in os.listdir(pg_wal) if len(name) == 24)  # noqa: PTH208 - the same
    return max((int(name[:8], 16) for name in names), default=0)


def former_segments(pg_wal: Path) -> int:
    """How many WAL files here are of timelines that were left: their number is one that the newest timeline has too, or
    passed."""
    files = [(int(n[:8], 16), int(n[8:], 16)) for n in os.listdir(pg_wal) if len(n) == 24]  # noqa: PTH208 - the same
    newest = max((timeline for timeline, _ in files), default=0)
    reached = max((number for timeline, number in files if timeline == newest), default=0)
    return sum(timeline < newest and number <= reached for timeline, number in files)


def bury(pg_wal: Path, own: int, claim: int) -> None:
    """Puts the tombstones that make a promotion from `own` take `claim`, and removes those at and above it."""
    present = histories(pg_wal)
    stale = [number for number, real in present.items() if number >= claim and not real]
    needed = tombstones_needed(own, claim, present)
    for number in stale:
        (pg_wal / history_file(number)).unlink()
    for number in needed:
        (pg_wal / history_file(number)).write_text(TOMBSTONE)
        (pg_wal / history_file(number)).chmod(0o600)
    if stale or needed:
        fsync_folder(pg_wal)


def prune(pg_wal: Path, newest_real: int | None = None) -> tuple[int, ...]:
    """Removes the tombstones above the newest real history; their numbers."""
    return remove_histories(pg_wal, tombstones_to_prune(histories(pg_wal), newest_real))


def remove_histories(pg_wal: Path, numbers: tuple[int, ...]) -> tuple[int, ...]:
    for number in numbers:
        (pg_wal / history_file(number)).unlink(missing_ok=True)
        (pg_wal / "archive_status" / f"{history_file(number)}.ready").unlink(missing_ok=True)
        (pg_wal / "archive_status" / f"{history_file(number)}.done").unlink(missing_ok=True)
    if numbers:
        fsync_folder(pg_wal)
    return numbers


def _page_address(file: Path, lsn: int) -> int | None:
    offset = lsn % SEGMENT_SIZE
    try:
        with file.open("rb") as segment:
            segment.seek(offset - offset % PAGE_SIZE)
            header = segment.read(_PAGE_HEADER.size)
    except FileNotFoundError:
        return None
    return _PAGE_HEADER.unpack(header)[3] if len(header) == _PAGE_HEADER.size else None

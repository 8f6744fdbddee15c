"""A copy gets a system identifier of its own, as pg_createsubscriber gives one: pg_control is written with it, and
pg_resetwal begins new WAL behind the old.

Everything that belongs to a database system goes by that number: its folder in every store, its archive, whom its
members follow. With its own a copy never writes among its source's files, whatever the two are called, and no member of
the one takes the other for its primary. Timeline, transactions and all data stay as they are.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from matriarch.backup.children import find_tool
from matriarch.backup.jobspec import Reason
from matriarch.backup.physical.control import system_identifier, with_identifier
from matriarch.backup.physical.exclude import CONTROL
from matriarch.errors import Corrupt

_LIMIT = 600.0  # seconds; pg_resetwal removes the old WAL


def new_identifier() -> int:
    """As initdb makes one: seconds, microseconds, and 12 bits of the process."""
    now = time.time_ns()
    seconds, micros = now // 10**9, now // 1000 % 10**6
    return seconds << 32 | micros << 12 | os.getpid() & 0xFFF


def renew(pgdata: Path, identifier: int) -> str:
    """The new identifier, in force. The server must have been stopped in order, or pg_resetwal refuses.

    Not to be repeated after a crash: between its two halves no server starts there. Whoever calls begins anew.
    Raises Corrupt.
    """
    path = pgdata / CONTROL
    try:
        changed = with_identifier(path.read_bytes(), identifier)
    except ValueError as error:
        raise Corrupt(f"The recovered copy cannot be used: {error}.", reason=Reason.RESTORE_FAILED) from None
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, changed, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    done = subprocess.run(
        [find_tool("pg_resetwal"), "-D", str(pgdata)],
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=_LIMIT,
        check=False,
    )
    if done.returncode != 0 or system_identifier(path.read_bytes()) != str(identifier):
        said = " ".join((done.stderr or done.stdout).split())[:300]
        raise Corrupt(f"The recovered copy could not be given its identifier: {said}", reason=Reason.RESTORE_FAILED)
    return str(identifier)

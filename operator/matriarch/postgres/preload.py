"""The libraries that PostgreSQL may load at its start. Pure.

A library that is not there keeps PostgreSQL from starting, so only those of the image are taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath
from typing import Literal

SYNC_WAIT = "matriarch_syncwait"
"""Matriarch's own: a cancelled wait for replication ends the connection in place of answering with a warning."""

DOOR = "matriarch_door"
"""Matriarch's own: while `CLOSED` lies in the data directory, clients wait when they logged in, and are not refused."""
CLOSED = "matriarch.closed"
"""Empty: they wait. Anything in it: they are refused at once, as by a server that starts; `closed` is told apart."""

Door = Literal["open", "waits", "refuses", "closed"]
"""What becomes of clients: they get in, wait at the door until it opens, or are sent away, to try again at once or when
a Restore in place has ended. Without the library `waits` refuses, too, and as a matter of pg_hba.conf."""

LIBRARIES = (
    "auth_delay",
    "auto_explain",
    "passwordcheck",
    "pg_prewarm",
    "pg_qualstats",
    "pg_stat_statements",
    "pgaudit",
)
"""What `shared_preload_libraries` may name."""


def split_by_presence(wanted: Iterable[str], there: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the libraries that Matriarch asks for by itself, those in the image, and those that a user's image lacks.

    `there` are the file names in PostgreSQL's library folder; none at all means that it could not be read.
    """
    found = {PurePath(name).stem for name in there}
    wanted = tuple(wanted)
    return tuple(w for w in wanted if w in found), tuple(w for w in wanted if w not in found)


def libraries(value: str) -> tuple[str, ...]:
    """The names in a value of shared_preload_libraries, in their order, each once."""
    words = (word.strip().strip('"').strip() for word in value.split(","))
    return tuple(dict.fromkeys(word for word in words if word))

"""Which files of a data directory belong to a backup: the rules of PostgreSQL's own BASE_BACKUP.

Source: the manual, chapter "Making a Base Backup Using the Low Level API", and src/backend/backup/basebackup.c of
PostgreSQL 17. Beyond it the two signal files are left out: a restore writes the one it needs. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

# Directories that a server makes anew: the directory itself belongs to the backup, what is in it does not.
EMPTIED = frozenset(
    {"pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans", "pg_wal"}
)
# pg_wal's own folders, which PostgreSQL expects; its files are taken by name after the backup has ended.
WAL_FOLDERS = ("pg_wal/archive_status", "pg_wal/summaries")
_FILES = frozenset(
    {
        "postmaster.pid",
        "postmaster.opts",
        "backup_label",
        "backup_label.old",
        "tablespace_map",
        "tablespace_map.old",
        "backup_manifest",
        "postgresql.auto.conf.tmp",
        "current_logfiles.tmp",
        "recovery.signal",
        "standby.signal",
    }
)
CONTROL = "global/pg_control"
_RELATION = re.compile(r"(?P<node>\d+)(?:_(?P<fork>fsm|vm|init))?(?:\.(?P<segment>[1-9]\d*))?")
_TEMPORARY = re.compile(r"t\d+_\d+(?:_(?:fsm|vm|init))?(?:\.\d+)?")
_DATABASE = re.compile(r"base/\d+")


@dataclass(frozen=True, slots=True)
class Relation:
    """A file of a relation. `segment` counts from 0."""

    node: str
    fork: str  # main, fsm, vm, init
    segment: int


def relation(path: str) -> Relation | None:
    """What the file is part of, by its path within the data directory; None for all that is no relation's."""
    folder, _, name = path.rpartition("/")
    if folder != "global" and not _DATABASE.fullmatch(folder):
        return None
    match = _RELATION.fullmatch(name)
    if match is None:
        return None
    return Relation(match["node"], match["fork"] or "main", int(match["segment"] or 0))


def is_logged(path: str) -> bool:
    """Whether the file is of a relation's main fork, every change of which is in the WAL by its page."""
    part = relation(path)
    return part is not None and part.fork == "main"


def enters(folder: str) -> bool:
    """Whether the files in this directory are looked at."""
    return folder not in EMPTIED and not folder.rpartition("/")[2].startswith("pgsql_tmp")


def left_out(path: str, is_there: Callable[[str], bool]) -> bool:
    """Whether a file stays out. `is_there` tells of another one by its path."""
    folder, _, name = path.rpartition("/")
    if not folder and name in _FILES:
        return True
    if path == CONTROL or name.startswith(("pgsql_tmp", "pg_internal.init")):
        return True  # pg_control is read by itself, last of all
    if _DATABASE.fullmatch(folder) and _TEMPORARY.fullmatch(name):
        return True
    part = relation(path)
    # An unlogged relation is made empty by recovery, from its init fork.
    return part is not None and part.fork != "init" and is_there(f"{folder}/{part.node}_init")

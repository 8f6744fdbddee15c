"""A data directory as it is now: its folders and files, without what does not belong to a backup.

The server goes on meanwhile: a file that is gone when it is looked at was dropped, and replay knows.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matriarch.backup.jobspec import Reason
from matriarch.backup.physical.exclude import WAL_FOLDERS, enters, left_out
from matriarch.backup.physical.plan import Found
from matriarch.errors import Refused


@dataclass(frozen=True, slots=True)
class Folder:
    path: str
    mode: int


@dataclass(frozen=True, slots=True)
class Tree:
    """Sorted by path. `skipped` are sentences about what is no regular file."""

    folders: tuple[Folder, ...]
    files: tuple[Found, ...]
    skipped: tuple[str, ...]

    @property
    def size(self) -> int:
        return sum(f.size for f in self.files)


def walk(root: Path, check: Callable[[], None] = lambda: None) -> Tree:
    """Read the directory. Raises Refused (BadSpec) for tablespaces, which lie elsewhere. `check` may end it."""
    folders: list[Folder] = []
    files: list[Found] = []
    skipped: list[str] = []
    waiting = [""]
    while waiting:
        here = waiting.pop()
        check()
        try:
            entries = {e.name: e for e in os.scandir(root / here)}
        except FileNotFoundError:
            continue  # a database was dropped
        for name, entry in entries.items():
            path = f"{here}/{name}" if here else name
            try:
                facts = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if here == "pg_tblspc":
                raise Refused(
                    f"The server has a tablespace ({path}); physical backups do not hold tablespaces yet: make logical "
                    "backups, or move its tables into the default tablespace and drop it.",
                    reason=Reason.BAD_SPEC,
                )
            mode = stat.S_IMODE(facts.st_mode)
            if stat.S_ISDIR(facts.st_mode) or path == "pg_wal":  # which may be a link to another volume
                if name.startswith("pgsql_tmp"):
                    continue
                folders.append(Folder(path, mode if stat.S_ISDIR(facts.st_mode) else 0o700))
                if enters(path):
                    waiting.append(path)
            elif not stat.S_ISREG(facts.st_mode):
                skipped.append(f"{path} is no regular file and is not in the backup.")
            elif not left_out(path, lambda other: other.rpartition("/")[2] in entries):  # noqa: B023 - used at once
                files.append(Found(path, facts.st_size, int(facts.st_mtime), mode))
    folders += [Folder(path, 0o700) for path in WAL_FOLDERS]
    by_path = {f.path: f for f in folders}
    return Tree(
        tuple(by_path[p] for p in sorted(by_path)), tuple(sorted(files, key=lambda f: f.path)), tuple(sorted(skipped))
    )

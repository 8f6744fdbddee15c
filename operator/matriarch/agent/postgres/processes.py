"""PostgreSQL's processes as the kernel knows them.

Whether a WAL receiver exists is a question about processes: the view shows one only after it has connected, and a
startup process that waits for a reader's lock leaves a receiver running that no setting asks for any more (S4).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")

_WRITERS = ("initdb", "pg_basebackup", "pg_rewind", "pg_verifybackup")


@dataclass(frozen=True, slots=True)
class Process:
    """`started` (clock ticks since boot) tells a process from a later one with its pid."""

    pid: int
    parent: int
    state: str
    started: int


def look(pid: int) -> Process | None:
    """None when there is no such process. A zombie is there, with state Z."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return Process(pid, int(fields[1]), fields[0], int(fields[19]))


def alive(process: Process | None) -> bool:
    """Whether exactly this process still runs."""
    if process is None:
        return False
    now = look(process.pid)
    return now is not None and now.started == process.started and now.state not in "ZX"


def children(parent: int) -> list[Process]:
    """All that run. Every child that lives throughout the call is in it; /proc/…/children does not promise that."""
    found = (look(int(entry)) for entry in os.listdir(_PROC) if entry.isdecimal())  # noqa: PTH208 - hot path
    return [p for p in found if p is not None and p.parent == parent and p.state not in "ZX"]


def title(pid: int) -> str:
    """What it calls itself; empty when it is gone."""
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return raw.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace").strip()


def has_loaded(pid: int, library: str) -> bool:
    """Whether the process maps a shared library of this name (without .so) into its memory."""
    try:
        text = (_PROC / str(pid) / "maps").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return f"/{library}.so" in text


def is_walreceiver(text: str) -> bool:
    """`postgres: orders-2: walreceiver streaming 0/3000148`."""
    return text.startswith("postgres: ") and "walreceiver" in text.split(" ")[1:4]


def is_startup(text: str) -> bool:
    """`postgres: orders-2: startup recovering 000000010000000000000003`."""
    words = text.split(" ")
    return words[0] == "postgres:" and words[2:3] == ["startup"] and words[3:4] in ([], ["recovering"], ["waiting"])


def is_summarizer(text: str) -> bool:
    """`postgres: orders-2: walsummarizer`."""
    return text.startswith("postgres: ") and text.split(" ")[2:3] == ["walsummarizer"]


def is_logger(text: str) -> bool:
    """`postgres: orders-2: logger`, which pg_stat_activity does not know."""
    return text.startswith("postgres: ") and text.split(" ")[2:3] == ["logger"]


def is_slot_worker(text: str) -> bool:
    """`postgres: orders-2: slotsync worker`, which copies logical slots."""
    words = text.split(" ")
    return words[0] == "postgres:" and words[2:] == ["slotsync", "worker"]


def strays(pgdata: Path) -> list[int]:
    """Pids of what an agent before this one let loose on `pgdata`, or on the copy in the making beside it.

    Those are PostgreSQL's tools, and the server that initdb runs on the new folder and that outlives it.
    """
    found = []
    for entry in _PROC.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        folders = [word.rpartition("=")[2] for word in argv[1:]]
        tool = argv[0].rpartition("/")[2]
        if (tool in _WRITERS and str(pgdata) in folders) or (
            tool in (*_WRITERS, "postgres") and f"{pgdata}.new" in folders
        ):
            found.append(int(entry.name))
    return found + [pid for pid in working_in(pgdata.with_name(f"{pgdata.name}.new")) if pid not in found]


def working_in(folder: Path) -> list[int]:
    """Pids of all processes whose working folder is `folder`: every process of a server on it, orphans included."""
    try:
        wanted = folder.stat()
    except FileNotFoundError:
        return []
    found = []
    for entry in _PROC.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            there = (entry / "cwd").stat()
        except OSError:
            continue  # gone meanwhile, or somebody else's
        if (there.st_dev, there.st_ino) == (wanted.st_dev, wanted.st_ino):
            found.append(int(entry.name))
    return found

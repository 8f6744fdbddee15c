"""The processes of a pod as this machine sees them, and which of them is which.

A local Kubernetes runs on this machine, so a fault can strike from outside: nothing inside the pod helps or delays.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a pod; `inner` is its pid within the container, `command` its command line or title."""

    pid: int
    inner: int
    parent: int
    name: str
    command: str = ""


def pod_processes(uid: str, proc: Path = Path("/proc")) -> list[Process]:
    """Every process of the pod's containers, found by its cgroup; empty when the pod runs on another machine."""
    marks = (f"pod{uid}", f"pod{uid.replace('-', '_')}")
    found = []
    for folder in proc.iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ended while we looked
            if any(mark in (folder / "cgroup").read_text() for mark in marks):
                fields = dict(
                    line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line
                )
                inner = int(fields["NSpid"].split()[-1])
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                found.append(Process(int(folder.name), inner, int(fields["PPid"]), fields["Name"].strip(), command))
    return found


def servers(processes: list[Process]) -> list[Process]:
    """Every process of PostgreSQL: the postmaster and its children."""
    return [p for p in processes if p.name == "postgres"]


def postmaster(processes: list[Process]) -> int | None:
    """The one `postgres` whose parent is no `postgres`; None when there is none."""
    pids = {p.pid for p in servers(processes)}
    return next((p.pid for p in processes if p.pid in pids and p.parent not in pids), None)


def backend(processes: list[Process], user: str) -> int | None:
    """A session of this user that came over the network, as its title says; None when there is none."""
    title = re.compile(rf"\b{re.escape(user)} \S+ [0-9a-f.:]+\(\d+\)")
    return next((p.pid for p in servers(processes) if title.search(p.command)), None)


def first_process(processes: list[Process]) -> int | None:
    """PID 1 of the instance's container, not the one of the pod's sandbox."""
    return next((p.pid for p in processes if p.inner == 1 and p.name != "pause"), None)


def agent(processes: list[Process], mark: str) -> int | None:
    """The process beside the database that decides: its command line has `mark`, and it is not PID 1 itself."""
    return next((p.pid for p in processes if mark in p.command and p.inner != 1 and p.name != "postgres"), None)

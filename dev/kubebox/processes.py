"""The long-running programs of a local cluster: started detached, remembered in files, ended for certain.

A file per program holds its command line, its pid and the moment it started, so that a later command can tell a program
from another process that got the same number, and can start the same program again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dev.host import DevError


def started_at(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when it is gone or only waits to be reaped.

    The first thread of a process that is killed can be seen as dead while others still end: until then it listens.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        dead = fields[0] in {"Z", "X"} and len([*Path(f"/proc/{pid}/task").iterdir()]) <= 1
    except (OSError, IndexError):
        return None
    return None if dead else int(fields[19])


@dataclass(frozen=True, slots=True)
class Processes:
    """The programs of one cluster; state in `folder`/processes, output in `folder`/logs."""

    folder: Path

    def _file(self, name: str) -> Path:
        return self.folder / "processes" / f"{name}.json"

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def start(
        self, name: str, argv: Sequence[object], *, netns: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        """Start a program, unless it runs. `netns` is the network namespace it lives in, `env` comes on top of ours.

        Secrets belong into `env`: everybody on the machine can read a command line.
        """
        if self.pid(name) is not None:
            return
        words = [str(a) for a in argv]
        if netns:
            words = ["nsenter", f"--net={netns}", *words]
        for folder in (self._file(name).parent, self.log(name).parent):
            folder.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as log:
            child = subprocess.Popen(
                words,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, **(env or {})},
            )
        entry = {"argv": words, "env": dict(env or {}), "pid": child.pid, "started": started_at(child.pid)}
        half = self._file(name).with_suffix(".half")
        half.touch(mode=0o600)
        half.write_text(json.dumps(entry))
        half.rename(self._file(name))
        # It is not ours to wait for: it outlives this process. (Without this, Python warns about it at exit.)
        child.returncode = 0

    def restart(self, name: str) -> None:
        """Start a program that was started before, with the same command line, unless it runs."""
        if self.pid(name) is None:
            entry = self._entry(name)
            if entry is None:
                raise DevError(f"{name} was never started here")
            argv, env = entry["argv"], entry["env"]
            assert isinstance(argv, list)
            assert isinstance(env, dict)
            self.start(name, argv, env=env)

    def _entry(self, name: str) -> dict[str, object] | None:
        try:
            found = json.loads(self._file(name).read_text())
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def names(self) -> list[str]:
        """Every program that was started and not forgotten."""
        return sorted(p.stem for p in (self.folder / "processes").glob("*.json"))

    def pid(self, name: str) -> int | None:
        """The pid of a program that runs, else None."""
        entry = self._entry(name)
        if entry is None:
            return None
        pid = int(str(entry["pid"]))
        return pid if entry["started"] is not None and started_at(pid) == entry["started"] else None

    def stop(self, name: str, *, number: signal.Signals = signal.SIGKILL, timeout: float = 10.0) -> None:
        """End a program and wait until it is gone; one that ignores `number` is killed."""
        pid = self.pid(name)
        if pid is None:
            return
        kill([pid], number)
        if not gone([pid], timeout):
            kill([pid], signal.SIGKILL)
            if not gone([pid], timeout):
                raise DevError(f"{name} (process {pid}) does not end, not even by SIGKILL")

    def tail(self, name: str, lines: int = 5) -> str:
        """The last words of a program."""
        try:
            return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(it said nothing)"

    def wait(self, name: str, ready: Callable[[], bool], timeout: float, what: str) -> None:
        """Wait until `ready`; a program that ends before is an error with its last words."""
        deadline = time.monotonic() + timeout
        while not ready() or self.pid(name) is None:  # another program may have answered in its place
            if self.pid(name) is None:
                raise DevError(
                    f"{name} has ended while {what} was waited for; {self.log(name)} ends so:\n{self.tail(name)}"
                )
            if time.monotonic() > deadline:
                raise DevError(
                    f"{what} did not come within {timeout:.0f} s; {self.log(name)} ends so:\n{self.tail(name)}"
                )
            time.sleep(0.1)


def kill(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each; those that are gone don't matter."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def gone(pids: Sequence[int], timeout: float) -> bool:
    """Wait until none of these runs any more; whether that came about."""
    deadline = time.monotonic() + timeout
    while any(started_at(pid) is not None for pid in pids):
        _reap(pids)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _reap(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def in_namespace_or_cgroup(netns: Path, cgroup: str) -> list[int]:
    """Every process in a network namespace, or in a control group or one below it."""
    try:
        inode = netns.stat().st_ino
    except FileNotFoundError:
        inode = -1
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if inode in {(entry / "ns" / "net").stat().st_ino} or _in_cgroup(entry, cgroup):
                found.append(int(entry.name))
    return found


def _in_cgroup(entry: Path, cgroup: str) -> bool:
    groups = [line.split(":", 2)[2] for line in (entry / "cgroup").read_text().splitlines()]
    return any(g == cgroup or g.startswith(f"{cgroup}/") for g in groups)

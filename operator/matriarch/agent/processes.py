"""Starting, listing and ending processes, for PID 1.

Everything here returns at once: a child is forked and not waited for (posix_spawn and vfork would hold the caller
until the program was read from disk), and /proc/PID/stat, unlike cmdline, takes no lock that a hung process holds.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Mapping, Sequence

CANNOT_EXECUTE = 127
"""Exit status of a child whose program could not be executed, as in a shell."""


def spawn(argv: Sequence[str], env: Mapping[str, str], *, nice: int = 0, inherit: Sequence[int] = ()) -> int:
    """Fork and execute `argv[0]` (found on PATH of `env`) in a session of its own; the child's pid.

    stdin is /dev/null, stdout and stderr are the caller's; of the other descriptors only `inherit` stay open.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        if nice:
            os.nice(nice)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        for descriptor in inherit:
            os.set_inheritable(descriptor, True)  # noqa: FBT003 - positional only
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and what is ignored stays so
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvpe(argv[0], list(argv), dict(env))  # noqa: S606 - no shell is the point
    except BaseException as error:  # noqa: BLE001 - nothing may unwind into the parent's code
        with contextlib.suppress(OSError):
            os.write(2, f"{argv[0]} cannot be started: {error}\n".encode())
    os._exit(CANNOT_EXECUTE)


def living(*, session: int | None = None) -> list[int]:
    """Pids of all processes of this PID namespace that still run, zombies left out; or only those of one session."""
    pids = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - plain names, many times a second
        if not name.isdigit():
            continue
        try:
            descriptor = os.open(f"/proc/{name}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            raw = os.read(descriptor, 1024)
        except OSError:
            continue
        finally:
            os.close(descriptor)
        # pid (name) state ppid pgrp session …; the name may hold spaces and brackets
        fields = raw[raw.rfind(b")") + 2 :].split()
        if len(fields) > 3 and fields[0] not in {b"Z", b"X"} and (session is None or int(fields[3]) == session):
            pids.append(int(name))
    return pids


def kill(pids: Collection[int]) -> None:
    """SIGKILL each; one that is gone is fine."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def reap() -> tuple[list[tuple[int, int]], bool]:
    """Collect every child that has ended: (pid, exit code or minus the signal) each, and whether any child is left."""
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended, False
        if pid == 0:
            return ended, True
        ended.append((pid, os.waitstatus_to_exitcode(status)))

"""Runs one program inside a root file system as a container would, without a container engine. Standard library only.

    python dev/enter.py JSON PROGRAM [ARGUMENT...]

The program is PID 1 of its own PID, mount, IPC and UTS namespaces, on a read-only root, as an unprivileged user without
capabilities. This process stays outside, hands signals on and ends with the program's status; when it is killed, the
kernel kills everything inside.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = (
    0x20000,
    0x4000000,
    0x8000000,
    0x20000000,
    0x40000000,
)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Spec:
    """What the program sees. Paths on the left side of `binds` are inside, on the right side outside."""

    root: str
    uid: int = 999
    gid: int = 999
    hostname: str = "localhost"
    netns: str = ""  # a path such as /run/netns/x; empty: the caller's
    binds: dict[str, str] = field(default_factory=dict)
    read_only: dict[str, str] = field(default_factory=dict)
    scratch: list[str] = field(default_factory=list)  # empty memory file systems of the user's own
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = "/"


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    _check(
        _libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()),
        f"mount {source} on {target}",
    )


def _bind(source: str, target: str, *, read_only: bool) -> None:
    inside, outside = Path(target), Path(source)
    if not inside.exists():
        if outside.is_dir():
            inside.mkdir(parents=True)
        else:
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.touch()
    _mount(source, target, "", MS_BIND | MS_REC)
    if read_only:
        _mount("", target, "", MS_REMOUNT | MS_BIND | MS_RDONLY)


def _build_root(spec: Spec) -> None:
    """Assemble the file system on `spec.root` and make it the root of this mount namespace."""
    _mount("", "/", "", MS_REC | MS_PRIVATE)
    root = spec.root
    _mount(root, root, "", MS_BIND)
    owner = f"mode=0755,uid={spec.uid},gid={spec.gid}"
    _mount("tmpfs", f"{root}/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    _mount("tmpfs", f"{root}/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    _mount("tmpfs", f"{root}/etc/matriarch", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    for inside in spec.scratch:
        Path(root + inside).mkdir(parents=True, exist_ok=True)
        _mount("tmpfs", root + inside, "tmpfs", MS_NOSUID | MS_NODEV, owner)
    _mount("tmpfs", f"{root}/dev", "tmpfs", MS_NOSUID, "mode=0755")
    for name in DEVICES:
        _bind(f"/dev/{name}", f"{root}/dev/{name}", read_only=False)
    Path(f"{root}/dev/shm").mkdir()
    _mount("tmpfs", f"{root}/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        Path(f"{root}/dev/{name}").symlink_to(f"/proc/self/fd/{number}")
    Path(f"{root}/dev/fd").symlink_to("/proc/self/fd")
    _mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for inside, outside in spec.binds.items():
        _bind(outside, root + inside, read_only=False)
    for inside, outside in spec.read_only.items():
        _bind(outside, root + inside, read_only=True)
    _mount("", root, "", MS_REMOUNT | MS_BIND | MS_RDONLY)
    os.chdir(root)
    _check(_libc.pivot_root(b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir(spec.cwd)


def _drop_rights(spec: Spec) -> None:
    capability = 0
    while _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:  # until the kernel knows no such capability
        capability += 1
    os.setgroups([])
    os.setgid(spec.gid)
    os.setuid(spec.uid)
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    # Last: a change of user clears it.
    _check(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "parent death signal")


def _become(spec: Spec, argv: list[str]) -> None:
    """In the child: never returns."""
    try:
        os.setsid()
        _build_root(spec)
        raw = spec.hostname.encode()
        _check(_libc.sethostname(raw, len(raw)), "sethostname")
        _drop_rights(spec)
        os.execvpe(argv[0], argv, spec.env)
    except OSError as e:
        os.write(2, f"enter: {argv[0]}: {e}\n".encode())
    os._exit(127)


def main() -> int:
    spec, argv = Spec(**json.loads(sys.argv[1])), sys.argv[2:]
    if spec.netns:
        with Path(spec.netns).open() as f:
            _check(_libc.setns(f.fileno(), CLONE_NEWNET), f"enter {spec.netns}")
    _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID), "unshare (needs root)")
    passed_on = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
        _become(spec, argv)

    def hand_on(number: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in passed_on:
        signal.signal(number, hand_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())

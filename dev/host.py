"""What the development environment asks of the machine: where its files live, which tools it needs, and who it must be.

Everything in `dev/` stands on this module; it imports nothing of the project. Two folders hold all state, both outside
the tree so that several clones share them: the cache (things that can be made again) and the state of running clusters.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("MATRIARCH_CACHE", "/var/cache/matriarch"))
STATE = Path(os.environ.get("MATRIARCH_STATE", "/var/lib/matriarch-dev"))

# Tool -> Debian package that has it.
PACKAGES = {
    "buildah": "buildah",
    "containerd": "containerd",
    "conntrack": "conntrack",
    "ctr": "containerd",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "iptables": "iptables",
    "losetup": "mount",
    "mkfs.xfs": "xfsprogs",
    "mount": "mount",
    "nft": "nftables",
    "nsenter": "util-linux",
    "runc": "runc",
    "sysctl": "procps",
    "tc": "iproute2",
    "unshare": "util-linux",
    "xfs_growfs": "xfsprogs",
}


class DevError(Exception):
    """Something of the machine stands in the way; the message says what, why and what to do."""


def run(
    *argv: object,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = 600,
) -> str:
    """The standard output of a command that must succeed. Raises DevError with its last words when it does not."""
    words = [str(a) for a in argv]
    try:
        done = subprocess.run(
            words, input=stdin, text=True, capture_output=True, env=env, cwd=cwd, timeout=timeout, check=False
        )
    except FileNotFoundError as e:
        raise DevError(f"{words[0]} is not installed{_apt_line([words[0]])}") from e
    except subprocess.TimeoutExpired as e:
        raise DevError(f"`{' '.join(words)}` has not ended after {timeout:.0f} s") from e
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise DevError(f"`{' '.join(words)}` ended with {done.returncode}: {said}")
    return done.stdout


def succeeds(*argv: object) -> bool:
    """Whether a command ends with 0; what it says is thrown away."""
    words = [str(a) for a in argv]
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _apt_line(tools: Sequence[str]) -> str:
    packages = sorted({PACKAGES[t] for t in tools if t in PACKAGES})
    return f"; run `make setup`, or `apt-get install {' '.join(packages)}`" if packages else ""


def need_linux_root(purpose: str) -> None:
    """Refuse to go on anywhere but on Linux as root."""
    if platform.system() != "Linux":
        raise DevError(
            f"{purpose} needs Linux, this is {platform.system()}; use kind (a container engine and `kind`), "
            "or CLUSTER=existing with your KUBECONFIG"
        )
    if os.geteuid() != 0:
        raise DevError(
            f"{purpose} needs root for network namespaces, mounts and cgroups; run it with sudo, use kind, "
            "or CLUSTER=existing with your KUBECONFIG"
        )


def need_tools(*tools: str) -> None:
    """Refuse to go on without these programs; the message has the line that installs them."""
    missing = [t for t in tools if shutil.which(t) is None]
    if missing:
        raise DevError(f"missing on PATH: {', '.join(missing)}{_apt_line(missing)}")


@contextlib.contextmanager
def lock(path: Path, timeout: float = 1800.0) -> Iterator[None]:
    """Hold an exclusive lock on a file (made when it is not there) against other processes, other clones included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout
    told = False
    with path.open("a") as f:
        while True:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DevError(
                        f"another process has held {path} for {timeout:.0f} s; end it, then try again"
                    ) from None
                if not told:
                    say(f"waiting for another process that holds {path}")
                    told = True
                time.sleep(0.2)
        yield


_started = time.monotonic()


_listener: Callable[[str], None] | None = None


def listen(listener: Callable[[str], None] | None) -> None:
    """Hands what `say` is told to somebody who shows it in his own way; None ends that."""
    global _listener  # noqa: PLW0603 - one person waits in front of one process
    _listener = listener


def say(text: str) -> None:
    """A line of progress for the person who waits, with the seconds since this process started."""
    if _listener:
        _listener(text)
        return
    print(f"[{time.monotonic() - _started:6.1f} s] {text}", file=sys.stderr, flush=True)

"""A memory limit as a container has one: a cgroup of either version."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class MemoryGroup:
    folder: Path
    v2: bool

    def popen(self, words: Sequence[str], env: Mapping[str, str], stderr: int | None = None) -> subprocess.Popen[bytes]:
        """Start a program inside; all its children are counted with it."""
        enter = f'echo $$ > {self.folder}/cgroup.procs && exec "$@"'
        return subprocess.Popen(
            ["sh", "-c", enter, "sh", *words], env=dict(env), stderr=stderr, stdout=subprocess.DEVNULL
        )

    def killed(self) -> int:
        """How often the kernel ended something here because of the limit."""
        text = (self.folder / ("memory.events" if self.v2 else "memory.oom_control")).read_text()
        return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill "))

    def anonymous(self) -> int:
        """Bytes that can't be given back: without the page cache, which fills whatever limit there is."""
        text = (self.folder / "memory.stat").read_text()
        wanted = "anon " if self.v2 else "total_rss "
        return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(wanted))


@contextmanager
def memory_group(limit: int) -> Iterator[MemoryGroup]:
    """Raises OSError where none can be made."""
    v2 = (_ROOT / "cgroup.controllers").exists()
    folder = (_ROOT if v2 else _ROOT / "memory") / f"matriarch-test-{secrets.token_hex(4)}"
    if v2:
        (_ROOT / "cgroup.subtree_control").write_text("+memory")
    folder.mkdir()
    try:
        (folder / ("memory.max" if v2 else "memory.limit_in_bytes")).write_text(str(limit))
        if v2:
            with contextlib.suppress(OSError):
                (folder / "memory.swap.max").write_text("0")
        yield MemoryGroup(folder, v2)
    finally:
        for _ in range(50):
            try:
                folder.rmdir()
                break
            except OSError:
                time.sleep(0.1)

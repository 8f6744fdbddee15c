"""A program run once, with what it took: time, processor and memory, of itself and all that it started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

GB = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Run:
    """`stored` is what lies in the store after it, in bytes; 0 where nothing is."""

    name: str
    seconds: float
    cpu: float  # seconds
    peak: int  # bytes resident in the biggest process
    stored: int = 0

    def row(self, size: int) -> str:
        """A line of Markdown, when `size` bytes went through it."""
        return (
            f"| {self.name} | {self.seconds:.1f} | {size / 1e6 / self.seconds:.0f} | {self.cpu * GB / size:.1f} | "
            f"{self.stored / 1e6:.0f} | {self.peak >> 20} |"
        )


HEAD = "| run | s | MB/s | CPU s per GB | MB stored | MiB peak |\n|---|---|---|---|---|---|"


# A program's peak begins with that of whoever started it (Linux counts what exec replaces), so that a small process
# starts it and not this one.
_STARTER = """
import json, os, subprocess, sys, time
began = time.monotonic()
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
took = time.monotonic() - began
print(json.dumps([os.waitstatus_to_exitcode(status), took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
"""


def timed(name: str, words: Sequence[str], env: Mapping[str, str] | None = None) -> Run:
    """Raises SystemExit when the program fails; what it said is on stderr."""
    os.sync()  # what the run before left unwritten is not this one's to wait for
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _STARTER, *words],
        env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    code, seconds, cpu, peak = json.loads(done.stdout)
    if code:
        sys.exit(f"{name} failed with {code}; what it said is above")
    run = Run(name, seconds, cpu, peak << 10)
    print(f"{name}: {run.seconds:.1f} s, {run.cpu:.1f} CPU s, {run.peak >> 20} MiB", file=sys.stderr, flush=True)
    return run


def middle(runs: Sequence[Run]) -> Run:
    """One run for several of the same name: the median of time and processor, the most of memory."""
    return Run(
        runs[0].name,
        median(r.seconds for r in runs),
        median(r.cpu for r in runs),
        max(r.peak for r in runs),
        round(median(r.stored for r in runs)),
    )

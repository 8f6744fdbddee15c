"""Checks the protocol's model, and that the model sees broken rules.

    python -m model.check                 everything: configurations that must hold, mutants that must be caught
    python -m model.check --quick         the subset for every test run, under a minute
    python -m model.check NAME...         only these configurations or mutants
    python -m model.check --trail NAME    one of them, with its counterexample as the members' steps

Needs `spin` and a C compiler. Exits with 1 when a configuration does not hold, a mutant survives, or a run did not end
within its limit.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from model.configurations import CONFIGURATIONS, MUTANTS, Configuration, Mutant

HERE = Path(__file__).parent
MEMORY = 2500
"""MB that one run may take; two run side by side."""
DEPTH = 3_000_000


BUILD_LIMIT = 900  # s; seconds where nothing else runs


class ModelError(Exception):
    """The model could not be built, or its checker said nothing that is understood."""


@dataclass(frozen=True, slots=True)
class Run:
    """One thing to check: a file with its switches, and what must come out."""

    name: str
    file: str
    defines: tuple[str, ...]
    what: str
    broken: bool
    limit: float


@dataclass(frozen=True, slots=True)
class Result:
    """`error`: the checker found a counterexample, None when it did not end. `states` that were stored."""

    run: Run
    error: bool | None
    states: int
    seconds: float
    trail: str = ""
    note: str = ""

    @property
    def good(self) -> bool:
        return self.error is not None and self.error == self.run.broken

    @property
    def verdict(self) -> str:
        if self.error is None:
            return f"NO END: {self.note}"
        if self.run.broken:
            return "caught" if self.error else "SURVIVED"
        return "FAILED" if self.error else "holds"


def runs(names: Sequence[str] = (), *, quick: bool = False) -> list[Run]:
    """All runs, the quick ones, or the named ones. Raises ModelError for a name that nothing has."""
    by_name = {c.name: c for c in CONFIGURATIONS}
    found = [_run_of(c, None) for c in CONFIGURATIONS if not quick or c.quick]
    found += [_run_of(by_name[m.configuration], m) for m in MUTANTS if not quick or m.quick]
    if unknown := set(names) - {r.name for r in found}:
        raise ModelError(f"nothing is named {', '.join(sorted(unknown))}; there are {', '.join(r.name for r in found)}")
    return [r for r in found if not names or r.name in names]


def _run_of(configuration: Configuration, mutant: Mutant | None) -> Run:
    if mutant is None:
        c = configuration
        return Run(c.name, c.file, c.defines, c.what, broken=False, limit=c.limit)
    overridden = {d.split("=")[0] for d in mutant.defines}
    kept = tuple(d for d in configuration.defines if d.split("=")[0] not in overridden)
    what = f"{mutant.rule}; in {configuration.name}"
    return Run(
        mutant.name, configuration.file, (*kept, *mutant.defines, mutant.switch), what, broken=True, limit=mutant.limit
    )


def check(run: Run) -> Result:
    """Generate, compile and run the checker in a folder of its own. Raises ModelError when it can't be built."""
    with tempfile.TemporaryDirectory(prefix="matriarch-model-") as name:
        folder = Path(name)
        source = str(shutil.copy(HERE / run.file, folder))
        switches = [f"-D{d}" for d in run.defines]
        _built(("spin", *switches, "-a", source), folder)
        flags = ("-O2", "-w", "-DSAFETY", "-DNOFAIR", "-DCOLLAPSE", "-DVECTORSZ=1024", f"-DMEMLIM={MEMORY}")
        _built((os.environ.get("CC", "cc"), *flags, "-o", "pan", "pan.c"), folder)
        started = time.monotonic()
        try:
            ended = subprocess.run(
                ("./pan", f"-m{DEPTH}", "-w22", "-b", "-E"),
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=run.limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Result(run, None, 0, time.monotonic() - started, note=f"more than {run.limit:.0f} s")
        seconds = time.monotonic() - started
        text = ended.stdout
        errors, states = re.search(r"errors: (\d+)", text), re.search(r"(\d+) states, stored", text)
        if errors is None or states is None:
            raise ModelError(f"{run.name}: the checker said {text[-500:]!r} {ended.stderr[-500:]!r}")
        found = errors.group(1) != "0"
        if not found and ("Search not completed" in text or "max search depth too small" in text):
            return Result(run, None, int(states.group(1)), seconds, note="out of memory or depth")
        trail = _trail(folder, source, switches) if found else ""
        return Result(run, found, int(states.group(1)), seconds, trail)


def _built(words: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=BUILD_LIMIT, check=False)
    except subprocess.TimeoutExpired as e:
        raise ModelError(
            f"{words[0]} was not done after {BUILD_LIMIT} s: something else keeps this machine busy"
        ) from e
    except FileNotFoundError as e:
        raise ModelError(f"{words[0]} is not installed (Debian: apt-get install spin gcc libc6-dev)") from e
    if done.returncode:
        raise ModelError(f"{' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def _trail(folder: Path, source: str, switches: Sequence[str]) -> str:
    """The counterexample as what each member does: `spin -t` replays it."""
    trails = sorted(folder.glob("*.trail"))
    if not trails:
        return ""
    words = ("spin", *switches, "-t", "-k", trails[0].name, "-T", source)
    shown = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300, check=False).stdout
    steps = shown.split("spin: ")[0].splitlines() if "spin: trail ends" not in shown else []
    for line in shown.splitlines() if not steps else ():
        if line.startswith(("spin: trail ends", "#processes")):
            break
        if not line.startswith("spin: "):
            steps.append(line)
    return "\n".join(step.strip() for step in steps)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="configurations or mutants; without any: all")
    parser.add_argument("--quick", action="store_true", help="the subset for every test run")
    parser.add_argument("--trail", action="store_true", help="print every counterexample")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="runs side by side")
    wanted = parser.parse_args()
    try:
        chosen = runs(wanted.names, quick=wanted.quick)
        good = _report(chosen, jobs=wanted.jobs, trails=wanted.trail)
    except ModelError as e:
        print(e, file=sys.stderr)
        return 2
    return 0 if good else 1


def _report(chosen: Sequence[Run], *, jobs: int, trails: bool) -> bool:
    width = max(len(r.name) for r in chosen)
    print(f"{'configuration or mutant':{width}} {'states':>10} {'s':>7}  verdict", flush=True)
    started = time.monotonic()
    bad: list[str] = []
    with ThreadPoolExecutor(jobs) as pool:
        for result in pool.map(check, chosen):
            run = result.run
            print(f"{run.name:{width}} {result.states:>10} {result.seconds:>7.1f}  {result.verdict:8}  {run.what}")
            sys.stdout.flush()
            if result.trail and (trails or not result.good):
                print("\n".join(f"    {line}" for line in result.trail.splitlines()))
            if not result.good:
                bad.append(run.name)
    print(f"{len(chosen) - len(bad)} of {len(chosen)} as they must be, {(time.monotonic() - started) / 60:.1f} min")
    if bad:
        print(f"not so: {', '.join(bad)}")
    return not bad


if __name__ == "__main__":
    sys.exit(main())

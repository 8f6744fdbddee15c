"""Runs the project's checks and tests in stages, and says of each how it went and how long it took.

    python -m dev.stages check     static checks and unit tests; needs no cluster and no root
    python -m dev.stages test      all tests that every change must pass, from nothing; with a cluster of its own
    python -m dev.stages long      `test`, then the long runs

Stages go on after one has failed, so that one run shows all there is. The last line is `N passed, N failed, N skipped`.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dev.host import CACHE, PROJECT, DevError

REPORTS = PROJECT / "build" / "reports"
HELM = CACHE / "bin" / "helm"
TWO = ("-n", "2", "--dist", "loadfile")
"""Two files at a time: what they wait for is mostly not the processor."""
GROUND = "tests/e2e/test_ground.py"
HISTORIES = "tests/faults/test_histories.py"


@dataclass(frozen=True, slots=True)
class Counts:
    """How many tests ended how; a command that is no test run counts as one."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)


@dataclass(frozen=True, slots=True)
class Stage:
    """One command; `limit` in seconds. With `tests` it is a pytest run over that folder."""

    name: str
    words: tuple[str, ...] = ()
    tests: str = ""
    limit: float = 600.0
    env: Mapping[str, str] = field(default_factory=dict)


def _pytest(name: str, folder: str, limit: float, *more: str, env: Mapping[str, str] | None = None) -> Stage:
    report = f"--junitxml={REPORTS / f'{name}.xml'}"
    words = (sys.executable, "-m", "pytest", "-q", folder, report, *more)
    return Stage(name, words, tests=folder, limit=limit, env=env or {})


def check_stages(*, helm: bool) -> list[Stage]:
    """Everything that needs no cluster; the chart's lint needs helm."""
    python = (sys.executable, "-m")
    folders = ("operator", "dev", "bench", "model", "tests")
    stages = [
        Stage("ruff check", (*python, "ruff", "check", *folders)),
        Stage("ruff format", (*python, "ruff", "format", "--check", *folders)),
        Stage("mypy", (*python, "mypy", "-p", "matriarch", "-p", "dev", "-p", "bench", "-p", "model")),
        Stage("imports", (str(Path(sys.executable).with_name("lint-imports")),)),
        Stage("generated files", (*python, "matriarch.api.generate", "--check")),
        _pytest("unit", "tests/unit", 600, *TWO),
    ]
    if helm:
        stages.append(Stage("helm lint", (str(HELM), "lint", "--strict", "helm/matriarch")))
    return stages


def test_stages() -> list[Stage]:
    """From the cheapest to the dearest; set-up that all share comes first, where its failure is seen as its own."""
    python = (sys.executable, "-m")
    return [
        Stage("set-up: programs", (*python, "dev.programs", "--tests"), limit=3000),
        *check_stages(helm=True),
        _pytest("model", "tests/model", 300),
        _pytest("monitoring", "tests/monitoring", 300, *TWO),
        _pytest("apiserver", "tests/apiserver", 1200, *TWO),
        Stage("set-up: images", (*python, "dev.images", "build"), limit=1200),
        Stage("set-up: root file system", (*python, "dev.rootfs"), limit=600),
        # Much of its time is waiting for servers; files stay whole, since their tests share what they made.
        _pytest("postgres", "tests/postgres", 3300, "-m", "not long", *TWO),
        # The ground's own tests switch nodes off: before anything stands on them. The cluster stays for the next stage.
        _pytest("ground", GROUND, 600, env={"KEEP": "1"}),
        # A cluster that is ill fails one test after the other, each after minutes of waiting.
        _pytest("e2e", "tests/e2e", 3000, f"--ignore={GROUND}", "-m", "not long", "--maxfail=4", env={"KEEP": "1"}),
        _pytest("histories", HISTORIES, 900),
    ]


def long_stages() -> list[Stage]:
    """What takes hours rather than minutes."""
    return [
        *test_stages(),
        _pytest("postgres-long", "tests/postgres", 3600, "-m", "long"),
        _pytest("e2e-long", "tests/e2e", 3600, f"--ignore={GROUND}", "-m", "long", env={"KEEP": "1"}),
        _pytest("faults", "tests/faults", 6 * 3600, f"--ignore={HISTORIES}"),
    ]


def counts_in(report: str) -> Counts:
    """What a JUnit report says; an error is a failure."""
    total = Counts()
    for suite in ET.fromstring(report).iter("testsuite"):
        number = {key: int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")}
        failed = number["failures"] + number["errors"]
        passed = max(0, number["tests"] - failed - number["skipped"])
        total += Counts(passed, failed, number["skipped"])
    return total


def run(stage: Stage) -> Counts:
    """Run one stage; its output is shown as it comes for tests, and only after a failure for the others."""
    started = time.monotonic()
    print(f"--- {stage.name}", flush=True)
    report = REPORTS / f"{stage.name}.xml"
    report.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT / 'operator'}{os.pathsep}{PROJECT}", **stage.env}
    quiet = not stage.tests
    child = subprocess.Popen(
        stage.words,
        cwd=PROJECT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
        start_new_session=True,
    )
    output, late = "", False
    try:
        output = child.communicate(timeout=stage.limit)[0] or ""
    except subprocess.TimeoutExpired:
        late = True
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
    except BaseException:
        os.killpg(child.pid, signal.SIGTERM)
        child.wait()
        raise
    good = child.returncode == 0 and not late
    if quiet and not good:
        print(output, flush=True)
    counts = counts_in(report.read_text()) if stage.tests and report.exists() else Counts()
    if not good and not counts.failed:  # it died, or found no test: that must not look like success
        counts = replace(counts, failed=counts.failed + 1)
    if good and quiet:
        counts = Counts(passed=1)
    word = "ok" if good else f"NOT WITHIN {stage.limit:.0f} s" if late else "FAILED"
    print(f"--- {stage.name}: {word}, {time.monotonic() - started:.1f} s", flush=True)
    return counts


def run_all(stages: Sequence[Stage]) -> Counts:
    """Every stage in turn."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    total = Counts()
    failed = []
    for stage in stages:
        counts = run(stage)
        total += counts
        if counts.failed:
            failed.append(stage.name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    print(f"{len(stages)} stages in {(time.monotonic() - started) / 60:.1f} min")
    print(f"{total.passed} passed, {total.failed} failed, {total.skipped} skipped", flush=True)
    return total


def _take_down() -> None:
    """The tests' own cluster; also after an interruption, and when its fixture could not."""
    from dev import cluster

    if os.environ.get("KEEP"):
        return
    try:
        cluster.down(os.environ.get("TEST_CLUSTER", "test"))
    except DevError as e:
        print(f"the tests' cluster could not be taken down: {e}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("check", "test", "long"))
    what = parser.parse_args().what
    # A plain `kill` must take the cluster down too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if what == "check":
        total = run_all(check_stages(helm=HELM.exists()))
    else:
        _take_down()  # what an interrupted run left would be met by this one's tests
        try:
            total = run_all(test_stages() if what == "test" else long_stages())
        finally:
            _take_down()
    sys.exit(1 if total.failed else 0)


if __name__ == "__main__":
    main()

"""A run of all stages can't look good when it was not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from dev import cluster, stages
from dev.host import DevError
from dev.stages import Counts, Stage

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(stages, "REPORTS", tmp_path)
    return tmp_path


def _python(code: str, *, tests: str = "", limit: float = 60) -> Stage:
    return Stage("one", (sys.executable, "-c", code), tests=tests, limit=limit)


def test_counts_of_a_report() -> None:
    report = '<testsuites><testsuite tests="10" failures="2" errors="1" skipped="3"/></testsuites>'
    assert stages.counts_in(report) == Counts(passed=4, failed=3, skipped=3)


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (_python("pass"), Counts(passed=1)),
        (_python("raise SystemExit(1)"), Counts(failed=1)),
        (_python("import time; time.sleep(60)", limit=0.5), Counts(failed=1)),
        (_python("raise SystemExit(5)", tests="tests/x"), Counts(failed=1)),  # pytest found no test
        (_python("import os; os.kill(os.getpid(), 9)", tests="tests/x"), Counts(failed=1)),
    ],
)
def test_a_stage_that_did_not_end_well_has_failed(stage: Stage, expected: Counts) -> None:
    assert stages.run(stage) == expected


def test_a_run_that_dies_after_good_tests_has_failed(reports: Path) -> None:
    report = '<testsuites><testsuite tests="2" failures="0" errors="0" skipped="0"/></testsuites>'
    code = f"open({str(reports / 'one.xml')!r}, 'w').write({report!r}); raise SystemExit(3)"
    assert stages.run(_python(code, tests="tests/x")) == Counts(passed=2, failed=1)


def test_the_last_line_is_the_sum(capsys: pytest.CaptureFixture[str]) -> None:
    total = stages.run_all([_python("pass"), _python("raise SystemExit(1)"), _python("pass")])
    assert total == Counts(passed=2, failed=1)
    assert capsys.readouterr().out.splitlines()[-1] == "2 passed, 1 failed, 0 skipped"


@pytest.mark.parametrize(
    ("environment", "engine", "expected"),
    [
        ({}, False, "kubebox"),
        ({}, True, "kind"),
        ({"CLUSTER": "existing"}, True, "existing"),
        ({"CLUSTER": "kubebox"}, True, "kubebox"),
        ({"CLUSTER": "kind"}, False, "kind"),
    ],
)
def test_the_cluster_that_is_chosen(environment: dict[str, str], engine: bool, expected: str) -> None:
    assert cluster.chosen(environment, engine=engine) == expected


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(DevError, match="CLUSTER is `minikube`; it can be existing, kind or kubebox"):
        cluster.chosen({"CLUSTER": "minikube"}, engine=False)

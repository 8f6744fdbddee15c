"""The door of a bench that a bare python3 runs: what it sets up, and what it becomes."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.environment import PROJECT, command, steps, variables


@pytest.mark.parametrize(
    ("wanted", "due"),
    [
        ("", ["packages", "venv", "programs"]),
        ("kubebox", ["packages", "venv", "programs"]),
        ("kind", ["venv", "programs"]),
        ("existing", ["venv", "programs"]),
    ],
)
def test_debians_packages_are_only_for_the_local_kubernetes(wanted: str, due: list[str]) -> None:
    assert steps(wanted) == due


def test_the_command_is_the_projects_python_with_the_arguments_as_they_were() -> None:
    argv = command(Path("/clone"), "bench.failover", ["--fault", "pid1-kill", "--json"])
    assert argv == ["/clone/.venv/bin/python", "-m", "bench.failover", "--fault", "pid1-kill", "--json"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "/clone/operator:/clone"),
        ({"PYTHONPATH": "/other"}, "/clone/operator:/clone:/other"),
        ({"PYTHONPATH": "/clone:/other:"}, "/clone/operator:/clone:/other"),
    ],
)
def test_the_projects_sources_come_first(before: dict[str, str], after: str) -> None:
    found = variables(Path("/clone"), {"HOME": "/root", **before})
    assert found == {"HOME": "/root", "PYTHONPATH": after.replace(":", os.pathsep)}


def test_run_as_a_file_it_sets_up_and_becomes_the_module(tmp_path: Path) -> None:
    """With a set-up and an interpreter that only say what they were asked for."""
    clone = tmp_path / "clone"
    for name in ("bench/failover.py", "bench/environment.py", "bench/__init__.py"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text((PROJECT / name).read_text())
    for name, text in (("dev/setup.sh", 'echo "setup $*"'), (".venv/bin/python", 'echo "$PYTHONPATH" "$PWD" "$@"')):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text(f"#!/bin/sh\n{text}\n")
        (clone / name).chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "CLUSTER"}}
    # -I -S: an interpreter without the project's sources and without a single installed package
    argv = [sys.executable, "-I", "-S", str(clone / "bench" / "failover.py"), "--fault", "switchover"]
    done = subprocess.run(argv, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        f"{clone}/operator:{clone}",
        str(clone),
        "-m",
        "bench.failover",
        "--fault",
        "switchover",
    ]
    assert done.stderr == "setup packages venv programs\n"


def test_a_set_up_that_fails_ends_it_with_its_status(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    for name in ("bench/failover.py", "bench/environment.py", "bench/__init__.py"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text((PROJECT / name).read_text())
    (clone / "dev").mkdir()
    (clone / "dev" / "setup.sh").write_text("#!/bin/sh\nexit 3\n")
    (clone / "dev" / "setup.sh").chmod(0o755)
    argv = [sys.executable, "-I", "-S", str(clone / "bench" / "failover.py")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stdout == ""
    assert "cannot be made" in done.stderr


def test_what_runs_before_there_is_an_environment_can_be_read_by_an_old_python() -> None:
    for name in ("failover", "environment"):
        ast.parse((PROJECT / "bench" / f"{name}.py").read_text(), feature_version=(3, 8))

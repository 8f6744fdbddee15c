"""The door of programs that run from a fresh clone by a bare `python3`: makes the project's environment and enters it.

Standard library alone, and nothing that an old Python could not read: this runs before there is an environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def steps(wanted: str) -> list[str]:
    """What of `dev/setup.sh` is due, by the variable CLUSTER.

    Debian's packages are for the local Kubernetes; with a cluster that is there, nobody has to be root.
    """
    return ["venv", "programs"] if wanted in ("existing", "kind") else ["packages", "venv", "programs"]


def command(project: Path, module: str, arguments: list[str]) -> list[str]:
    """The command line of `module` in the project's environment."""
    return [str(project / ".venv" / "bin" / "python"), "-m", module, *arguments]


def variables(project: Path, present: dict[str, str]) -> dict[str, str]:
    """The environment's variables: the project's sources first, whatever else was on the path after them."""
    before = [p for p in present.get("PYTHONPATH", "").split(os.pathsep) if p]
    ours = [str(project / "operator"), str(project)]
    return {**present, "PYTHONPATH": os.pathsep.join([*ours, *(p for p in before if p not in ours)])}


def enter(module: str, also: tuple[str, ...] = ()) -> None:
    """Sets up what is missing and becomes `python -m module` in the project's environment. Does not return.

    `also` are more steps of `dev/setup.sh`.
    Everything that the set-up says goes to stderr: stdout belongs to the program.
    """
    setup = [str(PROJECT / "dev" / "setup.sh"), *steps(os.environ.get("CLUSTER", "")), *also]
    done = subprocess.run(setup, stdout=sys.stderr, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        print("the project's environment cannot be made; the lines above say why", file=sys.stderr)
        sys.exit(done.returncode)
    argv = command(PROJECT, module, sys.argv[1:])
    os.chdir(PROJECT)
    os.execve(argv[0], argv, variables(PROJECT, dict(os.environ)))

"""Bugs built in on purpose, each of which must make the project's own history tests find lost writes.

A Pod has the variable only when the operator's own process has it (`controller/settings.py`); nothing in a
DatabaseCluster leads there, and no chart or manifest sets it. See `docs/faults.md`.
"""

from __future__ import annotations

import os

VARIABLE = "MATRIARCH_TEST_MUTANT"
MUTANTS = ("no-cut", "lsn-only", "empty-names")


def is_on(name: str) -> bool:
    """Whether this process shall show the bug `name`; False wherever databases are meant to be kept."""
    return os.environ.get(VARIABLE) == name

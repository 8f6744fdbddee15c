"""The history tests must find what a bug costs. Each schedule loses writes with the bug, and nothing without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.history import directed
from bench.history.ground import Ground
from tests.faults.test_histories import histories

__all__ = ["histories"]
MUTANTS = [name for name in directed.BY_MUTANT if name != "async"]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_bug_built_in_is_found(histories: Ground, artifacts: Path, mutant: str) -> None:
    assert directed.finds(histories, mutant, artifacts / f"mutant-{mutant}") > 0


@pytest.mark.timeout(1800)
def test_asynchronous_mode_is_found_to_lose_writes(histories: Ground, artifacts: Path) -> None:
    assert directed.finds(histories, "async", artifacts / "mutant-async") > 0


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", MUTANTS)
def test_the_same_blows_cost_nothing_without_the_bug(histories: Ground, artifacts: Path, name: str) -> None:
    histories.ready()
    verdict = directed.attempt(histories, name, artifacts / f"control-{name}")
    assert verdict.violations == ()
    assert verdict.lost == 0

"""The protocol's model: a subset within bounds holds, and broken rules are seen. All of it: `make model`."""

from __future__ import annotations

import re

import pytest

from matriarch.decide.transitions import EVENTS, table
from model.check import HERE, ModelError, Run, check, runs


@pytest.mark.parametrize("run", runs(quick=True), ids=lambda run: run.name)
def test_is_as_it_must_be(run: Run) -> None:
    result = check(run)
    assert result.good, f"{result.verdict}\n{result.trail}"


def test_a_counterexample_is_told_as_steps() -> None:
    (run,) = runs(["no stream cut"])
    trail = check(run).trail
    assert "promises epoch 2" in trail
    assert trail.splitlines()[-1].startswith(("LOST", "I2", "I7"))


def test_a_run_that_does_not_end_is_no_proof() -> None:
    result = check(Run("short", "protocol.pml", ("WRITES=2", "EPOCHS=3"), "", broken=False, limit=0.05))
    assert not result.good
    assert result.verdict.startswith("NO END")


def test_what_nobody_named_is_refused() -> None:
    with pytest.raises(ModelError, match="nothing is named elephants"):
        runs(["elephants"])


def test_each_event_of_the_table_is_in_the_model() -> None:
    model = (HERE / "protocol.pml").read_text()
    actions = set(re.findall(r"^inline (\w+)\(", model, re.MULTILINE))
    assert {action for event in EVENTS.values() for action in event.model} <= actions


def test_the_page_shows_the_table() -> None:
    assert table() in (HERE.parent / "docs" / "model.md").read_text()

"""Each reason that a status may show has its row in the reference."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from matriarch.decide.doctor import Ailment

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/conditions.md").read_text()
PLACES = {"Verdict": 1, "Condition": 2}  # which argument is the reason
WORD = r"[A-Z][A-Za-z]{3,}"


def reasons() -> Iterator[str]:
    """Those that stand where a verdict or a condition is made; others are passed on from such a place."""
    for folder in ("decide", "controller"):
        for file in (ROOT / "operator/matriarch" / folder).glob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                yield from _made(node)


def _made(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        at = PLACES.get(node.func.id)
        if at is not None and len(node.args) > at and not isinstance(node.args[at], ast.JoinedStr):
            parts = (p.value for p in ast.walk(node.args[at]) if isinstance(p, ast.Constant))
            yield from (str(p) for p in parts if re.fullmatch(WORD, str(p)))
    elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith(("reason", "(reason")):
        yield from re.findall(f"'({WORD})'", ast.unparse(node.value))


EVENTS = {"SwitchedOver", "SwitchoverAborted"}  # reasons of Events, and "Invalid", which is the API server's own


@pytest.mark.parametrize("reason", sorted({*reasons(), *get_args(Ailment)} - EVENTS - {"Invalid"}))
def test_it_is_explained(reason: str) -> None:
    assert f"`{reason}`" in PAGE


def test_the_search_is_not_blind() -> None:
    assert {"QuorumLost", "LeaseRolledBack", "AsyncFailover", "NeverFires"} <= set(reasons())

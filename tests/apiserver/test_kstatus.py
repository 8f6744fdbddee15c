"""Flux's and Helm's judgement of every row of the contract, by their own library (dev/go/kstatus)."""

from __future__ import annotations

import json
import subprocess

import pytest

from dev import programs
from dev.host import DevError
from tests.condition_rows import ROWS, Row


@pytest.fixture(scope="module")
def verdicts() -> dict[str, str]:
    """What of a row → kstatus's word."""
    try:
        program = programs.ensure("kstatus")
    except DevError as e:
        pytest.fail(f"no kstatus to ask: {e}", pytrace=False)
    objects = json.dumps([row.object() for row in ROWS])
    done = subprocess.run([program], input=objects, text=True, capture_output=True, check=True)
    return dict(zip((row.what for row in ROWS), (a["status"] for a in json.loads(done.stdout)), strict=True))


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.what)
def test_each_row_of_the_contract(verdicts: dict[str, str], row: Row) -> None:
    assert verdicts[row.what] == row.kstatus

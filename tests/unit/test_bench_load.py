"""Asking often how many writes were acknowledged reads only what is new, and never half a line."""

from __future__ import annotations

from pathlib import Path

from bench.load import Load
from dev.product import Database


def test_only_whole_new_lines_are_counted(tmp_path: Path) -> None:
    log = tmp_path / "load.log"
    load = Load(Database("postgresql://app:x@orders-rw.prod.svc/app", {}), log)
    assert load.acknowledged() == 0
    log.write_text("2\t1\t0\t7\tok\t\n3\t2\t0\t8\tunknown\tTimeoutError: \n4\t3\t0\t9\to")
    assert load.acknowledged() == 1
    assert load.acknowledged() == 1
    with log.open("a") as file:
        file.write("k\t\n5\t4\t0\t0\tfailed\tit is not ok \n6\t5\t1\t10\tok\t\n")
    assert load.acknowledged() == 3

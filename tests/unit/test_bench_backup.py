"""The figures of bench/backup.py: which way each ratio goes, and what a run counts."""

from __future__ import annotations

import sys

import pytest

from bench.backup import OURS, THEIRS, THEIRS_ZSTD, logical_figures, physical_figures
from bench.delta import ratios
from bench.timed import Run, middle, timed
from dev.host import DevError


def run(seconds: float, stored: int = 100) -> Run:
    return Run("x", seconds, seconds, 1 << 20, stored)


def test_speed_is_above_one_where_ours_is_faster_and_size_below_where_ours_is_smaller() -> None:
    found = physical_figures(
        {
            OURS: (run(2, 90), run(4)),
            THEIRS: (run(8, 80), run(1)),
            THEIRS_ZSTD: (run(3, 100), run(2)),
        }
    )
    assert found == {
        "physical_vs_pgbackrest": 4.0,
        "physical_vs_pgbackrest_zstd": 1.5,
        "restore_vs_pgbackrest": 0.5,
        "physical_size_ratio": 0.9,
    }
    assert logical_figures(run(6, 50), run(4, 0), run(9, 100)) == {
        "logical_vs_pgdump_alone": 1.5,
        "logical_vs_pipeline": 1.5,
        "logical_size_ratio": 0.5,
    }


def test_ratios_of_a_restore_onto_what_is_there() -> None:
    four = {"full": run(8), "reuse": run(2), "their full": run(9), "their delta": run(3)}
    assert ratios("newest", four) == {
        "reuse_vs_full_newest": 4.0,
        "their_delta_vs_full_newest": 3.0,
        "reuse_vs_pgbackrest_delta_newest": 1.5,
    }


def test_a_backup_that_left_the_data_out_is_no_fast_one() -> None:
    with pytest.raises(DevError, match="can't be all"):
        logical_figures(run(1, 20), run(1), run(1, 100))


def test_of_several_rounds_the_median_counts_and_the_highest_memory() -> None:
    runs = [Run("x", s, c, p, 7) for s, c, p in ((9.0, 1.0, 5), (2.0, 8.0, 30), (3.0, 2.0, 4))]
    assert middle(runs) == Run("x", 3.0, 2.0, 30, 7)


def test_a_program_is_timed_without_what_started_it(capsys: pytest.CaptureFixture[str]) -> None:
    ballast = bytearray(b"x") * (100 << 20)
    small = timed("small", ["true"], {})
    assert small.peak < 40 << 20 < len(ballast)
    big = timed("big", [sys.executable, "-I", "-S", "-c", "b = bytearray(b'x') * (60 << 20)"])
    assert big.peak > 60 << 20
    assert "big: " in capsys.readouterr().err


def test_a_program_that_fails_ends_the_measurement() -> None:
    with pytest.raises(SystemExit, match="failed with 3"):
        timed("x", ["sh", "-c", "exit 3"])

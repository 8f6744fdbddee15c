"""What is kept of the history files: each is read once, and what they have in common is there once."""

from __future__ import annotations

from pathlib import Path

from matriarch.agent.postgres import walfiles
from matriarch.postgres.timeline import Switch, history_file


def _write(folder: Path, timeline: int) -> None:
    text = "".join(f"{t}\t0/{t << 24:08X}\tno recovery target specified\n" for t in range(1, timeline))
    (folder / history_file(timeline)).write_text(text)


def test_after_many_failovers_a_switch_is_kept_once_and_not_once_in_each_file(tmp_path: Path) -> None:
    newest = 60
    for timeline in range(2, newest + 1):
        _write(tmp_path, timeline)
    lines = [walfiles.line_of(tmp_path, timeline) for timeline in range(2, newest + 1)]
    assert lines[-1][-1] == Switch(newest, newest - 1, (newest - 1) << 24)
    assert all(line == lines[-1][: len(line)] for line in lines)
    assert len({id(s) for line in lines for s in line}) == newest - 1


def test_a_file_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    _write(tmp_path, 3)
    assert len(walfiles.line_of(tmp_path, 3)) == 2
    (tmp_path / history_file(3)).write_text("1\t0/5000000\tno recovery target specified\n")
    assert walfiles.line_of(tmp_path, 3) == (Switch(3, 1, 5 << 24),)
    assert walfiles.line_of(tmp_path, 9) == ()

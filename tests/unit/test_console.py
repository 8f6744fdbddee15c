"""A full pipe to the log must not hold up PID 1."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import matriarch

CODE = """
import os, sys, time
from matriarch.agent.console import Console
console = Console("supervisor")
began = time.monotonic()
for n in range(3000):
    console.say(f"line {n} " + "x" * 100)
lost = console.lost
os.write(3, f"{lost} {time.monotonic() - began}".encode())
sys.stdin.readline()
console.say("last")
"""


def test_lines_that_find_no_room_are_lost_and_counted() -> None:
    reader, writer = os.pipe()
    report, reported = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", f"import os; os.dup2({reported}, 3)\n{CODE}"],
        stdin=subprocess.PIPE,
        stderr=writer,
        pass_fds=(reported,),
        env={"PYTHONPATH": str(Path(matriarch.__path__[0]).parent)},
    )
    os.close(writer)
    os.close(reported)
    lost, seconds = os.read(report, 100).split()  # arrives although nobody has read a line yet
    assert int(lost) > 1000
    assert float(seconds) < 5
    with os.fdopen(reader) as lines:
        assert lines.readline().startswith("supervisor: line 0 x")
        for n, line in enumerate(lines, 1):
            if not line.startswith(f"supervisor: line {n} "):
                raise AssertionError(line)
            if n == 2999 - int(lost):
                break
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
        assert lines.readline() == f"supervisor: last ({lost.decode()} lines were lost before this one)\n"
    assert process.wait(10) == 0
    os.close(report)

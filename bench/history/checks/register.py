"""Strict reads: no read may miss a write that was acknowledged before the read began.

Each register has one writer, which writes 1, 2, 3 …; so of two values the larger is the newer, and every rule is a
comparison of numbers and stamps.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence

from bench.history.ops import Op, Verdict, Violation

WORKLOAD = "register"
Span = tuple[int, int]


def check(ops: Sequence[Op], *, stale_allowed: Sequence[Span] = ()) -> Verdict:
    """Writes are of kind `write`, reads of kind `read`, both with [register, value].

    `stale_allowed`: spans of boot time in which the protocol itself lets a deposed primary answer (a paused machine
    that has just resumed, forged resets). Stale reads that ended in one are counted and not judged.
    """
    mine = [op for op in ops if op.workload == WORKLOAD]
    verdict = Verdict()
    for register in sorted({op.value[0] for op in mine}):
        verdict += _one(register, [op for op in mine if op.value[0] == register], stale_allowed)
    return verdict


def _one(register: int, ops: Sequence[Op], allowed: Sequence[Span]) -> Verdict:
    writes = [op for op in ops if op.kind == "write"]
    reads = [op for op in ops if op.kind == "read" and op.ok]
    begun = _Highest((op.invoked, op.value[1]) for op in writes if op.outcome != "fail")
    acknowledged = _Highest((op.ended, op.value[1]) for op in writes if op.ok and op.ended is not None)
    shown = _Highest((op.ended, op.value[1]) for op in reads if op.ended is not None)
    refused = {op.value[1] for op in writes if op.outcome == "fail"}
    violations, tolerated, stale = [], 0, 0
    for op in reads:
        value, ended = op.value[1], op.ended or op.invoked
        floor, seen, ceiling = acknowledged.before(op.invoked), shown.before(op.invoked), begun.before(ended)
        problem = None
        if value > ceiling or value in refused:
            problem = ("from-nowhere", f"{value} was not written by then, or refused")
        elif value < floor:
            problem = ("stale", f"{value} was read, {floor} was acknowledged before")
            stale += 1
        elif value < seen:
            problem = ("undone", f"{value} was read, {seen} was read before")
        if problem and problem[0] != "from-nowhere" and any(a <= ended <= b for a, b in allowed):
            tolerated += 1
        elif problem:
            violations.append(Violation(WORKLOAD, problem[0], f"register {register}: {problem[1]}", (op.id,)))
    return Verdict(tuple(violations), 0, {"stale": stale, "stale-allowed": tolerated})


class _Highest:
    """The highest value among those whose instant is before another one."""

    def __init__(self, pairs: Iterable[tuple[int, int]]) -> None:
        ordered = sorted(pairs)
        self._at = [at for at, _ in ordered]
        self._highest = list(itertools.accumulate((value for _, value in ordered), max))

    def before(self, instant: int) -> int:
        """0, which every register begins with, when there is none."""
        index = bisect.bisect_left(self._at, instant)
        return self._highest[index - 1] if index else 0

"""Checkers: pure functions from a history, and what the database holds at its end, to a Verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.history.checks import append, bank, register, sets
from bench.history.ops import Op, Verdict

APPENDS = {"append-rr": False, "append-ser": True}
"""Workload → whether its transactions are serializable; else they are repeatable read."""
SETS = ("set", "cancel")


@dataclass(frozen=True, slots=True)
class Final:
    """What the database holds after the last client has ended, read under locks that keep writers out."""

    sets: Mapping[str, Sequence[int]]
    bank: bank.Final
    lists: Mapping[str, Mapping[str, Sequence[int]]]


def check(ops: Sequence[Op], final: Final, *, stale_allowed: Sequence[register.Span] = ()) -> Verdict:
    """Every check of every workload."""
    verdict = bank.check(ops, final.bank) + register.check(ops, stale_allowed=stale_allowed)
    for workload in SETS:
        verdict += sets.check(ops, final.sets[workload], workload=workload)
    for workload, serializable in APPENDS.items():
        verdict += append.check(
            ops, final.lists[workload], workload=workload, serializable=serializable, stale_allowed=stale_allowed
        )
    return verdict

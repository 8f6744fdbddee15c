"""Unique inserts and a final read: nothing acknowledged is missing, nothing refused is there.

The final read locks the table against writers, so that no transaction in doubt can still end after it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bench.history.ops import Op, Verdict, Violation

SHOWN = 20


def check(ops: Sequence[Op], final: Collection[int], *, workload: str) -> Verdict:
    """`ops` are of kind `add`, their value the element; `final` is what the table holds."""
    adds = {op.value: op for op in ops if op.workload == workload and op.kind == "add"}
    there = set(final)
    lost = sorted(v for v, op in adds.items() if op.ok and v not in there)
    undead = sorted(v for v, op in adds.items() if op.outcome == "fail" and v in there)
    foreign = sorted(there - adds.keys())
    violations = []
    if lost:
        violations.append(_violation(workload, "lost", "acknowledged and gone", lost, adds))
    if undead:
        violations.append(_violation(workload, "undead", "refused and there", undead, adds))
    if foreign:
        violations.append(_violation(workload, "unexpected", "there, and nobody wrote it", foreign, adds))
    if len(there) != len(final):
        text = f"{len(final) - len(there)} elements are there twice"
        violations.append(Violation(workload, "duplicate", text))
    recovered = sum(op.outcome == "info" and v in there for v, op in adds.items())
    return Verdict(tuple(violations), len(lost), {"recovered": recovered})


def _violation(workload: str, rule: str, what: str, values: Sequence[int], adds: dict[int, Op]) -> Violation:
    shown = ", ".join(map(str, values[:SHOWN])) + (" …" if len(values) > SHOWN else "")
    return Violation(
        workload,
        rule,
        f"{len(values)} elements: {what}: {shown}",
        tuple(adds[v].id for v in values[:SHOWN] if v in adds),
    )

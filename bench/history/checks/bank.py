"""Transfers between accounts: every read shows the same sum, and at the end the ledger explains every balance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.history.checks import sets
from bench.history.ops import Op, Verdict, Violation

ACCOUNTS = 8
START = 100
TOTAL = ACCOUNTS * START
WORKLOAD = "bank"


@dataclass(frozen=True, slots=True)
class Final:
    """What is there at the end. `ledger`: (transfer, from, to, amount), written in the transfer's own transaction."""

    balances: Mapping[int, int]
    ledger: Sequence[tuple[int, int, int, int]]


def check(ops: Sequence[Op], final: Final) -> Verdict:
    """Reads are of kind `read` with {account: balance}; transfers of kind `transfer` with [id, from, to, amount]."""
    violations = []
    for op in ops:
        if op.workload == WORKLOAD and op.kind == "read" and op.ok:
            balances = [int(b) for b in op.value.values()]
            if len(balances) != ACCOUNTS or sum(balances) != TOTAL or min(balances) < 0:
                text = f"a read shows {len(balances)} accounts, sum {sum(balances)}, least {min(balances, default=0)}"
                violations.append(Violation(WORKLOAD, "sum", text, (op.id,)))
    violations += _final(final)
    # As a set: each transfer is in the ledger exactly if it was acknowledged, or may be if nobody knows.
    adds = [_as_add(op) for op in ops if op.workload == WORKLOAD and op.kind == "transfer"]
    return Verdict(tuple(violations)) + sets.check(adds, [entry[0] for entry in final.ledger], workload=WORKLOAD)


def _as_add(op: Op) -> Op:
    return Op(op.id, op.client, WORKLOAD, "add", op.invoked, op.ended, op.outcome, op.value[0], op.error)


def _final(final: Final) -> list[Violation]:
    expected = Counter(dict.fromkeys(range(ACCOUNTS), START))
    for _, source, target, amount in final.ledger:
        expected[source] -= amount
        expected[target] += amount
    wrong = {a: (final.balances.get(a), b) for a, b in expected.items() if final.balances.get(a) != b}
    if not wrong:
        return []
    text = "; ".join(f"account {a} has {has}, its transfers make {due}" for a, (has, due) in wrong.items())
    return [Violation(WORKLOAD, "ledger", text)]

"""The checkers of the history tests: what a correct database may show passes, and each kind of wrong is found."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.history.checks import append, bank, register, sets
from bench.history.checks.cycles import components, path
from bench.history.ops import Op, Outcome, Verdict, completion, invocation, parse

SEEDS = st.integers(0, 2**32)
OUTCOMES: list[Outcome] = ["ok", "ok", "ok", "ok", "info", "fail"]


def rules(verdict: Verdict) -> set[str]:
    return {v.rule for v in verdict.violations}


def op(number: int, span: tuple[int, int | None], value: Any, *, workload: str, kind: str, how: Outcome = "ok") -> Op:
    return Op(number, 0, workload, kind, span[0], span[1], how, value)


def txn(number: int, span: tuple[int, int | None], *steps: Any, how: Outcome = "ok") -> Op:
    return op(number, span, [list(s) for s in steps], workload="append-ser", kind="txn", how=how)


def judge(ops: list[Op], final: dict[str, list[int]], *, serializable: bool = True) -> Verdict:
    return append.check(ops, final, workload="append-ser", serializable=serializable)


# --- histories of a correct database ------------------------------------------------------------------------------


def serial_sets(rng: random.Random) -> tuple[list[Op], list[int]]:
    ops, there = [], []
    for number in range(1, rng.randint(2, 40)):
        how = rng.choice(OUTCOMES)
        if how == "ok" or (how == "info" and rng.random() < 0.5):
            there.append(number)
        ended = number * 10 + rng.randint(1, 40) if how != "info" or rng.random() < 0.5 else None
        ops.append(op(number, (number * 10, ended), number, workload="set", kind="add", how=how))
    return ops, there


def serial_registers(rng: random.Random) -> list[Op]:
    """One writer and several readers of one register; everything takes effect at one instant within its span."""
    ops, value, now, written = [], 0, 1000, 0
    for number in range(1, 60):
        now += rng.randint(1, 20)
        before, after = rng.randint(1, 15), rng.randint(1, 15)
        if rng.random() < 0.4:
            written += 1
            how = rng.choice(OUTCOMES)
            if how == "ok" or (how == "info" and rng.random() < 0.5):
                value = written
            # The one writer begins when its last write is over.
            begun = max([now - before, *(o.ended or o.invoked for o in ops if o.kind == "write")])
            ended = None if how == "info" else max(now, begun) + after
            now = max(now, begun)
            ops.append(op(number, (begun, ended), [1, written], workload="register", kind="write", how=how))
            now = max(now, ended or 0)
        else:
            ops.append(op(number, (now - before, now + after), [1, value], workload="register", kind="read"))
    return ops


def snapshots(rng: random.Random, *, serial: bool) -> tuple[list[Op], dict[str, list[int]]]:
    """Transactions under snapshot isolation, first committer wins; `serial`: each takes effect at one instant."""
    lists: dict[str, list[int]] = {}
    changed: dict[str, int] = {}
    ops, now = [], 1000
    waiting: list[tuple[int, int, int, list[list[Any]], Outcome]] = []
    element = 0

    def commit(number: int, begun: int, taken: int, steps: list[list[Any]], how: Outcome) -> None:
        names = {name for what, name, _ in steps if what == "a"}
        if any(changed.get(name, 0) > taken for name in names):
            how = "fail"
        lands = how == "ok" or (how == "info" and rng.random() < 0.5)
        if lands:
            for what, name, value in steps:
                if what == "a":
                    lists.setdefault(name, []).append(value)
                    changed[name] = now
        value = steps if how == "ok" else [[w, n, v if w == "a" else None] for w, n, v in steps]
        ended = None if how == "info" else now + rng.randint(1, 25)
        ops.append(txn(number, (begun, ended), *value, how=how))

    for number in range(1, rng.randint(3, 60)):
        now += rng.randint(1, 10)
        steps: list[list[Any]] = []
        own: dict[str, list[int]] = {}
        for _ in range(rng.randint(1, 4)):
            name = rng.choice("xyz")
            if rng.random() < 0.5:
                element += 1
                own.setdefault(name, []).append(element)
                steps.append(["a", name, element])
            else:
                steps.append(["r", name, [*lists.get(name, []), *own.get(name, [])]])
        waiting.append((number, now - rng.randint(1, 20), now, steps, rng.choice(OUTCOMES)))
        while waiting and (serial or rng.random() < 0.5):
            now += 1
            commit(*waiting.pop(rng.randrange(len(waiting))))
    while waiting:
        now += 1
        commit(*waiting.pop())
    return ops, lists


@given(SEEDS)
def test_a_correct_set_passes(seed: int) -> None:
    ops, there = serial_sets(random.Random(seed))
    found = sets.check(ops, there, workload="set")
    assert found.violations == ()
    assert found.lost == 0


@given(SEEDS)
def test_correct_registers_pass(seed: int) -> None:
    assert register.check(serial_registers(random.Random(seed))).violations == ()


@given(SEEDS)
@settings(deadline=None)
def test_a_serial_history_passes_as_serializable(seed: int) -> None:
    ops, final = snapshots(random.Random(seed), serial=True)
    assert judge(ops, final).violations == ()


@given(SEEDS)
@settings(deadline=None)
def test_snapshot_isolation_passes_as_repeatable_read(seed: int) -> None:
    ops, final = snapshots(random.Random(seed), serial=False)
    assert judge(ops, final, serializable=False).violations == ()


# --- wrong ones ---------------------------------------------------------------------------------------------------


@given(SEEDS)
def test_a_lost_element_of_a_set_is_found(seed: int) -> None:
    rng = random.Random(seed)
    ops, there = serial_sets(rng)
    acknowledged = [o.value for o in ops if o.ok]
    if not acknowledged:
        return
    gone = rng.choice(acknowledged)
    found = sets.check(ops, [v for v in there if v != gone], workload="set")
    assert rules(found) == {"lost"}
    assert found.lost == 1


def test_a_set_with_a_refused_a_foreign_and_a_double_element() -> None:
    ops = [op(n, (n, n + 5), n, workload="set", kind="add", how="fail" if n == 2 else "ok") for n in (1, 2, 3)]
    assert rules(sets.check(ops, [1, 3], workload="set")) == set()
    assert rules(sets.check(ops, [1, 2, 3], workload="set")) == {"undead"}
    assert rules(sets.check(ops, [1, 3, 9], workload="set")) == {"unexpected"}
    assert rules(sets.check(ops, [1, 3, 3], workload="set")) == {"duplicate"}


@given(SEEDS)
def test_a_stale_read_is_found(seed: int) -> None:
    ops = serial_registers(random.Random(seed))
    acknowledged = [o for o in ops if o.kind == "write" and o.ok]
    if not acknowledged:
        return
    late = max(o.ended or o.invoked for o in ops) + 1
    stale = op(900, (late, late + 5), [1, 0], workload="register", kind="read")
    assert "stale" in rules(register.check([*ops, stale]))
    tolerated = register.check([*ops, stale], stale_allowed=[(late, late + 9)])
    assert tolerated.violations == ()
    assert tolerated.notes["stale-allowed"] == 1


@pytest.mark.parametrize(
    ("how", "begun", "value", "rule"),
    [
        ("ok", 25, 2, None),  # the write is under way: both values are right
        ("ok", 25, 1, None),
        ("ok", 35, 1, "stale"),
        ("ok", 15, 2, "from-nowhere"),  # before it was even begun
        ("fail", 35, 2, "from-nowhere"),
        ("info", 35, 2, None),
        ("info", 35, 1, None),
    ],
)
def test_what_a_read_may_show(how: Outcome, begun: int, value: int, rule: str | None) -> None:
    ops = [
        op(1, (1, 5), [1, 1], workload="register", kind="write"),
        op(2, (20, 30), [1, 2], workload="register", kind="write", how=how),
        op(3, (begun, begun + 2), [1, value], workload="register", kind="read"),
    ]
    assert rules(register.check(ops)) == ({rule} if rule else set())


def test_what_was_read_once_does_not_go_away() -> None:
    ops = [
        op(1, (1, None), [1, 1], workload="register", kind="write", how="info"),
        op(2, (10, 12), [1, 1], workload="register", kind="read"),
        op(3, (20, 22), [1, 0], workload="register", kind="read"),
    ]
    assert rules(register.check(ops)) == {"undone"}


def transfers(rng: random.Random) -> tuple[list[Op], bank.Final]:
    balances = dict.fromkeys(range(bank.ACCOUNTS), bank.START)
    ops, ledger = [], []
    for number in range(1, 40):
        source, target = rng.sample(range(bank.ACCOUNTS), 2)
        how = rng.choice(OUTCOMES)
        amount = rng.randint(1, 5)
        if balances[source] < amount:
            how = "fail"
        if how == "ok" or (how == "info" and rng.random() < 0.5):
            balances[source] -= amount
            balances[target] += amount
            ledger.append((number, source, target, amount))
        value = [number, source, target, amount]
        ops.append(op(number, (number * 10, number * 10 + 5), value, workload="bank", kind="transfer", how=how))
        if rng.random() < 0.3:
            read = {str(a): b for a, b in balances.items()}
            ops.append(op(number + 1000, (number * 10, number * 10 + 9), read, workload="bank", kind="read"))
    return ops, bank.Final(dict(balances), ledger)


@given(SEEDS)
def test_a_correct_bank_passes_and_a_wrong_one_does_not(seed: int) -> None:
    ops, final = transfers(random.Random(seed))
    assert bank.check(ops, final).violations == ()
    half = dict(final.balances) | {0: final.balances[0] + 1}
    assert rules(bank.check(ops, replace(final, balances=half))) == {"ledger"}
    torn = op(5000, (1, 2), {str(a): b for a, b in half.items()}, workload="bank", kind="read")
    assert rules(bank.check([*ops, torn], final)) == {"sum"}
    if final.ledger and any(o.ok and o.kind == "transfer" and o.value[0] == final.ledger[-1][0] for o in ops):
        # A whole transaction gone: the sums are right, only the ledger knows.
        _, source, target, amount = final.ledger[-1]
        back = Counter(final.balances)
        back[source] += amount
        back[target] -= amount
        assert rules(bank.check(ops, bank.Final(dict(back), final.ledger[:-1]))) == {"lost"}


@given(SEEDS)
@settings(deadline=None)
def test_a_lost_append_is_found(seed: int) -> None:
    rng = random.Random(seed)
    ops, final = snapshots(rng, serial=True)
    acknowledged = [(n, v) for o in ops if o.ok for w, n, v in o.value if w == "a"]
    if not acknowledged:
        return
    name, value = rng.choice(acknowledged)
    found = judge(ops, {**final, name: [v for v in final[name] if v != value]})
    assert "lost" in rules(found)
    assert found.lost == 1


@given(SEEDS)
@settings(deadline=None)
def test_a_read_of_a_refused_transaction_is_found(seed: int) -> None:
    rng = random.Random(seed)
    ops, final = snapshots(rng, serial=True)
    writers = [i for i, o in enumerate(ops) if o.ok and any(w == "a" for w, _, _ in o.value)]
    if not writers:
        return
    index = rng.choice(writers)
    ops[index] = replace(ops[index], outcome="fail")
    assert "G1a" in rules(judge(ops, final))


@given(SEEDS)
@settings(deadline=None)
def test_a_snapshot_from_before_an_acknowledged_transaction_is_found(seed: int) -> None:
    """What a deposed primary shows."""
    ops, final = snapshots(random.Random(seed), serial=True)
    late = max(o.ended or o.invoked for o in ops) + 1
    fresh = txn(900, (late, late + 1), ["a", "x", 900])
    ended = {**final, "x": [*final.get("x", []), 900]}
    good = txn(901, (late + 5, late + 6), ["r", "x", ended["x"]])
    bad = txn(901, (late + 5, late + 6), ["r", "x", final.get("x", [])])
    assert judge([*ops, fresh, good], ended).violations == ()
    assert rules(judge([*ops, fresh, bad], ended)) == {"G-single-realtime"}
    span = [(late + 5, late + 9)]
    allowed = append.check([*ops, fresh, bad], ended, workload="append-ser", serializable=True, stale_allowed=span)
    assert allowed.violations == ()


@pytest.mark.parametrize(
    ("rule", "ops", "final"),
    [
        (
            "G0",
            [txn(1, (1, 9), ["a", "x", 1], ["a", "y", 1]), txn(2, (1, 9), ["a", "x", 2], ["a", "y", 2])],
            {"x": [1, 2], "y": [2, 1]},
        ),
        (
            "G1c",
            [
                txn(1, (1, 9), ["a", "x", 1], ["r", "y", [2]]),
                txn(2, (1, 9), ["a", "y", 2], ["r", "x", [1]]),
            ],
            {"x": [1], "y": [2]},
        ),
        (
            "G-single",
            [
                txn(1, (1, 9), ["a", "x", 1], ["a", "y", 1]),
                txn(2, (1, 9), ["r", "x", [1]], ["r", "y", []]),
            ],
            {"x": [1], "y": [1]},
        ),
        (
            "G2",
            [
                txn(1, (1, 9), ["r", "x", []], ["a", "y", 1]),
                txn(2, (1, 9), ["r", "y", []], ["a", "x", 2]),
            ],
            {"x": [2], "y": [1]},
        ),
        (
            "G1c-realtime",
            [txn(1, (1, 2), ["a", "x", 1]), txn(2, (5, 6), ["a", "x", 2])],
            {"x": [2, 1]},
        ),
        (
            "G1b",
            [txn(1, (1, 9), ["a", "x", 1], ["a", "x", 2]), txn(2, (1, 9), ["r", "x", [1]])],
            {"x": [1, 2]},
        ),
        ("internal", [txn(1, (1, 9), ["a", "x", 1], ["r", "x", []])], {"x": [1]}),
        (
            "internal",
            [txn(1, (1, 9), ["a", "x", 1]), txn(2, (1, 9), ["r", "x", []], ["r", "x", [1]])],
            {"x": [1]},
        ),
        ("duplicate", [txn(1, (1, 9), ["a", "x", 1])], {"x": [1, 1]}),
        ("unexpected", [txn(1, (1, 9), ["a", "x", 1])], {"x": [1, 7]}),
        (
            "order",
            [txn(1, (1, 9), ["a", "x", 1]), txn(2, (1, 9), ["a", "x", 2]), txn(3, (1, 9), ["r", "x", [2]])],
            {"x": [1, 2]},
        ),
        (
            "undone",
            [txn(1, (1, None), ["a", "x", 1], how="info"), txn(2, (1, 9), ["r", "x", [1]])],
            {"x": []},
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_each_anomaly_has_its_name(rule: str, ops: list[Op], final: dict[str, list[int]]) -> None:
    assert rule in rules(judge(ops, final))


def test_write_skew_is_allowed_under_repeatable_read() -> None:
    ops = [txn(1, (1, 9), ["r", "x", []], ["a", "y", 1]), txn(2, (1, 9), ["r", "y", []], ["a", "x", 2])]
    assert judge(ops, {"x": [2], "y": [1]}, serializable=False).violations == ()


# --- the parts ----------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.integers(0, 9), st.sets(st.integers(0, 9), max_size=4), max_size=10))
def test_components_are_those_that_reach_each_other(graph: dict[int, set[int]]) -> None:
    nodes = set(graph) | {t for targets in graph.values() for t in targets}
    on_cycle = {n for n in nodes if path(graph, n, n) is not None}
    groups = components(graph)
    assert {n for g in groups for n in g} == on_cycle
    assert sum(map(len, groups)) == len(on_cycle)
    for group in groups:
        assert all(path(graph, a, b) is not None for a in group for b in group)


def test_a_log_is_read_back_and_what_never_ended_is_unknown() -> None:
    lines = [
        invocation(1, 0, "set", "add", 10, 7),
        invocation(2, 1, "register", "read", 11, [1, None]),
        completion(2, 12, "ok", [1, 5]),
        invocation(3, 1, "set", "add", 13, 8),
        completion(1, 15, "fail", error="no"),
        '{"op": 3, "t": 16, "o": "ok"',  # its writer was killed here
    ]
    first, second, third = parse(lines)
    assert (first.outcome, first.ended, first.value, first.error) == ("fail", 15, 7, "no")
    assert (second.outcome, second.value) == ("ok", [1, 5])
    assert (third.outcome, third.ended) == ("info", None)
    assert second.ended_before(third)
    assert not third.ended_before(second)

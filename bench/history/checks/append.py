"""Transactions that append to lists and read them: what was read gives away the order in which all happened.

An element is appended once, so a list names its writers in order. From that follow the dependencies among transactions:
one installed the next version (ww), read a version (wr), or read what was replaced (rw); "ended before the other began"
(rt) comes from the stamps. The anomalies and their names are those of Adya's thesis, found by the rules that Kingsbury
and Alvaro published for Elle. Cycles with rt are judged up to one rw: strong snapshot isolation, which a single
PostgreSQL gives, forbids those; chains of several rw may run against real time even under `serializable`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.history.checks.cycles import components, path, union, within
from bench.history.ops import Op, Verdict, Violation

Element = tuple[str, int]
Edges = dict[int, set[int]]
SHOWN = 10  # violations of one rule; more say nothing new


@dataclass(slots=True)
class _Work:
    """The history taken apart."""

    workload: str
    txns: dict[int, Op]
    writer: dict[Element, int] = field(default_factory=dict)
    last: dict[tuple[int, str], int] = field(default_factory=dict)  # (transaction, list) -> its last element
    reads: list[tuple[int, str, list[int]]] = field(default_factory=list)  # without the reader's own elements
    found: list[Violation] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def say(self, rule: str, text: str, *ops: int) -> None:
        self.counts[rule] = self.counts.get(rule, 0) + 1
        if self.counts[rule] <= SHOWN:
            self.found.append(Violation(self.workload, rule, text, ops))


def check(
    ops: Sequence[Op],
    final: Mapping[str, Sequence[int]],
    *,
    workload: str,
    serializable: bool,
    stale_allowed: Sequence[tuple[int, int]] = (),
) -> Verdict:
    """Operations of kind `txn`; their value is a list of ["a", list, element] and ["r", list, elements].

    `final`: every list at the end. `serializable`: the isolation level was that one, else repeatable read, under which
    PostgreSQL gives snapshot isolation and cycles of several rw are allowed. `stale_allowed`: spans of boot time in
    which a deposed primary may answer; cycles against real time are not judged there.
    """
    work = _Work(workload, {op.id: op for op in ops if op.workload == workload and op.kind == "txn"})
    _take_apart(work)
    lost = _elements(work, final)
    order = _orders(work, final)
    ww, wr, rw = _dependencies(work, order)
    _cycles(work, ww, wr, rw, serializable=serializable, allowed=stale_allowed)
    return Verdict(tuple(work.found), lost, {"txns": len(work.txns)})


def _take_apart(work: _Work) -> None:
    for op in work.txns.values():
        own: dict[str, list[int]] = {}
        seen: dict[str, list[int]] = {}
        for what, name, value in op.value:
            if what == "a":
                own.setdefault(name, []).append(value)
                work.writer[name, value] = op.id
                work.last[op.id, name] = value
            elif op.ok:
                mine = own.get(name, [])
                before = list(value[: len(value) - len(mine)])
                if list(value[len(before) :]) != mine or seen.setdefault(name, before) != before:
                    work.say("internal", f"list {name}: {value} does not fit what the transaction did before", op.id)
        work.reads += [(op.id, name, before) for name, before in seen.items()]


def _elements(work: _Work, final: Mapping[str, Sequence[int]]) -> int:
    """Elements that are missing, refused, foreign, doubled, or of the middle of a transaction. How many are lost."""
    lost = 0
    there = {(name, value) for name, values in final.items() for value in values}
    for (name, value), writer in work.writer.items():
        if work.txns[writer].ok and (name, value) not in there:
            lost += 1
            work.say("lost", f"list {name}: {value} was acknowledged and is gone", writer)
    everywhere: list[tuple[int | None, str, Sequence[int]]] = [*work.reads, *((None, n, v) for n, v in final.items())]
    for reader, name, values in everywhere:
        ops = () if reader is None else (reader,)
        if len(set(values)) != len(values):
            work.say("duplicate", f"list {name} has an element twice: {list(values)[-SHOWN:]}", *ops)
        for value in values:
            writer_of = work.writer.get((name, value))
            if writer_of is None:
                work.say("unexpected", f"list {name}: nobody wrote {value}", *ops)
            elif work.txns[writer_of].outcome == "fail":
                work.say("G1a", f"list {name}: {value} was read, and its transaction was refused", writer_of, *ops)
        if reader is not None and values:
            writer_of = work.writer.get((name, values[-1]))
            if writer_of not in (None, reader) and work.last[writer_of, name] != values[-1]:
                work.say("G1b", f"list {name}: {values[-1]} is the middle of its transaction", writer_of, reader)
    return lost


def _orders(work: _Work, final: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """The versions of each list: the longest that was seen. What is no beginning of it is a violation, and left out."""
    order = {name: list(values) for name, values in final.items()}
    for _, name, values in work.reads:
        if len(values) > len(order.get(name, [])):
            order[name] = list(values)
    kept = []
    for reader, name, values in work.reads:
        if order.get(name, [])[: len(values)] == values:
            kept.append((reader, name, values))
        else:
            work.say("order", f"list {name}: {values[-SHOWN:]} is no beginning of what was seen later", reader)
    for name, end in final.items():
        if order[name][: len(end)] != list(end):
            work.say("order", f"list {name}: the end, {list(end)[-SHOWN:]}, is no beginning of what was read")
        elif len(order[name]) > len(end):
            gone = order[name][len(end) :]
            work.say(
                "undone", f"list {name}: {gone[:SHOWN]} were read and are gone", work.writer.get((name, gone[0]), 0)
            )
    work.reads = kept
    return order


def _dependencies(work: _Work, order: Mapping[str, list[int]]) -> tuple[Edges, Edges, Edges]:
    ww: Edges = {}
    wr: Edges = {}
    rw: Edges = {}

    def edge(edges: Edges, a: int | None, b: int | None) -> None:
        if a is not None and b is not None and a != b:
            edges.setdefault(a, set()).add(b)

    for name, values in order.items():
        writers = [work.writer.get((name, v)) for v in values]
        for before, after in itertools.pairwise(writers):
            edge(ww, before, after)
    for reader, name, values in work.reads:
        versions = order.get(name, [])
        if values:
            edge(wr, work.writer.get((name, values[-1])), reader)
        following = next(
            (w for v in versions[len(values) :] if (w := work.writer.get((name, v))) not in (None, reader)), None
        )
        edge(rw, reader, following)
    return ww, wr, rw


def _real_time(txns: Iterable[Op]) -> Edges:
    """Who was over before whom began, by way of instants (negative numbers), so that it stays linear."""
    ended = sorted((op.ended, op.id) for op in txns if op.ok and op.ended is not None)
    edges: Edges = {}
    position = -1
    by_start = sorted(txns, key=lambda op: op.invoked)
    for index, (_, op) in enumerate(ended):
        edges.setdefault(op, set()).add(-index - 1)
        if index:
            edges.setdefault(-index, set()).add(-index - 1)
    for begun in by_start:
        while position + 1 < len(ended) and ended[position + 1][0] < begun.invoked:
            position += 1
        if position >= 0:
            edges.setdefault(-position - 1, set()).add(begun.id)
    return edges


def _cycles(
    work: _Work, ww: Edges, wr: Edges, rw: Edges, *, serializable: bool, allowed: Sequence[tuple[int, int]]
) -> None:
    stale = {op.id for op in work.txns.values() if op.ended is not None and any(a <= op.ended <= b for a, b in allowed)}
    rt = _real_time([op for op in work.txns.values() if op.id not in stale])
    reported: set[frozenset[int]] = set()

    def report(rule: str, cycle: Sequence[int]) -> None:
        members = frozenset(n for n in cycle if n > 0)
        if members not in reported:
            reported.add(members)
            work.say(rule, "cycle " + " → ".join(_name(n) for n in cycle if n > 0), *sorted(members))

    for rule, graph in (("G0", ww), ("G1c", union(ww, wr)), ("G1c-realtime", union(ww, wr, rt))):
        for group in components(graph):
            report(rule, path(within(graph, group), group[0], group[0]) or group)
    base, whole = union(ww, wr, rt), union(ww, wr, rw, rt)
    for group in components(whole):
        inside = within(base, group)
        for reader in group:
            for writer in rw.get(reader, set()) & set(group):
                if (back := path(inside, writer, reader)) is not None:
                    real = any(n < 0 for n in back)
                    report("G-single-realtime" if real else "G-single", [reader, *back])
    if serializable:
        for group in components(union(ww, wr, rw)):
            cycle = path(within(union(ww, wr, rw), group), group[0], group[0]) or group
            report("G2", cycle)


def _name(op: int) -> str:
    return f"T{op}"

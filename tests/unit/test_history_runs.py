"""The parts of a history run that need no cluster: the schedule, the errors, processes' names, the figures."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.history import schedule
from bench.history.__main__ import read
from bench.history.faults import FAULTS
from bench.history.load import outage
from bench.history.ops import SECOND, Op
from bench.history.report import summary, table
from bench.history.scene import backends, postmaster, titled
from bench.history.session import SlowError, outcome_of
from bench.processes import Process

SEEDS = st.integers(0, 2**31)


@given(SEEDS, st.integers(0, 50))
def test_the_same_seed_strikes_the_same(seed: int, index: int) -> None:
    one = schedule.piece(seed, index, FAULTS, rounds=4, pairs=0.5)
    assert one == schedule.piece(seed, index, FAULTS, rounds=4, pairs=0.5)
    assert len(one) == 4


@given(SEEDS)
def test_every_round_can_be_carried_out(seed: int) -> None:
    for planned in schedule.piece(seed, 0, FAULTS, rounds=10, pairs=0.8):
        faults = [FAULTS[b.fault] for b in planned.blows]
        for blow, fault in zip(planned.blows, faults, strict=True):
            assert blow.role in fault.roles
            assert fault.hold[0] <= blow.hold <= fault.hold[1]
        assert len({(b.fault, b.role) for b in planned.blows}) == len(planned.blows)
        assert not (any(f.takes_api for f in faults) and any(f.needs_api for f in faults))


def test_over_time_every_fault_and_many_pairs_come() -> None:
    chosen = {n: f for n, f in FAULTS.items() if f.by_default}
    rounds = [r for i in range(100) for r in schedule.piece(7, i, chosen, rounds=3, pairs=0.5)]
    assert {b.fault for r in rounds for b in r.blows} == set(chosen)
    assert len({r.name for r in rounds if len(r.blows) == 2}) > 100
    assert "lease-delete" not in chosen


class Told(asyncpg.PostgresError):
    pass


def told(state: str) -> asyncpg.PostgresError:
    error = Told("told")
    error.sqlstate = state
    return error


@pytest.mark.parametrize(
    ("error", "sent", "outcome"),
    [
        (told("23505"), True, "fail"),
        (told("40001"), True, "fail"),
        (told("25006"), True, "fail"),
        (told("57014"), True, "fail"),
        (told("57P01"), True, "info"),  # the commit may have been local already
        (told("57P02"), True, "info"),
        (told("XX000"), True, "info"),
        (told("58030"), True, "info"),
        (asyncpg.ConnectionDoesNotExistError("closed"), True, "info"),
        (asyncpg.InterfaceError("closed"), True, "info"),
        (ConnectionResetError(), True, "info"),
        (SlowError(), True, "info"),
        (ConnectionResetError(), False, "fail"),  # the commit was never sent
        (told("57P01"), False, "fail"),
    ],
)
def test_an_error_is_certain_or_unknown(error: Exception, sent: bool, outcome: str) -> None:
    assert outcome_of(error, sent=sent) == outcome


def test_processes_are_told_apart_by_what_they_call_themselves() -> None:
    titles = (
        "/usr/lib/postgresql/17/bin/postgres -D /var/lib/matriarch/pgdata",
        "postgres: orders-1: checkpointer",
        "postgres: orders-1: walsender matriarch_stream 10.89.0.7(41000) streaming 0/3000148",
        "postgres: orders-1: app app 10.88.0.2(50112) idle",
        "postgres: orders-1: postgres app [local] idle",
        "postgres: orders-1: startup recovering 000000010000000000000003",
    )
    found = [Process(n, n, 50 if n == 100 else 100, "postgres", t) for n, t in enumerate(titles, start=100)]
    assert [p.pid for p in postmaster(found)] == [100]
    assert [p.pid for p in backends(found)] == [103]
    assert [p.pid for p in titled("walsender")(found)] == [102]
    assert [p.pid for p in titled("startup recovering")(found)] == [105]


def write(ended: int, how: str = "ok", kind: str = "add") -> Op:
    return Op(ended, 0, "set", kind, ended - 1, ended * SECOND, how, ended)  # type: ignore[arg-type]


def test_an_outage_is_the_longest_gap_between_writes() -> None:
    ops = [write(t) for t in (1, 2, 9, 10, 30)] + [write(5, "info"), write(6, kind="read")]
    assert outage(ops, after=int(2.5 * SECOND), until=11 * SECOND) == 7.0
    assert outage(ops, after=int(9.5 * SECOND), until=25 * SECOND) == 15.0  # nothing came back by then
    assert outage(ops, after=int(9.5 * SECOND), until=int(10.5 * SECOND)) == 1.0


def result(index: int, *rounds: tuple[str, float], **more: Any) -> dict[str, Any]:
    entries = [
        {
            "faults": f,
            "struck": [],
            "outage": o,
            "whole_after": 4.0,
            "epochs": 1,
            "operations": 100,
            "acknowledged": 90,
            "unknown": 3,
        }
        for f, o in rounds
    ]
    whole = {"seed": 1, "index": index, "seconds": 60.0, "rounds": entries, "lost": 0, "violations": [], "stuck": ""}
    return {**whole, "kept": "", **more}


def test_the_table_has_a_line_for_each_fault_and_one_for_all() -> None:
    results = [
        result(0, ("node-cut", 3.0), ("a + b", 9.0)),
        result(1, ("node-cut", 1.0), lost=2, violations=["set/lost: 2 elements"], kept="here"),
    ]
    lines = table(results).splitlines()[2:]
    assert lines == [
        "| node-cut | 2 | 2 | 2 | 200 | 180 | 6 | 2 | 2.00 | 3.00 | 4 |",
        "| a + b | 1 | 1 | 1 | 100 | 90 | 3 | 0 | 9.00 | 9.00 | 4 |",
        "| all | 2 | 3 | 3 | 300 | 270 | 9 | 2 | 3.00 | 9.00 | 4 |",
    ]
    text = summary(results)
    assert "2 pieces in 0.03 h, 1 of them wrong; 2 acknowledged operations lost, 0 times stuck" in text
    assert "piece 1/1, kept in here:\n  set/lost: 2 elements" in text
    assert "not" not in table([])


def test_a_torn_state_file_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    file = tmp_path / "7.jsonl"
    assert read(file) == []
    file.write_text('{"index": 0}\n{"index": 1}\n{"ind')
    assert [r["index"] for r in read(file)] == [0, 1]


def test_every_pair_of_faults_is_judged_alike_from_both_sides() -> None:
    for a, b in itertools.product(FAULTS.values(), repeat=2):
        assert schedule.compatible(a, b) == schedule.compatible(b, a)

"""What is kept of the runs and printed of them: a lost write, or writes that never came back, must show."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bench.figures import Figures, Gap
from bench.records import Record, line, markdown, parse, percentile, readable, record, summary

RUN = Record(
    product="matriarch",
    settings="",
    fault="pid1-kill",
    outage_s=0.5,
    back=True,
    slowest_client_s=0.6,
    before_s=0.02,
    acknowledged=1000,
    failed=1,
    unknown=2,
    lost=0,
)


def runs(*seconds: float, **changes: object) -> list[Record]:
    return [replace(RUN, outage_s=one, **changes) for one in seconds]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([float(n) for n in range(1, 11)], 0.95, 10.0),
        ([float(n) for n in range(1, 21)], 0.95, 19.0),
        ([float(n) for n in range(1, 101)], 0.95, 95.0),
        ([7.0], 0.95, 7.0),
    ],
)
def test_a_percentile_is_one_of_the_values(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_the_summary_has_what_is_asked_for_and_hides_nothing() -> None:
    told = summary("pid1-kill", [*runs(0.4, 0.9, 0.5), *runs(120.0, back=False, lost=3, healed=False)])
    wanted = {"fault": "pid1-kill", "runs": 4, "p50_s": 0.7, "p95_s": 120.0, "max_s": 120.0}
    counts = {"acknowledged": 4000, "lost": 3, "unknown": 8, "not_back": 1, "not_healed": 1}
    assert {key: told[key] for key in (*wanted, *counts)} == {**wanted, **counts}
    assert told["each_s"] == [0.4, 0.9, 0.5, 120.0]
    assert json.loads(json.dumps(told)) == told


def test_no_runs_have_no_summary() -> None:
    with pytest.raises(ValueError, match="no values"):
        summary("pid1-kill", [])


def test_what_is_written_is_read_again() -> None:
    kept = [replace(RUN, errors={"TimeoutError: ": 3}), replace(RUN, product="patroni", settings="fastest")]
    assert parse("".join(line(one) for one in kept).splitlines(keepends=True)) == kept


def test_a_record_is_made_of_a_runs_figures() -> None:
    seen = Figures(Gap(31.0, 5, open_end=True), 31.5, 0.02, 10, 1, 2, (5, 6), {"x": 1})
    kept = record(
        seen,
        product="patroni",
        settings="default",
        fault="node-cut",
        healed=False,
        read=False,
        at="now",
        revision="abc",
        load=2.34,
    )
    assert (kept.outage_s, kept.back, kept.lost, kept.unknown) == (31.0, False, 2, 2)
    assert (kept.healed, kept.read) == (False, False)
    assert kept.contender == "patroni default"
    assert kept.load == 2.3


def test_the_readable_table() -> None:
    told = readable([*runs(0.5, 0.7), *runs(0.1, fault="agent-kill")]).splitlines()
    assert told[0].split() == ["fault", "runs", "p50", "p95", "max", "acknowledged", "lost", "unknown"]
    assert told[1].split() == ["pid1-kill", "2", "0.60", "0.70", "0.70", "2,000", "0", "4"]
    assert told[2].split()[:3] == ["agent-kill", "1", "0.10"]
    assert len({len(row) for row in told}) == 1


def test_the_table_for_the_docs_has_ours_first_and_says_what_never_came_back() -> None:
    peers = runs(31.0, 120.0, product="patroni", settings="default")
    peers[1] = replace(peers[1], back=False, healed=False, read=False)
    told = markdown([*peers, *runs(0.5, 0.6, lost=1)], ["pid1-kill", "node-cut"]).splitlines()
    assert told == [
        "| fault | matriarch | patroni default | CloudNativePG 1.30 |",
        "|---|---:|---:|---:|",
        (
            "| pid1-kill | **0.55** / 0.60 / 0.60 (2), 2 lost "
            "| **75.50** / 120.00 / 120.00 (2), 1 never came back, 1 by hand | – |"
        ),
        "| **lost of acknowledged** | 2 of 2,000 | 0 of 2,000 (1 could not be read) | – |",
    ]  # nobody ran node-cut

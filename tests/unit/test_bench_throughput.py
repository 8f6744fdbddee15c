"""The pure parts of the throughput bench."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.plain import OF_THE_CLUSTER, objects, settings_file
from bench.processes import Process
from bench.throughput import companions, order, ratios, transactions, usage
from dev.host import DevError

SAID = """\
transaction type: <builtin: TPC-B (sort of)>
number of transactions actually processed: 5012
number of failed transactions: 0 (0.000%)
latency average = 31.9 ms
initial connection time = 20.141 ms
tps = 250.715401 (without initial connection time)
"""


def test_what_pgbench_says() -> None:
    assert transactions(SAID) == pytest.approx(250.715401)


def test_a_pgbench_that_says_nothing_is_an_error_with_its_words() -> None:
    with pytest.raises(DevError, match="could not connect"):
        transactions("pgbench: error: could not connect")


def test_the_order_alternates_and_the_ratio_is_ours_by_plain() -> None:
    assert [order(n)[0] for n in range(4)] == ["ours", "plain", "ours", "plain"]
    assert all(set(order(n)) == {"ours", "plain"} for n in range(2))
    assert ratios([(98.0, 100.0), (50.0, 40.0)]) == [0.98, 1.25]


def test_a_process_own_usage(tmp_path: Path) -> None:
    folder = tmp_path / "7"
    folder.mkdir()
    (folder / "smaps_rollup").write_text("55d0-7ffe ---p 00000000 00:00 0 [rollup]\nRss:  9000 kB\nPss:    2048 kB\n")
    (folder / "stat").write_text("7 (a name) with) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 3 4 20 0 1 0 999 1 1\n")
    seen = usage(7, tmp_path)
    assert seen.pss == 2 << 20
    assert seen.cpu == pytest.approx(200 / os.sysconf("SC_CLK_TCK"))


def test_what_runs_beside_postgresql() -> None:
    beside = [Process(1, 1, 0, "python", "python -m matriarch.agent.supervisor"),
              Process(2, 2, 1, "python", "/usr/bin/python3 -m matriarch.agent.main")]  # fmt: skip
    other = [Process(3, 3, 1, "postgres", "postgres: orders-1: matriarch.agent"), Process(4, 1, 0, "pause", "/pause")]
    assert companions([*other, *beside]) == beside


def test_plain_postgresql_has_the_settings_that_are_not_the_clusters_own() -> None:
    text = settings_file({"wal_level": "logical", "log_line_prefix": "it's ", "synchronous_standby_names": "x"})
    assert "wal_level = 'logical'\n" in text
    assert "log_line_prefix = 'it''s '\n" in text
    assert text.count("synchronous_standby_names") == 1
    assert """synchronous_standby_names = 'ANY 1 ("plain-1", "plain-2")'\n""" in text
    assert {"primary_conninfo", "cluster_name", "restart_after_crash"} <= OF_THE_CLUSTER


def test_plain_postgresql_runs_where_the_cluster_does_with_its_resources() -> None:
    spec = {"storage": {"size": "2Gi"}, "resources": {"requests": {"cpu": "50m"}}}
    made = objects(image="i", nodes=["n2", "n1", "n3"], settings={}, tls="t", spec=spec)
    pods = [o["spec"] for o in made if o["kind"] == "Pod"]
    claims = [o["spec"]["resources"]["requests"]["storage"] for o in made if o["kind"] == "PersistentVolumeClaim"]
    assert [p["nodeSelector"]["kubernetes.io/hostname"] for p in pods] == ["n2", "n1", "n3"]
    assert {p["containers"][0]["resources"]["requests"]["cpu"] for p in pods} == {"50m"}
    assert claims == ["2Gi"] * 3

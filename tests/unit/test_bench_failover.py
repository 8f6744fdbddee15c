"""The command line of the failover bench, and where it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.contenders import cluster_name, replaced
from bench.failover import earlier, faults, main, missing, over, parser, told
from bench.faults import FAULTS, REQUIRED
from bench.patroni.cluster import whole
from bench.patroni.manifests import SETTINGS, configuration
from bench.places import wanted
from bench.records import line
from tests.unit.test_bench_records import RUN


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, list(REQUIRED)),
        (["all"], list(REQUIRED)),
        (["pid1-kill"], ["pid1-kill"]),
        (["switchover", "pid1-kill", "switchover"], ["switchover", "pid1-kill"]),
        (["node-kill", "all"], ["node-kill", *REQUIRED]),
    ],
)
def test_which_faults(given: list[str] | None, expected: list[str]) -> None:
    assert faults(given) == expected


def test_every_fault_that_a_release_is_measured_by_is_there() -> None:
    asked = (
        "postmaster-kill backend-kill agent-kill pid1-kill postmaster-freeze pod-delete pod-delete-now node-cut"
        " node-cut-one-way api-down disk-full switchover"
    )
    assert set(REQUIRED) == set(asked.split())
    assert set(REQUIRED) <= set(FAULTS)


def test_a_fault_that_nobody_knows_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--fault", "postmaster"])
    assert "invalid choice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "demo", "expected"),
    [(None, True, "demo"), (None, False, "failover"), ("mine", True, "mine"), ("mine", False, "mine")],
)
def test_which_kubernetes(given: str | None, demo: bool, expected: str) -> None:
    assert cluster_name(given, demo_is_up=demo) == expected


@pytest.mark.parametrize(
    ("operator", "each", "expected"),
    [
        ("any", False, [(None, None)]),
        ("with", False, [("n2", True)]),
        ("both", False, [("n2", True), ("n2", False)]),
        ("any", True, [("n1", None), ("n2", None), ("n3", None)]),
        ("without", True, [("n1", False), ("n2", False), ("n3", False)]),
    ],
)
def test_where_the_primary_and_the_operator_are(
    operator: str, each: bool, expected: list[tuple[str | None, bool | None]]
) -> None:
    assert wanted(operator, "n2", ["n3", "n1", "n2"], each=each) == expected


def test_the_same_uri_through_another_service() -> None:
    uri = "postgresql://app:failover-rw@failover-rw.bench.svc:5432/app"
    assert replaced(uri, "failover-pooler-rw") == ("postgresql://app:failover-rw@failover-pooler-rw.bench.svc:5432/app")


def test_the_peers_figures_stand_beside_ours() -> None:
    peer = [replace(RUN, product="patroni", settings=s, outage_s=9.0) for s in ("default", "fastest")]
    (one,) = told([RUN], peer)
    assert (one["product"], one["p50_s"]) == ("matriarch", 0.5)
    assert [(p["settings"], p["p50_s"]) for p in one["peer"]] == [("default", 9.0), ("fastest", 9.0)]
    assert [p["product"] for p in told([], peer)] == ["patroni", "patroni"]


def test_only_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "runs.jsonl"
    kept.write_text(line(RUN))
    assert main(["--table", "--records", str(kept)]) == 0
    assert "| pid1-kill | **0.50** / 0.50 / 0.50 (1) |" in capsys.readouterr().out


def test_only_the_peer_needs_a_peer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only-peer"]) == 2
    assert "--peer" in capsys.readouterr().err


@pytest.mark.parametrize("settings", list(SETTINGS))
def test_the_peers_settings_keep_its_own_rule(settings: str) -> None:
    """Patroni's documentation: ttl at least 20, loop_wait 1, retry_timeout 3; loop_wait + 2 retry_timeout <= ttl."""
    dcs = configuration(settings)["bootstrap"]["dcs"]  # type: ignore[arg-type]
    assert dcs["ttl"] >= 20
    assert dcs["loop_wait"] >= 1
    assert dcs["retry_timeout"] >= 3
    assert dcs["loop_wait"] + 2 * dcs["retry_timeout"] <= dcs["ttl"]
    assert (dcs["synchronous_mode"], dcs["synchronous_mode_strict"]) == ("quorum", True)


LEADER = {"name": "patroni-0", "role": "leader", "state": "running", "timeline": 2}
STANDBYS = [{"name": f"patroni-{n}", "role": "quorum_standby", "state": "streaming", "timeline": 2} for n in (1, 2)]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([LEADER, *STANDBYS], True),
        ([*STANDBYS, LEADER], True),
        ([LEADER, STANDBYS[0]], False),
        ([LEADER, STANDBYS[0], {**STANDBYS[1], "timeline": 1}], False),
        ([LEADER, STANDBYS[0], {**STANDBYS[1], "role": "replica"}], False),
        ([LEADER, STANDBYS[0], {**STANDBYS[1], "state": "starting"}], False),
        ([{**LEADER, "state": "crashed"}, *STANDBYS], False),
        (STANDBYS, False),
        ([], False),
    ],
)
def test_when_the_peer_is_whole(members: list[dict[str, object]], expected: bool) -> None:
    assert whole(members) is expected


def test_a_second_piece_makes_the_runs_that_the_first_one_left(tmp_path: Path) -> None:
    kept = tmp_path / "runs.jsonl"
    others = [replace(RUN, revision="b"), replace(RUN, product="patroni"), replace(RUN, settings="pooler")]
    kept.write_text("".join(line(one) for one in [RUN, *others, RUN, replace(RUN, fault="switchover")]))
    args = parser().parse_args(["--runs", "3", "--resume", "--records", str(kept)])
    found = earlier(args, "matriarch", "", "")
    assert [one.fault for one in found] == ["pid1-kill", "pid1-kill", "switchover"]
    assert [missing(name, found, args) for name in ("pid1-kill", "switchover", "node-cut")] == [1, 2, 3]
    assert missing("pid1-kill", [RUN] * 5, args) == 0
    assert earlier(parser().parse_args(["--records", str(kept)]), "matriarch", "", "") == []


def test_no_run_begins_after_the_time() -> None:
    assert not over(parser().parse_args([]))
    assert over(parser().parse_args(["--minutes", "-1"]))
    assert not over(parser().parse_args(["--minutes", "1000000"]))

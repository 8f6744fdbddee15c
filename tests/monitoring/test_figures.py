"""What the controller really exports: Prometheus takes it, and the rules find in it what they are about."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
import yaml

from dev.host import PROJECT
from dev.ports import free_port
from matriarch.api.database_cluster import DatabaseCluster
from matriarch.api.defaults import fill
from matriarch.controller import backup_figures, drill_status, objectives
from matriarch.controller.backup_around import Around
from matriarch.controller.backup_status import rfc3339
from matriarch.controller.health import Health
from matriarch.controller.metrics import FORMAT, HELP, METRICS
from matriarch.controller.queue import Key, WorkQueue
from tests.monitoring.cases import RESOURCE
from tests.monitoring.engine import Engine, Object, expect, fires, rules, series

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
_SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@pytest.fixture
async def exported(monkeypatch: pytest.MonkeyPatch) -> str:
    """The answer to a scrape of an active controller: of two clusters, all is well with one, nothing with the other."""
    for name in ("reconciles", "events", "clusters", "schedules"):
        monkeypatch.setattr(METRICS, name, type(getattr(METRICS, name))())
    METRICS.reconciles["DatabaseCluster", "ok"] += 1
    METRICS.events["Pod"] += 1
    for name, well in (("orders", False), ("billing", True)):
        METRICS.clusters["prod", name] = _of_cluster(name, well=well)
        METRICS.schedules["prod", name, "nightly"] = _of_schedule(well=well)
    queue = WorkQueue()
    for name, well in (("shop", False), ("other", True)):
        key = Key("Restore", "prod", name)
        queue.retry(key)
        queue._failing[key] -= 901
        if well:
            queue.forget(key)
    health, port = Health(queue, active=True), free_port("127.0.0.1")
    await health.serve(port)
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}/metrics") as answer,
        ):
            assert answer.headers["Content-Type"] == FORMAT
            return await answer.text()
    finally:
        await health.close()


def test_prometheus_takes_what_is_exported(engine: Engine, exported: str) -> None:
    done = engine.run("check", "metrics", "--lint=all", text=exported)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), exported


def test_each_figure_says_what_it_is(exported: str) -> None:
    names = {name for name, _, _ in _samples(exported)}
    assert names == set(HELP), "a figure without a line in HELP, or one that this test does not bring about"


def test_each_rule_names_figures_and_labels_that_are_exported(exported: str) -> None:
    labels = {name: set(found) for name, found, _ in _samples(exported)}
    for rule in rules():
        used = set(re.findall(r"\bmatriarch_\w+", rule.spec["expr"]))
        assert used
        assert used <= set(labels), rule.alert
        grouped = {word for by in re.findall(r"by \(([^)]*)\)", rule.spec["expr"]) for word in re.split(r",\s*", by)}
        told = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule.spec["annotations"])))
        assert told <= grouped, rule.alert
        assert all(grouped <= labels[name] for name in used), rule.alert


def test_every_alert_fires_for_the_cluster_that_is_ill_and_for_no_other(engine: Engine, exported: str) -> None:
    """The scrape itself, repeated each minute, is what the rules are given here."""
    length = max(rule.after for rule in rules()) + 5
    given = [
        series(name, {**labels, "pod": "matriarch-a"}, f"{value}+0x{length}")
        for name, labels, value in _samples(exported)
    ]
    expected = []
    for rule in rules():
        about = {"namespace": "prod", "cluster": "orders"}
        if "schedule" in rule.spec["expr"]:
            about["schedule"] = "nightly"
        if "kind" in rule.spec["expr"]:
            about = dict(RESOURCE)
        told = {key: _filled(text, about) for key, text in rule.spec["annotations"].items()}
        ill = [fires({**about, **rule.spec["labels"]}, told)] if rule.alert != "MatriarchMetricsAbsent" else []
        expected.append(expect(rule.alert, rule.after + 1, *ill))
    engine.judge(
        "exported",
        [
            {
                "interval": "1m",
                "start_timestamp": int(NOW.timestamp()),
                "input_series": given,
                "alert_rule_test": expected,
            }
        ],
    )


def test_a_cluster_of_which_nothing_is_known_raises_no_alert(engine: Engine) -> None:
    nothing = backup_figures.figures({}, {}, [])
    assert drill_status.figures({}, overdue=False) == {}
    given = [series(n, {"namespace": "prod", "cluster": "new"}, f"{value}+0x90") for n, value in nothing.items()]
    given.append(series("matriarch_controller_active", {}, "1+0x90"))
    quiet = [expect(rule.alert, 90) for rule in rules()]
    engine.judge("nothing", [{"interval": "1m", "input_series": given, "alert_rule_test": quiet}])


def _of_cluster(name: str, *, well: bool) -> dict[str, float]:
    """As the controller puts it together, from statuses as it and the agents write them."""
    ended = NOW - HOUR if well else NOW - 48 * HOUR
    archiving = {"type": "ArchivingWal", "status": str(well), "reason": "X", "lastTransitionTime": rfc3339(ended)}
    status: Object = {
        "conditions": [archiving],
        "walArchive": {
            "pending": 0 if well else 9,
            "oldestPendingSeconds": 0 if well else 900,
            "lastStoredAt": rfc3339(ended),
        },
        "instanceStatuses": [
            {"name": f"{name}-1", "summariesBehindBytes": 0},
            {"name": f"{name}-2", "summariesBehindBytes": 0 if well else 1 << 30},
            {"name": f"{name}-3"},
        ],
    }
    wal: Object = {} if well else {"frozenSince": rfc3339(NOW - 96 * HOUR)}
    summary: Object = {
        "lastSuccessAt": rfc3339(ended),
        "lastFailureAt": rfc3339(NOW - 50 * HOUR if well else NOW),
        "stores": [{"name": "offsite", "lost": [] if well else ["x"], "failures": 0 if well else 4, "wal": wal}],
    }
    backup = {
        "metadata": {"name": "one"},
        "spec": {"cluster": name, "method": "physical"},
        "status": {"phase": "Complete", "startedAt": rfc3339(ended), "finishedAt": rfc3339(ended)},
    }
    healthy = ("True", "BackedUp") if well else ("False", "Overdue")
    found = backup_figures.figures(status, summary, [backup], healthy, NOW, key_gone=not well)
    return {**found, **objectives.look(_around(name, status, backup, well=well)).figures}


def _of_schedule(*, well: bool) -> dict[str, float]:
    return drill_status.figures(_drills(well=well), overdue=not well)


def _drills(*, well: bool) -> Object:
    good: Object = {
        "result": "Passed", "finishedAt": rfc3339(NOW - HOUR), "downloadSeconds": 3.5, "replaySeconds": 9.0,
        "checkSeconds": 2.0, "rtoSeconds": 12.5, "rpoSeconds": 41.0,
    }  # fmt: skip
    failed = {"result": "Failed", "reason": "WalMissing", "finishedAt": rfc3339(NOW)}
    return {"lastDrill": good if well else failed, "drills": [good] if well else [failed, good]}


def _around(name: str, status: Object, backup: Object, *, well: bool) -> Around:
    resource = yaml.safe_load((PROJECT / "manifests/samples/cluster-objectives.yaml").read_text())
    resource |= {"metadata": {"name": name, "namespace": "prod"}, "status": status}
    cluster = DatabaseCluster.model_validate(resource)
    schedule = {"metadata": {"name": "nightly"}, "spec": {"cluster": name}, "status": _drills(well=well)}
    return Around(
        namespace="prod",
        name=name,
        now=NOW,
        cluster_object=resource,
        cluster=cluster,
        defaults=fill(name, cluster.spec),
        backups=(backup,),
        restores=(),
        schedules=(schedule,),
        proven=(),
    )


def _samples(text: str) -> list[tuple[str, dict[str, str], str]]:
    """(name, labels, value) of each line that is one; everything else is said to begin with #."""
    found: list[tuple[str, dict[str, str], str]] = []
    for one in text.splitlines():
        if not one.startswith("#"):
            match = _SAMPLE.fullmatch(one)
            assert match, one
            found.append((match[1], dict(_LABEL.findall(match[2] or "")), match[3]))
    return found


def _filled(text: str, labels: dict[str, Any]) -> str:
    return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda m: str(labels[m[1]]), text)

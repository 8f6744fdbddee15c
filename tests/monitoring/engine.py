"""Prometheus's own rule engine (promtool), the project's rules as it reads them, and series for it to judge them on."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dev.host import PROJECT

Object = dict[str, Any]

FOLDER = PROJECT / "manifests" / "monitoring"
_UNITS = {"": 0, "s": 0, "m": 1, "h": 60}


@dataclass(frozen=True, slots=True)
class Rule:
    """An alert; `after` in minutes."""

    alert: str
    after: int
    spec: Object


def groups() -> list[Object]:
    """Of all PrometheusRules, as a rules file has them."""
    found: list[Object] = []
    for path in sorted(FOLDER.glob("*.yaml")):
        for one in yaml.safe_load_all(path.read_text()):
            found += one["spec"]["groups"] if one["kind"] == "PrometheusRule" else []
    return found


def rules() -> list[Rule]:
    return [Rule(spec["alert"], minutes(spec.get("for", "")), spec) for group in groups() for spec in group["rules"]]


def minutes(duration: str) -> int:
    """Of Prometheus's `30m` or `1h`; these rules are not finer."""
    match = re.fullmatch(r"(?:(\d+)([mh]))?", duration)
    assert match, f"{duration} is not whole minutes"
    return int(match[1] or 0) * _UNITS[match[2] or ""]


@dataclass(frozen=True, slots=True)
class Engine:
    """`rules` is the file with all groups; tests are written beside it."""

    promtool: Path
    rules: Path

    def run(self, *words: object, text: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.promtool, *map(str, words)], input=text, text=True, capture_output=True, check=False, timeout=120
        )

    def judge(self, name: str, tests: Sequence[Object]) -> None:
        """Fails with promtool's own words where an alert is not what a test expects."""
        file = self.rules.with_name(f"{name}.test.yaml")
        file.write_text(yaml.safe_dump({"rule_files": [str(self.rules)], "tests": list(tests)}, sort_keys=False))
        done = self.run("test", "rules", file)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{file.read_text()}"


def series(name: str, labels: Mapping[str, str], values: str) -> Object:
    inner = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return {"series": f"{name}{{{inner}}}", "values": values}


def expect(alert: str, at: int, *fired: Object) -> Object:
    """What fires `at` minutes after the beginning, and nothing else by that alert."""
    return {"eval_time": f"{at}m", "alertname": alert, "exp_alerts": list(fired)}


def fires(labels: Mapping[str, str], annotations: Mapping[str, str]) -> Object:
    return {"exp_labels": dict(labels), "exp_annotations": dict(annotations)}


@dataclass(frozen=True, slots=True)
class Value:
    """A figure at minute 0, and what is added each minute."""

    start: int
    step: int = 0


def line(phases: Iterable[tuple[int, Value | None]]) -> str:
    """One sample each minute, phase after phase: (how many, what); None: the figure is gone, which a scrape marks."""
    made: list[str] = []
    now = 0
    for count, value in phases:
        if count and value is None:
            made += ["stale", *([f"_x{count - 1}"] if count > 1 else [])]
        elif count and value is not None:
            made.append(f"{value.start + value.step * now}+{value.step}x{count - 1}")
        now += count
    return " ".join(made)

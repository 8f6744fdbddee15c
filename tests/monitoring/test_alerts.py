"""Every alert in Prometheus's own rule engine: when it fires, what it then says, and when it does not."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from dev.host import PROJECT
from tests.monitoring.cases import CASES, Case
from tests.monitoring.engine import Engine, Object, Value, expect, fires, line, rules, series

ABSENT = "MatriarchMetricsAbsent"
OLD = {"job": "matriarch", "pod": "matriarch-a"}
NEW = {"job": "matriarch", "pod": "matriarch-b"}
"""What a scrape adds: the labels of the Pod that was asked."""
_ROW = re.compile(r"\| \[(\w+)\]\(runbooks/(\w+)\.md\) \| (\w+) \| (at once|\d+[mh]) \| .+ \|")

Figures = Mapping[str, Value | None]


def _after(case: Case) -> int:
    """Minutes; 0 for an alert that is gone from the rules, of which another test tells."""
    return next((rule.after for rule in rules() if rule.alert == case.alert), 0)


by_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def test_prometheus_takes_the_rules(engine: Engine) -> None:
    done = engine.run("check", "rules", "--lint=all", "--lint-fatal", engine.rules)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules())} rules found" in done.stdout


def test_each_alert_has_a_case_and_stands_once() -> None:
    assert {case.alert for case in CASES} == {rule.alert for rule in rules()}
    assert len({rule.alert for rule in rules()}) == len(rules())


def test_the_page_of_alerts_is_right() -> None:
    rows = _ROW.findall((PROJECT / "docs/alerts.md").read_text())
    told = {alert: (runbook, severity, "" if after == "at once" else after) for alert, runbook, severity, after in rows}
    assert len(told) == len(rows)
    assert told == {r.alert: (r.alert, r.spec["labels"]["severity"], r.spec.get("for", "")) for r in rules()}


def test_each_alert_has_its_runbook_and_no_runbook_is_left_over() -> None:
    assert {f.stem for f in (PROJECT / "docs/runbooks").glob("*.md")} == {rule.alert for rule in rules()}
    for rule in rules():
        page = PROJECT / rule.spec["annotations"]["runbook"]
        assert page.read_text().startswith(f"# {rule.alert}\n")


@by_case
def test_trouble_fires_after_its_time_and_not_before(engine: Engine, case: Case) -> None:
    after = _after(case)
    trouble = _series(case, [(after + 6, case.trouble)])
    early = [expect(case.alert, after - 1)] if after else []
    # The cluster beside it is well, and must not be named.
    neighbour = {**case.about, "name" if "name" in case.about else "cluster": "billing"} if case.about else {}
    if neighbour:
        trouble += _series(case, [(after + 6, case.well)], about=neighbour)
    at_its_time = [expect(case.alert, after, _alert(case)), expect(case.alert, after + 5, _alert(case))]
    engine.judge(case.name, [_test([*trouble, *_active(case, after + 6)], *early, *at_its_time)])


@by_case
def test_what_is_just_within_the_limit_does_not_fire(engine: Engine, case: Case) -> None:
    length = _after(case) + 60
    well = _series(case, [(length, case.well)])
    moments = [expect(case.alert, at) for at in range(0, length, 5)]
    engine.judge(case.name, [_test([*well, *_active(case, length)], *moments)])


@by_case
def test_the_alert_ends_with_the_trouble(engine: Engine, case: Case) -> None:
    after = _after(case)
    over = _series(case, [(after + 5, case.trouble), (20, case.well)])
    engine.judge(
        case.name,
        [
            _test(
                [*over, *_active(case, after + 25)],
                expect(case.alert, after + 4, _alert(case)),
                expect(case.alert, after + 5),
                expect(case.alert, after + 20),
            )
        ],
    )


@pytest.mark.parametrize("case", [c for c in CASES if _after(c)], ids=lambda c: c.name)
def test_trouble_that_is_shorter_than_its_time_does_not_fire(engine: Engine, case: Case) -> None:
    after = _after(case)
    short = _series(case, [(after, case.trouble), (5, case.well), (after, case.trouble), (5, case.well)])
    moments = [expect(case.alert, at) for at in range(2 * after + 10)]
    engine.judge(case.name, [_test([*short, *_active(case, 2 * after + 10)], *moments)])


@by_case
def test_another_controller_that_takes_over_changes_nothing(engine: Engine, case: Case) -> None:
    """The figures then come from another Pod; the trouble is the same, and so is the time that it has lasted."""
    after = _after(case)
    half = max(after // 2, 2)
    moved = _series(case, [(half, case.trouble), (after + 5 - half, _gone(case.trouble))], scraped=OLD)
    moved += _series(case, [(half, _gone(case.trouble)), (after + 5 - half, case.trouble)], scraped=NEW)
    engine.judge(
        case.name,
        [
            _test(
                [*moved, *_active(case, after + 5)],
                *(expect(case.alert, at, _alert(case)) for at in range(after, after + 5)),
            )
        ],
    )


@pytest.mark.parametrize("case", [c for c in CASES if c.alert != ABSENT], ids=lambda c: c.name)
def test_a_controller_that_is_gone_does_not_look_like_all_is_well(engine: Engine, case: Case) -> None:
    """The alert ends, for nobody knows any more; that is an alert of its own, which ends when the figures come back."""
    absent = next(c for c in CASES if c.alert == ABSENT)
    after, until_told = _after(case), _after(absent)
    phases = [(after + 5, case.trouble), (until_told + 5, _gone(case.trouble)), (after + 5, case.trouble)]
    active = line([(after + 5, Value(1)), (until_told + 5, None), (after + 5, Value(1))])
    gone, back = after + 5, after + 5 + until_told + 5
    engine.judge(
        case.name,
        [
            _test(
                [*_series(case, phases), series("matriarch_controller_active", OLD, active)],
                expect(case.alert, gone - 1, _alert(case)),
                expect(case.alert, gone),
                expect(ABSENT, gone + until_told - 1),
                expect(ABSENT, gone + until_told, _alert(absent)),
                expect(ABSENT, back),
                expect(case.alert, back + after, _alert(case)),
            )
        ],
    )


@pytest.mark.parametrize("change", ["value", "name"])
def test_the_engine_does_say_no(engine: Engine, change: str) -> None:
    """That a wrong expectation fails: all the tests above rest on it."""
    case = next(c for c in CASES if c.alert == "MatriarchDrillFailed")
    wrong = _alert(case)
    if change == "value":
        wrong["exp_annotations"]["summary"] += "!"
    else:
        wrong["exp_labels"]["schedule"] = "hourly"
    with pytest.raises(AssertionError, match="FAILED"):
        engine.judge(f"wrong-{change}", [_test(_series(case, [(5, case.trouble)]), expect(case.alert, 1, wrong))])


def _alert(case: Case) -> Object:
    about = {"summary": case.summary, "runbook": f"docs/runbooks/{case.alert}.md"}
    return fires({**case.about, "severity": case.severity}, about)


def _gone(figures: Figures) -> Figures:
    return dict.fromkeys(figures)


def _series(
    case: Case,
    phases: list[tuple[int, Figures]],
    *,
    about: Mapping[str, str] | None = None,
    scraped: Mapping[str, str] = OLD,
) -> list[Object]:
    labels = {**(case.about if about is None else about), **scraped}
    names = sorted({name for _, figures in phases for name in figures})
    return [series(name, labels, line([(count, figures.get(name)) for count, figures in phases])) for name in names]


def _active(case: Case, length: int) -> list[Object]:
    """The controller itself is well, unless that is what the case is about."""
    if case.alert == ABSENT:
        return []
    return [series("matriarch_controller_active", OLD, line([(length, Value(1))]))]


def _test(given: list[Object], *expected: Object) -> Object:
    return {"interval": "1m", "input_series": given, "alert_rule_test": list(expected)}

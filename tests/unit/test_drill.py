"""When a drill is made, what becomes of it, and what is said: by tables, and over lives with a dying controller."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide.backups import JobFacts, JobState, Result
from matriarch.decide.drill import MADE_WITHIN, Active, DrillFacts, DrillPlan, Good, Last, plan_drill
from matriarch.decide.schedule import Fires
from matriarch.decide.verdict import Standing, Verdict

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
FIVE = datetime(2026, 3, 10, 5, tzinfo=UTC)
"""A morning on which a daily drill is due."""
SINCE = FIVE - 3 * DAY
GOOD = Good(name="nightly-1", finished=FIVE - 3 * HOUR)
ACTIVE = Active(backup="nightly-1", started=FIVE, scheduled=FIVE, seen=True)
PASSED = Last(passed=True, backup="nightly-1", reason="Passed", message="Came back in 12 s.")
FAILED = Last(passed=False, backup="nightly-1", reason="ObjectCorrupt", message="The object x is damaged.")


def daily(now: datetime) -> Fires:
    last = now.replace(hour=5, minute=0, second=0, microsecond=0)
    last = last if last <= now else last - DAY
    return Fires(last=last, next=last + DAY)


def facts(now: datetime, **given: Any) -> DrillFacts:
    base: dict[str, Any] = {
        "now": now,
        "asked": True,
        "refusal": None,
        "fires": daily(now),
        "suspended": False,
        "since": SINCE,
        "resumed": None,
        "last_run": None,
        "request": None,
        "handled": None,
        "newest": GOOD,
    }
    return DrillFacts(**{**base, **given})


def job(state: JobState, reason: str = "") -> JobFacts:
    return JobFacts(name="orders-drill-1", state=state, reason=reason)


@pytest.mark.parametrize(
    ("given", "scheduled"),
    [
        pytest.param(facts(FIVE), FIVE, id="on the second"),
        pytest.param(facts(FIVE - timedelta(seconds=1), last_run=FIVE - DAY), None, id="a second early"),
        pytest.param(facts(FIVE + MINUTE, last_run=FIVE), None, id="done"),
        pytest.param(facts(FIVE + 11 * HOUR, last_run=FIVE - DAY), FIVE, id="eleven hours late"),
        pytest.param(facts(FIVE + 13 * HOUR, last_run=FIVE - DAY), None, id="nearer to the next"),
        pytest.param(facts(FIVE + HOUR, last_run=FIVE - 9 * DAY), FIVE, id="away for nine days: one drill"),
        pytest.param(facts(FIVE + HOUR, suspended=True), None, id="suspended"),
        pytest.param(facts(FIVE + HOUR, resumed=FIVE + MINUTE), None, id="missed while suspended"),
        pytest.param(facts(FIVE + HOUR, since=None), None, id="wanted since this moment"),
        pytest.param(facts(FIVE + HOUR, since=FIVE + MINUTE), None, id="wanted since after its time"),
        pytest.param(facts(FIVE + HOUR, last_run=FIVE + 40 * DAY), FIVE, id="a remembered time in the future"),
        pytest.param(facts(FIVE, asked=False), None, id="not asked for"),
        pytest.param(facts(FIVE, refusal="The cron line is odd."), None, id="a line that cannot be read"),
        pytest.param(facts(FIVE, fires=Fires(last=None, next=None)), None, id="a line that never fires"),
        pytest.param(facts(FIVE, active=replace(ACTIVE, seen=False)), None, id="one is at work"),
    ],
)
def test_when_a_drill_begins(given: DrillFacts, scheduled: datetime | None) -> None:
    plan = plan_drill(given)
    assert (plan.begin.scheduled if plan.begin else None) == scheduled
    assert plan.ended is None
    assert not plan.make_job or given.active, "a Job before its drill was written down"


def test_on_demand_once_for_each_value_with_or_without_a_plan() -> None:
    plan = plan_drill(facts(FIVE - HOUR, last_run=FIVE - DAY, request="a", asked=False, since=None))
    assert plan.begin is not None
    assert (plan.begin.backup, plan.begin.scheduled, plan.handled) == ("nightly-1", None, "a")
    assert plan.since is None
    assert plan_drill(facts(FIVE - HOUR, last_run=FIVE - DAY, request="a", handled="a")).begin is None
    again = plan_drill(facts(FIVE - HOUR, last_run=FIVE - DAY, request="b", handled="a"))
    assert again.begin is not None
    assert again.handled == "b"
    waits = plan_drill(facts(FIVE, active=ACTIVE, request="b", handled="a", job=job(JobState.ACTIVE)))
    assert waits.begin is None
    assert waits.handled == "a", "a request that nobody carried out is forgotten"
    both = plan_drill(facts(FIVE, request="b"))
    assert both.begin is not None
    assert (both.last_run, both.handled) == (FIVE, "b"), "two drills for one time"


def test_what_cannot_be_drilled_has_failed_there_and_then() -> None:
    plan = plan_drill(facts(FIVE, newest=None))
    assert plan.begin is None
    assert plan.ended is not None
    assert (plan.ended.passed, plan.ended.reason, plan.last_run) == (False, "NoBackup", FIVE)
    assert plan.restorable is not None
    assert (plan.restorable.status, plan.restorable.reason) == ("False", "NoBackup")
    lost = Verdict(Standing.STALLED, "MissingSecret", "There is no Secret orders-backup-key.")
    plan = plan_drill(facts(FIVE, blocked=lost))
    assert plan.ended is not None
    assert (plan.ended.reason, plan.ended.message) == ("MissingSecret", lost.message)


@pytest.mark.parametrize(
    ("given", "passed", "reason"),
    [
        pytest.param({"job": job(JobState.ACTIVE)}, None, "", id="at work"),
        pytest.param({"job": job(JobState.SUCCEEDED), "result": Result(ok=True, message="m")}, True, "Passed", id="ok"),
        pytest.param({"job": job(JobState.SUCCEEDED)}, False, "NoResult", id="no word"),
        pytest.param(
            {"job": job(JobState.FAILED, "PodFailurePolicy"), "result": Result(ok=False, reason="WalMissing")},
            False, "WalMissing", id="its own reason",
        ),
        pytest.param(
            {"job": job(JobState.FAILED, "DeadlineExceeded"), "result": Result(ok=False, reason="Cancelled")},
            False, "TimedOut", id="too long",
        ),
        pytest.param({"job": job(JobState.FAILED, "BackoffLimitExceeded")}, False, "JobFailed", id="evicted"),
        pytest.param(
            {"job": job(JobState.FAILED, "BackoffLimitExceeded"), "result": Result(ok=True, message="m")},
            False, "JobFailed", id="a good word of a Job that failed",
        ),
        pytest.param({"job": None}, False, "JobVanished", id="deleted by somebody"),
    ],
)  # fmt: skip
def test_what_becomes_of_the_one_at_work(given: dict[str, Any], passed: bool | None, reason: str) -> None:
    plan = plan_drill(facts(FIVE + MINUTE, last_run=FIVE, active=ACTIVE, **given))
    assert (plan.ended.passed if plan.ended else None) == passed
    assert not plan.make_job
    if plan.ended is not None:
        assert (plan.ended.reason, plan.ended.backup, plan.ended.scheduled) == (reason, "nightly-1", FIVE)


def test_a_job_that_was_not_seen_is_made_again_and_not_for_ever() -> None:
    unseen = replace(ACTIVE, seen=False)
    plan = plan_drill(facts(FIVE + MINUTE, last_run=FIVE, active=unseen))
    assert plan.make_job
    assert not plan.job_seen
    plan = plan_drill(facts(FIVE + MINUTE, last_run=FIVE, active=unseen, job=job(JobState.ACTIVE)))
    assert not plan.make_job
    assert plan.job_seen
    plan = plan_drill(facts(FIVE + MADE_WITHIN + MINUTE, last_run=FIVE, active=unseen))
    assert plan.ended is not None
    assert (plan.make_job, plan.ended.reason) == (False, "JobRefused")


@pytest.mark.parametrize(
    ("given", "status", "reason"),
    [
        pytest.param({"last": PASSED}, "True", "DrillPassed", id="passed"),
        pytest.param({"last": FAILED}, "False", "ObjectCorrupt", id="failed"),
        pytest.param({"last": PASSED, "last_run": FIVE - DAY, "now": FIVE + 13 * HOUR}, "Unknown", "DrillOverdue",
                     id="missed"),
        pytest.param({"last": FAILED, "last_run": FIVE - DAY, "now": FIVE + 13 * HOUR}, "False", "ObjectCorrupt",
                     id="a failure is not hidden by a missed one"),
        pytest.param({}, "Unknown", "NotDrilled", id="not yet"),
        pytest.param({"active": ACTIVE, "job": job(JobState.ACTIVE)}, "Unknown", "Drilling", id="the first"),
        pytest.param({"active": ACTIVE, "job": job(JobState.ACTIVE), "last": PASSED}, "True", "DrillPassed",
                     id="the second is at work"),
        pytest.param({"refusal": "It is odd.", "last": PASSED}, "Unknown", "InvalidSchedule", id="a bad line"),
        pytest.param({"suspended": True, "last": PASSED, "last_run": FIVE - DAY, "now": FIVE + 13 * HOUR}, "True",
                     "DrillPassed", id="suspended is not overdue"),
        pytest.param({"asked": False, "last": PASSED}, "True", "DrillPassed", id="by hand"),
    ],
)  # fmt: skip
def test_what_is_said(given: dict[str, Any], status: str, reason: str) -> None:
    given = {"last_run": FIVE, **given}
    plan = plan_drill(facts(given.pop("now", FIVE + MINUTE), **given))
    assert plan.restorable is not None
    assert (plan.restorable.status, plan.restorable.reason) == (status, reason)
    assert plan.overdue == (reason == "DrillOverdue" or (given.get("last") is FAILED and given["last_run"] < FIVE))


def test_nothing_is_said_where_nobody_asked() -> None:
    plan = plan_drill(facts(FIVE, asked=False, since=None, fires=Fires(last=None, next=None)))
    assert plan == DrillPlan()


def test_the_latest_word_counts_at_once() -> None:
    given = {"active": ACTIVE, "last_run": FIVE, "job": job(JobState.SUCCEEDED), "result": Result(ok=True, message="m")}
    plan = plan_drill(facts(FIVE + MINUTE, last=FAILED, **given))
    assert plan.restorable is not None
    assert plan.restorable.status == "True"


@given(st.lists(st.tuples(st.integers(1, 40 * 60), st.booleans(), st.booleans()), max_size=60), st.booleans())
def test_over_a_life_there_is_one_drill_for_a_time_and_one_at_work(
    steps: list[tuple[int, bool, bool]], good: bool
) -> None:
    """Each step: minutes that pass, whether the controller dies before it makes the Job, whether the Job is over."""
    now, state = SINCE, facts(SINCE, newest=GOOD if good else None)
    jobs: list[datetime | None] = []
    times: list[datetime] = []
    for minutes, dies, over in steps:
        now += timedelta(minutes=minutes)
        found = job(JobState.SUCCEEDED if over else JobState.ACTIVE) if state.active and state.active.seen else None
        result = Result(ok=True, message="m") if over else None
        state = replace(state, now=now, fires=daily(now), job=found, result=result)
        plan = plan_drill(state)
        assert plan.requeue is not None
        assert plan.requeue > timedelta(0), "it looks again at once, for ever"
        if plan.begin is not None:
            assert state.active is None, "a second drill at work"
            assert plan.begin.scheduled is not None
            times.append(plan.begin.scheduled)
        if plan.ended is not None and plan.begin is None and not good:
            assert plan.ended.scheduled is not None
            times.append(plan.ended.scheduled)
        active = state.active if plan.ended is None else None
        if plan.make_job and active is not None and not dies:
            jobs.append(active.scheduled)
            active = replace(active, seen=True)
        if plan.begin is not None:
            active = Active(backup="nightly-1", started=now, scheduled=plan.begin.scheduled, seen=False)
        state = replace(state, active=active, last_run=plan.last_run, since=plan.since, job=None)
    assert len(set(times)) == len(times), "two drills for one time"
    assert len(set(jobs)) == len(jobs), "two Jobs for one drill"
    assert times == sorted(times)

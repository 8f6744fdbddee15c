"""When a schedule makes a backup, what it prunes, and what a controller that was away makes up for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide.schedule import (
    Fires,
    RetentionRun,
    Run,
    RunPhase,
    ScheduleFacts,
    plan_schedule,
    run_name,
)
from matriarch.decide.verdict import Standing

CREATED = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
TWO = datetime(2026, 3, 10, 2, tzinfo=UTC)
"""A night on which a daily schedule is due."""


def daily(now: datetime) -> Fires:
    last = now.replace(hour=2, minute=0, second=0, microsecond=0)
    last = last if last <= now else last - DAY
    return Fires(last=last, next=last + DAY)


def facts(now: datetime, **given: Any) -> ScheduleFacts:
    base: dict[str, Any] = {
        "name": "nightly",
        "created": CREATED,
        "now": now,
        "refusal": None,
        "fires": daily(now),
        "suspended": False,
        "resumed": None,
        "last_run": None,
        "runs": (),
        "catch_up": None,
        "overlap": False,
        "keep_complete": 7,
        "keep_failed": 3,
        "retention_run": None,
    }
    return ScheduleFacts(**{**base, **given})


def run(scheduled: datetime, phase: RunPhase = RunPhase.COMPLETE, **given: Any) -> Run:
    finished = None if phase is RunPhase.ACTIVE else scheduled + 5 * MINUTE
    name = run_name("nightly", scheduled)
    return Run(name=name, uid=f"uid-{name}", scheduled=scheduled, phase=phase, finished=finished, **given)


def test_a_run_is_named_by_its_time() -> None:
    assert run_name("nightly", TWO) == "nightly-20260310020000"


@pytest.mark.parametrize(
    ("given", "made"),
    [
        pytest.param(facts(TWO), TWO, id="on the second"),
        pytest.param(facts(TWO - timedelta(seconds=1), last_run=TWO - DAY), None, id="a second early"),
        pytest.param(facts(TWO + MINUTE, last_run=TWO), None, id="done by status"),
        pytest.param(facts(TWO + MINUTE, runs=(run(TWO, RunPhase.ACTIVE),)), None, id="done, status lost"),
        pytest.param(facts(TWO + MINUTE, runs=(run(TWO - DAY),)), TWO, id="the next after one"),
        pytest.param(facts(TWO + 11 * HOUR, runs=(run(TWO - DAY),)), TWO, id="eleven hours late"),
        pytest.param(facts(TWO + 13 * HOUR, runs=(run(TWO - DAY),)), None, id="nearer to the next than to the missed"),
        pytest.param(facts(TWO + HOUR, last_run=TWO - 9 * DAY), TWO, id="away for nine days: one run"),
        pytest.param(facts(TWO + HOUR, catch_up=30 * MINUTE), None, id="later than its deadline"),
        pytest.param(facts(TWO + HOUR, catch_up=DAY), TWO, id="within its deadline"),
        pytest.param(facts(TWO, suspended=True), None, id="suspended"),
        pytest.param(facts(TWO + HOUR, resumed=TWO + MINUTE), None, id="missed while suspended"),
        pytest.param(facts(TWO + DAY, resumed=TWO + MINUTE), TWO + DAY, id="the first after being suspended"),
        pytest.param(facts(CREATED + HOUR), None, id="due before it was made"),
        pytest.param(facts(TWO, runs=(run(TWO - DAY, RunPhase.ACTIVE),)), None, id="the one before is at work"),
        pytest.param(facts(TWO, overlap=True, runs=(run(TWO - DAY, RunPhase.ACTIVE),)), TWO, id="overlap is allowed"),
        pytest.param(facts(TWO, last_run=TWO + 400 * DAY), TWO, id="a clock that was a year ahead"),
        pytest.param(facts(TWO, refusal="The cron line cannot be read."), None, id="unreadable"),
        pytest.param(facts(TWO, fires=Fires(last=None, next=None)), None, id="never fires"),
    ],
)
def test_when_a_backup_is_made(given: ScheduleFacts, made: datetime | None) -> None:
    assert plan_schedule(given).create == made


def test_every_minute_with_a_controller_that_was_away_for_a_while() -> None:
    now = TWO + 5 * HOUR + timedelta(seconds=59)
    fires = Fires(last=now.replace(second=0), next=now.replace(second=0) + MINUTE)
    plan = plan_schedule(facts(now, fires=fires, last_run=TWO))
    assert plan.create == now.replace(second=0)


@pytest.mark.parametrize(
    ("given", "standing", "reason"),
    [
        (facts(TWO), Standing.READY, "Scheduled"),
        (facts(TWO, suspended=True), Standing.READY, "Suspended"),
        (facts(TWO, refusal="The cron line cannot be read."), Standing.STALLED, "InvalidSchedule"),
        (facts(TWO, fires=Fires(last=None, next=None)), Standing.STALLED, "NeverFires"),
        (facts(TWO, runs=(run(TWO - DAY, RunPhase.FAILED),)), Standing.READY, "LastBackupFailed"),
        (facts(TWO, runs=(run(TWO - DAY, RunPhase.FAILED), run(TWO))), Standing.READY, "Scheduled"),
    ],
)
def test_what_is_said(given: ScheduleFacts, standing: Standing, reason: str) -> None:
    verdict = plan_schedule(given).verdict
    assert (verdict.standing, verdict.reason) == (standing, reason)
    assert verdict.message.endswith(".")


def test_it_looks_again_when_the_next_one_is_due() -> None:
    plan = plan_schedule(facts(TWO - 90 * MINUTE, last_run=TWO - DAY))
    assert plan.next_run == TWO
    assert plan.requeue == 90 * MINUTE


# Records


def test_history_keeps_the_newest_of_each_kind() -> None:
    runs = [run(TWO - i * DAY) for i in range(9)] + [run(TWO - i * DAY + HOUR, RunPhase.FAILED) for i in range(5)]
    plan = plan_schedule(facts(TWO + HOUR * 2, runs=tuple(runs)))
    assert plan.prune == tuple(
        sorted([run(TWO - 8 * DAY).name, run(TWO - 7 * DAY).name])
        + sorted([run(TWO - 4 * DAY + HOUR).name, run(TWO - 3 * DAY + HOUR).name])
    )


def test_the_record_of_a_backup_that_retention_deleted_goes() -> None:
    runs = (run(TWO - 2 * DAY, backup_id="a"), run(TWO - DAY, backup_id="b"), run(TWO, backup_id="c"))
    done = RetentionRun(after=runs[-1].uid, state="done", deleted=("a", "c"))
    assert plan_schedule(facts(TWO + HOUR, runs=runs, retention_run=done)).prune == (runs[0].name,)


# Retention

GOOD, BAD, BUSY = RunPhase.COMPLETE, RunPhase.FAILED, RunPhase.ACTIVE


@pytest.mark.parametrize(
    ("phases", "seen", "wanted"),
    [
        pytest.param((GOOD,), None, True, id="after the first success"),
        pytest.param((GOOD, BAD), None, False, id="not after a failure"),
        pytest.param((BAD, GOOD), None, True, id="after the success that follows"),
        pytest.param((GOOD, BUSY), None, True, id="beside a running backup"),
        pytest.param((BUSY,), None, False, id="not before any end"),
        pytest.param((), None, False, id="without runs"),
        pytest.param((GOOD,), ("this", "done"), False, id="once"),
        pytest.param((GOOD,), ("this", "failed"), False, id="a failed one waits for the next success"),
        pytest.param((GOOD,), ("other", "done"), True, id="for each success"),
        pytest.param((GOOD,), ("other", "active"), False, id="one at a time"),
    ],
)
def test_when_retention_looks_at_the_store(
    phases: tuple[RunPhase, ...], seen: tuple[str, str] | None, wanted: bool
) -> None:
    runs = tuple(run(TWO - (len(phases) - i) * DAY, phase) for i, phase in enumerate(phases))
    last = [r for r in runs if r.phase is not BUSY]
    done = RetentionRun(after=last[-1].uid if seen[0] == "this" else "another", state=seen[1]) if seen else None
    plan = plan_schedule(facts(TWO + HOUR, runs=runs, retention_run=done))
    assert plan.retention_after == (last[-1].uid if wanted else None)


def test_the_record_of_a_pinned_backup_stays_and_takes_nobody_s_place() -> None:
    pinned = run(TWO - 9 * DAY, pinned=True)
    runs = (pinned, *(run(TWO - n * DAY) for n in range(8, -1, -1)))
    plan = plan_schedule(facts(TWO + HOUR, runs=runs, keep_complete=7))
    assert plan.prune == (runs[1].name, runs[2].name)


# Interruptions


@given(
    st.lists(st.tuples(st.integers(1, 60 * 40), st.sampled_from(["all", "no status", "nothing"])), max_size=40),
    st.integers(1, 60 * 4),
)
def test_whatever_is_interrupted_each_time_has_at_most_one_run_and_none_is_stale(
    looks: list[tuple[int, str]], takes: int
) -> None:
    """The controller looks at odd times and dies before creating, or between creating and writing the status."""
    now = CREATED
    runs: dict[str, Run] = {}
    last_run: datetime | None = None
    for minutes, carried_out in looks:
        now += minutes * MINUTE
        for name, made in runs.items():
            if made.phase is RunPhase.ACTIVE and now - made.scheduled > takes * MINUTE:
                runs[name] = replace(made, phase=RunPhase.COMPLETE, finished=now)
        plan = plan_schedule(facts(now, runs=tuple(runs.values()), last_run=last_run))
        if plan.create is not None and carried_out != "nothing":
            name = run_name("nightly", plan.create)
            assert name not in runs, "a time was run twice"
            assert now - plan.create <= DAY / 2
            assert not any(r.phase is RunPhase.ACTIVE for r in runs.values())
            runs[name] = run(plan.create, RunPhase.ACTIVE)
        if carried_out == "all":
            last_run = plan.last_run


@given(
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from(list(RunPhase))), max_size=30),
    st.integers(1, 5),
    st.integers(0, 5),
    st.integers(0, 60),
)
def test_the_newest_complete_record_and_whatever_is_at_work_stay(
    days: list[tuple[int, RunPhase]], keep_complete: int, keep_failed: int, deleted: int
) -> None:
    runs = tuple(run(TWO - day * DAY, phase, backup_id=str(day)) for day, phase in dict(days).items())
    done = RetentionRun(after="x", state="done", deleted=tuple(str(day) for day in range(deleted)))
    plan = plan_schedule(
        facts(TWO + HOUR, runs=runs, keep_complete=keep_complete, keep_failed=keep_failed, retention_run=done)
    )
    gone = [r for r in runs if r.name in plan.prune]
    complete = [r for r in runs if r.phase is RunPhase.COMPLETE]
    assert all(r.phase is not RunPhase.ACTIVE for r in gone)
    assert not complete or max(complete, key=lambda r: r.scheduled) not in gone
    assert sum(r.phase is RunPhase.COMPLETE for r in runs if r not in gone) <= keep_complete
    assert sum(r.phase is RunPhase.FAILED for r in runs if r not in gone) <= keep_failed

"""Retention: a table of what users expect, and what must never happen whatever the store holds."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide.retention import BackupFact, RetentionPolicy, plan_retention

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def backup(name: str, age_days: float, **facts: object) -> BackupFact:
    return BackupFact(id=name, finished=NOW - timedelta(days=age_days), **{"good": True, **facts})  # type: ignore[arg-type]


DAYS = RetentionPolicy(days=30)


@pytest.mark.parametrize(
    ("backups", "policy", "deleted"),
    [
        pytest.param([backup("a", 1), backup("b", 40)], DAYS, ("b",), id="past the window"),
        pytest.param([backup("a", 40), backup("b", 50)], DAYS, ("b",), id="newest good outlives the window"),
        pytest.param([backup("a", 40, pinned=True), backup("b", 1)], DAYS, (), id="pinned"),
        pytest.param([backup("full", 40), backup("incr", 1, parent="full")], DAYS, (), id="parent of a kept one"),
        pytest.param([backup("bad", 40, good=False), backup("ok", 90)], DAYS, ("bad",), id="a suspect one counts not"),
        pytest.param([backup("bad", 1, good=False), backup("ok", 90)], DAYS, (), id="a suspect one stays for a look"),
        pytest.param([backup("proven", 90, verified=True), backup("new", 1)], DAYS, (), id="the last proven one"),
        pytest.param(
            [backup("a", 1), backup("b", 2), backup("c", 3)], RetentionPolicy(count=2), ("c",), id="the last two"
        ),
        pytest.param(
            [backup("a", 1), backup("bad", 2, good=False), backup("c", 3)],
            RetentionPolicy(count=2),
            ("bad",),
            id="only good ones are counted",
        ),
        pytest.param(
            [backup("a", 2), backup("b", 3), backup("c", 35), backup("d", 36)],
            RetentionPolicy(monthly=2),
            ("d", "b"),
            id="one of each month",
        ),
        pytest.param(
            [backup("a", 0), backup("b", 1), backup("c", 7), backup("d", 20)],
            RetentionPolicy(weekly=2),
            ("d", "b"),
            id="one of each week",
        ),
        pytest.param(
            [backup("a", 0.1), backup("b", 0.2), backup("c", 1.1), backup("d", 2.1)],
            RetentionPolicy(daily=2),
            ("d", "b"),
            id="one of each day",
        ),
        pytest.param(
            [backup("a", 1), backup("b", 100), backup("c", 400)], RetentionPolicy(yearly=2), ("c",), id="of each year"
        ),
        pytest.param(
            [backup("a", 1), backup("hand", 99), backup("b", 40, schedule="s"), backup("c", 50, schedule="s")],
            RetentionPolicy(days=30, schedule="s"),
            ("c",),
            id="another's backups are not this schedule's",
        ),
        pytest.param([backup("a", 1), backup("b", 400)], RetentionPolicy(), (), id="no rule deletes nothing"),
        pytest.param([backup("a", 1), backup("b", 2)], RetentionPolicy(count=0), ("b",), id="zero still keeps one"),
    ],
)
def test_what_users_expect(backups: list[BackupFact], policy: RetentionPolicy, deleted: tuple[str, ...]) -> None:
    assert plan_retention(backups, policy, NOW).delete == deleted


@pytest.mark.parametrize(
    ("backups", "policy", "why"),
    [
        pytest.param([backup("a", 90, good=False)], RetentionPolicy(days=1), "No good backup", id="nothing good"),
        pytest.param([backup("a", 90, parent="x"), backup("b", 1)], DAYS, "needs x", id="a parent is missing"),
        pytest.param([backup("a", -2), backup("b", 90)], DAYS, "from the future", id="a clock is wrong"),
        pytest.param([backup("a", 90)], RetentionPolicy(days=1, schedule="s"), "nothing to delete", id="none of ours"),
    ],
)
def test_frozen(backups: list[BackupFact], policy: RetentionPolicy, why: str) -> None:
    plan = plan_retention(backups, policy, NOW)
    assert plan.delete == ()
    assert plan.frozen is not None
    assert why in plan.frozen
    assert set(plan.keep) == {b.id for b in backups}


def test_each_kept_one_says_why() -> None:
    plan = plan_retention([backup("a", 1, pinned=True), backup("b", 2)], RetentionPolicy(days=30, count=1), NOW)
    assert plan.keep == {
        "a": ("newest good", "pinned", "within 30 days", "among the last 1"),
        "b": ("within 30 days",),
    }


@st.composite
def stores(draw: st.DrawFn) -> list[BackupFact]:
    made: list[BackupFact] = []
    for i in range(draw(st.integers(0, 12))):
        parent = draw(st.sampled_from([None, *(b.id for b in made)]))
        facts = {name: draw(st.booleans()) for name in ("good", "verified", "pinned")}
        schedule = draw(st.sampled_from([None, "s", "t"]))
        made.append(backup(str(i), draw(st.floats(0, 800)), parent=parent, schedule=schedule, **facts))
    return made


rules = st.none() | st.integers(0, 5)
policies = st.builds(
    RetentionPolicy,
    days=st.none() | st.integers(0, 90),
    count=rules,
    daily=rules,
    weekly=rules,
    monthly=rules,
    yearly=rules,
    schedule=st.sampled_from([None, "s"]),
)


@given(stores(), policies)
def test_never_deletes_the_last_good_nor_what_a_kept_one_needs(
    backups: list[BackupFact], policy: RetentionPolicy
) -> None:
    plan = plan_retention(backups, policy, NOW)
    kept = [b for b in backups if b.id in plan.keep]
    ours = [b for b in backups if policy.schedule is None or b.schedule == policy.schedule]
    assert set(plan.keep).isdisjoint(plan.delete)
    assert len(plan.keep) + len(plan.delete) == len(backups)
    assert any(b.good for b in kept if b in ours) or not any(b.good for b in ours)
    assert all(b.parent is None or b.parent in plan.keep for b in kept)
    assert set(plan.delete) <= {b.id for b in ours if not b.pinned}


@given(stores(), policies)
def test_interrupted_halfway_the_rest_of_the_plan_is_the_same(
    backups: list[BackupFact], policy: RetentionPolicy
) -> None:
    plan = plan_retention(backups, policy, NOW)
    half = set(plan.delete[: len(plan.delete) // 2])
    again = plan_retention([b for b in backups if b.id not in half], policy, NOW)
    assert again.frozen is not None or again.delete == plan.delete[len(half) :]


@given(stores(), policies)
def test_a_rule_more_never_deletes_more(backups: list[BackupFact], policy: RetentionPolicy) -> None:
    fewer = replace(policy, count=None, weekly=None)
    gone = plan_retention(backups, policy, NOW).delete
    without = plan_retention(backups, fewer, NOW)
    assert without.frozen is not None or set(gone) <= set(without.delete)


@given(st.integers(1, 4), st.integers(1, 12), st.lists(st.booleans(), min_size=30, max_size=30))
def test_the_recovery_window_fills_and_stays_full_whatever_else_is_kept(
    count: int, window: int, physical: list[bool]
) -> None:
    policy = RetentionPolicy(count=count, window=timedelta(days=window), schedule="nightly")
    held: list[BackupFact] = []
    first = next((n for n, is_physical in enumerate(physical) if is_physical), len(physical))
    for day, is_physical in enumerate(physical):
        now = NOW + timedelta(days=day)
        schedule = "nightly" if day % 3 else "other"  # of whomever it is
        held.append(BackupFact(id=f"b{day}", finished=now, good=True, schedule=schedule, physical=is_physical))
        gone = plan_retention(held, policy, now).delete
        held = [b for b in held if b.id not in gone]
        oldest = min((b.finished for b in held if b.physical), default=None)
        if day >= first:
            assert oldest is not None
            assert oldest <= max(now - timedelta(days=window), NOW + timedelta(days=first))


def test_the_begin_of_the_window_says_why_it_stays() -> None:
    held = [backup("a", 9, physical=True), backup("b", 8, physical=True), backup("c", 1, physical=True)]
    plan = plan_retention(held, RetentionPolicy(count=1, window=timedelta(days=7)), NOW)
    assert plan.delete == ("a",)
    assert plan.keep["b"] == ("begin of the recovery window",)

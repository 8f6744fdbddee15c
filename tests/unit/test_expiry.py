"""What is announced, taken back and deleted: by tables, and over lives in which each pass may die at any step."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide.expiry import Expiry, plan_expiry
from matriarch.decide.retention import RetentionPlan

HOUR = timedelta(hours=1)
NOW = datetime(2026, 3, 10, 5, tzinfo=UTC)
NO_PARENTS: dict[str, str | None] = {}


def going(*ids: str, frozen: str | None = None) -> RetentionPlan:
    return RetentionPlan({}, ids, frozen)


@pytest.mark.parametrize(
    ("announced", "grace", "wanted"),
    [
        pytest.param({}, 0, Expiry(delete=("a",), waiting={}), id="without a wait at once"),
        pytest.param({"a": 1}, 0, Expiry(delete=("a",), waiting={}), id="announced before the wait was given up"),
        pytest.param({}, 24, Expiry(announce=("a",), waiting={"a": NOW + 24 * HOUR}), id="first announced"),
        pytest.param({"a": 23}, 24, Expiry(waiting={"a": NOW + HOUR}), id="too early"),
        pytest.param({"a": 24}, 24, Expiry(delete=("a",), waiting={}), id="long enough"),
        pytest.param({"a": 24}, 48, Expiry(waiting={"a": NOW + 24 * HOUR}), id="the wait was made longer"),
        pytest.param(
            {"b": 99}, 24, Expiry(recall=("b",), announce=("a",), waiting={"a": NOW + 24 * HOUR}), id="kept again"
        ),
        pytest.param({"a": -5}, 24, Expiry(waiting={"a": NOW + 29 * HOUR}), id="of a clock that was ahead"),
    ],
)
def test_one_that_no_rule_keeps(announced: dict[str, int], grace: int, wanted: Expiry) -> None:
    since = {name: NOW - hours * HOUR for name, hours in announced.items()}
    assert plan_expiry(going("a"), since, NO_PARENTS, grace * HOUR, NOW) == wanted


def test_while_frozen_nothing_changes() -> None:
    found = plan_expiry(going(frozen="A manifest is damaged."), {"a": NOW - 99 * HOUR}, NO_PARENTS, HOUR, NOW)
    assert found == Expiry(waiting={})


def test_a_dry_run_only_tells_and_what_it_tells_waits_anew_afterwards() -> None:
    found = plan_expiry(going("a", "b"), {"a": NOW - 99 * HOUR}, NO_PARENTS, HOUR, NOW, dry_run=True)
    assert found == Expiry(recall=("a",), waiting={"a": NOW + HOUR, "b": NOW + HOUR})


def test_what_an_increment_builds_on_waits_for_it() -> None:
    """Its announcement was taken back once and made again, so that it is the younger one."""
    since = {"full": NOW - 99 * HOUR, "first": NOW - 99 * HOUR, "second": NOW - HOUR}
    parents = {"second": "first", "first": "full", "full": None}
    found = plan_expiry(going("second", "first", "full"), since, parents, 24 * HOUR, NOW)
    assert found == Expiry(waiting={"second": NOW + 23 * HOUR, "first": NOW, "full": NOW})


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.sets(st.sampled_from("abcd")), st.booleans(), st.integers(0, 9)), max_size=40
    ),
    st.integers(1, 48),
)
def test_whatever_dies_nothing_goes_that_was_not_announced_for_so_long(
    passes: list[tuple[int, set[str], bool, int]], grace: int
) -> None:
    """Each pass sees what no rule keeps at its time, and is killed after so many steps."""
    now, there = NOW, set("abcd")
    announced: dict[str, datetime] = {}
    kept_at: dict[str, datetime] = {}  # when a pass that lived long enough to say so found it wanted
    for hours, unwanted, dry, steps in passes:
        now += hours * HOUR
        gone = there & unwanted
        plan = plan_expiry(going(*sorted(gone)), announced, NO_PARENTS, grace * HOUR, now, dry_run=dry)
        work = [*(("recall", n) for n in plan.recall), *(("announce", n) for n in plan.announce)]
        work += [("delete", n) for n in plan.delete]
        for what, name in work[:steps]:
            if what == "recall":
                announced.pop(name)
            elif what == "announce":
                announced[name] = now
            else:
                assert not dry
                assert name in gone
                assert now - announced[name] >= grace * HOUR
                assert announced[name] >= kept_at.get(name, NOW)
                there.discard(name)
        if steps >= len(plan.recall):
            kept_at |= dict.fromkeys(there if dry else there - unwanted, now)

"""When stores are looked at, and how a cluster says that its archive is expired."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide.tending import (
    DAILY,
    FROZEN_LONG,
    LONGEST_PAUSE,
    STARVED,
    Expiry,
    LastRun,
    TendingFacts,
    due,
    expiry_verdict,
)

NOW = datetime(2026, 11, 25, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
RAN = LastRun(started=NOW - HOUR, finished=NOW - 50 * MINUTE)
FACTS = TendingFacts(now=NOW, filled=True, newest_backup=NOW - 2 * HOUR, busy=False, last=RAN)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        pytest.param({}, False, id="nothing new"),
        pytest.param({"last": None}, True, id="never looked at"),
        pytest.param({"last": None, "filled": False}, False, id="nothing in it yet"),
        pytest.param({"last": None, "busy": True}, False, id="the first backup is being made"),
        pytest.param({"newest_backup": NOW - MINUTE}, True, id="after a backup"),
        pytest.param({"newest_backup": NOW - MINUTE, "busy": True}, False, id="never beside another"),
        pytest.param({"asked": True}, True, id="a person asked"),
        pytest.param({"last": replace(RAN, again=NOW + MINUTE)}, False, id="what is marked waits"),
        pytest.param({"last": replace(RAN, again=NOW)}, True, id="what was marked may go"),
        pytest.param({"last": replace(RAN, started=NOW - DAILY)}, True, id="daily"),
        pytest.param({"last": replace(RAN, finished=None), "newest_backup": NOW}, False, id="one is at work"),
        pytest.param({"last": replace(RAN, failures=1), "newest_backup": NOW}, True, id="failed a while ago"),
        pytest.param({"last": replace(RAN, failures=9), "newest_backup": NOW}, False, id="fails again and again"),
        pytest.param({"last": replace(RAN, failures=999, finished=NOW - LONGEST_PAUSE)}, True, id="but never for ever"),
        pytest.param({"last": replace(RAN, started=NOW + 9 * DAILY)}, True, id="a clock that was put right"),
        pytest.param(
            {"busy": True, "last": replace(RAN, started=NOW - 9 * DAILY, finished=NOW - STARVED)}, True, id="starved"
        ),
    ],
)
def test_when(change: dict[str, Any], wanted: bool) -> None:
    assert due(replace(FACTS, **change)) is wanted


@given(
    st.builds(
        LastRun,
        started=st.datetimes(NOW.replace(tzinfo=None), timezones=st.just(UTC)).filter(lambda t: t.year < 2030),
        finished=st.none() | st.just(NOW),
        again=st.none(),
        failures=st.integers(0, 10**6),
    ),
    st.booleans(),
)
def test_a_run_that_is_over_is_followed_by_another_within_two_days_and_a_half(last: LastRun, busy: bool) -> None:
    later = max(last.started, NOW) + STARVED + LONGEST_PAUSE
    facts = replace(FACTS, now=later, last=replace(last, finished=max(last.started, NOW)), busy=busy)
    assert due(facts)
    assert not due(replace(facts, last=replace(last, finished=None)))


EXPIRY = Expiry(now=NOW, automatic=True, ran=True, outcome="3 files stay.")


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({}, "True", "Expiring"),
        ({"ran": False}, "Unknown", "NotYetRun"),
        ({"automatic": False}, "True", "ByHand"),
        ({"frozen": "No.", "frozen_since": NOW - HOUR}, "True", "Waiting"),
        ({"frozen": "No.", "frozen_since": NOW - FROZEN_LONG}, "False", "Frozen"),
        ({"frozen": "No."}, "True", "Waiting"),
        ({"failures": 1, "error": "away"}, "True", "Expiring"),
        ({"failures": 3, "error": "away"}, "False", "ExpiryFailed"),
        ({"failures": 1, "error": "away", "ran": False}, "False", "ExpiryFailed"),
    ],
)
def test_how_it_stands(change: dict[str, Any], status: str, reason: str) -> None:
    found = expiry_verdict(replace(EXPIRY, **change))
    assert found[:2] == (status, reason)
    assert found[2]

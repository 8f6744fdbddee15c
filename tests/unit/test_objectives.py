"""Objectives against what could be lost now and what drills measured."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.api.objectives import Objectives, seconds
from matriarch.decide.objectives import Measured, ObjectiveFacts, comply, exposure

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
GOOD = Measured(schedule="nightly", finished=NOW, passed=True, rto=100.0, rpo=60.0)


def facts(**given: Any) -> ObjectiveFacts:
    base: dict[str, Any] = {
        "now": NOW,
        "rpo": 300,
        "rto": 900,
        "covered_until": NOW - timedelta(hours=10),
        "archive": True,
        "archive_works": True,
        "archive_waits": 0,
        "drills": (GOOD,),
    }
    return ObjectiveFacts(**{**base, **given})


@pytest.mark.parametrize(
    ("given", "status", "reason"),
    [
        pytest.param({}, "True", "Met", id="met"),
        pytest.param({"archive_waits": 400}, "False", "RpoMissed", id="WAL waits"),
        pytest.param({"archive_works": False}, "False", "RpoMissed", id="the archive does not work"),
        pytest.param({"archive": False}, "False", "RpoMissed", id="backups alone, ten hours old"),
        pytest.param({"archive": False, "covered_until": None}, "False", "RpoMissed", id="no backup"),
        pytest.param({"archive": False, "covered_until": NOW - timedelta(minutes=4)}, "True", "Met", id="a new backup"),
        pytest.param({"rpo": 30}, "False", "RpoMissed", id="less than an archive can do"),
        pytest.param({"rpo": None, "archive": False, "covered_until": None}, "True", "Met", id="only an RTO"),
        pytest.param({"drills": ()}, "Unknown", "NotDrilled", id="nothing measured"),
        pytest.param({"drills": (Measured(schedule="n", finished=NOW, passed=False),)}, "False", "DrillFailed",
                     id="the only drill failed"),
        pytest.param({"rto": 60}, "False", "RtoMissed", id="too slow"),
        pytest.param({"rto": 60, "rpo": None, "drills": (GOOD, Measured(
            schedule="files", finished=NOW - timedelta(days=1), passed=True, rto=20.0))}, "True", "Met",
            id="another schedule's backups come back faster"),
        pytest.param({"drills": (Measured(schedule="n", finished=NOW, passed=True, rto=1.0, rpo=4000.0),)}, "False",
                     "RpoMissed", id="old data came back"),
    ],
)  # fmt: skip
def test_the_verdict(given: dict[str, Any], status: str, reason: str) -> None:
    found = comply(facts(**given))
    assert (found.status, found.reason) == (status, reason)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.booleans(), st.booleans())
def test_what_could_be_lost_is_never_less_than_what_waits(age: int, waits: int, archive: bool, works: bool) -> None:
    made = NOW - timedelta(seconds=age)
    lost = exposure(facts(covered_until=made, archive=archive, archive_works=works, archive_waits=waits))
    assert lost is not None
    assert lost >= (waits if archive and works else age)


@given(st.integers(0, 10**5), st.integers(1, 10**5))
def test_messages_do_not_change_with_the_clock(age: int, later: int) -> None:
    one = facts(archive=False, covered_until=NOW - timedelta(days=30))
    two = facts(archive=False, covered_until=NOW - timedelta(days=30), now=NOW + timedelta(seconds=age + later))
    assert comply(one).message == comply(two).message, "the status would be written all the time"


@pytest.mark.parametrize(
    ("text", "value"),
    [("critical", 900), ("important", 3600), ("non-critical", 14_400), ("user-data", 300), ("project-data", 900),
     ("analytics", 3600), ("90s", 90), ("30m", 1800), ("4h", 14_400), ("2d", 172_800)],
)  # fmt: skip
def test_words_and_durations(text: str, value: int) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "soon", "0m", "-5m", "5", "5w", "m", "1.5h", "critical "])
def test_what_is_no_objective(text: str) -> None:
    for field in ("rpo", "rto"):
        with pytest.raises(ValueError, match=field):
            Objectives.model_validate({field: text})

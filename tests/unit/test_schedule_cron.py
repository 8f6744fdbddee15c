"""The cron line: daylight saving, lines that never fire, and lines that cannot be read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.controller.schedule_cron import fires
from matriarch.errors import Refused

BERLIN = "Europe/Berlin"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("line", "zone", "now", "last", "following"),
    [
        pytest.param("0 2 * * *", "UTC", "2026-03-01T02:00:00", "2026-03-01T02:00", "2026-03-02T02:00", id="on time"),
        pytest.param("0 2 * * *", "UTC", "2026-03-01T01:59:59", "2026-02-28T02:00", "2026-03-01T02:00", id="early"),
        pytest.param("0 2 * * *", BERLIN, "2026-07-01T12:00:00", "2026-07-01T00:00", "2026-07-02T00:00", id="summer"),
        pytest.param("0 2 * * *", BERLIN, "2026-01-10T12:00:00", "2026-01-10T01:00", "2026-01-11T01:00", id="winter"),
        # 29 March 2026: the clocks go from 02:00 to 03:00; 02:30 does not exist and fires at 03:00 = 01:00 UTC
        pytest.param("30 2 * * *", BERLIN, "2026-03-29T00:59:59", "2026-03-28T01:30", "2026-03-29T01:00", id="to gap"),
        pytest.param("30 2 * * *", BERLIN, "2026-03-29T05:00:00", "2026-03-29T01:00", "2026-03-30T00:30", id="gap"),
        # 25 October 2026: 02:00 to 03:00 comes twice; a fixed time fires in the first pass alone
        pytest.param(
            "30 2 * * *", BERLIN, "2026-10-25T00:45:00", "2026-10-25T00:30", "2026-10-26T01:30", id="1st pass"
        ),
        pytest.param(
            "30 2 * * *", BERLIN, "2026-10-25T01:45:00", "2026-10-25T00:30", "2026-10-26T01:30", id="2nd pass"
        ),
        pytest.param(
            "50 2 * * *", BERLIN, "2026-10-25T01:45:00", "2026-10-25T00:50", "2026-10-26T01:50", id="repeated"
        ),
        pytest.param("* * * * *", BERLIN, "2026-10-25T01:00:30", "2026-10-25T01:00", "2026-10-25T01:01", id="minutes"),
        pytest.param("0 0 29 2 *", "UTC", "2026-03-01T00:00:00", "2024-02-29T00:00", "2028-02-29T00:00", id="leap day"),
        pytest.param("@daily", "UTC", "2026-03-01T10:00:00", "2026-03-01T00:00", "2026-03-02T00:00", id="macro"),
        pytest.param(
            "0 0 * * 7", "UTC", "2026-03-02T10:00:00", "2026-03-01T00:00", "2026-03-08T00:00", id="Sunday is 7"
        ),
    ],
)
def test_times_around_now(line: str, zone: str, now: str, last: str, following: str) -> None:
    found = fires(line, zone, at(now))
    assert (found.last, found.next) == (at(last), at(following))


@pytest.mark.parametrize("line", ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "*/15 * 31 2 *"])
def test_a_date_that_never_comes(line: str) -> None:
    found = fires(line, "UTC", at("2026-03-01T00:00:00"))
    assert found.last is None
    assert found.next is None


@pytest.mark.parametrize(
    ("line", "zone", "says"),
    [
        ("0 0 2 * * *", "UTC", "has 6 fields instead of five .* Leave out the seconds"),
        ("nonsense", "UTC", "has 1 fields instead of five"),
        ("61 * * * *", "UTC", "bad minute"),
        ("0 0 32 * *", "UTC", "bad day-of-month"),
        ("0 0 32 2 *", "UTC", "bad day-of-month"),
        ("0 0 30 FOO *", "UTC", "bad month"),
        ("@often", "UTC", "is not known"),
        ("0 2 * * *", "Mars/Base", "time zone 'Mars/Base' is not known"),
        ("0 2 * * *", "Europe", "is not known"),
        ("0 2 * * *", "../../etc/passwd", "is not known"),
        ("0 2 * * *", "", "is not known"),
    ],
)
def test_what_cannot_be_read_is_said(line: str, zone: str, says: str) -> None:
    with pytest.raises(Refused, match=says):
        fires(line, zone, at("2026-03-01T00:00:00"))


@given(
    st.sampled_from(["0 2 * * *", "30 2 * * *", "*/7 * * * *", "15 */3 * * *", "0 3 * * 1", "5 4 1 * *"]),
    st.sampled_from(["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    st.integers(0, 3 * 366 * 86_400),
)
def test_last_and_next_leave_no_time_out(line: str, zone: str, seconds: int) -> None:
    now = at("2025-01-01T00:00:00") + timedelta(seconds=seconds)
    found = fires(line, zone, now)
    assert found.last is not None
    assert found.next is not None
    assert found.last <= now < found.next
    assert fires(line, zone, found.last).last == found.last
    assert fires(line, zone, found.last).next == found.next
    assert fires(line, zone, found.next).last == found.next


@given(st.integers(0, 20))
def test_walking_through_a_change_of_clocks_gives_every_day_one_run(start: int) -> None:
    """Whoever looks at any minute of the days around both changes sees one run a day, never two, never none."""
    for first in ("2026-03-27T00:00:00", "2026-10-23T00:00:00"):
        now = at(first) + timedelta(minutes=start)
        seen: set[datetime] = set()
        for _ in range(24 * 5):
            last = fires("30 2 * * *", BERLIN, now).last
            assert last is not None
            seen.add(last)
            now += timedelta(hours=1)
        days = [time.astimezone(ZoneInfo(BERLIN)).date() for time in sorted(seen)]
        assert len(days) == len(set(days)) >= 5

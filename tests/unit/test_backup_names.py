"""Names: what the requirements fix, and every form in which a person may say which backup."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.backup import names
from matriarch.backup.names import BackupName, Known, find
from matriarch.errors import Refused

A = BackupName(datetime(2024, 1, 15, 2, 0, 0, tzinfo=UTC), "abc234defg")
B = BackupName(datetime(2024, 1, 15, 12, 34, 56, 789000, tzinfo=UTC), "k3vq7m2xw4")
C = BackupName(datetime(2024, 1, 16, 2, 0, 0, tzinfo=UTC), "zzzzzzzzzz")
ALL = [Known(B, "nightly"), Known(A, None), Known(C, "by-hand")]


def test_the_name_is_the_requirement_s() -> None:
    assert A.file(compressed=True, encrypted=True) == "backup-2024-01-15T02:00:00.000Z-abc234defg.sql.gz.enc"
    assert B.file(compressed=False, encrypted=False) == "backup-2024-01-15T12:34:56.789Z-k3vq7m2xw4.sql"
    there = timezone(timedelta(hours=2))
    assert str(BackupName(datetime(2024, 1, 15, 4, 0, tzinfo=there), "abc234defg")) == str(A)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        pytest.param("backup-2024-01-15T02:00:00.000Z-abc234defg.sql.gz.enc", A, id="the file"),
        pytest.param("backup-2024-01-15T02:00:00.000Z-abc234defg.sql", A, id="with other endings"),
        pytest.param("backup-2024-01-15T02:00:00.000Z-abc234defg", A, id="without endings"),
        pytest.param("backup-2024-01-15T02%3A00%3A00.000Z-abc234defg", A, id="as a file system wrote it"),
        pytest.param("k3vq7m2xw4", B, id="the id"),
        pytest.param("nightly", B, id="the resource"),
        pytest.param("backup-2024-01-15-k3v", B, id="day and start of the id"),
        pytest.param("backup-2024-01-15-123456", B, id="day and time"),
        pytest.param("backup-2024-01-15-0200", A, id="day and start of the time"),
        pytest.param("latest", C, id="latest"),
    ],
)
def test_every_form_finds_it(wanted: str, found: BackupName) -> None:
    assert find(wanted, ALL) == found


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        pytest.param("backup-2024-01-15-", "BackupNotFound", id="a day alone is no form"),
        pytest.param("backup-2024-01-17-02", "BackupNotFound", id="another day"),
        pytest.param("backup-2024-02-31T02:00:00.000Z-abc234defg", "BackupNotFound", id="no such day"),
        pytest.param("abc", "BackupNotFound", id="a start of an id needs its day"),
        pytest.param("", "BackupNotFound", id="nothing"),
        pytest.param("../owner.json", "BackupNotFound", id="a path"),
    ],
)
def test_what_names_none(wanted: str, reason: str) -> None:
    with pytest.raises(Refused) as error:
        find(wanted, ALL)
    assert error.value.reason == reason


def test_two_are_never_guessed_between() -> None:
    twin = BackupName(B.started, "k3vqqqqqqq")
    with pytest.raises(Refused, match="names 2 backups") as error:
        find("backup-2024-01-15-k3v", [*ALL, Known(twin, None)])
    assert error.value.reason == "BackupAmbiguous"
    with pytest.raises(Refused, match="no complete backup"):
        find("latest", [])


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)), st.booleans(), st.booleans())  # noqa: DTZ001 - given its zone below
def test_a_name_says_what_it_was_made_of(moment: datetime, compressed: bool, encrypted: bool) -> None:
    started = moment.replace(tzinfo=UTC, microsecond=moment.microsecond // 1000 * 1000)
    name = BackupName(started, names.new_id())
    assert names.parse(name.file(compressed=compressed, encrypted=encrypted)) == name
    assert find(name.id, [Known(name, None), *ALL]) == name

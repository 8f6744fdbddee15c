"""pg_controldata's output; tests/postgres reads a real one."""

from __future__ import annotations

import pytest

from matriarch.errors import Corrupt, Refused
from matriarch.postgres.controldata import parse_controldata
from matriarch.postgres.version import Version, check_version, from_number, parse_version

TEXT = """\
pg_control version number:            1300
Catalog version number:               202406281
Database system identifier:           7557788123456789012
Database cluster state:               shut down in recovery
pg_control last modified:             Mon Nov 23 05:17:06 2026
Latest checkpoint location:           0/3000080
Latest checkpoint's REDO location:    0/3000028
Latest checkpoint's REDO WAL file:    000000050000000000000003
Latest checkpoint's TimeLineID:       5
Minimum recovery ending location:     0/3025338
Min recovery ending loc's timeline:   5
wal_level setting:                    logical
max_connections setting:              100
max_worker_processes setting:         8
max_wal_senders setting:              32
max_prepared_xacts setting:           0
max_locks_per_xact setting:           64
Data page checksum version:           1
"""


def test_what_the_agent_needs_is_read() -> None:
    control = parse_controldata(TEXT)
    assert control.system_identifier == "7557788123456789012"
    assert (control.timeline, control.redo, control.checkpoint) == (5, 0x3000028, 0x3000080)
    assert (control.minimum_recovery_end, control.minimum_recovery_timeline) == (0x3025338, 5)
    assert control.clean
    assert not control.was_primary
    assert control.checksums
    assert control.critical == {
        "max_connections": 100,
        "max_worker_processes": 8,
        "max_wal_senders": 32,
        "max_prepared_transactions": 0,
        "max_locks_per_transaction": 64,
    }


@pytest.mark.parametrize(
    ("state", "clean", "primary"),
    [
        ("shut down", True, True),
        ("shut down in recovery", True, False),
        ("in production", False, True),
        ("in archive recovery", False, False),
        ("shutting down", False, True),
    ],
)
def test_states(state: str, *, clean: bool, primary: bool) -> None:
    control = parse_controldata(TEXT.replace("shut down in recovery", state))
    assert (control.clean, control.was_primary) == (clean, primary)


@pytest.mark.parametrize("line", [line for line in TEXT.splitlines() if "setting" in line or "Time" in line])
def test_a_missing_line_is_no_guess(line: str) -> None:
    if line.startswith("wal_level"):
        return
    with pytest.raises(Corrupt, match="control file"):
        parse_controldata(TEXT.replace(line + "\n", ""))


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("postgres (PostgreSQL) 17.11 (Debian 17.11-0+deb13u1)", Version(17, 11)),
        ("17.5", Version(17, 5)),
    ],
)
def test_versions_are_read(text: str, version: Version) -> None:
    assert parse_version(text) == version
    assert from_number(version.major * 10000 + version.minor) == version


@pytest.mark.parametrize("text", ["postgres (PostgreSQL) 18devel", "", "17"])
def test_what_is_no_release_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a PostgreSQL release"):
        parse_version(text)


@pytest.mark.parametrize(
    ("version", "good"), [("17.4", False), ("17.5", True), ("17.12", True), ("16.9", False), ("18.0", True)]
)
def test_releases_that_may_lose_writes_are_refused(version: str, *, good: bool) -> None:
    if good:
        check_version(parse_version(version))
    else:
        with pytest.raises(Refused, match=r"17\.5 or newer"):
            check_version(parse_version(version))

"""A file is stored and given back only as what its name says."""

from __future__ import annotations

import struct

import pytest

from matriarch.archive.segment import check
from matriarch.errors import Refused
from matriarch.postgres.lsn import SEGMENT_SIZE, segment_name
from tests.unit.archive_world import SYSTEM, named, wal

NAME = segment_name(3, 7 * SEGMENT_SIZE)
GOOD = wal(3, 7)
HISTORY = b"1\t0/3000148\tno recovery target specified\n2\t0/5000000\tpromoted\n"


def changed(offset: int, form: str, value: int) -> bytes:
    data = bytearray(GOOD)
    struct.pack_into(form, data, offset, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (NAME, GOOD),
        (f"{NAME}.partial", GOOD),
        (NAME, wal(2, 7)),  # the first segment of a timeline begins under its parent's number
        ("00000003.history", HISTORY),
        (f"{NAME}.00000028.backup", b"START WAL LOCATION: 0/7000028 (file 000000030000000000000007)\n"),
    ],
)
def test_good(name: str, data: bytes) -> None:
    check(named(name), data, SYSTEM)


@pytest.mark.parametrize(
    ("why", "name", "data"),
    [
        ("empty", NAME, b""),
        ("cut off", NAME, GOOD[:-1]),
        ("too long", NAME, GOOD + b"x"),
        ("only zeros", NAME, bytes(SEGMENT_SIZE)),
        ("another version", NAME, changed(0, "=H", 0xD113)),
        ("no long header", NAME, changed(2, "=H", 0)),
        ("a recycled segment", NAME, wal(3, 4)),
        ("another system", NAME, wal(3, 7, system=1)),
        ("a later timeline", NAME, wal(4, 7)),
        ("timeline 0", NAME, wal(0, 7)),
        ("another segment size", NAME, changed(32, "=I", 1 << 20)),
        ("a partial that is cut off", f"{NAME}.partial", GOOD[: 1 << 20]),
        ("an empty history", "00000003.history", b""),
        ("a tombstone", "00000003.history", b"# this number was claimed\n"),
        ("a history of an earlier timeline", "00000002.history", HISTORY),
        ("no history", "00000003.history", b"\xff\xfe"),
        ("no label", f"{NAME}.00000028.backup", b"hello"),
        ("a label without end", f"{NAME}.00000028.backup", b"START WAL LOCATION: " + bytes(2 << 20)),
    ],
)
def test_refused(why: str, name: str, data: bytes) -> None:
    with pytest.raises(Refused) as error:
        check(named(name), data, SYSTEM)
    assert error.value.reason == "BadSegment", why
    assert name in str(error.value)

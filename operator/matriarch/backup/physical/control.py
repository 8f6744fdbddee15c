"""pg_control as bytes: whole or torn.

The server rewrites it in place while we read. Its CRC-32C covers everything before itself; where that is differs
between major versions, so each place is tried: a torn file passes by chance once in 2^25. Pure.
"""

from __future__ import annotations

import struct

SIZE = 8192
_FIRST, _LAST = 200, 508  # bytes of ControlFileData, which fits into one sector of 512


def _table() -> tuple[int, ...]:
    rows = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        rows.append(value)
    return tuple(rows)


CRC_TABLE = _table()


def is_whole(data: bytes) -> bool:
    """Whether `data` is a complete pg_control."""
    return _sum_at(data) is not None


def with_identifier(data: bytes, identifier: int) -> bytes:
    """The same with another system identifier, and its sum made right. Raises ValueError for what is not whole."""
    at = _sum_at(data)
    if at is None:
        raise ValueError("pg_control is damaged")
    body = struct.pack("<Q", identifier) + data[8:at]
    crc = 0xFFFFFFFF
    for byte in body:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return body + struct.pack("<I", crc ^ 0xFFFFFFFF) + data[at + 4 :]


def _sum_at(data: bytes) -> int | None:
    if len(data) != SIZE:
        return None
    crc = 0xFFFFFFFF
    for position, byte in enumerate(data[:_LAST]):
        if position >= _FIRST and position % 4 == 0 and crc ^ 0xFFFFFFFF == _word(data, position):
            return position
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return None


def _word(data: bytes, position: int) -> int:
    (value,) = struct.unpack_from("<I", data, position)
    return int(value)


def system_identifier(data: bytes) -> str:
    """The cluster's number, the file's first eight bytes."""
    return str(int.from_bytes(data[:8], "little"))

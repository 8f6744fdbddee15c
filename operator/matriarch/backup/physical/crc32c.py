"""CRC-32C (Castagnoli) of many bytes, by numpy: thousands of lanes side by side, put together at the end.

A CRC is linear: that of two parts is that of the first, moved on by as many zero bytes as the second has, xor that of
the second. Leading zeros change nothing while the start value is zero, so the front is filled up with them. Pure.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from matriarch.backup.physical.control import CRC_TABLE

_TABLE = np.array(CRC_TABLE, dtype=np.uint32)


def crc32c(data: bytes) -> int:
    """As PostgreSQL's pg_crc32c and everybody else's."""
    if len(data) < 1 << 13:
        return _plain(data)
    count = 1 << len(data).bit_length() // 2 + 2  # so that neither lanes nor steps are too many
    width = -(-len(data) // count)
    padded = np.zeros(count * width, dtype=np.uint8)
    padded[len(padded) - len(data) :] = np.frombuffer(data, np.uint8)
    # The start value of all ones counts as if it were xored into the first four bytes.
    padded[len(padded) - len(data) :][:4] ^= np.uint8(0xFF)
    lanes = np.ascontiguousarray(padded.reshape(count, width).T)
    sums = np.zeros(count, dtype=np.uint32)
    for column in lanes:
        sums = (sums >> np.uint32(8)) ^ _TABLE[(sums ^ column) & np.uint32(0xFF)]
    while len(sums) > 1:
        tables = _zeros(width)
        sums = _moved(sums[0::2], tables) ^ sums[1::2]
        width *= 2
    return int(sums[0]) ^ 0xFFFFFFFF


def _plain(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _zeros(count: int) -> npt.NDArray[np.uint32]:
    """What `count` zero bytes make of each single bit of a CRC."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    step = (bits >> np.uint32(8)) ^ _TABLE[bits & np.uint32(0xFF)]  # one zero byte
    result = bits
    while count:
        if count & 1:
            result = _moved(result, step)
        step = _moved(step, step)
        count >>= 1
    return result


def _moved(values: npt.NDArray[np.uint32], columns: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Each value through the linear map whose images of single bits are `columns`."""
    result = np.zeros_like(values)
    for bit in range(32):
        result ^= np.where(values >> np.uint32(bit) & np.uint32(1), columns[bit], np.uint32(0)).astype(np.uint32)
    return result

"""PostgreSQL's page checksum over many pages at once, and which pages it finds fault with.

The algorithm is that of storage/checksum_impl.h (FNV-1a in 32 lanes), by native.c where it was compiled and else
vectorised over the pages of a batch: numpy lets go of the interpreter's lock meanwhile. It reads words as a
little-endian machine lays them out, as do all platforms that the images are built for. Pure.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from matriarch.backup.native import NATIVE

PAGE = 8192  # bytes; another block size is refused before
_LANES = 32
_PRIME = np.uint32(16777619)
_SHIFT = np.uint32(17)
_OFFSETS = np.array(
    [
        0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
        0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
        0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
        0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
    ],
    dtype=np.uint32,
)  # fmt: skip
_WITHOUT_CHECKSUM = np.uint32(0xFFFF0000)  # the word that holds pd_checksum (low half) and pd_flags


@dataclass(frozen=True, slots=True)
class Checked:
    """What a batch of whole pages showed. `bad` are indices within the batch."""

    pages: int
    bad: tuple[int, ...]
    newest: int  # the highest LSN that exempted a page, 0 for none: must not lie after the backup's end


def checksums(
    data: bytes | bytearray | memoryview, blocks: npt.NDArray[np.uint32], library: ctypes.CDLL | None = NATIVE
) -> npt.NDArray[np.uint16]:
    """The checksum each page of `data` should carry; `blocks` are their numbers within their relations."""
    pages = np.frombuffer(data, dtype=np.uint8)
    if len(pages) != len(blocks) * PAGE:
        raise ValueError(f"{len(pages)} bytes are not {len(blocks)} pages")
    if library is not None:
        numbers = np.ascontiguousarray(blocks, dtype=np.uint32)
        found = np.empty(len(numbers), dtype=np.uint16)
        library.matriarch_checksums(pages.ctypes.data, len(numbers), numbers.ctypes.data, found.ctypes.data)
        return found
    words = pages.view("<u4").reshape(-1, PAGE // 4 // _LANES, _LANES)
    # Row by row over all pages; pages lie 8 KiB apart, which in place would meet in the same few lines of the cache.
    rows = words.transpose(1, 0, 2).copy()
    rows[0, :, 2] &= _WITHOUT_CHECKSUM  # the field itself counts as zero
    sums = np.tile(_OFFSETS, (words.shape[0], 1))
    shifted = np.empty_like(sums)
    for row in rows:
        np.bitwise_xor(sums, row, out=row)
        np.right_shift(row, _SHIFT, out=shifted)
        np.multiply(row, _PRIME, out=sums)
        np.bitwise_xor(sums, shifted, out=sums)
    for _ in range(2):  # two rounds of zeros
        np.right_shift(sums, _SHIFT, out=shifted)
        np.multiply(sums, _PRIME, out=sums)
        np.bitwise_xor(sums, shifted, out=sums)
    folded: npt.NDArray[np.uint32] = np.bitwise_xor.reduce(sums, axis=1) ^ blocks
    return (folded % np.uint32(65535) + np.uint32(1)).astype(np.uint16)


def check(data: bytes | bytearray | memoryview, blocks: Sequence[int], start_lsn: int) -> Checked:
    """Look at whole pages as BASE_BACKUP does; a negative number in `blocks` is no page of a relation and is passed.

    A page written since the backup began (its LSN is not before `start_lsn`) may be torn: replay writes it again, so it
    is exempt. A page that was never used is all zeros; PostgreSQL takes pd_upper = 0 for that, we look.
    """
    words = np.frombuffer(data, dtype="<u4").reshape(-1, PAGE // 4)
    numbers = np.array(blocks, dtype=np.int64)
    ours = numbers >= 0
    lsn = (words[:, 0].astype(np.uint64) << np.uint64(32)) | words[:, 1]
    stored = (words[:, 2] & np.uint32(0xFFFF)).astype(np.uint16)
    unused = (words[:, 3] >> np.uint32(16)) == 0
    exempt = ours & ~unused & (lsn >= np.uint64(start_lsn))
    wrong = ours & ~unused & ~exempt & (checksums(data, numbers.astype(np.uint32)) != stored)
    for index in np.flatnonzero(ours & unused):
        wrong[index] = bool(words[index].any()) and int(lsn[index]) < start_lsn
    newest = int(lsn[exempt].max()) if exempt.any() else 0
    return Checked(int(ours.sum()), tuple(int(i) for i in np.flatnonzero(wrong)), newest)

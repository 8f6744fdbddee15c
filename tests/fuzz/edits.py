"""An input of the fuzzer as a list of edits of a store: every way in which a store can differ from what was written.

Each edit is seven bytes: what, which object, where (24 bits of the object's length), how much, and a value. So any
input means something, and a longer one means more edits of the same store.
"""

from __future__ import annotations

import struct

_EDIT = struct.Struct(">BBHBBB")
MOST = 24  # edits in an input


def edited(content: dict[str, bytes], data: bytes) -> dict[str, bytes]:
    """The store after the edits; `content` stays as it is."""
    store = dict(content)
    keys = sorted(content)
    for what, which, high, low, much, value in _EDIT.iter_unpack(data[: len(data) // 7 * 7][: 7 * MOST]):
        key, other = keys[which % len(keys)], keys[(which + 1 + value) % len(keys)]
        old = store.get(key, b"")
        at = ((high << 8 | low) * (len(old) + 1)) >> 24
        new = _edit(what % 12, old, at, much, value, store.get(other, b""))
        if new is None:
            store.pop(key, None)
        elif what % 12 == 11:  # swapped with another one
            store[key], store[other] = new, old
        else:
            store[key] = new
    return store


def _edit(what: int, old: bytes, at: int, much: int, value: int, other: bytes) -> bytes | None:
    match what:
        case 0:  # one byte
            return old[:at] + bytes([(old[at] ^ (value or 1)) if at < len(old) else value]) + old[at + 1 :]
        case 1:  # cut off
            return old[:at]
        case 2:  # cut off near its end
            return old[: max(0, len(old) - much)]
        case 3:  # bytes missing in the middle
            return old[:at] + old[at + much + 1 :]
        case 4:  # bytes more
            return old[:at] + bytes([value]) * (much + 1) + old[at:]
        case 5:  # two stretches in the other order
            size = min((much + 1) * 16, (len(old) - at) // 2)
            return old[:at] + old[at + size : at + 2 * size] + old[at : at + size] + old[at + 2 * size :]
        case 6:  # a stretch twice
            return old[: at + much * 16] + old[at:]
        case 7:  # a stretch of another object
            return old[:at] + other[at : at + (much + 1) * 16] + old[at + (much + 1) * 16 :]
        case 8:  # another object's beginning, header and slots
            return other[: min(at, len(other))] + old[at:]
        case 9:
            return None
        case 10:  # four bytes as a number: lengths
            return old[:at] + struct.pack(">I", (value << 24 | much << 12 | value)) + old[at + 4 :]
        case _:
            return other

"""The datagram by which the heartbeat moves the deadline that the supervisor keeps.

It goes through a socketpair that the supervisor makes for each heartbeat it starts, so nobody else can send one.
"""

from __future__ import annotations

import struct

ENVIRONMENT = "MATRIARCH_DEADLINE_FD"
"""Name of the variable with the heartbeat's end of the pair."""

BYTES = 16
_LAYOUT = struct.Struct("!QQ")


def pack(epoch: int, deadline: int | None) -> bytes:
    """`deadline`: boot-time ns; None for none, which still says that the heartbeat lives."""
    return _LAYOUT.pack(epoch, deadline or 0)


def unpack(raw: bytes) -> tuple[int, int | None]:
    """Epoch and deadline; struct.error when `raw` is none of ours."""
    epoch, deadline = _LAYOUT.unpack(raw)
    return epoch, deadline or None

"""The cluster's heartbeat key, and the one before it for as long as some member may not have the new one yet.

The kubelet brings a changed Secret to each Pod in its own time, up to about two minutes. So both keys are accepted
for ten minutes, what is begun here goes out under the former one for three, and an answer always uses the key of
the packet that it answers.
"""

from __future__ import annotations

import binascii

from matriarch.agent.clock import SECOND

BYTES = 32
_SPEAK_OLD = 180 * SECOND
_ACCEPT_OLD = 600 * SECOND


class BeatKeys:
    """Reads `path` (hex) when asked to: a Secret volume is memory, so that waits for no disk."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._current: bytes | None = None
        self._former: bytes | None = None
        self._changed = 0

    def read(self, now: int) -> str:
        """Take over what the file holds. An empty text, or why the keys stay as they are."""
        try:
            with open(self._path, "rb") as file:  # noqa: PTH123 - this process does without pathlib
                key = binascii.unhexlify(file.read(1024).strip())
        except (OSError, ValueError) as error:
            return f"{self._path} cannot be read: {error}"
        if len(key) != BYTES:
            return f"{self._path} holds {len(key)} bytes and not {BYTES}"
        if key != self._current:
            self._former, self._current, self._changed = self._current, key, now
        return ""

    def accepted(self, now: int) -> tuple[bytes, ...]:
        keys = (self._current, self._former if now < self._changed + _ACCEPT_OLD else None)
        return tuple(key for key in keys if key is not None)

    def speaking(self, now: int) -> bytes | None:
        """The key for packets that answer nothing; None before the first key was read."""
        if self._former is not None and now < self._changed + _SPEAK_OLD:
            return self._former
        return self._current

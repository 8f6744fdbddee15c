"""How far PostgreSQL's WAL summarizer is behind, for the controller.

Peers ask for a status during an election, and the loop asks the server all the time. Neither must ever wait for this:
the question takes a lock of the summarizer, a process that may hang. So only the controller is told, the question has
a session of its own, and one that was not answered is not put again for a while: each leaves a session behind.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from matriarch.errors import MatriarchError

PAUSE = 300.0  # seconds


class Summaries:
    """`ask` gives bytes, or None where the summarizer is off; raises Unavailable when there is no answer."""

    def __init__(self, ask: Callable[[], Awaitable[int | None]], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._clock = ask, clock
        self._not_before = clock()
        self._known: int | None = None
        self._silent = False

    async def behind(self) -> int | None:
        """None, too, while it is not known; one question without an answer leaves standing what was known before."""
        now = self._clock()
        if now < self._not_before:
            return self._known
        self._not_before = now + PAUSE  # also for a second caller while the first one waits
        try:
            found = await self._ask()
        except MatriarchError:
            if self._silent:
                self._known = None
            self._silent = True
            return self._known
        self._not_before, self._known, self._silent = now, found, False
        return found

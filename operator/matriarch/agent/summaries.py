"""How far PostgreSQL's WAL summarizer is behind, for the controller.

Nobody waits for the answer: by a status the controller sees whether this instance lives, and peers whom to elect,
while the question takes a lock of the summarizer, a process that may hang. So a status has what was known last, and
the question has a session of its own. One without an answer is not put again for a while: it may wait there still.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from matriarch.errors import MatriarchError

EVERY = 60.0
"""Seconds between two questions."""
PAUSE = 300.0
"""Seconds after a question without an answer."""


class Summaries:
    """`ask` gives bytes, or None where the summarizer is off; raises Unavailable when there is no answer."""

    def __init__(self, ask: Callable[[], Awaitable[int | None]], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._clock = ask, clock
        self._next = clock()
        self._known: int | None = None
        self._silent = False
        self._asking: asyncio.Task[None] | None = None

    def behind(self) -> int | None:
        """What was known last, None when that is nothing; has it looked at anew when it is time."""
        now = self._clock()
        if now >= self._next and (self._asking is None or self._asking.done()):
            self._next = now + EVERY
            self._asking = asyncio.create_task(self._look(), name="summaries")
        return self._known

    async def _look(self) -> None:
        """One question without an answer changes nothing: an alert that waits for its time would begin anew."""
        try:
            self._known = await self._ask()
        except MatriarchError:
            self._known = None if self._silent else self._known
            self._silent, self._next = True, self._clock() + PAUSE
        else:
            self._silent = False

    async def close(self) -> None:
        """Give up on what is being asked."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

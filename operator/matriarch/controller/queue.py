"""Keys that wait to be reconciled: many events, few runs.

Events only say which object to look at; what is true is read when its turn comes. So a key stands in the queue at most
once, a key that arrives while its run is going on is run once more after it, and a failed run comes back later and
later. This is controller-runtime's queue; nothing in it knows about Kubernetes.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from dataclasses import dataclass, field
from typing import NamedTuple

FIRST_RETRY, LAST_RETRY = 0.5, 300.0  # seconds


class Key(NamedTuple):
    """One object to look at, by kind, namespace and name."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(slots=True)
class WorkQueue:
    """For one event loop. Bounded by the number of distinct keys, never by the number of events."""

    _ready: asyncio.Queue[Key] = field(default_factory=asyncio.Queue)
    _dirty: set[Key] = field(default_factory=set)  # waiting in _ready, or to run again when their run ends
    _busy: dict[Key, float] = field(default_factory=dict)  # running, and since when (monotonic)
    _failures: dict[Key, int] = field(default_factory=dict)
    _failing: dict[Key, float] = field(default_factory=dict)  # since when (monotonic) each run of it has failed
    _later: list[tuple[float, Key]] = field(default_factory=list)
    _due: dict[Key, float] = field(default_factory=dict)  # the one entry of _later that counts
    _timer: asyncio.TimerHandle | None = None

    def add(self, key: Key) -> None:
        """Look at it as soon as a worker is free."""
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._busy:
            self._ready.put_nowait(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Look at it in `seconds` at the latest; the earliest wish wins."""
        if seconds <= 0:
            self.add(key)
            return
        due = time.monotonic() + seconds
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        heapq.heappush(self._later, (due, key))
        self._arm()

    def retry(self, key: Key) -> float:
        """Look at it again after a failure; returns in how many seconds."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        self._failing.setdefault(key, time.monotonic())
        seconds = min(LAST_RETRY, FIRST_RETRY * 2.0 ** min(failures - 1, 20)) * random.uniform(0.75, 1.0)  # noqa: S311 - spreads retries, no secret
        self.add_after(key, seconds)
        return seconds

    def forget(self, key: Key) -> None:
        """It went well: the next failure waits briefly again."""
        self._failures.pop(key, None)
        self._failing.pop(key, None)

    def discard_later(self, key: Key) -> None:
        """Drop a wish for later: the run that starts now says anew when to look again."""
        self._due.pop(key, None)

    async def get(self) -> Key:
        """The next key; `done` must follow."""
        key = await self._ready.get()
        self._dirty.discard(key)
        self._busy[key] = time.monotonic()
        return key

    def done(self, key: Key) -> None:
        """Its run ended."""
        self._busy.pop(key, None)
        if key in self._dirty:
            self._ready.put_nowait(key)

    @property
    def waiting(self) -> int:
        """Keys that are ready to run."""
        return self._ready.qsize()

    def failing(self) -> dict[Key, float]:
        """For how many seconds each run of a key has failed."""
        now = time.monotonic()
        return {key: now - since for key, since in self._failing.items()}

    def oldest_run(self) -> float:
        """For how many seconds the longest run has been going on."""
        return max((time.monotonic() - since for since in self._busy.values()), default=0.0)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._later:
            delay = max(0.0, self._later[0][0] - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            due, key = heapq.heappop(self._later)
            if self._due.get(key) == due:  # else a newer wish replaced it
                del self._due[key]
                self.add(key)
        self._arm()

"""How far a backup or a restore is: counted by worker threads, read by whoever reports it."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from matriarch.backup.jobresult import Progress

_WINDOW = 10.0  # seconds over which the rate is taken


@dataclass(slots=True)
class Tracker:
    """Plain counters; each has one writer, so no lock is needed."""

    current: str = "Starting"
    bytes_done: int = 0
    bytes_total: int | None = None
    tables_done: int = 0
    tables_total: int | None = None
    note: str = ""
    reused: int = 0  # bytes that were not fetched because another directory had them; stays over all steps
    _begun: float = field(default_factory=time.monotonic)
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def step(self, name: str, *, bytes_total: int | None = None, tables_total: int | None = None) -> None:
        self.current, self._begun = name, time.monotonic()
        self.bytes_done, self.bytes_total = 0, bytes_total
        self.tables_done, self.tables_total = 0, tables_total
        self.note = ""
        self._samples.clear()

    def read(self) -> Progress:
        now = time.monotonic()
        self._samples.append((now, self.bytes_done))
        while now - self._samples[0][0] > _WINDOW:
            self._samples.popleft()
        then, done = self._samples[0]
        rate = int((self.bytes_done - done) / (now - then)) if now > then else 0
        left = self.bytes_total - self.bytes_done if self.bytes_total is not None else None
        eta = left // rate if left is not None and left >= 0 and rate > 0 else None
        return Progress(
            step=self.current,
            message=self._sentence(rate, eta),
            bytes_done=self.bytes_done,
            bytes_total=self.bytes_total,
            bytes_per_second=rate,
            tables_done=self.tables_done,
            tables_total=self.tables_total,
            eta_seconds=eta,
        )

    def _sentence(self, rate: int, eta: int | None) -> str:
        parts = [self.note] if self.note else []
        if self.bytes_done:
            parts.append(size(self.bytes_done))
        if rate:
            parts.append(f"{size(rate)}/s")
        if self.tables_total:
            parts.append(f"{self.tables_done} of {self.tables_total} tables")
        if eta is not None and eta > 1:
            parts.append(f"{duration(eta)} left")
        return ", ".join(parts)


def size(count: int) -> str:
    """`1.2 GiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{int(value)} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(seconds: float) -> str:
    """`3 s`, `2 min`, `1 h 5 min`."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"

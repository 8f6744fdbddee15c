"""A call of a store, again and again while the store may come back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from matriarch.backup.stop import Stop
from matriarch.errors import MatriarchError, Unavailable

T = TypeVar("T")

_FIRST, _LONGEST = 0.5, 10.0  # seconds between two tries


def patiently(
    once: Callable[[], T],
    explain: Callable[[Exception], MatriarchError],
    *,
    settled: tuple[type[Exception], ...],
    limit: float,
    stop: Stop,
) -> T:
    """What `once` gives. `settled` errors are raised as they are, all others as `explain` says: those that are
    Unavailable only once `limit` seconds have passed. `stop` ends the waiting."""
    began, pause = time.monotonic(), _FIRST
    while True:
        try:
            return once()
        except settled:
            raise
        except Exception as error:
            explained = explain(error)
            if not isinstance(explained, Unavailable) or time.monotonic() - began + pause > limit:
                raise explained from error
        stop.sleep(pause)
        pause = min(pause * 2, _LONGEST)

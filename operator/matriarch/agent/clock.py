"""The one clock that leases and deadlines are counted on.

CLOCK_BOOTTIME goes on while the machine sleeps and is never set, so a machine that slept comes back with its leases
run out. Its instants mean nothing on another machine.
"""

from __future__ import annotations

import time

MILLISECOND = 1_000_000
SECOND = 1_000_000_000


def boottime() -> int:
    """Nanoseconds since this machine booted, sleep included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

"""One turn of a plain selector loop: what supervisor and heartbeat run on.

No asyncio here: these two must stay small, start fast and wake at an instant.
"""

from __future__ import annotations

import contextlib
import selectors
import signal
import socket
from collections.abc import Callable, Iterable

from matriarch.agent.clock import SECOND, boottime

LONGEST = SECOND // 5
"""The selector's own clock stands still while the machine sleeps; so often at least the boot-time clock is read."""


def turn(selector: selectors.BaseSelector, wake_at: int | None) -> None:
    """Wait until something is ready or the boot-time clock reads `wake_at`, and run what is ready.

    What is registered carries its handler, called without arguments, as data. Without `wake_at` there is no limit.
    """
    timeout = None if wake_at is None else max(0, min(wake_at - boottime(), LONGEST)) / SECOND
    for key, _ in selector.select(timeout):
        now_registered = selector.get_map().get(key.fd)
        if now_registered is None or now_registered.fileobj is not key.fileobj:
            continue  # a handler of this same turn closed it
        handler: Callable[[], None] = now_registered.data
        handler()


def on_signals(selector: selectors.BaseSelector, handlers: Iterable[tuple[signal.Signals, Callable[[], None]]]) -> None:
    """Run each handler as part of the turn in which its signal arrives, never in the middle of another."""
    table = dict(handlers)
    pending: set[int] = set()
    reader, writer = socket.socketpair()
    reader.settimeout(0)
    writer.settimeout(0)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in table:
        signal.signal(number, lambda number, _frame: pending.add(number))

    def deliver() -> None:
        with contextlib.suppress(BlockingIOError):
            reader.recv(4096)  # it only wakes; which signals came is in `pending`, where none is lost in a flood
        for number in sorted(pending):
            pending.discard(number)
            table[signal.Signals(number)]()

    selector.register(reader, selectors.EVENT_READ, deliver)
    _KEPT.append(writer)


_KEPT: list[socket.socket] = []  # the wakeup descriptor must outlive every signal

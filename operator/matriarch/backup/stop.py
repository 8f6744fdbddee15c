"""The flag by which SIGTERM reaches worker threads: each looks at it before whatever may take long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from matriarch.backup.jobspec import Reason
from matriarch.errors import Unavailable

T = TypeVar("T")


class Stop(threading.Event):
    """Set once, by SIGTERM."""

    def check(self) -> None:
        """Raises Unavailable (Cancelled)."""
        if self.is_set():
            raise Unavailable("The work was cancelled; nothing of it is left behind.", reason=Reason.CANCELLED)

    def sleep(self, seconds: float) -> None:
        """A pause that ends early, by `check`."""
        self.wait(seconds)
        self.check()


async def in_thread(work: Callable[[], T], *, undo: Callable[[T], object] | None = None) -> T:
    """As asyncio.to_thread, but when cancelled it first waits for the thread: what follows must not meet it at work.

    What the thread made all the same, and nobody is left to take, goes to `undo`, in a thread too.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        if undo is not None and not task.cancelled() and task.exception() is None:
            await asyncio.to_thread(undo, task.result())
        raise

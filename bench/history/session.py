"""One client's connection, and how its errors are told apart: certainly without effect, or unknown."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

import asyncpg

from bench.history.ops import Outcome

T = TypeVar("T")

CONNECT_TIMEOUT = 1.0
BACK_OFF = (0.0, 0.02, 0.05, 0.1)  # seconds before each further try to connect; the last one repeats

# The server ends the session, or does not know itself: what was sent may have been carried out.
UNKNOWN_CLASSES = ("08", "57P", "58", "XX", "F0")
ERRORS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def boottime() -> int:
    """Nanoseconds of CLOCK_BOOTTIME: one clock for all clients, untouched by steps of the wall clock."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def words(error: BaseException) -> str:
    """An error in one short line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:160]


def outcome_of(error: BaseException, *, sent: bool) -> Outcome:
    """What an error says of a change. `sent`: the commit, or the one statement that is its own, had been sent."""
    if not sent:
        return "fail"
    if isinstance(error, asyncpg.PostgresError) and not isinstance(error, asyncpg.PostgresConnectionError):
        return "info" if (error.sqlstate or "XX").startswith(UNKNOWN_CLASSES) else "fail"
    return "info"


class SlowError(TimeoutError):
    """An answer did not come in time; the connection is closed without a word to the server."""


class Session:
    """A connection that is opened when it is needed, and thrown away after any error that may have broken it."""

    def __init__(self, uri: str, host: str | None, *, timeout: float) -> None:
        self._uri = uri
        self._host = host
        self._timeout = timeout
        self._connection: Any = None
        self._failures = 0
        self.warned = False

    async def connection(self) -> Any | None:
        """An open connection, or None after a failed try, which was waited for."""
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        await asyncio.sleep(BACK_OFF[min(self._failures, len(BACK_OFF) - 1)])
        try:
            self._connection = await asyncpg.connect(self._uri, host=self._host, timeout=CONNECT_TIMEOUT)
        except ERRORS:
            self._failures += 1
            return None
        self._failures = 0
        self._connection.add_log_listener(self._listen)
        return self._connection

    def _listen(self, _: object, message: Any) -> None:
        self.warned = self.warned or getattr(message, "severity_en", "") == "WARNING"

    async def within(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, or SlowError.

        The driver's own time-outs, and a cancelled task, send the server a request to cancel. That is what the workload
        `cancel` is about; all others must not do it, so the connection is closed under a task that takes too long.
        """
        task = asyncio.ensure_future(work)
        done, _ = await asyncio.wait({task}, timeout=self._timeout)
        if not done:
            self.drop()
            await asyncio.wait({task}, timeout=1.0)
            if task.done() and not task.cancelled():
                task.exception()  # looked at, so that nobody complains
            raise SlowError(f"no answer within {self._timeout:g} s")
        return task.result()

    async def heard_warning(self) -> bool:
        """Whether the server warned since `warned` was last reset; the driver tells it in the loop's next turn."""
        await asyncio.sleep(0)
        return self.warned

    def drop(self) -> None:
        """Closes at once; the next use opens anew."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


async def unless_stopped(stop: asyncio.Event, seconds: float) -> None:
    """Sleeps, but no longer than until `stop`."""
    await quietly(asyncio.wait_for(stop.wait(), seconds)) if seconds > 0 else await asyncio.sleep(0)


async def quietly(work: Awaitable[Any]) -> None:
    """Waits for `work`, whose time-out is no error."""
    try:
        await work
    except TimeoutError:
        return


def uri_from_environment() -> str:
    """DATABASE_URL: no password stands in an argument."""
    return os.environ.get("DATABASE_URL", "")

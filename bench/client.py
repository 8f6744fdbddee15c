"""The outside client of every outage measurement: writes unique rows and remembers what was acknowledged.

It takes a database's plain `uri` unchanged, as an application would: N connections, each of which inserts a new id
every 10 ms, with a connect timeout of 1 s and a statement timeout of 2 s of its own. After an error it reconnects at
once, then with a small back-off. It runs as a process of its own, so that nothing else of a benchmark or a demo delays
it, and it knows nothing of Kubernetes: `--resolve name=address` stands for the DNS that the host has not.

The uri comes from DATABASE_URL, so that no password is in an argument. One line is logged for each attempt:
`ended started client id outcome error`, times in nanoseconds of CLOCK_MONOTONIC, outcome one of
  ok       the server acknowledged the commit without a warning
  failed   certainly not committed: no connection, or the server refused the statement
  unknown  the connection broke, time ran out, or the wait for replication was cancelled
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO
from urllib.parse import urlsplit

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Outcome = Literal["ok", "failed", "unknown"]

CONNECT_TIMEOUT = 1.0
STATEMENT_TIMEOUT = 2.0
INTERVAL = 0.010
BACK_OFF = (0.0, 0.01, 0.02, 0.05)  # seconds before each further try to connect; the last one repeats

TABLE = "CREATE TABLE IF NOT EXISTS outage_writes (id bigint PRIMARY KEY, written timestamptz NOT NULL DEFAULT now())"
INSERT = "INSERT INTO outage_writes (id) VALUES ($1)"

CLIENT_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What asyncpg raises for a connection that broke or was refused, beside OSError and TimeoutError."""

# The server tells with one of these that it ends the session, not that the statement failed: a commit that was
# already local may still become durable (57P01 admin_shutdown, 57P02 crash_shutdown, 57P05 idle_session_timeout).
SESSION_ENDED = ("57P01", "57P02", "57P05")


@dataclass(frozen=True, slots=True)
class Run:
    """The ids of one run: unique over runs, clients and attempts. `number` is below 2**31."""

    number: int

    @classmethod
    def now(cls) -> Run:
        return cls(int(time.time()) & 0x7FFFFFFF)

    def id(self, client: int, attempt: int) -> int:
        return self.number << 32 | client << 28 | attempt

    @property
    def bounds(self) -> tuple[int, int]:
        return self.number << 32, (self.number + 1) << 32


class Resolver(asyncio.SelectorEventLoop):
    """An event loop that knows some names by itself, as `curl --resolve` does; all others go to the system."""

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__()
        self._names = names

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        return await super().getaddrinfo(self._names.get(host, host), port, **options)


class Writer:
    """One connection's worth of writes."""

    def __init__(self, uri: str, run: Run, client: int, log: TextIO, interval: float) -> None:
        self._uri = uri
        self._run = run
        self._client = client
        self._log = log
        self._interval = interval
        self._connection: Any = None
        self._warned = False

    async def write(self, stop: asyncio.Event) -> None:
        """Writes until `stop` is set; the attempt under way is finished."""
        attempt = failures = 0
        due = time.monotonic()
        while not stop.is_set():
            started = time.monotonic_ns()
            if self._connection is None:
                error = await self._connect()
                if error is not None:
                    self._record(started, 0, "failed", error)
                    await asyncio.sleep(BACK_OFF[min(failures, len(BACK_OFF) - 1)])
                    failures += 1
                    continue
            failures = 0
            attempt += 1
            key = self._run.id(self._client, attempt)
            started = time.monotonic_ns()
            outcome, error = await self._insert(key)
            self._record(started, key, outcome, error)
            if outcome != "ok":
                self._drop()
            due = max(due + self._interval, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
        self._drop()

    async def _connect(self) -> str | None:
        try:
            self._connection = await asyncpg.connect(self._uri, timeout=CONNECT_TIMEOUT)
        except (OSError, TimeoutError, *CLIENT_ERRORS) as e:
            return _words(e)
        self._connection.add_log_listener(self._listen)
        return None

    def _listen(self, _: object, message: Any) -> None:
        self._warned = self._warned or getattr(message, "severity_en", "") == "WARNING"

    async def _insert(self, key: int) -> tuple[Outcome, str]:
        self._warned = False
        try:
            await self._connection.execute(INSERT, key, timeout=STATEMENT_TIMEOUT)
        except asyncpg.PostgresError as e:
            lost = e.sqlstate in SESSION_ENDED or isinstance(e, asyncpg.PostgresConnectionError)
            return ("unknown" if lost else "failed"), _words(e)
        except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError) as e:
            return "unknown", _words(e)
        # asyncpg calls its listeners in the loop's next turn.
        await asyncio.sleep(0)
        return ("unknown", "WARNING: the wait for replication was cancelled") if self._warned else ("ok", "")

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    def _record(self, started: int, key: int, outcome: Outcome, error: str) -> None:
        self._log.write(f"{time.monotonic_ns()}\t{started}\t{self._client}\t{key}\t{outcome}\t{error}\n")


def _words(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:200].replace("\t", " ")


async def prepare(uri: str, seconds: float = 30.0) -> None:
    """Makes the table; tries again until `seconds` have passed, then raises the last error."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection = await asyncpg.connect(uri, timeout=CONNECT_TIMEOUT)
            try:
                await connection.execute(TABLE, timeout=STATEMENT_TIMEOUT)
            finally:
                connection.terminate()
        except (OSError, TimeoutError, *CLIENT_ERRORS):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)
        else:
            return


async def write(uri: str, run: Run, log: TextIO, *, clients: int, interval: float, seconds: float | None) -> None:
    """Runs all writers until SIGTERM, SIGINT or `seconds`."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    if seconds is not None:
        loop.call_later(seconds, stop.set)
    await prepare(uri)
    await asyncio.gather(*(Writer(uri, run, i, log, interval).write(stop) for i in range(clients)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.client", description=__doc__)
    parser.add_argument("--log", type=Path, required=True, help="where the attempts are written")
    parser.add_argument("--run", type=int, help="the run's number, part of each id; the time by default")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--interval", type=float, default=INTERVAL, help="seconds between two writes of a client")
    parser.add_argument("--seconds", type=float, help="stop by itself after so long; else at SIGTERM")
    parser.add_argument("--resolve", action="append", default=[], metavar="NAME=ADDRESS")
    args = parser.parse_args(arguments)
    uri = os.environ.get("DATABASE_URL", "")
    if not urlsplit(uri).hostname:
        print("DATABASE_URL is not a uri; give it the `uri` of the cluster's Secret", file=sys.stderr)
        return 2
    names = dict(pair.split("=", 1) for pair in args.resolve)
    run = Run(args.run) if args.run is not None else Run.now()
    with (
        args.log.open("w", buffering=1) as log,
        asyncio.Runner(loop_factory=lambda: Resolver(names)) as runner,
    ):
        runner.run(write(uri, run, log, clients=args.clients, interval=args.interval, seconds=args.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())

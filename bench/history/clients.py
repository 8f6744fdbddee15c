"""All clients of a history in one process: `python -m bench.history.clients --log FILE --host ADDRESS`.

The uri comes from DATABASE_URL, so that no password is in an argument. Ends at SIGTERM, after the operations under way.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
from pathlib import Path

import asyncpg

from bench.history.session import ERRORS, uri_from_environment
from bench.history.workloads import (
    SCHEMA,
    Adder,
    Appender,
    Client,
    Impatient,
    Log,
    LongReader,
    RegisterReader,
    RegisterWriter,
    SerialAppender,
    Sleeper,
    Teller,
)

CLIENTS: tuple[tuple[type[Client], int], ...] = (
    # Writers of registers come first: a register is its writer's number.
    *((RegisterWriter, 2), (RegisterReader, 2), (Sleeper, 6)),
    *((Adder, 3), (Impatient, 2), (Teller, 2), (Appender, 2), (SerialAppender, 2)),
)
LONG_READERS = 2


async def prepare(uri: str, host: str | None, seconds: float = 30.0) -> None:
    """Makes the tables anew; tries again until `seconds` have passed, then raises the last error."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        try:
            connection = await asyncpg.connect(uri, host=host, timeout=2.0)
            try:
                await connection.execute(SCHEMA, timeout=10.0)
            finally:
                connection.terminate()
        except ERRORS:
            if loop.time() > deadline:
                raise
            await asyncio.sleep(0.3)
        else:
            return


async def run(uri: str, host: str | None, replicas: str | None, log: Log, seed: int) -> None:
    """Runs every client until SIGTERM or SIGINT; readers of replicas only where there are some."""
    stop = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, stop.set)
    await prepare(uri, host)
    kinds = [kind for kind, count in CLIENTS for _ in range(count)]
    RegisterReader.registers = tuple(n for n, kind in enumerate(kinds) if kind is RegisterWriter)
    clients = [kind(uri, host, n, log, random.Random(f"{seed}/{n}")) for n, kind in enumerate(kinds)]
    if replicas is not None:
        numbers = range(len(kinds), len(kinds) + LONG_READERS)
        clients += [LongReader(uri, replicas, n, log, random.Random(f"{seed}/{n}")) for n in numbers]
    await asyncio.gather(*(client.run(stop) for client in clients))


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.history.clients", description=__doc__)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--host", help="the address that stands for the uri's host")
    parser.add_argument("--replicas", help="the address of replicas, which know the same user and database")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    uri = uri_from_environment()
    if not uri:
        print("DATABASE_URL is empty; give it the `uri` of the cluster's Secret", file=sys.stderr)
        return 2
    with args.log.open("w", buffering=1) as file:
        asyncio.run(run(uri, args.host, args.replicas, Log(file), args.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())

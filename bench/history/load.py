"""Runs the clients as a process of their own, so that nothing else of a run delays them, and reads their log."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.history.checks import APPENDS, Final, bank
from bench.history.ops import SECOND, Op, parse
from bench.history.workloads import TABLES
from dev.host import PROJECT, DevError
from dev.product import Database

WRITES = {"add", "write", "transfer", "txn"}


class Load:
    """Clients that work through the write Service until `stop`. `replicas`: the address at which replicas are read.

    with Load(database, folder / "history.jsonl") as load:
        load.flowing()
        ...
        load.stop()
    """

    def __init__(self, database: Database, log: Path, *, seed: int = 0, replicas: str | None = None) -> None:
        self.database = database
        self.log = log
        self._options = ["--log", str(log), "--seed", str(seed)]
        if replicas is not None:
            self._options += ["--replicas", replicas]
        self._process: subprocess.Popen[str] | None = None
        self._read = self._acknowledged = 0  # of the log, so far

    def __enter__(self) -> Load:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)
        options = [*self._options]
        for address in self.database.names.values():
            options += ["--host", address]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.history.clients", *options],
            cwd=PROJECT,
            env={**os.environ, "DATABASE_URL": self.database.uri},
            stderr=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process and self._process.poll() is None:
            self._process.kill()
        if self._process:
            self._process.communicate(timeout=20)

    def acknowledged(self) -> int:
        """How many operations were acknowledged so far."""
        if self.log.exists():
            with self.log.open() as lines:
                lines.seek(self._read)
                while (line := lines.readline()).endswith("\n"):
                    self._acknowledged += '"o": "ok"' in line
                    self._read = lines.tell()
        return self._acknowledged

    def flowing(self, *, more: int = 200, timeout: float = 60.0) -> None:
        """Until so many further operations were acknowledged. Raises DevError when they are not in time."""
        wanted = self.acknowledged() + more
        deadline = time.monotonic() + timeout
        while self.acknowledged() < wanted:
            if self._process and self._process.poll() is not None:
                raise DevError(f"the clients ended by themselves: {self._process.communicate()[1].strip()[-2000:]}")
            if time.monotonic() > deadline:
                raise DevError(f"the clients get no acknowledgements after {timeout:.0f} s")
            time.sleep(0.25)

    def stop(self) -> list[Op]:
        """Ends the clients, operations under way first, and gives the whole history."""
        assert self._process is not None
        self._process.terminate()
        try:
            _, said = self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()  # what was under way is unknown then
            _, said = self._process.communicate()
        if self._process.returncode not in (0, -9):
            raise DevError(f"the clients ended with {self._process.returncode}: {said.strip()[-2000:]}")
        with self.log.open() as lines:
            return parse(lines)


def final(database: Database, *, timeout: float = 90.0) -> Final:
    """What the database holds, read while locks keep every writer out: transactions in doubt are over by then."""
    tables = {kind: [f"history_{kind.removeprefix('append-')}_{n}" for n in range(TABLES)] for kind in APPENDS}
    everything = ["history_set", "history_cancel", "history_account", "history_transfer"]
    everything += [t for names in tables.values() for t in names]

    async def read(connection: Any) -> Final:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {', '.join(everything)} IN ACCESS EXCLUSIVE MODE")
            sets = {
                name: [r["id"] for r in await connection.fetch(f"SELECT id FROM history_{name}")]
                for name in ("set", "cancel")
            }
            accounts = {r["id"]: r["balance"] for r in await connection.fetch("SELECT * FROM history_account")}
            ledger = [
                tuple(r) for r in await connection.fetch("SELECT id, source, target, amount FROM history_transfer")
            ]
            lists = {}
            for kind, names in tables.items():
                lists[kind] = {
                    f"{n}/{row['id']}": [int(v) for v in row["val"].split(",")]
                    for n, name in enumerate(names)
                    for row in await connection.fetch(f"SELECT id, val FROM {name}")
                }
            return Final(sets, bank.Final(accounts, ledger), lists)

    return database.run(read, timeout=timeout)


def outage(ops: Sequence[Op], *, after: int, until: int) -> float:
    """The longest time without an acknowledged write, in seconds, of gaps that end after `after` and before `until`.

    One that lasted up to `until` counts as that long.
    """
    times = sorted(op.ended for op in ops if op.ok and op.kind in WRITES and op.ended is not None and op.ended <= until)
    gaps = [b - a for a, b in itertools.pairwise([*times, until]) if b > after]
    return max(gaps, default=0) / SECOND

"""Runs the outside client as a process of its own and reads its log: load that flows, stops, and is counted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.client import CLIENT_ERRORS, Run
from bench.figures import Attempt, Figures, figures, parse
from dev.host import PROJECT, DevError

if TYPE_CHECKING:
    from types import TracebackType

    from dev.product import Database


class Load:
    """Clients that write through the write Service until `stop`.

    with Load(database, folder / "load.log") as load:
        load.flowing()
        struck = time.monotonic_ns()
        ...
        load.stop()
    """

    def __init__(self, database: Database, log: Path, *, clients: int = 4, interval: float = 0.010) -> None:
        self.database = database
        self.log = log
        self.run = Run.now()
        self._options = ["--clients", str(clients), "--interval", str(interval)]
        self._process: subprocess.Popen[str] | None = None
        self._stopped = 0
        self._read = 0  # bytes of the log
        self._acknowledged = 0

    def __enter__(self) -> Load:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)  # an earlier run's lines must not be counted until the clients are up
        options = ["--log", str(self.log), "--run", str(self.run.number), *self._options]
        for name, address in self.database.names.items():
            options += ["--resolve", f"{name}={address}"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.client", *options],
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

    def attempts(self) -> list[Attempt]:
        """Everything logged so far."""
        if not self.log.exists():
            return []
        with self.log.open() as lines:
            return parse(lines)

    def acknowledged(self) -> int:
        """How many writes were so far; reads only what was logged since the last call: asking often is cheap."""
        if self.log.exists():
            with self.log.open("rb") as lines:
                lines.seek(self._read)
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    self._read += len(line)
                    self._acknowledged += b"\tok\t" in line
        return self._acknowledged

    def flowing(self, *, more: int = 200, timeout: float = 60.0) -> int:
        """Until so many further writes were acknowledged; returns that instant, in ns of CLOCK_MONOTONIC.

        Raises DevError with the last errors if they are not.
        """
        wanted = self.acknowledged() + more
        deadline = time.monotonic() + timeout
        while self.acknowledged() < wanted:
            if self._process and self._process.poll() is not None:
                raise DevError(f"the load ended by itself: {self._process.communicate()[1].strip()[-2000:]}")
            if time.monotonic() > deadline:
                last = "; ".join(sorted({a.error for a in self.attempts()[-50:] if a.error}))
                raise DevError(f"writes do not flow after {timeout:.0f} s; last errors: {last or 'none'}")
            time.sleep(0.1)
        return time.monotonic_ns()

    def stop(self) -> None:
        """Ends the clients; writes under way are finished first."""
        assert self._process is not None
        self._stopped = time.monotonic_ns()
        self._process.terminate()
        _, said = self._process.communicate(timeout=30)
        if self._process.returncode:
            raise DevError(f"the load ended with {self._process.returncode}: {said.strip()[-2000:]}")

    def present(self, *, timeout: float = 120.0) -> set[int]:
        """The ids of this run that the database has now."""

        async def fetch(connection: Any) -> set[int]:
            sql = "SELECT id FROM outage_writes WHERE id >= $1 AND id < $2"
            return {row["id"] for row in await connection.fetch(sql, *self.run.bounds)}

        return self.database.run(fetch, timeout=timeout)

    def figures(self, fault: int) -> Figures:
        """What the run showed, read from the database as it is now; `fault` is in ns of CLOCK_MONOTONIC.

        Raises DevError when the database cannot be read.
        """
        try:
            present = self.present()
        except (OSError, TimeoutError, *CLIENT_ERRORS) as e:
            raise DevError(f"the database cannot be read, so nobody knows what is lost: {e}") from e
        return figures(self.attempts(), present, fault=fault, until=self._stopped)

    def times(self, fault: int) -> Figures:
        """What the run showed of times; of what is lost it says nothing."""
        attempts = self.attempts()
        return figures(attempts, {a.id for a in attempts}, fault=fault, until=self._stopped)

"""PID 1 of a pooler's Pod, `python -m matriarch.agent.pooler.main`: starts PgBouncer and follows the primary.

PgBouncer works by itself: nothing here is in the way of a query. When either of the two ends, the container does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from matriarch.agent.pooler.console import Console
from matriarch.agent.pooler.control import Control
from matriarch.agent.pooler.gate import Gate
from matriarch.agent.pooler.primary import meet
from matriarch.agent.tls import FOLDER as TLS
from matriarch.agent.tls import Tls
from matriarch.agent.watches import restarting
from matriarch.errors import MatriarchError
from matriarch.kube.client import Kube
from matriarch.postgres.pgbouncer import CONSOLE_DATABASE

log = logging.getLogger("matriarch.pooler")

PROGRAM = "/usr/sbin/pgbouncer"
SETTINGS = Path("/etc/matriarch/pooler")
SOCKET = Path("/run/matriarch/.s.PGSQL.5432")
LOOK = 5.0
"""Seconds between two looks at the mounted files."""
UNKNOWN = 2.0
"""Seconds between the end of readiness and of new connections: the Service must have forgotten this Pod by then."""
LEAVE = 40.0
"""Seconds that clients have to go by themselves. PgBouncer's own wait for them would count our console too."""
ENDS = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 2.0), (signal.SIGKILL, 2.0))
"""Then transactions are waited for, then nothing: seconds each, below the Pod's grace in all."""


@dataclass(frozen=True, slots=True)
class Environment:
    cluster: str
    namespace: str
    door: str

    @classmethod
    def read(cls) -> Environment:
        return cls(os.environ["MATRIARCH_CLUSTER"], os.environ["MATRIARCH_NAMESPACE"], os.environ["MATRIARCH_POOLER"])

    @property
    def service(self) -> str:
        return f"{self.cluster}-{self.door}"

    @property
    def host(self) -> str:
        return f"{self.service}.{self.namespace}.svc"

    @property
    def settings(self) -> Path:
        return SETTINGS / f"pgbouncer-{self.door}.ini"


class Pooler:
    """The Pod's process."""

    def __init__(self, env: Environment) -> None:
        self.env = env
        self.tls = Tls()
        self.console = Console(SOCKET)
        self.gate = Gate(SOCKET, lambda: meet(env.host, TLS)) if env.door == "rw" else None
        self.kube = Kube.connect(timeout=5.0, manager="matriarch-pooler")
        self.ending = asyncio.Event()
        self.up = False

    async def run(self) -> int:
        """The exit code: 0 after SIGTERM."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.ending.set)
        child = await asyncio.create_subprocess_exec(PROGRAM, str(self.env.settings))
        control = Control(self.env.cluster, self.gate, self.tls, lambda: self.up and not self.ending.is_set())
        await control.start()
        jobs = {"files": self._files, "Service": self._service, "health": self._health}
        if self.gate is not None:
            jobs["primary"] = self.gate.run
        tasks = [asyncio.create_task(restarting(name, job)) for name, job in jobs.items()]  # type: ignore[arg-type]
        ended = asyncio.create_task(child.wait())
        asked = asyncio.create_task(self.ending.wait())
        await asyncio.wait([ended, asked], return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            await self._end(child, ended)
        for task in (*tasks, asked):
            task.cancel()
        await control.close()
        await self.kube.close()
        if not self.ending.is_set():
            log.error("PgBouncer ended with %s", child.returncode)
            return 1
        return 0

    async def _end(self, child: asyncio.subprocess.Process, ended: asyncio.Task[int]) -> None:
        await asyncio.wait([ended], timeout=UNKNOWN)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE):
                while not ended.done() and await self._clients():
                    await asyncio.wait([ended], timeout=0.2)
        for number, seconds in ENDS:
            if ended.done():
                return
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(number)
            await asyncio.wait([ended], timeout=seconds)

    async def _clients(self) -> int:
        try:
            rows = await self.console.query("SHOW CLIENTS")
        except MatriarchError:
            return 0
        return sum(row["database"] != CONSOLE_DATABASE for row in rows)

    async def _health(self) -> None:
        while True:
            try:
                await self.console.query("SHOW VERSION")
            except MatriarchError as e:
                self.up = False
                log.debug("%s", e)
            else:
                self.up = True
            await asyncio.sleep(1.0 if self.up else 0.1)

    async def _files(self) -> None:
        """Settings and certificates that were mounted anew are read again; nobody is disconnected by that."""
        files = [self.env.settings, *(TLS / name for name in ("tls.crt", "tls.key", "ca.crt"))]
        known = _stamps(files)
        while True:
            await asyncio.sleep(LOOK)
            now = _stamps(files)
            if now != known:
                self.tls.refresh()
                await self.console.query("RELOAD")
                log.info("settings or certificates were read again")
                known = now

    async def _service(self) -> None:
        """Where the Service leads: for writes a failover, for reads a replica that came or went."""
        led: frozenset[str] | None = None
        async for kind, obj in self.kube.watch("EndpointSlice", self.env.namespace, name=self.env.service):
            now = frozenset(a for e in obj.get("endpoints") or () for a in e.get("addresses") or ())
            if kind == "DELETED" or now == led:
                continue
            moved = led is not None
            led = now
            if not moved:
                continue
            log.info("%s leads to %s", self.env.service, ", ".join(sorted(now)) or "nobody")
            if self.gate is not None:
                await self.gate.moved(now)
            else:
                await self.console.query("RECONNECT")


def _stamps(files: list[Path]) -> list[int]:
    return [file.stat().st_mtime_ns for file in files]


def main() -> None:
    logging.basicConfig(
        level=os.environ.get("MATRIARCH_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    sys.exit(asyncio.run(Pooler(Environment.read()).run()))


if __name__ == "__main__":
    main()

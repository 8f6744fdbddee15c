"""What tests do inside of one instance: its volume's files, its processes, its database as a superuser."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from bench.processes import Process, pod_processes
from dev.host import DevError
from dev.kubectl import Object, wait
from dev.product import Cluster

VOLUME = "/var/lib/matriarch"
PSQL = ("psql", "-h", "/run/matriarch/pg", "-U", "postgres", "-XAtq")


@dataclass(frozen=True, slots=True)
class Inside:
    """One instance of a cluster."""

    cluster: Cluster
    instance: str

    def run(self, *command: str, timeout: float = 60) -> str:
        """What a command inside of the container printed."""
        where = (self.instance, "-n", self.cluster.namespace)
        return self.cluster.kubectl.run("exec", *where, "--", *command, timeout=timeout).strip()

    def python(self, code: str, timeout: float = 60) -> str:
        return self.run("python3", "-c", code, timeout=timeout)

    def sql(self, statement: str, database: str = "app", timeout: float = 60) -> str:
        """As the superuser over the local socket; rows as psql prints them unaligned."""
        return self.run(*PSQL, "-d", database, "-c", statement, timeout=timeout)

    def processes(self, word: str) -> list[Process]:
        """Those of PostgreSQL whose title has `word`, as this machine sees them."""
        found = pod_processes(self.cluster.pod(self.instance)["metadata"]["uid"])
        return [p for p in found if p.name == "postgres" and word in _title(p.pid)]

    def signal(self, word: str, number: signal.Signals) -> None:
        """To each process of PostgreSQL whose title has `word`; there must be one."""
        found = self.processes(word)
        if not found:
            raise DevError(f"no process of {self.instance} is called {word}")
        for process in found:
            os.kill(process.pid, number)

    def free(self) -> int:
        """Bytes that are free on its volume."""
        return int(self.python(f"import os; s = os.statvfs('{VOLUME}'); print(s.f_bavail * s.f_frsize)"))

    def occupy(self, leave: int) -> None:
        """A stranger's file on the volume that leaves `leave` bytes free."""
        code = (
            f"import os; s = os.statvfs('{VOLUME}'); n = s.f_bavail * s.f_frsize - {leave}\n"
            f"f = open('{VOLUME}/stranger', 'ab'); os.posix_fallocate(f.fileno(), f.tell(), n)"
        )
        self.python(code)

    def vacate(self) -> None:
        self.run("rm", "-f", f"{VOLUME}/stranger")

    def status(self) -> Object:
        """Its part of the DatabaseCluster's status."""
        found = [i for i in self.cluster.status()["instanceStatuses"] if i["name"] == self.instance]
        return dict(found[0])


def _title(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123 - hot path
            return file.read().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def condition_of(cluster: Cluster, kind: str) -> Object:
    """One of its conditions, empty when it has none of that type."""
    return next((dict(c) for c in cluster.status().get("conditions", []) if c["type"] == kind), {})


def wait_condition(
    cluster: Cluster, kind: str, reason: str, *, status: str | None = None, timeout: float = 60
) -> Object:
    """Until the condition has this reason (and status)."""

    def seen() -> Object | None:
        found = condition_of(cluster, kind)
        return found if found.get("reason") == reason and status in (None, found.get("status")) else None

    return wait(f"{kind} of {cluster.name} with reason {reason}", seen, timeout=timeout, show=cluster.describe)


def events(cluster: Cluster, reason: str) -> list[str]:
    """Messages of its Events with this reason."""
    uid = (cluster.get() or {})["metadata"]["uid"]
    found = cluster.kubectl.list("event", cluster.namespace)
    return [e["message"] for e in found if e["reason"] == reason and e["involvedObject"].get("uid") == uid]

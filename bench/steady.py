"""Whether a busy machine makes the operator fail over for nothing: pgbench, backups and no idle processor.

    python3 bench/steady.py --minutes 30

A cluster of three takes pgbench from a pod and the writes of an outside client, backups (logical and physical by turns)
follow one another, and further processes eat what is left of every processor. Nothing is broken on purpose, so each
change of the epoch is a failover without need. Told are the epochs passed, the longest time between two acknowledged
writes, writes lost, backups by outcome, and how busy the processors were. The exit code is 1 when there was a failover
or a lost write. Progress goes to stderr. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file, perhaps by a Python that has nothing of what is imported below
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from bench.environment import enter

    enter("bench.steady")

import argparse
import contextlib
import json
import os
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.contenders import Matriarch, kubernetes, machine, revision
from bench.load import Load
from bench.plain import client_pod
from bench.throughput import CLIENT, Pgbench
from dev.host import PROJECT, DevError, say
from dev.kubectl import condition, holds, wait
from dev.product import Cluster, resource

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LOG = PROJECT / "build" / "steady.log"
PIECE = 60  # s of one pgbench: a session that broke is seen within a minute, and pgbench goes on
BURN = "while True: pass"
NICE = 1  # of what eats the rest: it takes turns with all others, and nearly as many


class Backed(Matriarch):
    """The same cluster with a store for backups on a volume."""

    def _spec(self) -> dict[str, Any]:
        return {**super()._spec(), "backup": {"stores": [{"name": "volume", "local": {"size": "8Gi"}}]}}


@dataclass(frozen=True, slots=True)
class Reign:
    """Who leads, and at which epoch."""

    holder: str
    epoch: int


def reign(cluster: Cluster) -> Reign:
    """From the Lease. Raises DevError when there is none."""
    spec = cluster.kubectl.need("lease", cluster.name, cluster.namespace)["spec"]
    return Reign(str(spec.get("holderIdentity") or ""), int(spec["leaseTransitions"]))


@dataclass(frozen=True, slots=True)
class Ticks:
    """Of all processors since the machine's start, in clock ticks."""

    busy: int
    total: int


def ticks(text: str) -> Ticks:
    """From the text of /proc/stat: waiting for a disk is not busy (proc(5))."""
    fields = [int(word) for word in text.splitlines()[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return Ticks(sum(fields) - idle, sum(fields))


def busy(before: Ticks, after: Ticks) -> float:
    """Which part of all processors' time was used between, 0 to 1."""
    return (after.busy - before.busy) / max(1, after.total - before.total)


@dataclass(slots=True)
class Beside:
    """What runs beside the writer until `stop`; each in a thread, each piece with an end of its own."""

    cluster: Cluster
    pgbench: Pgbench
    stop: threading.Event = field(default_factory=threading.Event)
    tps: list[float] = field(default_factory=list)
    backups: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)

    def transactions(self) -> None:
        while not self.stop.is_set():
            try:
                self.tps.append(self.pgbench.measure(PIECE))
            except DevError as e:
                self._note("pgbench", e)

    def back_up(self) -> None:
        """One after another; a backup that fails is told, for it may well be the busy machine's fault."""
        number = 0
        while not self.stop.is_set():
            method = ("logical", "physical")[number % 2]
            name = f"steady-{int(time.time())}"
            number += 1
            try:
                outcome = self._one_backup(name, method)
            except DevError as e:
                self._note(f"backup {name}", e)
                outcome = "unknown"
            self.backups[f"{method} {outcome}"] += 1
            self.stop.wait(1.0)

    def _one_backup(self, name: str, method: str) -> str:
        kubectl, namespace = self.cluster.kubectl, self.cluster.namespace
        spec = {"cluster": self.cluster.name, "method": method}
        kubectl.apply(resource("Backup", name, spec), namespace=namespace)
        until = time.monotonic() + 900
        while time.monotonic() < until:
            found = kubectl.get("backup", name, namespace)
            for end in ("Complete", "Failed"):
                if holds(found, end):
                    if end == "Failed":
                        self.said.append(f"{name}: {condition(found, end).get('message')}")
                    return end.lower()
            if self.stop.wait(2.0):
                return "unfinished"
        return "overdue"

    def _note(self, what: str, error: Exception) -> None:
        said = f"{what}: {str(error).strip().splitlines()[-1][:300]}"
        self.said.append(said)
        say(said)
        self.stop.wait(2.0)


@contextlib.contextmanager
def burning(processes: int) -> Iterator[None]:
    """So many processes that do nothing but take processor time."""
    made = [
        subprocess.Popen([sys.executable, "-c", BURN], preexec_fn=lambda: os.nice(NICE))  # noqa: PLW1509 - no threads yet
        for _ in range(processes)
    ]
    try:
        yield
    finally:
        for process in made:
            process.kill()
            process.wait(timeout=10)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="bench/steady.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--minutes", type=float, default=30.0)
    made.add_argument("--burn", type=int, default=os.cpu_count() or 2, help="processes that only take processor time")
    made.add_argument("--clients", type=int, default=8, help="pgbench's connections (default: 8)")
    made.add_argument("--scale", type=int, default=5, help="pgbench's scale (default: 5)")
    made.add_argument("--name", default=os.environ.get("NAME"), help="the local Kubernetes (default: demo if it is up)")
    made.add_argument("--namespace", default="steady")
    made.add_argument("--cluster", default="steady", help="a DatabaseCluster; made when it is not there")
    return made


def run(args: argparse.Namespace) -> dict[str, Any]:
    measured = revision()
    ours = Backed(kubernetes(args.name), args.namespace, args.cluster)
    ours.prepare()
    cluster = ours.cluster
    standby = next(name for name in cluster.instances() if name != cluster.primary)
    pod = client_pod(CLIENT, ours.images["postgres"], cluster.node_of(standby))
    cluster.kubectl.apply(pod, namespace=args.namespace)
    wait("the client's pod", lambda: holds(cluster.kubectl.get("pod", CLIENT, args.namespace), "Ready"), timeout=60)
    pgbench = Pgbench(cluster, cluster.database(), args.clients)
    pgbench.prepare(args.scale)
    beside = Beside(cluster, pgbench)
    threads = [threading.Thread(target=work, daemon=True) for work in (beside.transactions, beside.back_up)]
    first = reign(cluster)
    seen = [first]
    with burning(args.burn), Load(cluster.database(), LOG) as load:
        begun = load.flowing()
        before = ticks(Path("/proc/stat").read_text())
        for thread in threads:
            thread.start()
        until = time.monotonic() + args.minutes * 60
        told = time.monotonic()
        while time.monotonic() < until:
            time.sleep(2.0)
            with contextlib.suppress(DevError):  # the API server is busy too: the epoch never goes back
                if (now := reign(cluster)) != seen[-1]:
                    say(f"a failover: {seen[-1]} -> {now}")
                    seen.append(now)
            if time.monotonic() - told > 60:
                told = time.monotonic()
                say(
                    f"{(until - told) / 60:.0f} min left: {load.acknowledged()} writes, "
                    f"{dict(beside.backups)}, epoch {seen[-1].epoch}"
                )
        used = busy(before, ticks(Path("/proc/stat").read_text()))
        beside.stop.set()
        for thread in threads:
            thread.join(timeout=PIECE + 90)
        load.stop()
        figures = load.figures(begun)
        last = wait("the Lease", lambda: reign(cluster), timeout=60)
    return {
        "minutes": args.minutes,
        "failovers": last.epoch - first.epoch,
        "holders": [one.holder for one in (*seen, *([last] if last != seen[-1] else []))],
        "longest_gap_s": round(figures.gap.seconds, 2),
        "acknowledged": figures.acknowledged,
        "lost": len(figures.lost),
        "unknown": figures.unknown,
        "failed": figures.failed,
        "backups": dict(beside.backups),
        "pgbench_tps": [round(one) for one in beside.tps],
        "processors_busy": round(used, 3),
        "load": os.getloadavg()[2],
        "said": beside.said,
        "errors": figures.errors,
        "machine": machine(),
        "revision": measured,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    args = parser().parse_args(arguments)
    try:
        found = run(args)
    except DevError as e:
        print(f"steady: {e}", file=sys.stderr)
        return 1
    print(json.dumps(found))
    return 1 if found["failovers"] or found["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())

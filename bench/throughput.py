"""What the operator costs: pgbench on its cluster against plain PostgreSQL, and what the agent takes when all is idle.

    python3 bench/throughput.py --pairs 10 --seconds 20

Plain PostgreSQL has the same image, nodes, requests, volumes, settings and two standbys of which one must have every
commit on disk. The same client pod runs pgbench against both in turn, in pairs whose order alternates; each pair gives
one ratio, and the median of the ratios counts: what else happens on the machine meets both halves of a pair alike. Then
nothing runs, and the memory (Pss) and the processor time of the agent, its heartbeat and the supervisor are taken.
Progress goes to stderr. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file, perhaps by a Python that has nothing of what is imported below
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from bench.environment import enter

    enter("bench.throughput")

import argparse
import json
import os
import re
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.contenders import Matriarch, kubernetes, machine, revision
from bench.plain import Plain, client_pod
from bench.processes import Process, pod_processes
from dev.host import DevError, say
from dev.kubectl import condition, wait

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dev.product import Cluster, Database

CLIENT = "bench-client"
MEBIBYTE = 1 << 20


def transactions(said: str) -> float:
    """Transactions per second, without the time to connect, as pgbench says it. Raises DevError when it does not."""
    found = re.search(r"^tps = ([0-9.]+)", said, re.MULTILINE)
    if not found:
        raise DevError(f"pgbench said no tps: {said[-1000:]}")
    return float(found.group(1))


def order(number: int) -> tuple[str, str]:
    """Who is first in a pair: by turns, so that neither always runs on the warmer machine."""
    return ("ours", "plain") if number % 2 == 0 else ("plain", "ours")


def ratios(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """Ours divided by plain, for each pair of (ours, plain)."""
    return [ours / plain for ours, plain in pairs]


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process: proportional memory in bytes, processor time in seconds since its start."""

    pss: int
    cpu: float


def usage(pid: int, proc: Path = Path("/proc")) -> Usage:
    """Of a process that runs. Raises OSError when it is gone."""
    rollup = (proc / str(pid) / "smaps_rollup").read_text()
    pss = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    fields = (proc / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()
    ticks = int(fields[11]) + int(fields[12])
    return Usage(pss << 10, ticks / os.sysconf("SC_CLK_TCK"))


def companions(processes: Sequence[Process]) -> list[Process]:
    """What runs beside PostgreSQL in a database pod: supervisor, heartbeat, agent."""
    return [p for p in processes if "matriarch.agent" in p.command and p.name != "postgres"]


def idle(cluster: Cluster, seconds: float) -> dict[str, dict[str, float]]:
    """For each instance: MiB (Pss) and per cent of one core, over so many seconds without load."""
    found = {name: companions(pod_processes(cluster.pod(name)["metadata"]["uid"])) for name in cluster.instances()}
    before = {name: sum(usage(p.pid).cpu for p in processes) for name, processes in found.items()}
    started = time.monotonic()
    time.sleep(seconds)
    told = {}
    for name, processes in found.items():
        took = time.monotonic() - started
        now = [usage(p.pid) for p in processes]
        cpu = sum(one.cpu for one in now) - before[name]
        told[name] = {
            "pss_mib": round(sum(one.pss for one in now) / MEBIBYTE, 1),
            "cpu_percent": round(100 * cpu / took, 2),
            "processes": len(processes),
        }
    return told


@dataclass(frozen=True, slots=True)
class Pgbench:
    """pgbench in its pod against one database."""

    cluster: Cluster
    database: Database
    clients: int

    def run(self, *words: object, timeout: float) -> str:
        where = ("exec", CLIENT, "-n", self.cluster.namespace, "--")
        return self.cluster.kubectl.run(*where, "pgbench", *words, self.database.uri, timeout=timeout)

    def prepare(self, scale: int) -> None:
        """Fresh tables: 100,000 rows for each of `scale`."""
        self.run("-i", "-q", "-s", scale, timeout=300)

    def measure(self, seconds: int) -> float:
        """Transactions per second over so many seconds of TPC-B-like transactions."""
        words = ("-n", "-M", "prepared", "-c", self.clients, "-j", 2, "-T", seconds)
        return transactions(self.run(*words, timeout=seconds + 60))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="bench/throughput.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--pairs", type=int, default=10)
    made.add_argument("--seconds", type=int, default=20, help="of each half of a pair (default: 20)")
    made.add_argument("--clients", type=int, default=8, help="pgbench's connections (default: 8)")
    made.add_argument("--scale", type=int, default=5, help="pgbench's scale (default: 5)")
    made.add_argument("--idle", type=float, default=60, help="seconds without load at the end (default: 60)")
    made.add_argument("--name", default=os.environ.get("NAME"), help="the local Kubernetes (default: demo if it is up)")
    made.add_argument("--namespace", default="bench")
    made.add_argument("--cluster", default="failover", help="a DatabaseCluster; made when it is not there")
    return made


def run(args: argparse.Namespace) -> dict[str, Any]:
    ground = kubernetes(args.name)
    ours = Matriarch(ground, args.namespace, args.cluster)
    ours.prepare()
    cluster = ours.cluster
    plain = Plain(cluster)
    say("making plain PostgreSQL beside it")
    try:
        plain.create(ours.images["postgres"])
        standby = next(name for name in cluster.instances() if name != cluster.primary)
        cluster.kubectl.apply(
            client_pod(CLIENT, ours.images["postgres"], cluster.node_of(standby)), namespace=args.namespace
        )

        def up() -> bool | None:
            pod = cluster.kubectl.get("pod", CLIENT, args.namespace)
            return condition(pod, "Ready").get("status") == "True" or None

        wait("the client's pod", up, timeout=60)
        benches = {
            "ours": Pgbench(cluster, cluster.database(), args.clients),
            "plain": Pgbench(cluster, plain.database(), args.clients),
        }
        for bench in benches.values():
            bench.prepare(args.scale)
            bench.measure(5)  # warms caches and connections; not counted
        pairs = []
        for number in range(args.pairs):
            seen = {name: benches[name].measure(args.seconds) for name in order(number)}
            pairs.append((seen["ours"], seen["plain"]))
            ratio = seen["ours"] / seen["plain"]
            say(f"pair {number + 1}: ours {seen['ours']:.0f} tps, plain {seen['plain']:.0f} tps, ratio {ratio:.3f}")
    finally:
        plain.remove()
    say(f"nothing for {args.idle:.0f} s")
    quiet = idle(cluster, args.idle) if args.idle else {}
    found = ratios(pairs)
    return {
        "pairs": len(pairs),
        "median_ratio": round(statistics.median(found), 4),
        "ratios": [round(one, 3) for one in found],
        "ours_tps": round(statistics.median(one for one, _ in pairs), 1),
        "plain_tps": round(statistics.median(one for _, one in pairs), 1),
        "idle": quiet,
        "machine": machine(),
        "revision": revision(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    args = parser().parse_args(arguments)
    try:
        found = run(args)
    except DevError as e:
        print(f"throughput: {e}", file=sys.stderr)
        return 1
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How long a new cluster takes: from `kubectl apply` to three instances ready and a first write acknowledged.

    python -m bench.creation --runs 5

Images are present on the nodes; volumes are made by the cluster's default storage class. Uses the local Kubernetes that
is up and its operator. CloudNativePG 1.30 took 58 s for the same on three such nodes (published, not measured here).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dev import cluster as ground
from dev.host import DevError
from dev.kubectl import Kubectl
from dev.product import Cluster

if TYPE_CHECKING:
    from collections.abc import Sequence

TARGET = 25.0
PEER = 58.0


@dataclass(frozen=True, slots=True)
class Creation:
    """Seconds since `kubectl apply` began."""

    ready: float
    written: float


def measure(kubectl: Kubectl, instances: int, timeout: float = 300) -> Creation:
    """Makes a cluster in a namespace of its own, measures, and removes it with its volumes."""
    namespace = f"creation-{uuid.uuid4().hex[:6]}"
    kubectl.run("create", "namespace", namespace)
    cluster = Cluster(kubectl, namespace, "fresh")
    try:
        started = time.monotonic()
        cluster.apply(instances=instances, deletionPolicy="Delete")
        cluster.wait_ready(timeout=timeout)
        ready = time.monotonic() - started
        cluster.database().execute("CREATE TABLE first (); INSERT INTO first DEFAULT VALUES")
        return Creation(ready, time.monotonic() - started)
    finally:
        kubectl.delete("databasecluster", cluster.name, namespace)
        kubectl.run("delete", "namespace", namespace, "--wait=false")


def report(seen: Sequence[Creation], instances: int) -> str:
    """A Markdown table with one line."""
    ready = [one.ready for one in seen]
    written = [one.written for one in seen]
    cells = (f"{len(seen)}", f"{min(ready):.1f}", f"{statistics.median(ready):.1f}", f"{max(ready):.1f}")
    return "\n".join(
        (
            "| instances | runs | ready: min | median | max | first write: median | target | CloudNativePG 1.30 |",
            "|---:|---:|---:|---:|---:|---:|---:|---:|",
            f"| {instances} | {' | '.join(cells)} | {statistics.median(written):.1f} | {TARGET:.0f} | {PEER:.0f} |",
        )
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.creation", description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--name", default=os.environ.get("NAME") or "demo", help="the local Kubernetes (default: demo)")
    parser.add_argument("--instances", type=int, default=3)
    args = parser.parse_args(arguments)
    try:
        kubectl = Kubectl(ground.find(args.name).kubeconfig)
        seen = []
        for number in range(args.runs):
            seen.append(measure(kubectl, args.instances))
            print(f"run {number + 1}: ready after {seen[-1].ready:.1f} s", file=sys.stderr, flush=True)
    except DevError as e:
        print(f"creation: {e}", file=sys.stderr)
        return 1
    print(report(seen, args.instances))
    return 0


if __name__ == "__main__":
    sys.exit(main())

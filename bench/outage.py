"""How long writes stop when something breaks, and whether an acknowledged write is ever lost.

    python -m bench.outage --fault postmaster --runs 10
    python -m bench.outage --fault all --runs 3 --each-node --json build/outage.json

An outside client uses the Secret's plain `uri` unchanged, with a connect timeout of 1 s and a statement timeout of 2 s,
and writes a new row every 10 ms on each of four connections through the write Service. The outage is the longest time
between two consecutive acknowledgements, over all clients, from the fault until the cluster is whole again. After that
every acknowledged id is looked for in the database. Uses the local Kubernetes that is up and its operator; the peer's
figures in the table were published for the same faults on three such nodes, and are not measured here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.outage_faults import FAULTS, Fault, Nodes, Victim, struck
from bench.outage_figures import Figures, table
from bench.outage_load import Load
from dev import cluster as ground
from dev.host import DevError
from dev.install import NAMESPACE, active_operator
from dev.kubectl import Kubectl, Object, condition, wait
from dev.product import Cluster

if TYPE_CHECKING:
    from collections.abc import Sequence

BACK = 90.0  # seconds after which writes that have not come back count as gone for good
WHOLE = 300.0  # seconds for the cluster to be whole again without a hand


@dataclass(slots=True)
class Bench:
    """Runs faults against one cluster, one after the other."""

    cluster: Cluster
    nodes: Nodes | None
    logs: Path
    quiet: bool = False
    results: dict[str, list[Figures]] = field(default_factory=dict)

    def run(self, fault: Fault, *, place: str | None = None) -> Figures:
        """One fault on the present primary, or on the primary after it was moved to the node `place`."""
        self.cluster.wait_ready(timeout=WHOLE)
        if place:
            self.place_primary(place)
        primary = self.cluster.primary
        victim = Victim(self.cluster, primary, self.nodes)
        where = victim.node
        log = self.logs / f"{fault.name}-{len(self.results.get(fault.name, []))}.log"
        with Load(self.cluster.database(), log) as load:
            load.flowing(more=400)
            with struck(fault, victim) as blow:
                returned = self._flows_again(load)
            self._whole(fault, primary)
            if returned:
                load.flowing(more=200, timeout=BACK)
            load.stop()
            seen = load.figures(blow)
        self.results.setdefault(fault.name, []).append(seen)
        self.say(f"{fault.name} at {primary} on {where}: {_sentence(seen)}")
        return seen

    def _flows_again(self, load: Load) -> bool:
        try:
            load.flowing(more=200, timeout=BACK)
        except DevError as e:
            self.say(f"writes did not come back: {e}")
            return False
        return True

    def _whole(self, fault: Fault, primary: str) -> None:
        if fault.moves:
            # The status may still speak of the time before the fault.
            wait(
                f"another primary than {primary}",
                lambda: self.cluster.status().get("primary") != primary or None,
                timeout=WHOLE,
                show=self.cluster.describe,
            )
        self.cluster.wait_ready(timeout=WHOLE)

    def place_primary(self, node: str) -> None:
        """A planned switchover to the instance on this node; nothing when it is there already."""
        at = {s["name"]: self.cluster.node_of(s["name"]) for s in self.cluster.status()["instanceStatuses"]}
        if at[self.cluster.primary] == node:
            return
        wanted = next((name for name, where in at.items() if where == node), None)
        if wanted is None:
            raise DevError(f"no instance of {self.cluster.name} runs on {node}; they run on {sorted(set(at.values()))}")
        # An old wish of the same name is not a new wish.
        if (self.cluster.get() or {})["spec"].get("primary") == wanted:
            self.cluster.patch({"primary": None})
        self.cluster.patch({"primary": wanted})
        self.cluster.wait_primary(wanted)
        self.cluster.wait_ready()

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)


def _sentence(seen: Figures) -> str:
    gap = f"{seen.gap.seconds:.2f} s without a write" + (", and they never came back" if seen.gap.open_end else "")
    counts = f"{seen.acknowledged:,} acknowledged, {seen.unknown} unknown, {len(seen.lost)} lost"
    return f"{gap} (slowest client {seen.slowest_client:.2f} s; before the fault {seen.gap_before:.2f} s); {counts}"


def place_operator(kubectl: Kubectl, node: str, *, there: bool, namespace: str = NAMESPACE) -> None:
    """Makes the operator act on this node, or anywhere but on it; leaves all nodes open again.

    Its pods are deleted while the wrong nodes are closed to new ones, so the scheduler has no choice.
    """
    names = [n["metadata"]["name"] for n in kubectl.list("node")]
    closed = [n for n in names if (n != node) == there]

    def placed() -> bool | None:
        pods = {p["metadata"]["name"]: p for p in kubectl.list("pod", namespace)}
        active = active_operator(kubectl, namespace)
        at = pods.get(active, {}).get("spec", {}).get("nodeName")
        ready = all(holds_ready(p) for p in pods.values())
        return (ready and bool(active) and (at == node) == there) or None

    if placed():
        return
    for name in closed:
        kubectl.run("cordon", name)
    try:
        for pod in kubectl.list("pod", namespace):
            if pod["spec"].get("nodeName") in closed:
                kubectl.run("delete", "pod", pod["metadata"]["name"], "-n", namespace, "--wait=false")
        wait(f"the operator {'on' if there else 'off'} {node}", placed, timeout=120)
    finally:
        for name in closed:
            kubectl.run("uncordon", name)


def holds_ready(pod: Object) -> bool:
    """Whether a Pod is Ready and stays."""
    return condition(pod, "Ready").get("status") == "True" and not pod["metadata"].get("deletionTimestamp")


def ensure_cluster(kubectl: Kubectl, namespace: str, name: str) -> Cluster:
    """The cluster to strike: the one that is there, or a new one of three instances."""
    cluster = Cluster(kubectl, namespace, name)
    if cluster.get() is None:
        if kubectl.get("namespace", namespace) is None:
            kubectl.run("create", "namespace", namespace)
        cluster.apply()
    cluster.wait_ready(timeout=WHOLE)
    return cluster


def _places(args: argparse.Namespace, cluster: Cluster) -> list[tuple[str | None, bool | None]]:
    """Where the primary shall be, and whether the operator shall be there too; None leaves it as it is."""
    wishes: dict[str, list[bool | None]] = {"with": [True], "without": [False], "both": [True, False], "any": [None]}
    operator = wishes[args.operator]
    nodes: list[str | None] = [None]
    if args.each_node:
        nodes = [*sorted({cluster.node_of(s["name"]) for s in cluster.status()["instanceStatuses"]})]
    elif operator != [None]:
        nodes = [cluster.node_of(cluster.primary)]
    return [(node, there) for node in nodes for there in operator]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.outage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="faults:\n" + "\n".join(f"  {f.name:<11} {f.about}" for f in FAULTS.values()),
    )
    parser.add_argument("--fault", action="append", choices=[*FAULTS, "all"], help="may be given several times")
    parser.add_argument("--runs", type=int, default=10, help="of each fault, on each place")
    parser.add_argument("--each-node", action="store_true", help="with the primary on each node in turn")
    parser.add_argument(
        "--operator",
        choices=["any", "with", "without", "both"],
        default="any",
        help="whether the operator acts on the struck node",
    )
    parser.add_argument("--name", default=os.environ.get("NAME") or "demo", help="the local Kubernetes (default: demo)")
    parser.add_argument("--namespace", default="bench")
    parser.add_argument("--cluster", default="outage", help="a DatabaseCluster; made when it is not there")
    parser.add_argument("--json", type=Path, help="writes every run's figures here too")
    args = parser.parse_args(arguments)
    faults = list(FAULTS) if "all" in (args.fault or ["all"]) else args.fault
    try:
        found = ground.find(args.name)
        kubectl = Kubectl(found.kubeconfig)
        cluster = ensure_cluster(kubectl, args.namespace, args.cluster)
        bench = Bench(cluster, found.nodes, Path(tempfile.mkdtemp(prefix="outage-")))
        try:
            for node, there in _places(args, cluster):
                for name in faults:
                    for _ in range(args.runs):
                        if node and there is not None:
                            place_operator(kubectl, node, there=there)
                        bench.run(FAULTS[name], place=node)
        finally:
            if bench.results:
                print(f"\n{platform.platform()}\n\n{table(bench.results)}")
            if args.json:
                args.json.parent.mkdir(parents=True, exist_ok=True)
                plain = {name: [asdict(run) for run in runs] for name, runs in bench.results.items()}
                args.json.write_text(json.dumps(plain, indent=1))
    except DevError as e:
        print(f"outage: {e}", file=sys.stderr)
        return 1
    lost = sum(len(run.lost) for runs in bench.results.values() for run in runs)
    never = sum(run.gap.open_end for runs in bench.results.values() for run in runs)
    return 1 if lost or never else 0


if __name__ == "__main__":
    sys.exit(main())

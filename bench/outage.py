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

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dev.host import DevError
from dev.kubectl import wait
from dev.product import Cluster

from bench.outage_faults import Fault, Nodes, Victim, struck
from bench.outage_figures import Figures
from bench.outage_load import Load

if TYPE_CHECKING:
    pass

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

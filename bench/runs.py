"""One run of the failover bench: load that flows, a fault at the primary, and a look for every acknowledged write."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.faults import Fault, Nodes, Victim, struck
from bench.load import Load
from bench.places import place_primary
from dev.host import DevError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.contender import Contender
    from bench.figures import Figures
    from dev.product import Database

LIMIT = 120.0
"""Seconds after which a fault that is still there is healed although writes have not come back."""
WHOLE = 300.0
"""Seconds for the cluster to be whole again without a hand."""
SETTLE = 3.0
"""Seconds before a status is believed: right after a fault it may still speak of the time before."""


@dataclass(slots=True)
class Bench:
    """Runs faults against one cluster, one after the other. `through` is how its clients reach it, if not as usual."""

    cluster: Contender
    nodes: Nodes | None
    logs: Path
    quiet: bool = False
    through: Callable[[], Database] | None = None
    results: dict[str, list[Figures]] = field(default_factory=dict)
    healed: bool = True
    read: bool = True

    def run(self, fault: Fault, *, place: str | None = None) -> Figures:
        """One fault on the present primary, or on the primary after it was moved to the node `place`.

        Afterwards `healed` says whether the cluster was whole again without a hand; where it was not, `read` says
        whether it could be asked at least which writes it has.
        """
        self.cluster.wait_ready(timeout=WHOLE)
        if place:
            place_primary(self.cluster, place)
        primary = self.cluster.primary
        victim = Victim(self.cluster, primary, self.nodes)
        where = victim.node
        log = self.logs / f"{fault.name}-{len(self.results.get(fault.name, []))}.log"
        with Load((self.through or self.cluster.database)(), log) as load:
            load.flowing(more=400)
            with struck(fault, victim) as blow:
                back = self._flows(load, LIMIT)
            back = self._flows(load, LIMIT) and back
            self.healed = self._whole(fault.settle)
            load.stop()
            seen = self._seen(load, blow)
        self.results.setdefault(fault.name, []).append(seen)
        self.say(f"{fault.name} at {primary} on {where}: {_sentence(seen)}")
        return seen

    def _flows(self, load: Load, timeout: float) -> bool:
        try:
            load.flowing(more=200, timeout=timeout)
        except DevError as e:
            self.say(f"writes did not come back within {timeout:.0f} s: {e}")
            return False
        return True

    def _seen(self, load: Load, blow: int) -> Figures:
        self.read = True
        try:
            return load.figures(blow)
        except DevError as e:
            if self.healed:
                raise
            self.say(str(e))
            self.read = False
            return load.times(blow)

    def _whole(self, settle: float) -> bool:
        time.sleep(max(SETTLE, settle))
        try:
            self.cluster.wait_ready(timeout=WHOLE)
        except DevError as e:
            self.say(f"the cluster is not whole again: {e}")
            return False
        return True

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)


def _sentence(seen: Figures) -> str:
    gap = f"{seen.gap.seconds:.2f} s without a write" + (", and they never came back" if seen.gap.open_end else "")
    counts = f"{seen.acknowledged:,} acknowledged, {seen.unknown} unknown, {len(seen.lost)} lost"
    return f"{gap} (slowest client {seen.slowest_client:.2f} s; before the fault {seen.gap_before:.2f} s); {counts}"

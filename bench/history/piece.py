"""One piece of a run: load, some rounds of faults, and after the last one the question whether all of it was right."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.history.checks import check
from bench.history.faults import FAULTS, Undo
from bench.history.keep import PodLogs, evidence
from bench.history.load import Load, final, outage
from bench.history.ops import SECOND, Op, Verdict
from bench.history.scene import Scene, lease_state, replicas
from bench.history.schedule import Round
from bench.history.session import boottime
from dev.cluster import Nodes
from dev.host import DevError
from dev.kubectl import KubectlError, holds, wait
from dev.product import Cluster

WHOLE = 420.0
"""Seconds in which a cluster must be whole again by itself. The kubelet alone may wait 5 minutes before it starts a
container again that was killed often."""
STALE_AFTER = 3 * SECOND  # T_fence, kill and a margin
CALM = 3.0  # seconds of load before the first fault, and between the last undo and the first look


@dataclass(frozen=True, slots=True)
class RoundResult:
    """Seconds, and counts of the operations that began in this round. `epochs`: by how many the Lease went on."""

    faults: str
    struck: tuple[str, ...]
    outage: float
    whole_after: float
    operations: int
    acknowledged: int
    unknown: int
    epochs: int


@dataclass(frozen=True, slots=True)
class PieceResult:
    """`stuck`: what the cluster said when it was not whole in time, or a step that could not be done."""

    seed: int
    index: int
    seconds: float
    rounds: tuple[RoundResult, ...] = ()
    lost: int = 0
    violations: tuple[str, ...] = ()
    stuck: str = ""
    notes: dict[str, int] = field(default_factory=dict)
    kept: str = ""

    @property
    def good(self) -> bool:
        return not (self.lost or self.violations or self.stuck)


def say(text: str) -> None:
    """Progress, with the time of day, so that it can be laid beside the pods' logs."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


@dataclass(slots=True)
class _Span:
    """A round as it went: boot-time instants."""

    plan: Round
    began: int
    struck: list[str] = field(default_factory=list)
    undone: int = 0
    whole: int = 0
    epochs: int = 0


@dataclass(slots=True)
class Piece:
    """`run` strikes, heals, waits and checks; it raises only what makes going on pointless."""

    cluster: Cluster
    nodes: Nodes
    folder: Path
    rng: random.Random
    spans: list[_Span] = field(default_factory=list)
    stale: list[tuple[int, int]] = field(default_factory=list)
    stuck: str = ""

    def run(self, seed: int, index: int, rounds: Sequence[Round]) -> PieceResult:
        """Everything of one piece. What tells why is left in the folder unless all was good."""
        started = time.monotonic()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        with PodLogs(self.nodes.cluster.folder, self.cluster.namespace, self.folder / "podlogs"):
            whole(self.cluster)
            with Load(
                self.cluster.database(),
                self.folder / "history.jsonl",
                seed=seed * 1000 + index,
                replicas=replicas(self.cluster),
            ) as load:
                load.flowing()
                time.sleep(CALM)
                for plan in rounds:
                    if not self.stuck:
                        self._round(plan, load)
                ops = load.stop()
            ended = boottime()
            verdict = self._verdict(ops)
            result = PieceResult(
                seed=seed,
                index=index,
                seconds=round(time.monotonic() - started, 1),
                rounds=tuple(self._results(ops, ended)),
                lost=verdict.lost,
                violations=tuple(f"{v.workload}/{v.rule}: {v.text} {list(v.ops)}" for v in verdict.violations),
                stuck=self.stuck,
                notes=verdict.notes,
            )
            if not result.good:
                evidence(self.cluster, self.folder)
        return self._keep(result)

    def _round(self, plan: Round, load: Load) -> None:
        """Raises nothing: what goes wrong makes the cluster stuck."""
        say(f"{plan.name}: begins")
        span = _Span(plan, boottime())
        self.spans.append(span)
        try:
            scene, epoch = Scene.look(self.cluster, self.nodes), self._epoch()
            self._strike(scene, span)
            span.undone = boottime()
            time.sleep(CALM)
            settled = [f for b in plan.blows if (f := FAULTS[b.fault].settled) is not None]
            whole(self.cluster, settled=lambda: all(done(scene) for done in settled))
            load.flowing(more=100, timeout=60)
            span.whole, span.epochs = boottime(), self._epoch() - epoch
            say(f"{plan.name}: {', '.join(span.struck)}; whole {(span.whole - span.undone) / SECOND:.1f} s after")
        except DevError as e:
            self.stuck = f"{plan.name} ({', '.join(span.struck)}): {e}"
            say(f"STUCK: {self.stuck}")

    def _strike(self, scene: Scene, span: _Span) -> None:
        """All blows and their undoing, each at its time. Undone is everything, whatever goes wrong."""
        agenda: list[tuple[float, Callable[[], None]]] = []
        undoing: list[Undo] = []
        begun = time.monotonic()

        def strike(number: int) -> None:
            blow = span.plan.blows[number]
            fault = FAULTS[blow.fault]
            place = self.rng.choice(scene.named(blow.role))
            at = boottime()
            try:
                undo = fault.strike(scene, place, self.rng)
            except DevError as e:
                span.struck.append(f"{blow.fault} not struck: {str(e)[:100]}")
                return
            span.struck.append(f"{blow.fault} at {place.instance} ({blow.role}) for {blow.hold:.1f} s")
            if undo is not None:
                undoing.append(undo)
                agenda.append((time.monotonic() - begun + blow.hold, lambda: undo_it(undo)))
            elif blow.hold:
                agenda.append((time.monotonic() - begun + blow.hold, lambda: None))
            if fault.stale_reads:
                self.stale.append((at, at + int(blow.hold * SECOND) + STALE_AFTER))

        def undo_it(undo: Undo) -> None:
            undo()
            undoing.remove(undo)

        agenda += [(b.at, lambda n=n: strike(n)) for n, b in enumerate(span.plan.blows)]  # type: ignore[misc]
        try:
            while agenda:
                agenda.sort(key=lambda entry: entry[0])
                at, act = agenda.pop(0)
                time.sleep(max(0.0, begun + at - time.monotonic()))
                act()
        finally:
            with contextlib.ExitStack() as rest:  # calls each of them, whichever fails
                for undo in undoing:
                    rest.callback(undo)

    def _verdict(self, ops: Sequence[Op]) -> Verdict:
        try:
            there = final(self.cluster.database())
        except Exception as e:  # noqa: BLE001 - whatever stands in the way of the last read is the finding
            self.stuck = self.stuck or f"the last read: {type(e).__name__}: {e}"
            return Verdict()
        (self.folder / "final.json").write_text(json.dumps(asdict(there)))
        return check(ops, there, stale_allowed=self.stale)

    def _results(self, ops: Sequence[Op], ended: int) -> list[RoundResult]:
        found = []
        for span, until in zip(self.spans, [*(s.began for s in self.spans[1:]), ended], strict=True):
            mine = [op for op in ops if span.began <= op.invoked < until]
            found.append(
                RoundResult(
                    faults=span.plan.name,
                    struck=tuple(span.struck),
                    outage=round(outage(ops, after=span.began, until=span.whole or until), 2),
                    whole_after=round((span.whole - span.undone) / SECOND, 1) if span.whole else WHOLE,
                    operations=len(mine),
                    acknowledged=sum(op.ok for op in mine),
                    unknown=sum(op.outcome == "info" for op in mine),
                    epochs=span.epochs,
                )
            )
        return found

    def _epoch(self) -> int:
        try:
            found = lease_state(self.cluster.kubectl, self.cluster.namespace, self.cluster.name)
        except KubectlError:
            return 0
        return int(found.get("epoch", 0))

    def _keep(self, result: PieceResult) -> PieceResult:
        if result.good:
            shutil.rmtree(self.folder, ignore_errors=True)
            return result
        kept = PieceResult(**{**{f: getattr(result, f) for f in result.__dataclass_fields__}, "kept": str(self.folder)})
        (self.folder / "result.json").write_text(json.dumps(asdict(kept), indent=1))
        return kept


def whole(cluster: Cluster, *, settled: Callable[[], bool] = lambda: True, timeout: float = WHOLE) -> None:
    """Until nothing is missing: every instance ready, every replica a voter, and that twice in a second.

    Raises DevError with the cluster's own words when it is not in time.
    """
    seen = 0

    def look() -> bool | None:
        nonlocal seen
        found = cluster.get()
        good = found is not None and holds(found, "Ready") and settled()
        if good and found is not None:
            wanted = found["spec"]["instances"]
            state = lease_state(cluster.kubectl, cluster.namespace, cluster.name)
            good = found["status"].get("readyInstances") == wanted and len(state.get("voters", ())) == wanted - 1
        seen = seen + 1 if good else 0
        return seen > 1 or None

    wait(f"{cluster.name} whole by itself", look, timeout=timeout, poll=0.7, show=cluster.describe)

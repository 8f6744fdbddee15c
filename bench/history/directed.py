"""Schedules that provoke one certain loss, to show that the harness is not blind.

Each is run twice: with a bug built into the agents (`agent/mutant.py`), or in asynchronous mode, where acknowledged
writes must be found missing; and without, where the same blows must cost nothing.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.history import scene as on
from bench.history.checks import check
from bench.history.faults import AGENT, HEARTBEAT, SUPERVISOR
from bench.history.ground import Ground
from bench.history.keep import PodLogs, evidence
from bench.history.load import Load, final
from bench.history.ops import Verdict
from bench.history.piece import say
from bench.history.scene import Place, Scene, lease_state
from bench.history.session import boottime
from dev.host import DevError
from dev.kubectl import wait

ATTEMPTS = 3  # some losses need two things to fall within a tenth of a second
TAIL = 60  # MiB of WAL that no replica has


@dataclass(frozen=True, slots=True)
class Stage:
    """What a schedule works with."""

    ground: Ground
    load: Load

    def look(self) -> Scene:
        return Scene.look(self.ground.cluster, self.ground.nodes)

    def holder(self) -> str:
        """The instance that the Lease names."""
        cluster = self.ground.cluster
        return on.holder(lease_state(cluster.kubectl, cluster.namespace, cluster.name))

    def successor(self, of: str, *, timeout: float = 60.0) -> Place:
        """Who leads after `of`, once clients write there."""
        wait(f"another holder than {of}", lambda: self.holder() != of or None, timeout=timeout, poll=0.2)
        return self.look_at(self.holder())

    def look_at(self, instance: str) -> Place:
        return self.look().places[instance]


def no_cut(stage: Stage) -> None:
    """The primary's guards are stopped and PostgreSQL is not: whatever protects writes then is what voters promised.

    They hear nothing, promise, and elect. Clients of the old primary go on as long as any voter still streams from it.
    """
    old = stage.look().named("primary")[0]
    found = old.processes()
    on.send([*SUPERVISOR(found), *AGENT(found), *HEARTBEAT(found)], signal.SIGSTOP)
    try:
        stage.successor(old.instance)
        time.sleep(3)
    finally:
        on.send(SUPERVISOR(found), signal.SIGKILL)  # and with PID 1 goes everything


def lsn_only(stage: Stage) -> None:
    """A deposed primary comes back with more WAL than anybody, all of it on the timeline that was left.

    The new primary's agent is stopped, so that the old one is not rewound; then the new primary's node dies, and an
    election must not take the longer WAL for the newer.
    """
    first = stage.look().named("primary")[0]
    senders = on.titled("walsender")(first.processes())
    on.send(senders, signal.SIGSTOP)
    stage.load.database.run(_write_tail, timeout=30)
    stage.ground.nodes.cut(first.node)
    try:
        second = stage.successor(first.instance)
        stage.load.flowing(more=300)
        on.send(AGENT(second.processes()), signal.SIGSTOP)
    finally:
        stage.ground.nodes.heal(first.node)
    time.sleep(8)  # the first one is up again as a standby of nobody, and may vote
    stage.load.flowing(more=100)
    stage.ground.nodes.kill_node(second.node)
    try:
        stage.successor(second.instance)
        time.sleep(2)
    finally:
        stage.ground.nodes.start_node(second.node)


async def _write_tail(connection: Any) -> None:
    await connection.execute("SET synchronous_commit = local")
    for _ in range(TAIL):
        await connection.execute("SELECT pg_logical_emit_message(false, 'tail', repeat('x', 1048576))")
    await connection.execute("CREATE TABLE IF NOT EXISTS history_tail (id int)")  # flushes it


def unreplicated(stage: Stage) -> None:
    """After a failover the new primary's streams stop, and then it dies: what it acknowledged in between is gone."""
    first = stage.look().named("primary")[0]
    on.send(on.postmaster(first.processes()), signal.SIGKILL)
    second = stage.successor(first.instance)
    stage.load.flowing(more=200)
    time.sleep(4)  # the first one follows again
    found = second.processes()
    on.send(on.titled("walsender")(found), signal.SIGSTOP)
    time.sleep(1.5)
    on.send(SUPERVISOR(found), signal.SIGKILL)
    stage.successor(second.instance)


def asynchronous(stage: Stage) -> None:
    """The primary's streams stop, it goes on acknowledging, and its node is cut off for longer than a lease.

    Killed alone it would be started again where it is, and lose nothing.
    """
    first = stage.look().named("primary")[0]
    on.send(on.titled("walsender")(first.processes()), signal.SIGSTOP)
    time.sleep(1.5)
    stage.ground.nodes.cut(first.node)
    try:
        stage.successor(first.instance)
    finally:
        stage.ground.nodes.heal(first.node)


BY_MUTANT: Mapping[str, Callable[[Stage], None]] = {
    "no-cut": no_cut,
    "lsn-only": lsn_only,
    "empty-names": unreplicated,
    "async": asynchronous,  # no mutant: the mode whose loss is its price
}


def attempt(ground: Ground, name: str, folder: Path) -> Verdict:
    """One run of a schedule on a cluster that is whole; it is whole again afterwards. What was seen stays in `folder`.

    Reads are not judged: a primary whose guards are stopped may answer late, and that is outside of what is promised.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with PodLogs(ground.nodes.cluster.folder, ground.cluster.namespace, folder / "podlogs"):
        ground.whole()
        began = boottime()
        with Load(ground.cluster.database(), folder / "history.jsonl") as load:
            load.flowing()
            BY_MUTANT[name](Stage(ground, load))
            ground.whole()
            load.flowing(more=100, timeout=90)
            ops = load.stop()
        verdict = check(ops, final(ground.cluster.database()), stale_allowed=[(began, boottime())])
    text = [f"{v.workload}/{v.rule}: {v.text} {list(v.ops)}" for v in verdict.violations]
    (folder / "result.json").write_text(json.dumps({"lost": verdict.lost, "violations": text}, indent=1))
    return verdict


def finds(ground: Ground, mutant: str, folder: Path) -> int:
    """How many lost operations were found with the bug built in, in up to ATTEMPTS runs; 0 means blind.

    Raises DevError when the cluster refuses the mode, or is not whole again.
    """
    if mutant == "async":
        ground.spec = {"replication": {"sync": {"mode": "async"}}}
        try:
            ground.renew()
            return _lost(ground, mutant, folder)
        finally:
            ground.spec = {}
            ground.renew()
    with ground.mutated(mutant):
        ground.renew()
        found = _lost(ground, mutant, folder)
    ground.renew()
    return found


def _lost(ground: Ground, name: str, folder: Path) -> int:
    for number in range(ATTEMPTS):
        verdict = attempt(ground, name, folder / str(number))
        say(f"{name}: {verdict.lost} acknowledged operations lost")
        if verdict.lost:
            return verdict.lost
    return 0


def main(ground: Ground, mutant: str | None, control: str | None, state: Path) -> int:
    """For the command line: 0 when a mutant was found, or its schedule cost nothing without it."""
    if mutant:
        found = finds(ground, mutant, state / f"mutant-{mutant}")
        print(f"{mutant}: {found} acknowledged operations lost, and found" if found else f"{mutant}: BLIND, none found")
        return 0 if found else 1
    assert control is not None
    folder = state / f"control-{control}"
    ground.ready()
    try:
        verdict = attempt(ground, control, folder)
    except DevError:
        evidence(ground.cluster, folder)
        raise
    for violation in verdict.violations:
        print(f"{violation.workload}/{violation.rule}: {violation.text}")
    print(f"the schedule of {control} without the bug: {verdict.lost} lost, {len(verdict.violations)} violations")
    if verdict.violations:
        evidence(ground.cluster, folder)
    return 1 if verdict.violations else 0

"""Every fault: how it strikes one instance, and how it is undone.

Processes are killed and stopped from the host, which sees those of every pod: nothing inside the pod helps or delays.
What can't be had here is listed with its reason, so that a reader of the table knows what was not tried.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench.history import scene as on
from bench.history.scene import Pick, Place, Scene
from bench.processes import servers
from dev.host import DevError

Undo = Callable[[], None]
Strike = Callable[[Scene, Place, random.Random], Undo | None]


@dataclass(frozen=True, slots=True)
class Fault:
    """`strike` returns at once; what it returns ends the fault, after `hold` (from, to) seconds.

    `needs_api`: strikes through the API server. `takes_api`: takes it away. `stale_reads`: the protocol lets a deposed
    primary answer readers for a moment: after a pause of the whole machine, or when resets are forged.
    """

    name: str
    about: str
    strike: Strike
    roles: tuple[str, ...] = ("primary", "replica")
    hold: tuple[float, float] = (0.0, 0.0)
    needs_api: bool = False
    takes_api: bool = False
    stale_reads: bool = False
    by_default: bool = True
    settled: Callable[[Scene], bool] | None = field(default=None, compare=False)


def _signal(pick: Pick, sign: signal.Signals, what: str) -> Strike:
    def strike(_: Scene, place: Place, rng: random.Random) -> Undo | None:
        found = pick(place.processes())
        if not found:
            raise DevError(f"{place.instance} has no {what} now")
        on.send(found, sign)
        return (lambda: on.send(found, signal.SIGCONT)) if sign == signal.SIGSTOP else None

    return strike


def _one(pick: Pick) -> Pick:
    """The first that is found: of several walsenders or backends, one."""
    return lambda found: pick(found)[:1]


def _kill(name: str, what: str, pick: Pick, roles: tuple[str, ...] = ("primary", "replica")) -> Fault:
    return Fault(f"{name}-kill", f"{what} is killed with -9", _signal(pick, signal.SIGKILL, what), roles)


def _freeze(
    name: str, what: str, pick: Pick, roles: tuple[str, ...] = ("primary", "replica"), *, stale_reads: bool = False
) -> Fault:
    about = f"{what} is stopped by SIGSTOP for up to 15 s, then goes on"
    strike = _signal(pick, signal.SIGSTOP, what)
    return Fault(f"{name}-freeze", about, strike, roles, hold=(0.5, 15.0), stale_reads=stale_reads)


def _delete(*flags: str) -> Strike:
    def strike(scene: Scene, place: Place, rng: random.Random) -> None:
        cluster = scene.cluster
        cluster.kubectl.run("delete", "pod", place.instance, "-n", cluster.namespace, "--wait=false", *flags)

    return strike


def _cut(direction: str) -> Strike:
    def strike(scene: Scene, place: Place, rng: random.Random) -> Undo:
        scene.nodes.cut(place.node, direction)  # type: ignore[arg-type]  # one of the three, below
        return lambda: scene.nodes.heal(place.node)

    return strike


def _refuse(scene: Scene, place: Place, rng: random.Random) -> Undo:
    scene.nodes.refuse(place.node)
    return lambda: scene.nodes.heal(place.node)


def _kill_node(scene: Scene, place: Place, rng: random.Random) -> Undo:
    scene.nodes.kill_node(place.node)
    return lambda: scene.nodes.start_node(place.node)


def _stop_api(scene: Scene, place: Place, rng: random.Random) -> Undo:
    scene.nodes.stop_api()
    return scene.nodes.start_api


def _freeze_api(scene: Scene, place: Place, rng: random.Random) -> Undo:
    scene.nodes.freeze_api()
    return scene.nodes.start_api


def _fill(scene: Scene, place: Place, rng: random.Random) -> Undo:
    path = on.fill(place.volume)
    return lambda: path.unlink(missing_ok=True)


def _annotate(scene: Scene, key: str, value: str) -> None:
    cluster = scene.cluster
    where = ("databasecluster", cluster.name, "-n", cluster.namespace)
    cluster.kubectl.run("annotate", *where, f"matriarch.dev/{key}={value}", "--overwrite")


def _switchover(scene: Scene, place: Place, rng: random.Random) -> None:
    _annotate(scene, "switchover", f"{place.instance}@{int(time.time())}")


def _restart(scene: Scene, place: Place, rng: random.Random) -> None:
    _annotate(scene, "restart", f"{int(time.time())}")


def _restarted(scene: Scene) -> bool:
    """Whether every pod was made for the last wish."""
    found = scene.cluster.get() or {}
    wish = found["metadata"].get("annotations", {}).get("matriarch.dev/restart")
    pods = [scene.cluster.pod(name) for name in scene.places]
    return all(p["metadata"].get("annotations", {}).get("matriarch.dev/restart") == wish for p in pods)


def _kill_operator(scene: Scene, place: Place, rng: random.Random) -> None:
    for uid in scene.operators:
        on.send([p for p in on.processes(uid) if p.inner == 1], signal.SIGKILL)


def _delete_lease(scene: Scene, place: Place, rng: random.Random) -> None:
    scene.cluster.kubectl.run("delete", "lease", scene.cluster.name, "-n", scene.cluster.namespace, "--wait=false")


SUPERVISOR, AGENT, HEARTBEAT = (on.titled(f"matriarch.agent.{name}") for name in ("supervisor", "main", "heartbeat"))
PRIMARY, REPLICA = ("primary",), ("replica",)
CUT = (2.0, 20.0)

FAULTS: Mapping[str, Fault] = {
    fault.name: fault
    for fault in (
        _kill("postmaster", "the postmaster", on.postmaster),
        _kill("backend", "a client's backend", _one(on.backends), PRIMARY),
        _kill("agent", "the agent", AGENT),
        _kill("heartbeat", "the heartbeat process", HEARTBEAT),
        _kill("pid1", "PID 1 of the pod", SUPERVISOR),
        _freeze("postmaster", "the postmaster", on.postmaster),
        _freeze("postgres", "every process of PostgreSQL", servers),
        _freeze("checkpointer", "the checkpointer", on.titled("checkpointer"), PRIMARY),
        _freeze("walsender", "one walsender", _one(on.titled("walsender")), PRIMARY),
        _freeze("walreceiver", "the walreceiver", on.titled("walreceiver"), REPLICA),
        _freeze("startup", "the process that replays", on.titled("startup recovering"), REPLICA),
        _freeze("agent", "the agent", AGENT),
        _freeze("heartbeat", "the heartbeat process", HEARTBEAT),
        _freeze("pod", "every process of the pod, as when a machine pauses,", list, stale_reads=True),
        Fault("pod-delete", "the pod is deleted with its grace", _delete(), needs_api=True),
        Fault(
            "pod-delete-now", "the pod is deleted with grace 0", _delete("--grace-period=0", "--force"), needs_api=True
        ),
        Fault("node-cut", "the node is cut off silently, both ways", _cut("both"), hold=CUT),
        Fault("node-cut-in", "nothing reaches the node, what it sends arrives", _cut("in"), hold=CUT),
        Fault("node-cut-out", "what the node sends is lost, all reaches it", _cut("out"), hold=CUT),
        Fault("node-refuse", "the node's pods meet resets and refusals", _refuse, hold=CUT, stale_reads=True),
        Fault("node-kill", "every process of the node is killed and its link cut", _kill_node, hold=(5.0, 20.0)),
        Fault("api-stop", "the API server is stopped", _stop_api, PRIMARY, hold=(5.0, 30.0), takes_api=True),
        Fault("api-freeze", "the API server hangs", _freeze_api, PRIMARY, hold=(5.0, 30.0), takes_api=True),
        Fault("disk-full", "the volume is full", _fill, hold=(3.0, 15.0)),
        Fault("switchover", "a replica shall lead", _switchover, REPLICA, needs_api=True),
        Fault("restart", "a rolling restart", _restart, PRIMARY, hold=(20.0, 20.0), needs_api=True, settled=_restarted),
        Fault("operator-kill", "every process of the operator is killed with -9", _kill_operator, PRIMARY),
        Fault("lease-delete", "the Lease is deleted", _delete_lease, PRIMARY, needs_api=True, by_default=False),
    )
}

NOT_HERE: Mapping[str, str] = {
    "clock-step": "a clock that jumps for one agent alone: it needs libfaketime in the image, which is kept bare, and "
    "the protocol reads CLOCK_BOOTTIME, which cannot be set",
    "object-store": "the cluster that is struck archives nothing; that an archive never holds up a write is what "
    "tests/postgres/archive shows",
}

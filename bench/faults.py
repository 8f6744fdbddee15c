"""The faults of the failover bench: how each one strikes the primary, and what heals it.

Processes are killed from the host, which sees those of every pod. On a cluster that runs elsewhere only the faults that
go through the API can be had, and the rest say so.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from bench import processes as pods
from bench.fulldisk import FullDisk
from dev.host import DevError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from bench.contender import Contender

Direction = Literal["both", "in", "out"]

CUT = 20.0  # seconds that a cut lasts, at least
API_AWAY = 90.0  # seconds that the API server is stopped
ROUTES_AGAIN = 60.0
"""Seconds until every kube-proxy has heard from an API server that was away: it asks again after 30 s at most, and a
random time as long (client-go's reflector). Until then a node sends clients where they went before."""


class Nodes(Protocol):
    """What a local Kubernetes can do to its own machines. `dev` has the real one."""

    def cut(self, node: str, direction: Direction = "both") -> None: ...
    def heal(self, node: str) -> None: ...
    def kill_node(self, node: str) -> None: ...
    def start_node(self, node: str) -> None: ...
    def stop_api(self) -> None: ...
    def start_api(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Victim:
    """The cluster that is struck, at its present primary."""

    cluster: Contender
    instance: str
    nodes: Nodes | None

    @property
    def node(self) -> str:
        return self.cluster.node_of(self.instance)

    def local(self) -> Nodes:
        if self.nodes is None:
            raise DevError("this fault needs the local Kubernetes: on a cluster elsewhere its nodes are out of reach")
        return self.nodes

    def processes(self) -> list[pods.Process]:
        return pods.pod_processes(self.cluster.pod(self.instance)["metadata"]["uid"])

    def delete(self, *flags: str) -> None:
        self.cluster.kubectl.run("delete", "pod", self.instance, "-n", self.cluster.namespace, "--wait=false", *flags)


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault that is ready to fall: all that takes time was looked up before."""

    strike: Callable[[], None]
    heal: Callable[[], None] = _nothing


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of blow. `hold`: how many seconds it lasts at least before it is healed; 0 for what is over by itself.
    `settle`: how many seconds after that the next run may begin, at the earliest."""

    name: str
    about: str
    prepare: Callable[[Victim], Blow]
    hold: float = 0.0
    settle: float = 0.0


def _pid(pid: int | None, what: str) -> int:
    if pid is None:
        raise DevError(f"{what} is not among this machine's processes: the pod runs elsewhere, or is not up")
    return pid


def _kill(pid: int | None, what: str) -> Blow:
    found = _pid(pid, what)
    return Blow(lambda: os.kill(found, signal.SIGKILL))


def _postmaster(victim: Victim) -> Blow:
    return _kill(pods.postmaster(victim.processes()), f"the postmaster of {victim.instance}")


def _backend(victim: Victim) -> Blow:
    user = victim.cluster.database().user
    return _kill(pods.backend(victim.processes(), user), f"a session of {user} at {victim.instance}")


def _agent(victim: Victim) -> Blow:
    return _kill(pods.agent(victim.processes(), victim.cluster.agent), f"the agent of {victim.instance}")


def _pid1(victim: Victim) -> Blow:
    return _kill(pods.first_process(victim.processes()), f"PID 1 of {victim.instance}")


def _signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _freeze(victim: Victim) -> Blow:
    """The postmaster first, so that it starts nothing while its children are stopped one by one."""
    frozen: list[int] = []

    def strike() -> None:
        first = _pid(pods.postmaster(victim.processes()), f"the postmaster of {victim.instance}")
        _signal_all([first], signal.SIGSTOP)
        frozen.extend(p.pid for p in pods.servers(victim.processes()))
        _signal_all(frozen, signal.SIGSTOP)

    return Blow(strike, lambda: _signal_all(frozen, signal.SIGCONT))


def _cut(direction: Direction) -> Callable[[Victim], Blow]:
    def prepare(victim: Victim) -> Blow:
        nodes, node = victim.local(), victim.node
        return Blow(lambda: nodes.cut(node, direction), lambda: nodes.heal(node))

    return prepare


def _node_kill(victim: Victim) -> Blow:
    nodes, node = victim.local(), victim.node
    return Blow(lambda: nodes.kill_node(node), lambda: nodes.start_node(node))


def _api_down(victim: Victim) -> Blow:
    nodes = victim.local()
    return Blow(nodes.stop_api, nodes.start_api)


def _disk_full(victim: Victim) -> Blow:
    first = _pid(pods.first_process(victim.processes()), f"PID 1 of {victim.instance}")
    disk = FullDisk(first, victim.cluster.volume, victim.cluster.database())
    return Blow(disk.fill, disk.free)


def _switchover(victim: Victim) -> Blow:
    wanted = next(name for name in victim.cluster.instances() if name != victim.instance)
    return Blow(lambda: victim.cluster.hand_over(wanted))


FAULTS: Mapping[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("postmaster-kill", "the primary's postmaster is killed with -9", _postmaster),
        Fault("backend-kill", "one session's process at the primary is killed with -9", _backend),
        Fault("agent-kill", "the process that decides beside the primary is killed with -9", _agent),
        Fault("pid1-kill", "PID 1 of the primary's container is killed with -9", _pid1),
        Fault("postmaster-freeze", "every PostgreSQL process of the primary is stopped by SIGSTOP", _freeze),
        Fault("pod-delete", "the primary's pod is deleted with its grace", lambda v: Blow(v.delete)),
        Fault(
            "pod-delete-now",
            "the primary's pod is deleted with grace 0",
            lambda v: Blow(lambda: v.delete("--grace-period=0", "--force")),
        ),
        Fault("node-cut", "the primary's node is cut off silently, both ways", _cut("both"), hold=CUT),
        Fault(
            "node-cut-one-way",
            "what the primary's node sends is lost, all that is sent to it arrives",
            _cut("out"),
            CUT,
        ),
        Fault("node-cut-in", "nothing reaches the primary's node, all that it sends arrives", _cut("in"), hold=CUT),
        Fault("node-kill", "every process of the primary's node is killed and its link cut", _node_kill, hold=CUT),
        Fault("api-down", f"the API server is stopped for {API_AWAY:.0f} s", _api_down, API_AWAY, ROUTES_AGAIN),
        Fault("disk-full", "the primary's volume is filled while WAL goes on being written", _disk_full, hold=CUT),
        Fault("switchover", "another instance is asked for as primary", _switchover),
    )
}

REQUIRED = tuple(name for name in FAULTS if name not in {"node-cut-in", "node-kill"})
"""The faults of `--fault all`; the others can be asked for by name."""


@contextlib.contextmanager
def struck(fault: Fault, victim: Victim) -> Iterator[int]:
    """Strikes, gives the instant of the blow (ns of CLOCK_MONOTONIC), holds for the fault's time, and heals.

    Healing happens whatever went wrong in between: a bench that dies must not leave a cut node behind.
    """
    blow = fault.prepare(victim)
    at = time.monotonic_ns()
    try:
        blow.strike()
        yield at
        left = fault.hold - (time.monotonic_ns() - at) / 1e9
        if left > 0:
            time.sleep(left)
    finally:
        blow.heal()

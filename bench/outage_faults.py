"""The faults of the outage bench: how each one strikes, and what heals it.

Processes are killed from the host, which sees those of every pod: nothing inside the pod helps or delays. On a cluster
that runs elsewhere only the faults that go through the API or through `kubectl exec` can be had, and the rest say so.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from dev.host import DevError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dev.product import Cluster

Direction = Literal["both", "in", "out"]


class Nodes(Protocol):
    """What a local Kubernetes can do to its own machines. `dev` has the real one."""

    def cut(self, node: str, direction: Direction = "both") -> None: ...
    def heal(self, node: str) -> None: ...
    def kill_node(self, node: str) -> None: ...
    def start_node(self, node: str) -> None: ...
    def stop_api(self) -> None: ...
    def start_api(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a pod as this machine sees it; `inner` is its pid within the container."""

    pid: int
    inner: int
    parent: int
    name: str


def pod_processes(uid: str, proc: Path = Path("/proc")) -> list[Process]:
    """Every process of the pod's containers, found by its cgroup; empty when the pod runs on another machine."""
    marks = (f"pod{uid}", f"pod{uid.replace('-', '_')}")
    found = []
    for folder in proc.iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ended while we looked
            if any(mark in (folder / "cgroup").read_text() for mark in marks):
                fields = dict(
                    line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line
                )
                inner = int(fields["NSpid"].split()[-1])
                found.append(Process(int(folder.name), inner, int(fields["PPid"]), fields["Name"].strip()))
    return found


def postmaster(processes: list[Process]) -> int | None:
    """The one `postgres` whose parent is no `postgres`; None when there is none."""
    servers = {p.pid for p in processes if p.name == "postgres"}
    return next((p.pid for p in processes if p.pid in servers and p.parent not in servers), None)


def first_process(processes: list[Process]) -> int | None:
    """PID 1 of the instance's container, not the one of the pod's sandbox."""
    return next((p.pid for p in processes if p.inner == 1 and p.name != "pause"), None)


@dataclass(frozen=True, slots=True)
class Victim:
    """The cluster that is struck, at its present primary."""

    cluster: Cluster
    instance: str
    nodes: Nodes | None

    @property
    def node(self) -> str:
        return self.cluster.node_of(self.instance)

    def local(self) -> Nodes:
        if self.nodes is None:
            raise DevError("this fault needs the local Kubernetes: on a cluster elsewhere its nodes are out of reach")
        return self.nodes

    def processes(self) -> list[Process]:
        return pod_processes(self.cluster.pod(self.instance)["metadata"]["uid"])

    def delete(self, *flags: str) -> None:
        self.cluster.kubectl.run("delete", "pod", self.instance, "-n", self.cluster.namespace, "--wait=false", *flags)


@dataclass(frozen=True, slots=True)
class Fault:
    """`prepare` looks up what it will need and returns the blow itself, so that the blow falls at once.

    `hold` is how many seconds it lasts before `heal`; a fault that is over by itself holds 0.
    """

    name: str
    about: str
    prepare: Callable[[Victim], Callable[[], None]]
    heal: Callable[[Victim, str], None] | None = None
    hold: float = 0.0
    moves: bool = True  # whether the primary is expected to change


def _signal(pid: int | None, what: str, sign: signal.Signals) -> Callable[[], None]:
    if pid is None:
        raise DevError(f"{what} is not among this machine's processes: the pod runs elsewhere, or is not up")
    return lambda: os.kill(pid, sign)


KILL_POSTMASTER = (
    "import os,pathlib;os.kill(int(pathlib.Path('/var/lib/matriarch/pgdata/postmaster.pid').read_text().split()[0]),9)"
)


def _postmaster(victim: Victim) -> Callable[[], None]:
    pid = postmaster(victim.processes())
    if pid is not None:
        return _signal(pid, "", signal.SIGKILL)
    where = (victim.instance, "-n", victim.cluster.namespace)

    def blow() -> None:
        victim.cluster.kubectl.run("exec", *where, "--", "python3", "-c", KILL_POSTMASTER)

    return blow


def _frozen(victim: Victim) -> Callable[[], None]:
    return _signal(postmaster(victim.processes()), f"the postmaster of {victim.instance}", signal.SIGSTOP)


def _pid1(victim: Victim) -> Callable[[], None]:
    return _signal(first_process(victim.processes()), f"PID 1 of {victim.instance}", signal.SIGKILL)


def _cut(direction: Direction) -> Callable[[Victim], Callable[[], None]]:
    def prepare(victim: Victim) -> Callable[[], None]:
        nodes, node = victim.local(), victim.node
        return lambda: nodes.cut(node, direction)

    return prepare


def _kill_node(victim: Victim) -> Callable[[], None]:
    nodes, node = victim.local(), victim.node
    return lambda: nodes.kill_node(node)


def _switchover(victim: Victim) -> Callable[[], None]:
    found = victim.cluster.get() or {}
    names = [s["name"] for s in found["status"]["instanceStatuses"] if s["name"] != victim.instance]
    # A wish that stands in the spec already, from before a failover, is no new wish.
    wanted = next(name for name in names if name != found["spec"].get("primary"))
    return lambda: victim.cluster.patch({"primary": wanted})


FAULTS: Mapping[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("postmaster", "the primary's postmaster is killed with -9", _postmaster, moves=False),
        Fault("frozen", "the primary's postmaster is stopped by SIGSTOP", _frozen),
        Fault(
            "pod-force",
            "the primary's pod is deleted with grace 0",
            lambda v: lambda: v.delete("--grace-period=0", "--force"),
        ),
        Fault("pod-grace", "the primary's pod is deleted with its grace", lambda v: v.delete),
        Fault("pid1", "PID 1 of the primary's container is killed with -9", _pid1),
        Fault(
            "node-cut",
            "the primary's node is cut off silently, both ways",
            _cut("both"),
            lambda v, node: v.local().heal(node),
            hold=20.0,
        ),
        Fault(
            "cut-in",
            "nothing reaches the primary's node, what it sends arrives",
            _cut("in"),
            lambda v, node: v.local().heal(node),
            hold=20.0,
        ),
        Fault(
            "cut-out",
            "what the primary's node sends is lost, all reaches it",
            _cut("out"),
            lambda v, node: v.local().heal(node),
            hold=20.0,
        ),
        Fault(
            "node-kill",
            "every process of the primary's node is killed and its link cut",
            _kill_node,
            lambda v, node: v.local().start_node(node),
            hold=20.0,
        ),
        Fault(
            "apiserver",
            "the API server is stopped for 30 s",
            lambda v: v.local().stop_api,
            lambda v, _: v.local().start_api(),
            hold=30.0,
            moves=False,
        ),
        Fault("switchover", "spec.primary names another instance", _switchover),
    )
}


@contextlib.contextmanager
def struck(fault: Fault, victim: Victim) -> Iterator[int]:
    """Strikes, gives the instant of the blow (ns of CLOCK_MONOTONIC), holds for the fault's time, and heals.

    Healing happens whatever went wrong in between: a bench that dies must not leave a cut node behind.
    """
    node = victim.node
    blow = fault.prepare(victim)
    at = time.monotonic_ns()
    try:
        blow()
        yield at
        left = fault.hold - (time.monotonic_ns() - at) / 1e9
        if left > 0:
            time.sleep(left)
    finally:
        if fault.heal:
            fault.heal(victim, node)

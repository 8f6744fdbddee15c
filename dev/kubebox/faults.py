"""Faults of a local cluster, for tests and for people who want to see what happens. Each can be repeated without harm.

A killed node is off: its cable is cut first, so that nobody gets a farewell from its kernel, then everything on it is
killed. A cut cable leaves the node running and alone.
"""

from __future__ import annotations

import os
import signal

from dev import programs
from dev.host import DevError
from dev.kubebox import controlplane, network, node
from dev.kubebox.api import Api
from dev.kubebox.names import Cluster
from dev.kubebox.network import Direction
from dev.kubebox.processes import Processes


def kill_node(cluster: Cluster, name: str) -> None:
    """Switch a node off at once: silence, and no process left. Its disk stays."""
    one = cluster.node(name)
    if one.netns_path.exists():
        network.cut(one)
        node.kill_all(one)


def start_node(cluster: Cluster, name: str) -> None:
    """Switch a node on again after `kill_node`; the cable is whole again. A node that runs is left as it is."""
    one = cluster.node(name)
    processes = Processes(cluster.folder)
    if processes.pid(f"{one.name}-kubelet") is None:
        node.kill_all(one)
        node.forget(one)
    network.heal(one)
    node.start(one, processes, programs.ensure("kubebox"))


def cut_link(cluster: Cluster, name: str, direction: Direction = Direction.BOTH) -> None:
    """Drop all that the node sends (out), all that is sent to it (in), or both, without a word to anybody."""
    network.cut(cluster.node(name), direction)


def refuse_link(cluster: Cluster, name: str) -> None:
    """Reset and refuse all that goes to or from the node's pods, as a firewall does."""
    network.refuse(cluster.node(name))


def heal_link(cluster: Cluster, name: str) -> None:
    """Let everything through again."""
    network.heal(cluster.node(name))


def stop_api_server(cluster: Cluster, *, freeze: bool = False) -> None:
    """Kill the API server (connections are refused), or freeze it (calls hang, as under overload)."""
    processes = Processes(cluster.folder)
    if freeze:
        pid = processes.pid(controlplane.API_SERVER)
        if pid is None:
            raise DevError("the API server is stopped; only a running one can be frozen")
        os.kill(pid, signal.SIGSTOP)
    else:
        processes.stop(controlplane.API_SERVER)


def start_api_server(cluster: Cluster, timeout: float = 120.0) -> None:
    """Start the API server again, or thaw it, and wait until it is ready."""
    processes = Processes(cluster.folder)
    pid = processes.pid(controlplane.API_SERVER)
    if pid is not None:
        os.kill(pid, signal.SIGCONT)
    processes.restart(controlplane.API_SERVER)
    api = Api(cluster)
    try:
        processes.wait(controlplane.API_SERVER, api.ready, timeout, "the API server's readiness")
    finally:
        api.close()

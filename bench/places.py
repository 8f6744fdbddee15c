"""Where things are when a fault strikes: the primary on this node, the operator beside it or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dev.host import DevError
from dev.install import NAMESPACE, active_operator
from dev.kubectl import Kubectl, Object, condition, wait

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.contender import Contender


def place_primary(cluster: Contender, node: str) -> None:
    """A planned switchover to the instance on this node; nothing when it is there already."""
    at = {name: cluster.node_of(name) for name in cluster.instances()}
    if at[cluster.primary] == node:
        return
    wanted = next((name for name, where in at.items() if where == node), None)
    if wanted is None:
        raise DevError(f"no instance runs on {node}; they run on {sorted(set(at.values()))}")
    cluster.hand_over(wanted)
    cluster.wait_primary(wanted)
    cluster.wait_ready()


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


OPERATOR = ("any", "with", "without", "both")


def wanted(operator: str, primary: str, nodes: Sequence[str], *, each: bool) -> list[tuple[str | None, bool | None]]:
    """Node of the primary, and whether the operator acts there too; None leaves it as it is.

    `operator` is one of OPERATOR, `primary` the node where the primary is now, `nodes` those of all instances.
    """
    beside: list[bool | None] = {"with": [True], "without": [False], "both": [True, False], "any": [None]}[operator]  # type: ignore[assignment]
    where: list[str | None] = [None]
    if each:
        where = [*sorted(set(nodes))]
    elif operator != "any":
        where = [primary]
    return [(node, there) for node in where for there in beside]

"""Cycles among transactions. Tarjan's algorithm finds the groups in which everybody reaches everybody."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Set
from typing import TypeVar

N = TypeVar("N", bound=Hashable)
Graph = Mapping[N, Set[N]]


def components(graph: Graph[N]) -> list[list[N]]:
    """The strongly connected components of more than one node, and nodes with an edge to themselves."""
    index: dict[N, int] = {}
    low: dict[N, int] = {}
    stack: list[N] = []
    held: set[N] = set()
    found: list[list[N]] = []
    for root in graph:
        if root in index:
            continue
        # Without recursion: a history is longer than Python's stack. Each entry is a node and its edges still to go.
        work = [(root, iter(graph[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        held.add(root)
        while work:
            node, edges = work[-1]
            for target in edges:
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    held.add(target)
                    work.append((target, iter(graph.get(target, frozenset()))))
                    break
                if target in held:
                    low[node] = min(low[node], index[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    group = []
                    while True:
                        member = stack.pop()
                        held.discard(member)
                        group.append(member)
                        if member == node:
                            break
                    if len(group) > 1 or node in graph.get(node, frozenset()):
                        found.append(group)
    return found


def path(graph: Graph[N], start: N, end: N) -> list[N] | None:
    """A shortest path of at least one edge, both ends included; None when there is none."""
    came: dict[N, N] = {}
    todo = deque([start])
    while todo:
        node = todo.popleft()
        for target in graph.get(node, frozenset()):
            if target == end:
                back = [end, node]
                while back[-1] != start:
                    back.append(came[back[-1]])
                return back[::-1]
            if target not in came and target != start:
                came[target] = node
                todo.append(target)
    return None


def union(*graphs: Graph[N]) -> dict[N, set[N]]:
    """All edges of all graphs."""
    whole: dict[N, set[N]] = {}
    for graph in graphs:
        for node, targets in graph.items():
            whole.setdefault(node, set()).update(targets)
    return whole


def within(graph: Graph[N], nodes: Iterable[N]) -> dict[N, set[N]]:
    """The part of a graph that lies among `nodes`."""
    kept = set(nodes)
    return {n: set(graph.get(n, frozenset())) & kept for n in kept}

"""Every fault, with the primary on each node in turn, with and without the operator beside it. Hours, not minutes.

RUNS says how often each (1 if absent). Nothing acknowledged may be missing, and the cluster must be whole again without
a hand; how long it took is printed by `bench/failover.py`, not judged here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.contenders import revision
from bench.faults import FAULTS, Nodes
from bench.places import place_operator
from bench.records import readable, record
from bench.runs import Bench
from dev.product import Cluster

RUNS = int(os.environ.get("RUNS", "1"))


@pytest.fixture(scope="module")
def bench(orders: Cluster, nodes: Nodes, artifacts: Path) -> Iterator[Bench]:
    made = Bench(orders, nodes, artifacts / "load")
    yield made
    told = {
        "product": "matriarch",
        "settings": "",
        "healed": True,
        "read": True,
        "at": "",
        "revision": revision(),
        "load": 0.0,
    }
    kept = [record(seen, fault=fault, **told) for fault, runs in made.results.items() for seen in runs]
    (artifacts / "outages.txt").write_text(f"{readable(kept)}\n")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("there", [True, False], ids=["with-operator", "without-operator"])
@pytest.mark.parametrize("number", [0, 1, 2], ids=["first-node", "second-node", "third-node"])
@pytest.mark.parametrize("fault", list(FAULTS))
def test_nothing_is_lost(bench: Bench, orders: Cluster, fault: str, number: int, there: bool) -> None:
    orders.wait_ready(timeout=300)
    places = sorted({orders.node_of(s["name"]) for s in orders.status()["instanceStatuses"]})
    place = places[number % len(places)]
    for _ in range(RUNS):
        place_operator(orders.kubectl, place, there=there)
        seen = bench.run(FAULTS[fault], place=place)
        assert seen.lost == ()
        assert not seen.gap.open_end, "writes never came back"
        assert bench.healed

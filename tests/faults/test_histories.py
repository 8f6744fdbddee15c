"""Histories under a few faults, a few minutes: one of every family, two of them at once. The long run is a command."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path

import pytest

from bench.history.ground import Ground
from bench.history.piece import Piece, PieceResult
from bench.history.report import table
from bench.history.schedule import Blow, Round
from dev.cluster import Ground as Kubernetes
from dev.kubectl import Kubectl
from dev.product import Cluster
from tests.e2e.fixtures import Operator

QUICK = (
    Round((Blow("postmaster-kill", "primary", 0.0, 0.0),)),
    Round((Blow("node-cut", "primary", 0.0, 6.0), Blow("api-stop", "primary", 1.0, 8.0))),
    Round((Blow("postgres-freeze", "primary", 0.0, 6.0),)),
    Round((Blow("walreceiver-freeze", "replica", 0.0, 3.0), Blow("pod-delete-now", "primary", 0.5, 0.0))),
)


@pytest.fixture(scope="module")
def histories(ground: Kubernetes, kubectl: Kubectl, operator: Operator) -> Ground:
    if ground.nodes is None:
        pytest.skip("faults of nodes need the local Kubernetes")
    made = Ground(kubectl, ground.nodes, Cluster(kubectl, "history", "history"))
    made.ready()
    return made


@pytest.mark.timeout(840)  # four minutes, and patience for a machine that has more to do
def test_nothing_is_lost_and_no_read_is_wrong(histories: Ground, artifacts: Path) -> None:
    piece = Piece(histories.cluster, histories.nodes, artifacts / "history", random.Random(1))
    result: PieceResult = piece.run(1, 0, QUICK)
    (artifacts / "history.md").write_text(f"{table([json.loads(json.dumps(asdict(result)))])}\n")
    assert result.stuck == ""
    assert result.violations == ()
    assert result.lost == 0
    # A fault that was not struck, or a load that did nothing, proves nothing.
    assert not [s for r in result.rounds for s in r.struck if "not struck" in s]
    assert sum(r.acknowledged for r in result.rounds) > 1000
    assert sum(r.epochs for r in result.rounds) >= 3

"""The bugs that fault tests switch on: nothing that a user can write leads to them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from matriarch.agent import ballots, mutant
from matriarch.api.database_cluster import DatabaseCluster
from matriarch.api.defaults import fill
from matriarch.controller.settings import from_environment
from matriarch.decide.member import Member
from matriarch.postgres.timeline import WalPosition
from matriarch.resources.blueprint import Blueprint
from matriarch.resources.pod import pod, pod_hash

ROOT = Path(__file__).parents[2]


def blueprint(test_mutant: str = "") -> Blueprint:
    cluster = DatabaseCluster.model_validate(
        {
            "apiVersion": "matriarch.dev/v1alpha1",
            "kind": "DatabaseCluster",
            # The words a user might try: none of them is a way in.
            "metadata": {
                "name": "orders",
                "namespace": "prod",
                "uid": "u",
                "generation": 1,
                "annotations": {"matriarch.dev/test-mutant": "no-cut", mutant.VARIABLE: "no-cut"},
                "labels": {mutant.VARIABLE: "no-cut"},
            },
            "spec": {"version": "17", "instances": 3, "storage": {"size": "1Gi"}},
        }
    )
    return Blueprint(cluster, fill("orders", cluster.spec), "image", test_mutant=test_mutant)


def variables(b: Blueprint) -> dict[str, str]:
    env = pod(b, "orders-1", "claim")["spec"]["containers"][0]["env"]
    return {e["name"]: e.get("value", "") for e in env}


def test_a_pod_has_the_variable_only_by_the_operators_own() -> None:
    assert mutant.VARIABLE not in variables(blueprint())
    assert variables(blueprint("no-cut"))[mutant.VARIABLE] == "no-cut"
    assert pod_hash(blueprint(), "orders-1") != pod_hash(blueprint("no-cut"), "orders-1")


def test_the_operator_has_it_only_by_its_environment() -> None:
    images = {"MATRIARCH_POSTGRES_IMAGES": '{"17": "image"}'}
    assert from_environment(images).test_mutant == ""
    assert from_environment({**images, mutant.VARIABLE: "no-cut"}).test_mutant == "no-cut"


def test_nothing_that_is_shipped_sets_it() -> None:
    shipped = [p for folder in ("helm", "manifests", "images", "crds") for p in (ROOT / folder).rglob("*")]
    assert not [p for p in shipped if p.is_file() and "MUTANT" in p.read_text(errors="replace").upper()]


@dataclasses.dataclass
class Bare:
    config: None = None


@pytest.mark.parametrize(("on", "winner"), [("", "b"), ("no-cut", "b"), ("lsn-only", "a")])
def test_choice_by_lsn_only_takes_the_longer_dead_branch(monkeypatch: pytest.MonkeyPatch, on: str, winner: str) -> None:
    monkeypatch.setenv(mutant.VARIABLE, on)
    a, b = Member("a", "1"), Member("b", "1")
    chosen = ballots.winner_of(Bare(), {a: WalPosition(1, 900), b: WalPosition(2, 500)})  # type: ignore[arg-type]
    assert chosen == Member(winner, "1")

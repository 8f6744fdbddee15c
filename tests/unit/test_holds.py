"""Whether a Restore that a cluster waits for may still come, and what the cluster is until then."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from matriarch.controller.holds import hold
from matriarch.controller.view import View
from matriarch.decide import lease as transitions
from matriarch.decide.facts import Ref
from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
from tests.unit.test_mutant import blueprint

LED = LeaseState(5, Member("orders-1", "a" * 12), "orders-1", mode="alone", system_identifier="7")
SUSPENDED = transitions.suspended(LED, "r1")
HELD = transitions.initial("orders-1", "r1")


def restore(uid: str = "r1", phase: str = "Running", **meta: str) -> dict[str, Any]:
    return {"metadata": {"name": "back", "uid": uid, **meta}, "status": {"phase": phase}}


def view(lease: LeaseState | None, *existing: Ref) -> View:
    wish = SimpleNamespace(restore="r1", restore_name="back")
    facts = SimpleNamespace(wish=wish, memory=SimpleNamespace(system_identifier=""))
    b = blueprint()
    b = replace(b, defaults=replace(b.defaults, deletion_policy="Retain"))
    made = View({}, None, b, facts, {}, {ref: {} for ref in existing})  # type: ignore[arg-type]
    made.lease = SimpleNamespace(state=lease) if lease is not None else None  # type: ignore[assignment]
    return made


def env(*found: dict[str, Any]) -> Any:
    class Kube:
        async def list(self, *_: object) -> Any:
            return list(found)

        async def get(self, *_: object) -> Any:
            return found[0] if found else None

    return SimpleNamespace(kube=Kube())


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ((restore(),), ""),
        ((), "is gone"),
        ((restore("r2"),), "is gone"),
        ((restore(deletionTimestamp="now"),), "is gone"),
        ((restore(phase="Failed"),), "Restore back is over (Failed)"),
        ((restore(phase="Complete"),), "Restore back is over (Complete)"),
    ],
)
async def test_a_restore_in_place(found: tuple[dict[str, Any], ...], says: str) -> None:
    seen = view(SUSPENDED)
    said = await hold(seen, env(*found))
    assert said == "" if not says else says in said
    assert seen.blueprint.defaults.deletion_policy == "Retain", "this data is somebody's"


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ((restore(),), ""),
        ((), "is gone"),
        ((restore("r2"),), "is gone"),
        ((restore(phase="Failed"),), "which was to bring the data, failed"),
    ],
)
@pytest.mark.parametrize("lease", [HELD, None], ids=["held by the Lease", "before there is a Lease"])
async def test_a_restore_into_a_new_cluster(
    lease: LeaseState | None, found: tuple[dict[str, Any], ...], says: str
) -> None:
    seen = view(lease)
    said = await hold(seen, env(*found))
    assert said == "" if not says else says in said
    assert seen.blueprint.defaults.deletion_policy == "Delete", "it was never anybody's data"


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(view(LED), id="it leads"),
        pytest.param(
            view(None, Ref("PersistentVolumeClaim", "orders-1")), id="its Lease is lost, and there is a volume"
        ),
    ],
)
async def test_a_cluster_that_began_keeps_what_it_has(seen: View) -> None:
    assert await hold(seen, env()) == ""
    assert seen.blueprint.defaults.deletion_policy == "Retain"


def test_the_instances_that_are_there() -> None:
    seen = view(
        LED,
        Ref("Pod", "orders-1"),
        Ref("PersistentVolumeClaim", "orders-4"),
        Ref("Pod", "orders-backup-1-x"),
        Ref("Secret", "orders-2"),
    )
    assert seen.there == {"orders-1", "orders-4"}

"""What an instance takes from a look at PostgreSQL, and what it may do by a copy of the Lease."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from matriarch.agent.instance import Instance
from matriarch.agent.leases import Leases
from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member

ME = Member("orders-1", "a" * 12)
LEASE = LeaseState(3, ME, "orders-1", mode="alone", system_identifier="7")


def instance(server: Any) -> Instance:
    made = Instance(
        SimpleNamespace(instance="orders-1", cluster="orders", namespace="prod"),  # type: ignore[arg-type]
        SimpleNamespace(),  # type: ignore[arg-type]
        SimpleNamespace(),  # type: ignore[arg-type]
        Leases(SimpleNamespace(), "orders", "prod", {}, keep=lambda _: None),  # type: ignore[arg-type]
        SimpleNamespace(),  # type: ignore[arg-type]
        SimpleNamespace(view=SimpleNamespace(peers=())),  # type: ignore[arg-type]
        server,
        SimpleNamespace(),  # type: ignore[arg-type]
        SimpleNamespace(),  # type: ignore[arg-type]
    )
    made.leases.state, made.leases.fresh = LEASE, True
    return made


@pytest.mark.parametrize(
    ("was", "in_recovery", "leads", "is_now"),
    [
        ("starting", True, False, "standby"),
        ("starting", False, True, "primary"),
        ("standby", True, False, "standby"),
        ("primary", False, True, "primary"),
        pytest.param("primary", True, True, "primary", id="asked before the promotion, answered after it"),
        pytest.param("standby", True, True, "standby", id="the same, before the loop took note"),
        ("stopped", True, False, "stopped"),
    ],
)
async def test_the_role_by_a_look(was: str, in_recovery: bool, leads: bool, is_now: str) -> None:
    status = SimpleNamespace(in_recovery=in_recovery, system_identifier="7")

    async def look(**_: object) -> Any:
        return status

    made = instance(SimpleNamespace(status=look, leads=leads))
    made.server_role = was  # type: ignore[assignment]
    assert await made.look() is status
    assert made.server_role == is_now


def test_nothing_is_thrown_away_by_a_lease_that_may_be_old() -> None:
    made = instance(SimpleNamespace())
    assert made.not_by_a_copy() == ""
    made.leases.fresh = False
    assert "was not read yet" in made.not_by_a_copy()
    made.leases.fresh = True
    made.heartbeat.view = SimpleNamespace(peers=(SimpleNamespace(epoch=4, promised=4),))  # type: ignore[misc,assignment]
    assert "knows epoch 4" in made.not_by_a_copy()
    made.leases.state = replace(LEASE, epoch=4)
    assert made.not_by_a_copy() == ""

"""Which member a physical backup reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.api.database_cluster_status import InstanceStatus
from matriarch.controller.backup_member import candidate
from matriarch.decide.readfrom import Candidate, choose
from matriarch.decide.verdict import Standing, Verdict

LEADER = Candidate(name="orders-1", role="primary", ready=True)
TWO = Candidate(name="orders-2", role="replica", ready=True, voter=True, lag_bytes=500, lag_seconds=0.1)
THREE = replace(TWO, name="orders-3", lag_bytes=100)
READER = replace(TWO, name="orders-4", voter=False, lag_bytes=9000)


@pytest.mark.parametrize(
    ("members", "number", "primary", "expected"),
    [
        pytest.param((LEADER, TWO, THREE), 1, False, "orders-3", id="the one with the least lag"),
        pytest.param((LEADER, TWO, replace(THREE, ready=False)), 1, False, "orders-2", id="a healthy one"),
        pytest.param((LEADER, TWO, THREE, READER), 2, False, "orders-4", id="no commit waits for it"),
        pytest.param((LEADER, TWO, THREE, READER), 1, False, "orders-3", id="one voter can be spared"),
        pytest.param((LEADER, TWO), 1, False, "orders-2", id="the only one, rather than the primary"),
        pytest.param((LEADER, TWO, replace(THREE, near=False)), 1, False, "orders-2", id="beside the store"),
        pytest.param((LEADER, replace(TWO, near=False)), 1, False, "orders-2", id="the store's node has the primary"),
        pytest.param((LEADER, replace(TWO, delayed=True)), 1, False, "orders-1", id="not a delayed one"),
        pytest.param((LEADER, replace(TWO, lag_seconds=61.0)), 1, False, "orders-1", id="not one far behind"),
        pytest.param((LEADER, replace(TWO, lag_bytes=None)), 1, False, "orders-2", id="lag not known"),
        pytest.param((LEADER, replace(TWO, claim=False)), 1, False, "orders-1", id="its volume goes"),
        pytest.param((LEADER, TWO), 1, True, "orders-1", id="asked for the primary"),
        pytest.param((replace(LEADER, ready=False), TWO), 1, True, "NoMember", id="the primary is away"),
        pytest.param((replace(LEADER, ready=False),), 0, False, "NoMember", id="nobody is ready"),
        pytest.param((), 0, False, "NoMember", id="nobody"),
        pytest.param((replace(LEADER, shared=False),), 0, False, "VolumeNotShared", id="ReadWriteOncePod"),
        pytest.param((LEADER, replace(TWO, shared=False)), 1, False, "orders-1", id="one of them ReadWriteOncePod"),
    ],
)
def test_which_member_is_read(members: tuple[Candidate, ...], number: int, primary: bool, expected: str) -> None:
    found = choose(members, number=number, primary=primary)
    assert (found.reason if isinstance(found, Verdict) else found) == expected
    if isinstance(found, Verdict):
        assert found.standing is (Standing.STALLED if expected == "VolumeNotShared" else Standing.WORKING)


def test_another_attempt_takes_another_member_and_the_primary_last() -> None:
    members = (LEADER, TWO, replace(TWO, name="orders-3"))
    tried = [choose(members, number=1, primary=False, attempt=n) for n in range(1, 5)]
    assert tried == ["orders-2", "orders-3", "orders-1", "orders-2"]
    assert choose(members, number=1, primary=True, attempt=2) == "orders-1"


MEMBERS = st.lists(
    st.builds(
        Candidate,
        name=st.sampled_from(["orders-1", "orders-2", "orders-3"]),
        role=st.sampled_from(["primary", "replica", "none"]),
        ready=st.booleans(),
        delayed=st.booleans(),
        voter=st.booleans(),
        lag_bytes=st.none() | st.integers(0, 10),
        lag_seconds=st.none() | st.floats(0, 100),
        claim=st.booleans(),
        shared=st.booleans(),
    ),
    max_size=3,
    unique_by=lambda c: c.name,
)


@given(MEMBERS, st.integers(0, 2), st.booleans())
def test_what_is_chosen_can_be_read(members: list[Candidate], number: int, primary: bool) -> None:
    found = choose(members, number=number, primary=primary)
    if isinstance(found, Verdict):
        assert not any(c.ready and c.claim and c.shared and c.role == "primary" for c in members)
        return
    (chosen,) = [c for c in members if c.name == found]
    assert chosen.ready
    assert chosen.claim
    assert chosen.shared
    assert chosen.role == "primary" or not (chosen.delayed or primary)


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        (None, (False, True)),
        ({"metadata": {}, "spec": {"accessModes": ["ReadWriteOnce"]}}, (True, True)),
        ({"metadata": {}, "spec": {"accessModes": ["ReadWriteOncePod"]}}, (True, False)),
        ({"metadata": {"deletionTimestamp": "2026-03-01T02:00:00Z"}, "spec": {}}, (False, True)),
    ],
)
def test_a_member_s_volume(claim: Any, expected: tuple[bool, bool]) -> None:
    found = candidate(InstanceStatus(name="orders-1", ready=True), claim, delayed=False)
    assert (found.claim, found.shared) == expected


@pytest.mark.parametrize(
    ("member", "store", "near"),
    [
        pytest.param("a", "a", True, id="the same node"),
        pytest.param("a", "b", False, id="another node"),
        pytest.param("a", None, True, id="the store's volume is bound to none yet, or is none"),
        pytest.param(None, "b", True, id="the member's is bound to none"),
    ],
)
def test_who_is_near_the_store(member: str | None, store: str | None, near: bool) -> None:
    def claim(node: str | None) -> dict[str, Any]:
        annotations = {"volume.kubernetes.io/selected-node": node} if node else {}
        return {"metadata": {"name": "x", "annotations": annotations}, "spec": {"accessModes": ["ReadWriteOnce"]}}

    status = InstanceStatus.model_validate({"name": "orders-2", "role": "replica", "ready": True})
    assert candidate(status, claim(member), delayed=False, store=claim(store)).near is near
    assert candidate(status, claim(member), delayed=False).near

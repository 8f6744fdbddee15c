"""The Lease as text: what is written is read back, and what cannot be read is never taken for a state."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide import lease, leasetext
from matriarch.decide.lease import CleanStop, LeaseState, Loss, Promotion
from matriarch.decide.member import Member
from matriarch.postgres.timeline import Switch, WalPosition

A, B, C = (Member(f"orders-{i}", f"{i}" * 12) for i in (1, 2, 3))
QUORUM = LeaseState(
    epoch=5, holder=A, bootstrap="orders-1", mode="quorum", voters=(B, C), k=1, nonce="x", system_identifier="7",
    opened=True, lineage=(Switch(2, 1, 100),), claimed=2,
)  # fmt: skip

members = st.builds(Member, st.sampled_from(["a-1", "a-2", "a-3", "a-4", "a-5"]), st.sampled_from(["x1", "x2"]))
positions = st.builds(WalPosition, st.integers(1, 9), st.integers(0, 99))
states = st.builds(
    LeaseState, epoch=st.integers(0, 9), holder=st.none() | members, bootstrap=st.just("a-1"),
    mode=st.sampled_from(["alone", "quorum", "async"]), voters=st.lists(members, unique=True).map(tuple),
    k=st.integers(0, 4), nonce=st.text("abc", max_size=3), system_identifier=st.just("7"), opened=st.booleans(),
    lineage=st.lists(st.builds(Switch, st.integers(2, 9), st.integers(1, 8), st.integers(0, 99))).map(tuple),
    claimed=st.integers(1, 9),
    promoting=st.none() | st.builds(Promotion, st.integers(2, 9), st.integers(1, 8), st.integers(0, 99)),
    heir=st.none() | members, clean_stop=st.none() | st.builds(CleanStop, st.integers(1, 9), st.integers(0, 99)),
    leaving=st.lists(st.sampled_from(["a-4", "a-5"]), unique=True).map(tuple), no_voters=st.booleans(),
    replaced=st.lists(st.sampled_from(["1", "2"]), unique=True).map(tuple),
    wal=st.none() | positions, loss=st.none() | st.builds(Loss, st.integers(1, 9), members, positions, positions),
)  # fmt: skip


@given(states, st.none() | st.booleans(), st.integers(0, 3))
def test_what_is_written_is_read_back(state: LeaseState, done: bool | None, later: int) -> None:
    filling = None if done is None else lease.Filling("r1", done, state.epoch)
    state = replace(state, filling=filling)
    assert leasetext.decode(leasetext.encode(state)) == state
    read = leasetext.decode(leasetext.encode(replace(state, epoch=state.epoch + later)))
    assert read.filling == (filling if not later else None), "at another epoch it is void: somebody led since"


def test_an_agent_that_does_not_know_the_hold_makes_it_void() -> None:
    """It writes what it read without the epoch, or goes on to another one."""
    held = json.loads(leasetext.encode(lease.suspended(QUORUM, "r1")))
    assert held["filling"] == ["r1", False, 5]
    assert leasetext.decode(json.dumps(held | {"filling": ["r1", False]})).filling is None
    assert leasetext.decode(json.dumps(held | {"epoch": 6})).filling is None
    lifted = json.loads(leasetext.encode(lease.filled(lease.suspended(QUORUM, "r1"), "r1")))
    assert leasetext.decode(json.dumps(lifted | {"epoch": 6})).filling is None
    assert leasetext.decode(leasetext.encode(lease.reclaimed(lease.suspended(QUORUM, "r1"), [], "n"))).filling is None


@given(states, st.data())
def test_a_damaged_text_is_never_taken_for_a_state(state: LeaseState, data: st.DataObject) -> None:
    doc = json.loads(leasetext.encode(state))
    key = data.draw(
        st.sampled_from(sorted(doc.keys() - {"wal", "loss", "filling", "replaced"}))
    )  # of these, absent says nothing
    del doc[key]
    with pytest.raises(ValueError, match="can't be read"):
        leasetext.decode(json.dumps(doc))


def test_the_object_keeps_the_holder_and_the_epoch_visible() -> None:
    made = leasetext.to_manifest(
        QUORUM, cluster="orders", namespace="prod", renew_time="2026-01-01T00:00:00.000000Z", labels={"a": "b"},
        resource_version="17",
    )  # fmt: skip
    assert made["spec"]["holderIdentity"] == "orders-1"
    assert made["spec"]["leaseTransitions"] == 5
    assert made["metadata"]["resourceVersion"] == "17"
    assert leasetext.from_manifest(made).state == QUORUM

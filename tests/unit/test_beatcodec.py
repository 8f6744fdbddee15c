"""State and view survive the socket, and what is none of them is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from matriarch.agent.beat import HeartbeatState, HeartbeatView, PeerView
from matriarch.agent.beatcodec import decode_view, encode_state, state_of, view_fields
from matriarch.decide.member import Member

A, B = Member("orders-1", "aa"), Member("orders-2", "bb")
STATE = HeartbeatState(7, "holder", A, 3, A, (B,), 1, {"orders-2": "10.0.0.2"}, 2, fence=True, lease_renewed=9)
VIEW = HeartbeatView(7, 5, (PeerView("orders-2", heard=5, presence="refused", closed_at=4),), 10, 3, 11, 4)


def test_there_and_back() -> None:
    assert state_of(json.loads(encode_state(STATE))) == STATE
    bare = HeartbeatState(1, "none", A)
    assert state_of(json.loads(encode_state(bare))) == bare
    assert decode_view(json.dumps(view_fields(VIEW, 123)).encode()) == (VIEW, 123)


@pytest.mark.parametrize(
    "change",
    [
        {"role": "king"},
        {"epoch": -1},
        {"epoch": "3"},
        {"epoch": 2**63},
        {"k": None},
        {"k": True},
        {"me": {"instance": "ü", "incarnation": "aa"}},
        {"me": {"instance": "x" * 128, "incarnation": "aa"}},
        {"me": None},
        {"me": {"instance": "x"}},
        {"voters": [1]},
        {"surplus": 1},
        {"addresses": {"orders-2": 5}},
        {"addresses": []},
        {"lease_renewed": "now"},
    ],
)
def test_a_state_that_is_none_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a HeartbeatState"):
        state_of({**json.loads(encode_state(STATE)), **change})


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b"{", b'{"at": 1, "peers": [{}], "sequence": 1}'])
def test_a_view_that_is_none_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_view(raw)

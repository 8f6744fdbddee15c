"""HeartbeatState and HeartbeatView as JSON, for the socket between agent and heartbeat.

Apart from `beat.py`, which is the shape alone. Whoever decodes trusts nothing: ValueError for anything unexpected.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from matriarch.agent.beat import HeartbeatState, HeartbeatView, PeerView
from matriarch.decide.member import Member

MAX_MESSAGE = 65536  # bytes; nine instances need about two thousand


def encode_state(state: HeartbeatState) -> bytes:
    return _dump(asdict(state))


def decode_state(raw: bytes) -> HeartbeatState:
    """Raises ValueError when `raw` is no HeartbeatState."""
    fields = _load(raw)
    try:
        fields["me"] = Member(**fields["me"])
        fields["holder"] = Member(**fields["holder"]) if fields["holder"] is not None else None
        fields["voters"] = tuple(Member(**voter) for voter in fields["voters"])
        state = HeartbeatState(**fields)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a HeartbeatState: {error}") from error
    numbers = (state.sequence, state.epoch, state.k, state.promised, state.fenced, state.flush_lsn)
    if not all(isinstance(n, int) and 0 <= n < 2**63 for n in numbers) or state.role not in {"holder", "voter", "none"}:
        raise ValueError("not a HeartbeatState: a number is out of range or the role is unknown")
    return state


def encode_view(view: HeartbeatView) -> bytes:
    return _dump(asdict(view))


def decode_view(raw: bytes) -> HeartbeatView:
    """Raises ValueError when `raw` is no HeartbeatView."""
    fields = _load(raw)
    try:
        fields["peers"] = tuple(PeerView(**peer) for peer in fields["peers"])
        return HeartbeatView(**fields)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a HeartbeatView: {error}") from error


def _dump(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _load(raw: bytes) -> dict[str, Any]:
    fields = json.loads(raw)
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    return fields

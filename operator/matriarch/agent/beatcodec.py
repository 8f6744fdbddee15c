"""HeartbeatState and HeartbeatView as JSON, for the socket between agent and heartbeat.

Apart from `beat.py`, which is the shape alone. Whoever decodes trusts nothing: ValueError for anything unexpected.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from matriarch.agent.beat import HeartbeatState, HeartbeatView, PeerView
from matriarch.agent.wire import MAX_NAME
from matriarch.decide.member import Member

_VIEW = tuple(f.name for f in fields(HeartbeatView))
_PEER = tuple(f.name for f in fields(PeerView))
MAX_MESSAGE = 65536  # bytes; nine instances need about two thousand


def encode_state(state: HeartbeatState) -> bytes:
    return json.dumps(asdict(state), separators=(",", ":")).encode()


def state_of(message: dict[str, Any]) -> HeartbeatState:
    """Raises ValueError when `message` is no HeartbeatState."""
    try:
        holder = message["holder"]
        parts = {
            "me": Member(**message["me"]),
            "holder": Member(**holder) if holder is not None else None,
            "voters": tuple(Member(**voter) for voter in message["voters"]),
        }
        state = HeartbeatState(**{**message, **parts})
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a HeartbeatState: {error}") from error
    numbers = (state.sequence, state.epoch, state.k, state.promised, state.fenced, state.flush_lsn)
    optional = [state.lease_renewed] if state.lease_renewed is not None else []
    if not all(type(n) is int and 0 <= n < 2**63 for n in (*numbers, *optional)):
        raise ValueError("not a HeartbeatState: a number is none or out of range")
    if not isinstance(state.by_lease, bool):
        raise ValueError("not a HeartbeatState: what the fence counts by is unknown")
    if state.role not in {"holder", "voter", "none"} or not isinstance(state.addresses, dict):
        raise ValueError("not a HeartbeatState: the role is unknown or the addresses are none")
    members = (state.me, *state.voters, *([state.holder] if state.holder is not None else []))
    names = [text for member in members for text in (member.instance, member.incarnation)]
    if not all(_is_name(text) for text in (*names, *state.addresses, *state.addresses.values())):
        raise ValueError("not a HeartbeatState: a name or address is not short plain text")
    return state


def _is_name(text: object) -> bool:
    return isinstance(text, str) and text.isascii() and len(text) <= MAX_NAME


def view_fields(view: HeartbeatView, at: int) -> dict[str, Any]:
    """`at`: the boot-time instant at which the view was true."""
    # not asdict, which copies deeply: this runs for every beat
    peers = [{name: getattr(peer, name) for name in _PEER} for peer in view.peers]
    return {"at": at, **{name: getattr(view, name) for name in _VIEW}, "peers": peers}


def decode_view(raw: bytes) -> tuple[HeartbeatView, int]:
    """The view, and when it was true. Raises ValueError when `raw` is no HeartbeatView."""
    try:
        message = json.loads(raw)
        at = int(message.pop("at"))
        return HeartbeatView(**{**message, "peers": tuple(PeerView(**peer) for peer in message["peers"])}), at
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a HeartbeatView: {error}") from error

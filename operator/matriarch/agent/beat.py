"""What the agent and the heartbeat process tell each other.

All instants are CLOCK_BOOTTIME nanoseconds of this machine (`time.clock_gettime_ns(time.CLOCK_BOOTTIME)`);
they are never compared with another machine's. None stands for never.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from matriarch.decide.member import Member

Role = Literal["holder", "voter", "none"]


@dataclass(frozen=True, slots=True)
class HeartbeatState:
    """Agent → heartbeat: the whole state, sent on every change. The heartbeat goes on with the last one it got.

    As a holder it beats every 200 ms to every peer that has an address and, while `fence` is set, moves the
    supervisor's deadline to T_fence after the instant at which the k-th newest answered beat was *sent* to a voter,
    or after `lease_renewed`, whichever is later. As a voter it answers the beats of `holder` at `epoch` unless
    `promised` is above the beat's epoch: then it still answers, with the promise and without granting a peer lease.
    """

    sequence: int
    role: Role
    me: Member
    epoch: int = 0
    holder: Member | None = None
    voters: tuple[Member, ...] = ()
    k: int = 0
    addresses: Mapping[str, str] = field(default_factory=dict)  # instance → IP, all peers
    promised: int = 0
    fence: bool = False  # the deadline counts (not in mode alone, postgres runs as primary)
    fenced: int = 0  # epoch at which this holder said "fenced"; carried in beats and answers
    lease_renewed: int | None = None  # when the request of the last successful Lease renewal was sent
    no_voters: bool = False  # the holder's renewals say that no voter answers
    flush_lsn: int = 0  # carried in beats, for status only
    by_lease: bool = False  # also, or with k 0 only, the Lease must have been renewed within ASYNC_FENCE


@dataclass(frozen=True, slots=True)
class PeerView:
    """What this process knows of one peer by its own eyes."""

    instance: str
    heard: int | None = None  # last authentic packet of any kind
    answered: int | None = None  # holder's side: when the newest answered beat was sent
    promised: int = 0  # highest promise heard from it
    fenced: int = 0  # highest "fenced" epoch heard from it
    presence: Literal["unknown", "connected", "closed", "refused"] = "unknown"
    # `closed`: its PID 1's socket ended by FIN or RST after it was connected; `refused`: and two connects after
    # that were refused or unreachable: the PID namespace is gone while its kernel answers
    closed_at: int | None = None
    epoch: int = 0  # highest epoch heard from it: the way in which a deposed holder learns without the API


@dataclass(frozen=True, slots=True)
class HeartbeatView:
    """Heartbeat → agent: what was heard, and the sequence of the state that is in force."""

    sequence: int
    started: int = 0  # when this heartbeat process began to listen: silence is counted from here at the earliest
    peers: tuple[PeerView, ...] = ()
    granted_until: int | None = None  # voter's side: when the peer lease that it gave the holder runs out
    granted_epoch: int = 0
    deadline: int | None = None  # holder's side: the deadline that the supervisor was last given
    promise_heard: int = 0  # the highest promise in any answer

"""What this agent knows and holds: one object that its parts share.

Everything that changes PostgreSQL's role, the promise or the Lease happens under `control`, one at a time. The long
works (initdb, clone, rewind) run outside it and are named in `busy`: meanwhile this member neither votes nor leads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from matriarch.agent.beat import HeartbeatState, HeartbeatView, PeerView, Role
from matriarch.agent.clock import boottime
from matriarch.agent.config import ClusterConfig, Environment
from matriarch.agent.heartbeat_client import HeartbeatClient
from matriarch.agent.leases import Leases
from matriarch.agent.memberfiles import MemberFiles
from matriarch.agent.peers import Peers
from matriarch.agent.postgres.facts import ServerStatus
from matriarch.agent.postgres.server import Server
from matriarch.agent.routing import Routing
from matriarch.agent.supervisor_client import SupervisorClient
from matriarch.decide.election import Sight, Voter
from matriarch.decide.guard import Guard, guard_of
from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
from matriarch.decide.space import Space
from matriarch.decide.transitions import Role as NotedRole
from matriarch.errors import Unavailable
from matriarch.kube.client import Kube
from matriarch.postgres.timeline import WalPosition

log = logging.getLogger(__name__)

ServerRole = Literal["stopped", "starting", "primary", "standby"]


@dataclass(slots=True)
class Instance:
    """See the module. `server_role` is what the agent last started or found; `status` the newest look at it."""

    env: Environment
    files: MemberFiles
    kube: Kube
    leases: Leases
    supervisor: SupervisorClient
    heartbeat: HeartbeatClient
    server: Server
    routing: Routing
    peers: Peers
    config: ClusterConfig | None = None
    config_fresh: bool = False  # read from the API server by this process, not from the copy on the volume
    addresses: dict[str, str] = field(default_factory=dict)
    poolers: dict[str, tuple[str, ...]] = field(default_factory=dict)  # slice of the pooler for writes → its Pods
    me: Member | None = None
    promised: int = 0
    fenced: int = 0
    quiet_since: int = field(default_factory=boottime)
    server_role: ServerRole = "stopped"
    status: ServerStatus | None = None
    status_at: int = 0
    system_identifier: str = ""
    state: str = "starting"  # for people, as InstanceStatus names it
    reason: str = ""
    busy: str = ""
    noted: NotedRole = "none"  # the role in the last line of the log of transitions
    starts_primary: bool = False  # what the server was last started as
    stopping: int = 0  # above 0: an end of postgres is wanted, and the loop keeps away
    terminating: bool = False
    door: Literal["open", "closed"] = "closed"
    door_reason: str = ""
    closed_by: str = ""  # uid of the Restore in place for which the server refuses clients, once none is left
    confirmed: tuple[Member, ...] = ()  # holder: voters that flushed past the promotion record
    switchover: dict[str, str] = field(default_factory=dict)
    site: dict[str, Any] = field(default_factory=dict)  # designated primary: the source and a promotion, for the status
    courtesy_until: int = 0  # a promise to another candidate: it gets this long (boot-time ns) to use it
    vouching: Guard | None = None  # what keeps the fence away during a change of the voters or of the mode
    served: int = field(default_factory=boottime)  # when PostgreSQL last ran as it should
    clock_jumped: bool = False  # the Lease was not read since this machine's clock jumped
    refusal: str = ""  # why nobody is elected now, as this member saw it last
    follows_line: bool = False  # standby: since its start it was seen to follow a primary
    clients_expected_until: int = 0  # heir: clients are kept at the door (boot-time ns)
    summarizes: bool = True  # PostgreSQL's WAL summarizer may run
    applied: tuple[object, ...] | None = None  # what PostgreSQL's settings were last made from
    space: Space = field(default_factory=Space)  # the volume, as last seen
    ends: list[tuple[int, bool]] = field(default_factory=list)  # when PostgreSQL ended unasked, and whether it led
    illness: dict[str, Any] | None = None  # what the replica doctor says, for the status
    kept_data: tuple[str, ...] = ()  # uids of the Restores whose replaced data is still on this volume
    archive: dict[str, Any] | None = None  # what the archiver said last, for the status; None: nothing is archived
    permits: dict[str, int] = field(default_factory=dict)  # holder: who may be cloned anew now, until when
    armed: bool = False  # the heartbeat moves the deadline
    guarded: bool = False  # and the supervisor ends everything past it
    mute: bool = False  # a fence that could not be carried out: no beats, so that the voters elect
    warnings: dict[str, str] = field(default_factory=dict)
    following: tuple[Member, str] | None = None  # holder and address that WAL is streamed from
    control: asyncio.Lock = field(default_factory=asyncio.Lock)
    applying: asyncio.Lock = field(default_factory=asyncio.Lock)  # PostgreSQL's settings, one writer at a time
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    _beats_due: tuple[bool, object, int] | None = None  # as a voter or not, by which epoch and holder, since when
    _sequence: int = 0
    _sent: HeartbeatState | None = None

    # --- what others know of the Lease ------------------------------------------------------------------------

    @property
    def lease(self) -> LeaseState | None:
        return self.leases.state

    @property
    def is_holder(self) -> bool:
        return self.me is not None and self.lease is not None and self.lease.holder == self.me

    @property
    def lets_in(self) -> bool:
        """Whether clients get into the server that runs, be it a primary or a standby."""
        return self.server_role in ("primary", "standby") and self.applied is not None and self.applied[1] == "open"

    @property
    def feeds(self) -> bool:
        """Whether the others copy and stream from here: a primary, or the designated primary of a replica cluster."""
        if not self.is_holder or self.lease is None:
            return False
        return self.server_role == ("standby" if self.lease.mode == "follow" else "primary")

    @property
    def view(self) -> HeartbeatView:
        return self.heartbeat.view

    def peer(self, instance: str) -> PeerView | None:
        """What the heartbeat saw of `instance`."""
        return next((p for p in self.view.peers if p.instance == instance), None)

    @property
    def promise_heard(self) -> int:
        return max((self.view.promise_heard, *(p.promised for p in self.view.peers)))

    @property
    def epoch_heard(self) -> int:
        """The highest epoch that a peer spoke of: whoever knows of less must read the Lease, and not act on it (L7)."""
        return max((p.epoch for p in self.view.peers), default=0)

    @property
    def delay(self) -> int:
        """Seconds that replay stays behind here on purpose; 0 for none."""
        return self.config.delays.get(self.env.instance, 0) if self.config is not None else 0

    def nudge(self) -> None:
        """Let the loop look again now."""
        self.wake.set()

    @contextlib.contextmanager
    def wanted_stop(self) -> Iterator[None]:
        """While this lasts, an end of postgres is no crash, and the loop starts nothing. May be nested."""
        self.stopping += 1
        try:
            yield
        finally:
            self.stopping -= 1

    # --- voting -----------------------------------------------------------------------------------------------

    def sight(self) -> Sight:
        """What this member sees of the Lease's holder."""
        lease, view = self.lease, self.view
        assert lease is not None
        holder = lease.holder
        peer = self.peer(holder.instance) if holder is not None else None
        granted = view.granted_until if view.granted_epoch == lease.epoch else None
        now = boottime()
        due = lease.mode == "quorum" and self.me in lease.voters
        if self._beats_due is None or self._beats_due[:2] != (due, (lease.epoch, holder)):
            # Where nothing was seen before, the heartbeat's own start says since when it listens.
            self._beats_due = (due, (lease.epoch, holder), 0 if self._beats_due is None else now)
        return Sight(
            now=now,
            since=self._beats_due[2],
            started=view.started or self.quiet_since,
            granted_until=granted,
            fenced=peer.fenced if peer else 0,
            gone=peer is not None and peer.presence == "refused",
        )

    def voter(self) -> Voter | None:
        """This member as a voter, or None while it knows too little to be one."""
        if self.me is None or self.lease is None:
            return None
        seen = self.leases.renewal_seen
        if self.lease.mode == "async":
            # After an outage of the API server the holder, which it ended, comes first: it lost nothing.
            seen = max(seen, self.leases.watched_since)
        return Voter(self.me, self.lease, self.promised, self.sight(), self.unable(), renewal_seen=seen)

    def unable(self) -> str:
        """Why this member can't vote now; empty when it can."""
        if self.busy:
            return f"{self.env.instance} is {self.busy}"
        if self.server_role != "standby":
            return f"PostgreSQL of {self.env.instance} is {self.server_role}"
        if self.terminating:
            return f"{self.env.instance} is shutting down"
        if self.lease is not None and self.lease.filling is not None:
            return f"Restore {self.lease.filling.restore} replaces the data"
        return ""

    def not_by_a_copy(self) -> str:
        """Why nothing that is here may be thrown away now, to copy or rewind it from another; empty when it may.

        The volume's copy of the Lease may be of a time before this member led, and what it acknowledged then is
        nowhere else where it led alone.
        """
        if not self.leases.fresh:
            return "the Lease was not read yet; by the copy on the volume nothing is rewound or copied anew"
        if self.lease is not None and self.epoch_heard > self.lease.epoch:
            return f"a peer knows epoch {self.epoch_heard}, the Lease is at {self.lease.epoch}"
        return ""

    async def look(self, *, timeout: float = 1.0) -> ServerStatus | None:
        """A fresh look at PostgreSQL; None when it does not answer."""
        status = await self.server.status(timeout=timeout)
        if status is not None:
            self.status, self.status_at = status, boottime()
            self.system_identifier = status.system_identifier
            before_promotion = status.in_recovery and self.server.leads  # asked before it, and answered after it
            if self.server_role in ("starting", "primary", "standby") and not before_promotion:
                self.server_role = "standby" if status.in_recovery else "primary"
        return status

    async def position(self) -> WalPosition:
        """Where this member's WAL ends, for elections. Raises Unavailable."""
        with self.wanted_stop():  # a dead branch may have to go, which restarts the standby
            return await self.server.vote_position()

    # --- heartbeat --------------------------------------------------------------------------------------------

    def _beat_role(self) -> Role:
        lease = self.lease
        if lease is None or self.me is None:
            return "none"
        if self.is_holder:
            return "holder" if self.fenced < lease.epoch and not self.mute else "none"
        return "voter" if self.me in lease.voters else "none"

    async def sync_beats(self) -> int:
        """Tell the heartbeat what counts now; the sequence to wait for."""
        lease, me = self.lease, self.me
        if me is None or lease is None:
            return self._sequence + 1  # nobody yet: neither beats nor answers, and nothing that could be in force
        if self._sent is None and self.server_role != "stopped" and not (self.leases.fresh and self.status):
            # The agent restarted beside a PostgreSQL that runs: the heartbeat goes on with what it was told before.
            return self._sequence + 1
        role = self._beat_role()
        guard = self.vouching or guard_of(lease)
        leads = role == "holder" and guard is not None
        wanted = HeartbeatState(
            sequence=0,
            role=role,
            me=me,
            epoch=lease.epoch,
            holder=lease.holder,
            voters=guard.voters if guard is not None else lease.voters,
            k=guard.k if guard is not None else lease.k,
            by_lease=guard is not None and guard.by_lease,
            addresses={i: a for i, a in self.addresses.items() if i != self.env.instance},
            promised=self.promised,
            fence=leads and self.armed,
            fenced=self.fenced,
            lease_renewed=self.leases.renewed if role == "holder" else None,
            no_voters=lease.no_voters,
            flush_lsn=self.status.position.lsn if self.status else 0,
        )
        if self._sent is not None and _same(wanted, self._sent):
            return self._sent.sequence
        self._sequence += 1
        self._sent = replace(wanted, sequence=self._sequence)
        await self.heartbeat.send(self._sent)
        return self._sequence

    async def arm(self, *, timeout: float = 1.0) -> None:
        """The fencing deadline counts from here on. Raises Unavailable when it can't be made to."""
        self.armed = True
        sequence = await self.sync_beats()
        if not await self.heartbeat.in_force(sequence, timeout):
            raise Unavailable("the heartbeat did not take the new state")
        until = boottime() + int(timeout * 1e9)
        while self.view.deadline is None or self.view.deadline <= boottime():
            if boottime() > until:
                raise Unavailable("no fencing deadline in the future: neither voters nor a renewed Lease")
            await self.heartbeat.next_view(0.1)
        await self.supervisor.arm()
        self.guarded = True

    async def disarm(self) -> None:
        """Nothing that could acknowledge or read runs: no deadline counts."""
        self.armed = self.guarded = False
        await self.sync_beats()
        await self.supervisor.disarm()

    def answering(self, within: int) -> int:
        """Holder's side: how many voters answered a beat that was sent within the last `within` ns."""
        lease = self.lease
        if lease is None:
            return 0
        now = boottime()
        peers = (self.peer(v.instance) for v in lease.voters)
        return sum(p is not None and p.answered is not None and now - p.answered <= within for p in peers)


def _same(a: HeartbeatState, b: HeartbeatState) -> bool:
    """Equal but for the sequence and the LSN, which changes all the time and goes along with the next change."""
    return replace(a, sequence=0, flush_lsn=0) == replace(b, sequence=0, flush_lsn=0)

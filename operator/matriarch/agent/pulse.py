"""The heartbeat's rules without its sockets: what to send, whom to believe, and what was granted to whom.

Every method takes the instant `now` (boot-time ns) and returns packets to send; the process around it
(`heartbeat.py`) does the sending. Freshness needs no clock that machines share: each process has a random session
and numbers its packets, each packet echoes the newest one of its receiver, and a session that was not seen before is
believed only when it echoes a packet that was sent after the last session was accepted. So a recorded packet counts
once, or never.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from matriarch.agent.beat import HeartbeatState, HeartbeatView, PeerView
from matriarch.agent.clock import MILLISECOND
from matriarch.agent.deadline import Deadline, entitled_until, moved
from matriarch.agent.wire import SESSION_BYTES, Kind, Packet
from matriarch.decide.election import SUSPECT, T_FENCE
from matriarch.decide.member import Member

BEAT = 200 * MILLISECOND
PROBE = 500 * MILLISECOND
"""Between peers that are not holders: so often at least each hears from each."""
_REPEATS = (0, 20 * MILLISECOND, 60 * MILLISECOND)
"""News that ends a reign is sent three times at once: a lost packet would cost a beat."""
_MISSED = (BEAT + 100 * MILLISECOND, SUSPECT)
"""Ages of the last packet at which the agent is told: one beat missed, five beats missed."""
_SILENT = (SUSPECT,)
"""The same for a peer that only probes: each of its pauses would be a missed beat."""
_NONE = bytes(SESSION_BYTES)
_REMEMBERED = 64  # beats per peer whose answer is still known; 12 s, far beyond T_fence
_CHALLENGE = 20 * MILLISECOND  # at most so often is an unknown session answered


@dataclass(slots=True)
class Peer:
    """All that is known of one instance."""

    instance: str
    address: str = ""
    session: bytes = b""  # before the first accepted one: equal to none
    number: int = 0
    accepted_at: int = 0  # own packet number when the session was accepted
    challenged: int = 0
    heard: int | None = None
    answered: int | None = None
    promised: int = 0
    fenced: int = 0
    epoch: int = 0
    probed: int = 0
    missed: int = 0  # how many of its ages were told
    sent: OrderedDict[int, tuple[int, int]] = field(default_factory=OrderedDict)  # number → (sent, epoch)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """`packet` for `address`; `key`: the one to use, None for the current one."""

    packet: Packet
    address: str
    key: bytes | None = None


class Pulse:
    """One process's memory. `session` must be random and new for each process."""

    def __init__(self, session: bytes, started: int) -> None:
        self._session = session
        self._number = 0
        self._state: HeartbeatState | None = None
        self._peers: dict[str, Peer] = {}
        self._next_beat = started
        self._repeats: list[int] = []
        self._answered: dict[Member, int] = {}
        self.deadline: Deadline | None = None
        self._started = started
        self._granted_until: int | None = None
        self._granted_epoch = 0
        self.changed = False
        """The agent should be told now; the process sets it back."""

    @property
    def state(self) -> HeartbeatState | None:
        return self._state

    @property
    def counts(self) -> bool:
        """Whether a deadline is to be given to the supervisor."""
        state = self._state
        return state is not None and self._leads(state) and state.fence

    def apply(self, state: HeartbeatState, now: int) -> None:
        """`state` is in force when this returns."""
        before, self._state = self._state, state
        for instance, address in state.addresses.items():
            if instance != state.me.instance:
                self._peers.setdefault(instance, Peer(instance)).address = address
        for instance in [i for i in self._peers if i not in state.addresses]:
            self._peers[instance].address = ""
        if before is None or (before.epoch, before.role) != (state.epoch, state.role):
            self._answered.clear()
            self._next_beat = now
        if before is None or before.fenced < state.fenced or before.promised < state.promised:
            self._repeats = [now + wait for wait in _REPEATS]
        self._move_deadline()
        self.changed = True

    def due(self) -> int:
        """When `tick` has something to do."""
        waits = [self._next_beat, *self._repeats]
        waits += [age for p in self._peers.values() if (age := self._told_at(p)) is not None]
        return min(waits)

    def _told_at(self, peer: Peer) -> int | None:
        """When the agent is told next that nothing more was heard from `peer`; None when it knows all of that."""
        state = self._state
        beats = state is None or self._leads(state) or (state.holder and state.holder.instance) == peer.instance
        ages = _MISSED if beats else _SILENT
        return peer.heard + ages[peer.missed] if peer.heard is not None and peer.missed < len(ages) else None

    def tick(self, now: int) -> list[Outgoing]:
        for peer in self._peers.values():
            while (at := self._told_at(peer)) is not None and now >= at:
                peer.missed += 1
                self.changed = True
        repeat = any(now >= at for at in self._repeats)
        self._repeats = [at for at in self._repeats if at > now]
        if now < self._next_beat and not repeat:
            return []
        if now >= self._next_beat:
            # late by more than a beat: the missed ones are not made up for
            self._next_beat = max(self._next_beat + BEAT, now + BEAT // 2)
        state = self._state
        if state is None:
            return []
        peers = [p for p in self._peers.values() if p.address]
        if self._leads(state):
            return [self._beat(state, peer, now) for peer in peers]
        return [self._probe(state, peer, now) for peer in peers if repeat or self._probe_is_due(peer, now)]

    def receive(self, packet: Packet, address: str, key: bytes, now: int) -> list[Outgoing]:
        """An authentic packet that came from `address`, protected with `key`."""
        state = self._state
        if state is None or packet.receiver != state.me.instance or packet.sender == state.me.instance:
            return []
        peer = self._peers.setdefault(packet.sender, Peer(packet.sender))
        if packet.session == peer.session:
            if packet.number <= peer.number:
                return []
        elif packet.echo_session == self._session and packet.echo_number > peer.accepted_at:
            self._accept_session(peer, packet)
        else:
            return self._challenge(state, peer, packet, now=now, to=(address, key))
        new_session = peer.number == 0
        peer.number = packet.number
        self._learn(peer, packet, now)
        if packet.kind == Kind.ANSWER:
            self._take_answer(state, peer, packet)
            # the other side does not know this session yet: let it, without waiting for the next beat
            if new_session and peer.address:
                return [self._beat(state, peer, now) if self._leads(state) else self._probe(state, peer, now)]
            return []
        granted = packet.kind == Kind.BEAT and self._grants(state, packet)
        if granted:
            self._granted_until, self._granted_epoch = now + T_FENCE, packet.epoch
            self.changed = True
        return [Outgoing(self._packet(state, Kind.ANSWER, peer, granted=granted), address, key)]

    def view(self, sequence: int) -> HeartbeatView:
        """Without presence, which `presence.py` knows."""
        return HeartbeatView(
            sequence=sequence,
            started=self._started,
            peers=tuple(
                PeerView(
                    p.instance,
                    heard=p.heard,
                    answered=p.answered,
                    promised=p.promised,
                    fenced=p.fenced,
                    epoch=p.epoch,
                )
                for p in self._peers.values()
            ),
            granted_until=self._granted_until,
            granted_epoch=self._granted_epoch,
            deadline=self.deadline.at if self.deadline is not None and self.counts else None,
            promise_heard=max((p.promised for p in self._peers.values()), default=0),
        )

    def heard(self, instance: str) -> int | None:
        peer = self._peers.get(instance)
        return peer.heard if peer is not None else None

    @staticmethod
    def _leads(state: HeartbeatState) -> bool:
        return state.role == "holder" and state.fenced < state.epoch

    @staticmethod
    def _grants(state: HeartbeatState, beat: Packet) -> bool:
        """Only to the holder that this voter follows, at the epoch it knows, with nothing promised above, nor "fenced"
        said: an answer in any other case tells where this voter stands and gives no time."""
        return (
            state.role == "voter"
            and state.holder == Member(beat.sender, beat.incarnation)
            and beat.epoch == state.epoch
            and state.promised <= beat.epoch
            and beat.fenced < beat.epoch
        )

    def _take_answer(self, state: HeartbeatState, peer: Peer, answer: Packet) -> None:
        sent = peer.sent.get(answer.echo_number) if answer.echo_session == self._session else None
        if sent is None or not answer.granted or not self._leads(state):
            return
        at, epoch = sent
        if epoch != state.epoch:
            return  # granted to an older epoch
        member = Member(answer.sender, answer.incarnation)
        self._answered[member] = max(at, self._answered.get(member, 0))
        peer.answered = max(at, peer.answered or 0)
        self._move_deadline()

    def _move_deadline(self) -> None:
        state = self._state
        if state is None or not self.counts:
            return
        until = entitled_until(state.voters, state.k, self._answered, state.lease_renewed, by_lease=state.by_lease)
        self.deadline = moved(self.deadline, state.epoch, until)

    def _accept_session(self, peer: Peer, packet: Packet) -> None:
        peer.session, peer.number = packet.session, 0
        peer.accepted_at = self._number

    def _challenge(
        self, state: HeartbeatState, peer: Peer, packet: Packet, *, now: int, to: tuple[str, bytes]
    ) -> list[Outgoing]:
        """Not known to be fresh: nothing of it counts, and the answer lets its sender prove itself."""
        if now < peer.challenged + _CHALLENGE:
            return []
        peer.challenged = now
        answer = self._packet(state, Kind.ANSWER, peer, echo=(packet.session, packet.number))
        return [Outgoing(answer, *to)]

    def _learn(self, peer: Peer, packet: Packet, now: int) -> None:
        news = packet.promised > peer.promised or packet.fenced > peer.fenced or packet.epoch > peer.epoch
        back = peer.heard is None or peer.missed > 0
        self.changed = self.changed or news or back
        peer.heard, peer.missed = now, 0
        peer.promised = max(peer.promised, packet.promised)
        peer.fenced = max(peer.fenced, packet.fenced)
        peer.epoch = max(peer.epoch, packet.epoch)

    def _probe_is_due(self, peer: Peer, now: int) -> bool:
        return now - max(peer.heard or 0, peer.probed) >= PROBE - BEAT // 2

    def _beat(self, state: HeartbeatState, peer: Peer, now: int) -> Outgoing:
        packet = self._packet(state, Kind.BEAT, peer)
        peer.sent[packet.number] = (now, state.epoch)
        if len(peer.sent) > _REMEMBERED:
            peer.sent.popitem(last=False)
        return Outgoing(packet, peer.address)

    def _probe(self, state: HeartbeatState, peer: Peer, now: int) -> Outgoing:
        peer.probed = now
        return Outgoing(self._packet(state, Kind.PROBE, peer), peer.address)

    def _packet(
        self,
        state: HeartbeatState,
        kind: Kind,
        peer: Peer,
        *,
        granted: bool = False,
        echo: tuple[bytes, int] | None = None,
    ) -> Packet:
        self._number += 1
        echo_session, echo_number = echo if echo is not None else (peer.session or _NONE, peer.number)
        return Packet(
            kind=kind,
            sender=state.me.instance,
            incarnation=state.me.incarnation,
            receiver=peer.instance,
            session=self._session,
            number=self._number,
            echo_session=echo_session,
            echo_number=echo_number,
            epoch=state.epoch,
            promised=state.promised,
            fenced=state.fenced,
            flush_lsn=state.flush_lsn,
            granted=granted,
            no_voters=state.no_voters,
        )

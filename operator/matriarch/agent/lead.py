"""The holder's duties while it leads one epoch: voters, names, slots, the door, and where clients go.

Renewals have a task of their own (`agent/renewals.py`): nothing here that waits may end a lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from matriarch.agent.clock import MILLISECOND, SECOND, boottime
from matriarch.agent.instance import Instance
from matriarch.agent.leases import Lost
from matriarch.agent.logical import Consumers
from matriarch.agent.postgres.facts import WalSender
from matriarch.agent.readers import Readers
from matriarch.agent.routing import endpoints
from matriarch.agent.settings import apply_config
from matriarch.agent.streams import streams_of
from matriarch.decide import lease as transitions
from matriarch.decide.election import T_FENCE
from matriarch.decide.guard import Guard, guard_during
from matriarch.decide.joining import Joined, joined
from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
from matriarch.decide.voters import STEPS, Change, next_change, standby_names
from matriarch.errors import MatriarchError, Unavailable
from matriarch.postgres.conninfo import slot_name
from matriarch.postgres.standbynames import NOBODY, render_names

log = logging.getLogger(__name__)

TICK, CALM = 0.2, 0.5
"""Seconds between two rounds; the second while all voters stream and nothing changed since the last one. What is heard
from the API server starts one at once."""
CLIENTS_FIRST = SECOND * 2 // 5
"""So long after the door opened the rest waits (ns): replicas' Services, labels, voters. Clients connect again in this
moment, and whatever else runs, here and wherever it is told of, is in their way."""
MOST_SEGMENTS = 8
"""So many are passed for voters that ask for WAL behind the end of a segment: one record may reach over several."""


@dataclass
class Leadership:
    """One epoch of leading, from the moment at which PostgreSQL runs as primary.

    `record`: LSN of a record of this timeline, written after the start; the door opens when k voters hold it.
    `fork`: LSN where the timeline that was promoted to begins; 0: none was, or the door has been open since.
    `door_not_before`: boot-time instant before which a deposed holder might still serve reads.
    """

    instance: Instance
    record: int
    door_not_before: int = 0
    fork: int = 0
    names: str | None = None  # what PostgreSQL was last told
    routing: asyncio.Task[None] | None = None  # slices that are being written already
    bootstrapped: bool = False

    def __post_init__(self) -> None:
        self._away: dict[Member, int] = {}
        self._begun = boottime()
        self._passed = 0
        self._opened = 0  # boot-time instant
        self._recording: asyncio.Task[None] | None = None
        self._next: dict[str, int] = {}
        self._quorum_again = 0
        self.epoch = self.instance.lease.epoch if self.instance.lease else 0
        self._consumers = Consumers(self.instance, self.instance.lease) if self.instance.lease else None
        self._streaming: set[Member] = set()
        self._seen: frozenset[tuple[int, str]] | None = None  # the streams of the last round, with their states
        self._readable = Readers(self.instance)
        self._routed: tuple[frozenset[str], frozenset[str]] | None = None
        self._joined: Joined | None = None
        self._addresses: dict[str, str] = {}
        self.instance.confirmed = ()
        self.instance.vouching = None  # of a change at an older epoch, whose write is void
        self.instance.door, self.instance.door_reason = "closed", "PostgreSQL has just become primary"

    def _leads(self, lease: LeaseState) -> bool:
        """Whether this instance still holds what it began to lead; an epoch of its own above that is a reclaim."""
        return self.instance.is_holder and lease.epoch >= self.epoch

    def _due(self, what: str, every: float) -> bool:
        now = boottime()
        if self._next.get(what, 0) > now:
            return False
        self._next[what] = now + int(every * SECOND)
        return True

    async def tick(self) -> float:
        """One round of all duties; seconds until the next. What fails is a warning, and tried again."""
        instance = self.instance
        lease, config = instance.lease, instance.config
        if lease is None or config is None or not self._leads(lease):
            return TICK
        instance.state, instance.reason = "running", ""
        if lease.mode != "alone" and instance.door == "open" and not instance.guarded:
            await self._attempt("fence", instance.arm())
        if (left := self._opened + CLIENTS_FIRST - boottime()) > 0:
            return left / SECOND
        if self._due("look", 1.0):
            await instance.look()
        await self._attempt("history", self._record_history())
        if instance.door == "open":
            await self._attempt("configuration", apply_config(instance, standby_names(lease, config.wish), door="open"))
        senders = await self._senders()
        if senders is not None:
            await self._attempt("voters", self._voters(senders))
            await self._attempt("door", self.door())
            await self._attempt("routing", self._route(senders))
            if self._consumers is not None and instance.lease is not None:
                await self._attempt("consumers", self._consumers.keep(instance.lease, self._streaming))
            await self._attempt("streams", self._foreign(senders))
        if self._due("slots", 5.0):
            await self._attempt("slots", self._slots())
        if self._due("labels", 30.0):
            instance.routing.forget_labels()
        if not self.bootstrapped:
            await self._attempt("bootstrap", self._bootstrap())
        return CALM if self._is_calm(lease, senders) else TICK

    def _is_calm(self, lease: LeaseState, senders: list[WalSender] | None) -> bool:
        before = self._seen
        self._seen = frozenset((s.pid, s.state) for s in senders) if senders is not None else None
        return (
            before is not None
            and before == self._seen
            and self.instance.door == "open"
            and self.bootstrapped
            and not self.instance.warnings
            and self._streaming.issuperset(lease.voters)
        )

    async def _attempt(self, duty: str, work: Awaitable[None]) -> None:
        try:
            await work
        except (MatriarchError, OSError) as e:
            if self.instance.warnings.get(duty) != str(e):
                log.warning("%s: %s", duty, e)
            self.instance.warnings[duty] = str(e)
        else:
            self.instance.warnings.pop(duty, None)

    async def _senders(self) -> list[WalSender] | None:
        try:
            senders = await self.instance.server.replication()
        except Unavailable as e:
            self.instance.warnings["replication"] = str(e)
            return None
        self.instance.warnings.pop("replication", None)
        return senders

    # --- after a promotion ------------------------------------------------------------------------------------

    async def _record_history(self) -> None:
        lease = self.instance.lease
        if lease is None or lease.promoting is None or not self.instance.is_holder:
            return
        line = await self.instance.server.history()
        if not line or line[-1].timeline != lease.promoting.timeline:
            return
        await self._change(lambda s: transitions.history_recorded(s, line))

    async def _bootstrap(self) -> None:
        """Roles, database and owner; again at each start, which takes in a changed password."""
        instance, lease, config = self.instance, self.instance.lease, self.instance.config
        assert lease is not None
        assert config is not None
        if lease.opened and instance.door != "open":
            return  # clients first
        password = _secret("app")
        if password is None:
            raise Unavailable("the application's password is not mounted yet")
        superuser = _secret("superuser") if config.superuser_access else None
        await instance.server.bootstrap_sql(config.database, config.owner, password, superuser)
        self.bootstrapped = True

    # --- voters -----------------------------------------------------------------------------------------------

    async def _voters(self, senders: list[WalSender]) -> None:
        instance, lease, config = self.instance, self.instance.lease, self.instance.config
        assert lease is not None
        assert config is not None
        streams = streams_of(senders, instance.status.flushed_lsn if instance.status else 0)
        now = boottime()
        self._streaming = streaming = {s.member for s in streams if s.streaming}
        self._away = {v: self._away.get(v, now) for v in lease.voters if v not in streaming}
        change = next_change(lease, config.wish, streams, {v: now - since for v, since in self._away.items()})
        if change is not None and change.kind == "to-quorum" and now < self._quorum_again:
            change = None
        guard = guard_during(lease, change) if change is not None else None
        if guard is not None and guard.by_lease and not await self._under(guard):
            return
        if instance.vouching is not None and instance.vouching != guard:
            await self._settle()
        if change is not None:
            try:
                await self._carry_out(lease, change)
            except MatriarchError:
                # Commits wait under names that the Lease does not say: give them back, and try again later.
                self._quorum_again = now + 10 * SECOND
                raise
        elif self.names != (wanted := standby_names(lease, config.wish)):
            async with instance.control:
                # A write of unknown outcome may still land; a newer one of ours makes it void (S9).
                await instance.leases.renew(no_voters=lease.no_voters)
                if (
                    instance.lease is not None
                    and self._leads(lease)
                    and standby_names(instance.lease, config.wish) == wanted
                ):
                    await self._name(wanted)

    async def _under(self, guard: Guard) -> bool:
        """A change of the mode: whether `guard` keeps this holder already. It begins with a Lease just renewed; what
        was granted by the rule before is waited out, for a deadline that was given does not go back."""
        instance = self.instance
        if instance.vouching != guard:
            await instance.leases.renew(no_voters=False)
            instance.vouching = guard
        await instance.arm()
        deadline = instance.view.deadline
        return deadline is not None and (guard.k == 0 or deadline <= boottime() + T_FENCE + SECOND // 2)

    async def _settle(self) -> None:
        """After a change of the mode that was broken off. Its write may still land, and would take the fence away from
        under it: so it is made void by a newer one first (S9)."""
        instance = self.instance
        async with instance.control:
            await instance.leases.renew(no_voters=False)
            instance.vouching = None
            if instance.lease is not None and instance.lease.mode == "alone" and self._leads(instance.lease):
                await instance.disarm()
            else:
                await instance.sync_beats()

    async def _carry_out(self, lease: LeaseState, change: Change) -> None:
        """The row's steps in order. Broken off anywhere, the next look finds the rest: each side alone is safe."""
        instance = self.instance
        log.info("voters: %s (%s): %s, k %d", change.kind, change.why, [str(v) for v in change.voters], change.k)
        async with contextlib.AsyncExitStack() as after:
            await after.enter_async_context(instance.control)
            if instance.lease is None or transitions.plain(instance.lease) != transitions.plain(lease):
                return
            if not instance.is_holder:
                return
            old, new = list(map(str, lease.voters)), list(map(str, change.voters))
            guard = guard_during(lease, change)
            if guard is None or not guard.by_lease:
                after.push_async_callback(self._vouch_by_lease)
            if guard is not None and not guard.by_lease:
                instance.vouching = guard
                await instance.sync_beats()
            for step in STEPS[change.kind]:
                match step:
                    case "probe":
                        await self._name(NOBODY)
                        if not await instance.server.probe_sync_rep():
                            raise Unavailable("no commit was seen to wait under the new names")
                    case "postgres":
                        if "barrier" in STEPS[change.kind] and self._consumers is not None:
                            await self._consumers.before(change, self._streaming)
                        await self._name(
                            render_names(change.k, new) if change.mode == "quorum" else self._alone_names()
                        )
                    case "barrier":
                        await instance.server.barrier(new, change.k, also=old)
                    case "lease":
                        await self._change(lambda s: self._voters_changed(s, lease, change))
                        if change.kind == "to-alone":
                            await instance.disarm()  # before anybody may acknowledge without voters
            await self._vouch_by_lease()

    def _voters_changed(self, now: LeaseState, planned_on: LeaseState, change: Change) -> LeaseState:
        """The Lease's half of a change. Void when the voters are others by now: PostgreSQL must not follow then."""
        if (now.voters, now.k, now.mode) != (planned_on.voters, planned_on.k, planned_on.mode):
            raise Lost("the voters are others by now")
        changed = transitions.voters_set(now, change.mode, change.voters, change.k)
        wal = self.instance.status.position if self.instance.status is not None else None
        return transitions.renewed_with(changed, no_voters=False, wal=wal)

    async def _vouch_by_lease(self) -> None:
        self.instance.vouching = None
        await self.instance.sync_beats()

    def _alone_names(self) -> str:
        lease, config = self.instance.lease, self.instance.config
        assert lease is not None
        assert config is not None
        return standby_names(lease, config.wish)

    async def _name(self, value: str) -> None:
        if self.names == value:
            return
        self.names = None
        await self.instance.server.set_standby_names(value)
        self.names = value

    async def _change(self, derive: Callable[[LeaseState], LeaseState]) -> None:
        """A change of the Lease at the same epoch. Raises Unavailable when this instance no longer leads it."""
        instance = self.instance
        epoch = instance.lease.epoch if instance.lease else 0

        def checked(state: LeaseState) -> LeaseState:
            if state.epoch != epoch or state.holder != instance.me:
                raise Lost(f"epoch {state.epoch} is held by {state.holder}")
            return derive(state)

        try:
            await instance.leases.change(checked)
        except Lost as e:
            instance.nudge()
            raise Unavailable(str(e)) from e

    async def _slots(self) -> None:
        config, instance = self.instance.config, self.instance
        assert config is not None
        others = [i for i in config.instances if i != instance.env.instance]
        await instance.server.ensure_slots({slot_name(i): None for i in others})

    async def _foreign(self, senders: list[WalSender]) -> None:
        """Nobody but the cluster's own pods may count as a voter (S7)."""
        if not senders or not self._due("foreign", 2.0):
            return
        ended = await self.instance.server.terminate_foreign_walsenders(_Places(self.instance.addresses))
        for s in ended:
            log.warning("ended a stream that is no member's: %s from %s", s.application_name, s.address)

    # --- door and routing -------------------------------------------------------------------------------------

    async def door(self) -> None:
        """Open when nothing that a client could read may still be lost, and nobody else serves reads."""
        instance, lease, config = self.instance, self.instance.lease, self.instance.config
        assert lease is not None
        assert config is not None
        if lease.mode == "quorum":
            names = {str(v): v for v in lease.voters}
            if instance.door != "open" or len(instance.confirmed) < len(names):
                held = await instance.server.flushed_by(self.record, list(names), fork=self.fork)
                # What was confirmed stays so when that voter goes away: its disk has it.
                known = {*instance.confirmed, *(names[h] for h in held if h in names)}
                instance.confirmed = tuple(sorted(known & set(lease.voters)))
            closed = len(instance.confirmed) < lease.k and f"{len(instance.confirmed)} of {lease.k} voters confirmed"
        else:
            alone = lease.mode == "alone" and config.number > 0 and config.required and not lease.opened
            closed = alone and "no replica streams yet"
        if instance.clock_jumped:
            closed = "this machine's clock jumped, and the Lease was not read since"
        if instance.door == "open" or not self._leads(lease):
            return
        if (other := await self._other_timeline(lease)) is not None:
            closed = other
        left = self.door_not_before - boottime()
        waits = lease.mode == "quorum" and closed and boottime() - self._begun > SECOND
        if waits and self._passed < MOST_SEGMENTS and self._due("segment", 3.0):
            self._passed += 1
            await instance.server.pass_segment()
        if closed or left > 0:
            instance.door_reason = closed or "the predecessor's lease runs out"
            return
        if not lease.opened:
            if not self.bootstrapped:
                await self._bootstrap()
            await self._change(transitions.opened_set)
        if lease.mode != "alone":
            # The fence ends reads that a successor's writes would make stale (in mode async writes, too): it counts
            # from the first client on, and not before, so that a long recovery does not race against it.
            await instance.arm()
        if instance.lease is None or not self._leads(instance.lease):
            return
        await apply_config(instance, standby_names(lease, config.wish), door="open")
        instance.door, instance.door_reason = "open", ""
        self._opened = boottime()
        log.info(
            "open for clients at epoch %d, %d ms after PostgreSQL",
            lease.epoch,
            (boottime() - self._begun) // MILLISECOND,
        )
        await self._routed_before()
        await instance.routing.lead_here(lease.epoch)  # the other Services follow with the first round

    async def _other_timeline(self, lease: LeaseState) -> str | None:
        """What is said where PostgreSQL runs on another timeline than was claimed. What was seen of it last may be from
        before the promotion."""
        claim = lease.promoting.timeline if lease.promoting is not None else None
        status = self.instance.status
        if claim is None or status is None or status.timeline == claim:
            return None
        status = await self.instance.look()
        if status is not None and status.timeline == claim:
            return None
        return f"timeline {status.timeline if status else 'unknown'} runs, {claim} was claimed"

    async def hurry(self, *, seconds: float = 3.0) -> None:
        """Right after a promotion: look at the door every few milliseconds, within a bound."""
        begun = boottime()
        until = begun + int(seconds * SECOND)
        pause = 0.005
        while boottime() < until:
            try:
                await self.door()
            except (MatriarchError, OSError) as e:
                log.info("door: %s", e)
            lease = self.instance.lease
            if self.instance.door == "open" or lease is None or self.instance.promise_heard > lease.epoch:
                return  # in the last case a voter may not follow before this epoch is reclaimed
            if boottime() - begun > SECOND // 5 and lease.promoting is not None and self._recording is None:
                # Those who wrote past the fork wait for it to be known.
                self._recording = asyncio.create_task(self._attempt("history", self._record_history()))
            await asyncio.sleep(pause)
            pause = min(pause * 1.2, 0.02)  # each look costs processor time that a standby may need to confirm

    async def _route(self, senders: list[WalSender]) -> None:
        if self.instance.door != "open" or self.instance.switchover.get("state") == "running":
            return  # in the last case clients may be on their way to the heir
        moved = [i for i, a in self.instance.addresses.items() if self._addresses.get(i) != a]
        if moved:
            self._addresses = dict(self.instance.addresses)
            self.instance.routing.forget_labels(moved)
        wanted = self._readers(senders)
        emptied = not self.instance.routing.leads_to("rw", self.instance.env.instance)
        if wanted != self._routed or emptied or moved:
            await self._write_slices(*wanted)
        await self._label()

    def _readers(self, senders: list[WalSender]) -> tuple[frozenset[str], frozenset[str]]:
        replicas, now = self._readable.among(senders), boottime()
        everybody, busy = replicas | {self.instance.env.instance}, self.instance.routing.busy(now)
        self._joined = joined(self._joined, everybody, now=now, busy=busy)
        return replicas, self._joined.members

    async def _routed_before(self) -> None:
        routing, self.routing = self.routing, None
        if routing is not None:
            await asyncio.wait([routing])  # bounded; what it says is older than what is written next

    async def _write_slices(self, replicas: frozenset[str], everybody: frozenset[str]) -> None:
        instance = self.instance
        lease = instance.lease
        if lease is None or not self._leads(lease):
            return
        await self._routed_before()
        addresses = {**instance.addresses, instance.env.instance: instance.env.pod_ip}
        await instance.routing.write(
            lease.epoch,
            {
                "rw": endpoints([instance.env.instance], addresses),
                "ro": endpoints(replicas, addresses),
                "r": endpoints(everybody, addresses),
            },
        )
        self._routed = (replicas, everybody)

    async def _label(self) -> None:
        config = self.instance.config
        assert config is not None
        own = self.instance.env.instance
        roles = {i: "primary" if i == own else "replica" for i in config.instances}
        await self.instance.routing.label(roles)


class _Places(Mapping[str, str]):
    """From where each application name may stream: any incarnation of an instance, from that instance's Pod."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._addresses = addresses

    def __getitem__(self, name: str) -> str:
        member = Member.parse(name)
        if member is None:
            raise KeyError(name)
        return self._addresses[member.instance]

    def __iter__(self) -> Iterator[str]:
        return iter(self._addresses)

    def __len__(self) -> int:
        return len(self._addresses)


def _secret(name: str) -> str | None:
    """The password in the mounted Secret, None while it is not there."""
    path = Path(f"/etc/matriarch/{name}/password")
    return path.read_text().strip() if path.exists() else None

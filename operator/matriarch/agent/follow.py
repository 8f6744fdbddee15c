"""A standby's way to the holder's WAL: attach, rewind, or clone anew."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from matriarch.agent.ahead import door_of_standby
from matriarch.agent.clock import SECOND, boottime
from matriarch.agent.doctor import REWINDS, Doctor
from matriarch.agent.instance import Instance
from matriarch.agent.postgres.facts import CloneProgress
from matriarch.agent.settings import apply_config
from matriarch.agent.transitions import note
from matriarch.decide import attach
from matriarch.decide.lease import LeaseState
from matriarch.decide.logical import waited_for_if_elected
from matriarch.decide.member import Member
from matriarch.decide.space import advice, takes_wal
from matriarch.decide.voters import names_if_elected
from matriarch.errors import MatriarchError, Refused, Unavailable
from matriarch.postgres.conninfo import Upstream, slot_name
from matriarch.postgres.lsn import parse_lsn
from matriarch.postgres.standbynames import NOBODY
from matriarch.postgres.timeline import Switch

log = logging.getLogger(__name__)

SILENT_STREAM = 10 * SECOND
"""A standby that should stream and has had no receiver for so long looks at its way again."""

SLOTS_EVERY = 10 * SECOND
PATIENCE = 10 * SECOND
"""Others that are away for so long will not confirm anything."""


class Follower:
    """What one standby remembers between two looks."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.doctor = Doctor(instance, again=self._again, stop=self._stop_in_turn, clone=self._clone_anew)
        self._streamed = boottime()
        self._made_from: Member | None = None  # a clone or rewind of it needs its WAL to become consistent
        self._silent_since = 0
        self._slots_at = 0
        self._waiting_since = 0
        self._slots_task: asyncio.Task[None] | None = None
        self._warmth: asyncio.Task[None] | None = None
        self._takes_wal = True

    def first_upstream(self, lease: LeaseState) -> Upstream | None:
        """Whom a standby may follow from its very start: only whom it was just made from."""
        instance = self._instance
        address = instance.addresses.get(self._made_from.instance) if self._made_from else None
        if self._made_from is None or self._made_from != lease.holder or address is None:
            return None
        if not self._takes_wal:
            return None
        return self.upstream(self._made_from, address) if instance.promised <= lease.epoch else None

    async def step(self) -> float:
        """One look; seconds until the next. Raises Unavailable when something does not answer in time."""
        instance = self._instance
        lease, me = instance.lease, instance.me
        assert lease is not None
        assert me is not None
        assert lease.holder is not None
        status = await instance.look()
        if (pause := await self.doctor.examine(status)) is not None:
            return pause
        if status is None:
            return await self._not_consistent(lease)
        self._silent_since = 0
        self._takes_wal = takes_wal(self._takes_wal, instance.space)
        if not self._takes_wal:
            return await self._park()
        if status.receiver is not None and status.receiver.status == "streaming":
            self._streamed = boottime()
            instance.follows_line = True
            self.doctor.rewinds_failed = 0
            self.doctor.waits = False
        address = instance.addresses.get(lease.holder.instance)
        if address is None:
            instance.reason = f"no address of {lease.holder.instance} is known"
            return 0.5
        if instance.following == (lease.holder, address) and boottime() - self._streamed < SILENT_STREAM:
            instance.state = "running"
            if instance.illness is None:
                instance.reason = ""
            self._made_from = None
            await apply_config(instance, NOBODY, door=door_of_standby(instance))
            slots = [slot_name(m.instance) for m in waited_for_if_elected(lease, me)]
            await instance.server.set_standby_names(names_if_elected(lease, me), slots=slots)
            if boottime() - self._slots_at > SLOTS_EVERY:
                self._slots_at = boottime()
                # Beside the loop: the holder may be gone, and the loop must not wait for it.
                self._slots_task = asyncio.create_task(self._keep_slots(lease.holder))
                self._warmth = asyncio.create_task(self._keep_warm(lease))
            return 1.0
        if instance.delay and status.received_lsn is None and not await self._replayed_all():
            instance.state, instance.reason = "running", "replays what it has, late as it should, before it streams"
            instance.follows_line = True  # it is never elected, so all that it has came from a primary
            await apply_config(instance, NOBODY, door=door_of_standby(instance))
            return 2.0
        return await self._decide(lease, me, lease.holder, address)

    async def _replayed_all(self) -> bool:
        try:
            with self._instance.wanted_stop():  # as instance.position()
                await self._instance.server.vote_position(timeout=0.5)
        except Unavailable:
            return False
        return True

    async def _park(self) -> float:
        """No room for more WAL: up and able to vote, but nobody's standby until there is room."""
        instance = self._instance
        if instance.following is not None:
            async with instance.control:
                await instance.server.cut_stream()
                instance.following = None
            log.warning("the volume is full: no more WAL is taken")
        instance.state, instance.reason = "waiting", advice(instance.space, leads=False)
        return 1.0

    async def _not_consistent(self, lease: LeaseState) -> float:
        """A clone or rewind that was started without upstream never becomes consistent; attaching destroys nothing."""
        instance = self._instance
        assert lease.holder is not None
        self._silent_since = self._silent_since or boottime()
        address = instance.addresses.get(lease.holder.instance)
        instance.state, instance.reason = "starting", "not consistent yet"
        if boottime() - self._silent_since > 5 * SECOND and address and instance.following is None:
            await self._attach(lease, lease.holder, address, line=())
        return 0.5

    async def _decide(self, lease: LeaseState, me: Member, holder: Member, address: str) -> float:
        instance = self._instance
        if instance.epoch_heard > lease.epoch:
            instance.reason = f"a peer knows epoch {instance.epoch_heard}, the Lease is at {lease.epoch}"
            return 0.1
        facts = attach.Facts(
            me=me,
            position=await instance.position(),
            lease=lease,
            promised=instance.promised,
            rewind_failed=self.doctor.rewinds_failed >= REWINDS,
            waited=self._waiting_since > 0 and boottime() - self._waiting_since > PATIENCE,
        )
        verdict = attach.verdict(facts)
        if verdict.kind == "wait" and instance.promised <= lease.epoch:
            confirmed, streaming = await self._confirmed(holder)
            verdict = attach.verdict(attach.replaced(facts, confirmed=confirmed, streaming=streaming))
        instance.reason = verdict.why
        self.doctor.waits = verdict.kind in ("wait", "rewind")
        self._waiting_since = (self._waiting_since or boottime()) if verdict.kind == "wait" else 0
        match verdict.kind:
            case "attach":
                await self._attach(lease, holder, address)
                return 0.5
            case "rewind" if why := instance.not_by_a_copy():
                instance.state, instance.reason = "waiting", why
                return 0.5
            case "rewind":
                return 0.0 if await self._rewind(holder, address) else 5.0
            case "clone":
                instance.state = "waiting"  # the doctor sees to it, in turn and with its limits
                return 1.0
            case "wait":
                instance.state = "waiting"
                return 0.1

    def upstream(self, holder: Member, address: str) -> Upstream:
        env, lease = self._instance.env, self._instance.lease
        return Upstream(
            instance=holder.instance,
            address=address,
            hostname=env.hostname(holder.instance),
            slot=slot_name(env.instance),
            application_name=str(self._instance.me),
            copies_slots=lease is None or lease.mode != "follow",
        )

    async def _attach(
        self, lease: LeaseState, holder: Member, address: str, *, line: Sequence[Switch] | None = None
    ) -> None:
        instance = self._instance
        async with instance.control:
            newest = instance.lease
            bound = newest is not None and newest.mode != "follow" and instance.promised > newest.epoch
            if newest is None or newest.holder != holder or bound:
                return  # overtaken while it waited for the lock
            if line is None:
                line = lease.lineage if lease.promoting is None else ()
            with instance.wanted_stop():  # a history that is nobody's may have to go, which restarts the standby
                await instance.server.attach(self.upstream(holder, address), line=line)
            instance.following = (holder, address)
            note(instance, "attach")
            self._streamed = boottime()
        log.info("following %s at epoch %d", holder.instance, newest.epoch)

    async def _keep_slots(self, holder: Member) -> None:
        """A standby keeps a slot for each other member too: whoever is elected has the WAL that the rest lack."""
        instance = self._instance
        config = instance.config
        if config is None or instance.space.state == "full":
            return
        try:
            doc = await instance.peers.get(holder.instance, "/v1/status", timeout=2.0)
            flushed = {s["instance"]: parse_lsn(s["flush_lsn"]) for s in doc.get("streams") or []}
            if doc.get("role") == "primary":
                flushed[holder.instance] = parse_lsn(doc["lsn"])
        except (Unavailable, Refused, KeyError, ValueError):
            flushed = {}
        others = [i for i in config.instances if i != instance.env.instance]
        try:
            await instance.server.ensure_slots({slot_name(i): flushed.get(i) for i in others})
            await instance.server.wake_slot_worker()
            for name in await instance.server.drop_leftovers():
                log.info("dropped logical slot %s of a time as primary; its copy from %s follows", name, holder)
        except MatriarchError as e:
            log.info("slots: %s", e)

    async def _keep_warm(self, lease: LeaseState) -> None:
        """Connections to the other voters are open before an election needs them: a handshake costs it 20 ms."""
        instance = self._instance
        others = [v.instance for v in lease.voters if v != instance.me]
        with contextlib.suppress(Unavailable, Refused):
            await asyncio.gather(*(instance.peers.get(other, "/v1/ping") for other in others))

    async def _confirmed(self, holder: Member) -> tuple[tuple[Member, ...] | None, tuple[Member, ...]]:
        """Which voters the holder saw flush past its promotion record, None when it does not say; and who streams."""
        try:
            doc = await self._instance.peers.get(holder.instance, "/v1/status")
        except (Unavailable, Refused):
            return None, ()
        if doc.get("role") != "primary":
            return None, ()
        streams = doc.get("streams") or []
        streaming = tuple(Member(s["instance"], s["incarnation"]) for s in streams if s["state"] == "streaming")
        return tuple(Member(*m) for m in doc.get("confirmed") or []), streaming

    async def _rewind(self, holder: Member, address: str) -> bool:
        instance = self._instance
        instance.busy, instance.state, instance.reason = "rewinding", "rewinding", f"from {holder.instance}"
        try:
            async with instance.control:
                instance.following = None
                await self._stop()
            result = await instance.server.rewind(self.upstream(holder, address))
            log.info("rewind: %s", result)
            self.doctor.rewinds_failed += 0 if result.done else REWINDS if result.unusable else 1
            self._made_from = holder if result.done else None
            return result.done
        finally:
            instance.busy = ""

    async def clone(self, lease: LeaseState, holder: Member) -> None:
        """A base backup of the holder as a new incarnation. Raises Unavailable; what was begun is begun anew."""
        instance = self._instance
        address = instance.addresses.get(holder.instance)
        if address is None:
            raise Unavailable(f"no address of {holder.instance} is known")
        rest = [v for v in lease.voters if v != instance.me]
        # A directory that a rewind left half done can't vote, so keeping it helps nobody.
        if instance.me in lease.voters and len(rest) >= max(lease.k, 1) and await instance.server.kind() != "broken":
            # What it holds may still be needed until the others are known to hold it (I8, S1).
            raise Unavailable(f"{holder.instance} must take this volume out of the voters first")
        # Data of a system that a Restore replaced is nothing that a doctor would mend.
        again = await instance.server.kind() != "none" and instance.system_identifier not in lease.replaced
        await _reachable(address)  # before the vote is given away
        if again:
            await self.doctor.may_clone()
        if instance.server_role != "stopped":
            async with instance.control:
                await self._stop()
        instance.busy, instance.state, instance.reason = "cloning", "cloning", f"from {holder.instance}"
        permit = asyncio.create_task(self.doctor.keep_permit()) if again else None
        try:
            made = instance.files.renew_incarnation(instance.env.claim_uid)
            instance.me = Member(instance.env.instance, made.id)
            instance.following = None
            await instance.sync_beats()
            await instance.peers.post(
                holder.instance, "/v1/join", {"member": [instance.me.instance, instance.me.incarnation]}, timeout=5.0
            )
            await instance.server.clone(
                self.upstream(holder, address), progress=self._progress, keep_old=self._both_fit()
            )
            self._made_from = holder
            log.info("cloned from %s as %s", holder.instance, instance.me)
            if again:
                await self.doctor.cloned()
        except Refused as e:
            raise Unavailable(str(e)) from e
        finally:
            instance.busy = ""
            if permit is not None:
                permit.cancel()

    def _both_fit(self) -> bool:
        """Whether the volume takes the copy beside what is there: as long as it does, a broken copy costs nothing."""
        source = self.doctor.source
        return source is None or not source.used_bytes or self._instance.space.free_bytes > source.used_bytes

    async def _again(self) -> None:
        """What the timelines say and no more: to attach WAL that left the line would acknowledge what it lacks."""
        lease, me = self._instance.lease, self._instance.me
        address = self._instance.addresses.get(lease.holder.instance) if lease and lease.holder else None
        if lease is None or lease.holder is None or me is None or address is None:
            return
        if await self._instance.look() is None:
            await self._not_consistent(lease)
        else:
            await self._decide(lease, me, lease.holder, address)

    async def _clone_anew(self) -> None:
        lease = self._instance.lease
        if lease is None or lease.holder is None or lease.holder == self._instance.me:
            raise Unavailable("no primary is known to copy from")
        if why := self._instance.not_by_a_copy():  # for the loop's own step `decide/role.py` sees to it
            raise Unavailable(why)
        await self.clone(lease, lease.holder)

    def _progress(self, progress: CloneProgress) -> None:
        total = max(progress.total_bytes, 1)
        share = min(100, 100 * progress.done_bytes // total)
        self._instance.reason = f"{progress.step}: {progress.done_bytes >> 20} MiB, {share} %"

    async def _stop_in_turn(self) -> None:
        async with self._instance.control:
            await self._stop()

    async def _stop(self) -> None:
        instance = self._instance
        with instance.wanted_stop():
            if not await instance.server.stop("fast", timeout=30.0) and not await instance.supervisor.end_others(5.0):
                raise MatriarchError("PostgreSQL does not end; its processes wait for the disk")
            instance.server_role, instance.status = "stopped", None


async def _reachable(address: str) -> None:
    """Raises Unavailable where no connection can be made: a copy could not begin either."""
    try:
        async with asyncio.timeout(3.0):
            _, writer = await asyncio.open_connection(address, 5432)
    except (OSError, TimeoutError) as e:
        raise Unavailable(f"{address} takes no connections to copy from: {e or 'no answer'}") from e
    writer.close()

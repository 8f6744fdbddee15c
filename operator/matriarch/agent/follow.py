"""A standby's way to the holder's WAL: attach, rewind, or clone anew."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from matriarch.agent.clock import SECOND, boottime
from matriarch.agent.instance import Instance
from matriarch.agent.postgres.facts import CloneProgress
from matriarch.agent.settings import apply_config
from matriarch.agent.transitions import note
from matriarch.decide import attach
from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
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
SILENCES = 6
"""So many times SILENT_STREAM without a stream from a holder that answers: the WAL it needs is gone."""


class Follower:
    """What one standby remembers between two looks."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._rewind_failed = False
        self._streamed = boottime()
        self._made_from: Member | None = None  # a clone or rewind of it needs its WAL to become consistent
        self._silent_since = 0
        self._slots_at = 0
        self._waiting_since = 0
        self._silences = 0
        self._slots_task: asyncio.Task[None] | None = None

    def first_upstream(self, lease: LeaseState) -> Upstream | None:
        """Whom a standby may follow from its very start: only whom it was just made from."""
        instance = self._instance
        address = instance.addresses.get(self._made_from.instance) if self._made_from else None
        if self._made_from is None or self._made_from != lease.holder or address is None:
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
        if status is None:
            return await self._not_consistent(lease)
        self._silent_since = 0
        if status.receiver is not None and status.receiver.status == "streaming":
            self._streamed = boottime()
            self._rewind_failed = False
            self._silences = 0
        address = instance.addresses.get(lease.holder.instance)
        if address is None:
            instance.reason = f"no address of {lease.holder.instance} is known"
            return 0.5
        if instance.following == (lease.holder, address) and boottime() - self._streamed < SILENT_STREAM:
            instance.state, instance.reason = "running", ""
            self._made_from = None
            await apply_config(instance, NOBODY, clients=True)
            if boottime() - self._slots_at > SLOTS_EVERY:
                self._slots_at = boottime()
                # Beside the loop: the holder may be gone, and the loop must not wait for it.
                self._slots_task = asyncio.create_task(self._keep_slots(lease.holder))
            return 1.0
        return await self._decide(lease, me, lease.holder, address)

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
        facts = attach.Facts(
            me=me,
            position=await instance.position(),
            lease=lease,
            promised=instance.promised,
            rewind_failed=self._rewind_failed,
            waited=self._waiting_since > 0 and boottime() - self._waiting_since > PATIENCE,
        )
        verdict = attach.verdict(facts)
        if verdict.kind == "wait" and instance.promised <= lease.epoch:
            confirmed, streaming = await self._confirmed(holder)
            verdict = attach.verdict(attach.replaced(facts, confirmed=confirmed, streaming=streaming))
        instance.reason = verdict.why
        self._waiting_since = (self._waiting_since or boottime()) if verdict.kind == "wait" else 0
        match verdict.kind:
            case "attach":
                if instance.following == (holder, address):  # it streamed nothing since the last time
                    self._silences += 1
                    self._rewind_failed = self._silences >= SILENCES and await self._answers(holder)
                await self._attach(lease, holder, address)
                return 0.5
            case "rewind":
                await self._rewind(holder, address)
                return 0.0
            case "clone":
                await self.clone(lease, holder)
                return 0.0
            case "wait":
                instance.state = "waiting"
                return 0.1

    def upstream(self, holder: Member, address: str) -> Upstream:
        env = self._instance.env
        return Upstream(
            instance=holder.instance,
            address=address,
            hostname=env.hostname(holder.instance),
            slot=slot_name(env.instance),
            application_name=str(self._instance.me),
        )

    async def _attach(
        self, lease: LeaseState, holder: Member, address: str, *, line: Sequence[Switch] | None = None
    ) -> None:
        instance = self._instance
        async with instance.control:
            newest = instance.lease
            if newest is None or newest.holder != holder or instance.promised > newest.epoch:
                return  # overtaken while it waited for the lock
            if line is None:
                line = lease.lineage if lease.promoting is None else ()
            with instance.wanted_stop():  # a history that is nobody's may have to go, which restarts the standby
                await instance.server.attach(self.upstream(holder, address), line=line)
            instance.following = (holder, address)
            note(instance, "attach")
            self._streamed = boottime()
        log.info("following %s at epoch %d", holder.instance, newest.epoch)

    async def _answers(self, holder: Member) -> bool:
        try:
            return (await self._instance.peers.get(holder.instance, "/v1/status")).get("role") == "primary"
        except (Unavailable, Refused):
            return False

    async def _keep_slots(self, holder: Member) -> None:
        """A standby keeps a slot for each other member too: whoever is elected has the WAL that the rest lack."""
        instance = self._instance
        config = instance.config
        if config is None:
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
        except MatriarchError as e:
            log.info("slots: %s", e)

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

    async def _rewind(self, holder: Member, address: str) -> None:
        instance = self._instance
        instance.busy, instance.state, instance.reason = "rewinding", "rewinding", f"from {holder.instance}"
        try:
            async with instance.control:
                instance.following = None
                await self._stop()
            result = await instance.server.rewind(self.upstream(holder, address))
            log.info("rewind: %s", result)
            self._rewind_failed = not result.done
            self._made_from = holder if result.done else None
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
        if instance.me in lease.voters and len(rest) >= lease.k and await instance.server.kind() != "broken":
            # What it holds may still be needed until the others are known to hold it (I8, S1).
            raise Unavailable(f"{holder.instance} must take this volume out of the voters first")
        if instance.server_role != "stopped":
            async with instance.control:
                await self._stop()
        instance.busy, instance.state, instance.reason = "cloning", "cloning", f"from {holder.instance}"
        try:
            made = instance.files.renew_incarnation(instance.env.claim_uid)
            instance.me = Member(instance.env.instance, made.id)
            instance.following = None
            await instance.sync_beats()
            await instance.peers.post(
                holder.instance, "/v1/join", {"member": [instance.me.instance, instance.me.incarnation]}, timeout=5.0
            )
            await instance.server.clone(self.upstream(holder, address), progress=self._progress)
            self._rewind_failed = False
            self._made_from = holder
            log.info("cloned from %s as %s", holder.instance, instance.me)
        except Refused as e:
            raise Unavailable(str(e)) from e
        finally:
            instance.busy = ""

    def _progress(self, progress: CloneProgress) -> None:
        total = max(progress.total_bytes, 1)
        share = min(100, 100 * progress.done_bytes // total)
        self._instance.reason = f"{progress.step}: {progress.done_bytes >> 20} MiB, {share} %"

    async def _stop(self) -> None:
        instance = self._instance
        with instance.wanted_stop():
            if not await instance.server.stop("fast", timeout=30.0) and not await instance.supervisor.end_others(5.0):
                raise MatriarchError("PostgreSQL does not end; its processes wait for the disk")
            instance.server_role, instance.status = "stopped", None

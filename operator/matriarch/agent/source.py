"""The designated primary of a replica cluster: streams from the source, and is what the other instances stream from.

It leads nobody in the sense of the protocol: it has no door, no voters and no fence. What it does is what a standby
does, with a server outside of the cluster as its upstream, and beside that the holder's part that needs no primary:
slots for the others, and the Services for reading.
"""

from __future__ import annotations

import asyncio
import logging

from matriarch.agent import sites
from matriarch.agent.clock import SECOND, boottime
from matriarch.agent.config import ReplicaConfig
from matriarch.agent.instance import Instance
from matriarch.agent.leases import Lost, new_nonce
from matriarch.agent.postgres.facts import CloneProgress, ServerStatus
from matriarch.agent.routing import endpoints
from matriarch.agent.settings import apply_config
from matriarch.agent.transitions import note
from matriarch.decide import following, source
from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
from matriarch.decide.space import advice, takes_wal
from matriarch.errors import MatriarchError, Unavailable
from matriarch.postgres.conninfo import STREAM_ROLE, Upstream, slot_name
from matriarch.postgres.standbynames import NOBODY

log = logging.getLogger(__name__)

SILENT_STREAM = 10 * SECOND
"""Without a stream for so long, the way to the source is looked at again: it may have failed over."""
ASK_EVERY = 5 * SECOND
GONE_AFTER = 300 * SECOND
"""A source that answers and sends nothing for so long has probably removed the WAL that is needed."""
DUTIES_EVERY, ROUTES_EVERY = 2 * SECOND, 30 * SECOND
REWINDS = 2


class SourceFollower:
    """What the designated primary remembers between two looks."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._says: source.Source | None = None  # the newest word of the source, None while it does not answer
        self._error = ""
        self._asked_at = 0
        self._asking: asyncio.Task[None] | None = None
        self._streamed = boottime()
        self._made = False  # copied or rewound from the source, and needs its WAL to become consistent
        self._rewinds_failed = 0
        self._takes_wal = True
        self._duties_at = 0
        self._routed: tuple[object, ...] | None = None
        self._routed_at = 0
        self._not_consistent_since = 0

    # --- who the source is ------------------------------------------------------------------------------------

    def upstream(self) -> Upstream:
        """Raises Unavailable when the spec does not name one."""
        return self._config().upstream(self._instance.env)

    def first_upstream(self) -> Upstream | None:
        """Whom a standby may follow from its very start: only whom it was just made from."""
        return self.upstream() if self._made and self._takes_wal else None

    @property
    def key(self) -> tuple[Member, str]:
        """What `Instance.following` says while the source is followed."""
        config = self._config()
        return Member("the source", ""), f"{config.host}:{config.port} {config.user} {config.ssl_mode}"

    def _config(self) -> ReplicaConfig:
        config = self._instance.config
        if config is None or config.replica is None:
            raise Unavailable("this is a replica cluster, and spec.replica names no source; put it back")
        return config.replica

    # --- one look ---------------------------------------------------------------------------------------------

    async def step(self) -> float:
        """One look; seconds until the next. Raises Unavailable when something does not answer in time."""
        instance, now = self._instance, boottime()
        lease = instance.lease
        assert lease is not None
        status = await instance.look()
        self._ask(status, lease)
        if status is None:
            return await self._not_consistent()
        self._not_consistent_since = 0
        streaming = status.receiver is not None and status.receiver.status == "streaming"
        await apply_config(instance, NOBODY, door="open")
        instance.state, instance.reason = "running", ""
        if now - self._duties_at > DUTIES_EVERY:
            self._duties_at = now
            await self._duties(lease)
        if await sites.promotes(instance, status):
            return 0.0
        self._takes_wal = takes_wal(self._takes_wal, instance.space)
        if not self._takes_wal:
            return await self._park()
        self._report(streaming=streaming and instance.following == self.key)
        if streaming and instance.following == self.key:
            self._streamed, self._made, self._rewinds_failed = boottime(), False, 0
            await self._record_line(status, lease)
            return 1.0
        if instance.following == self.key and boottime() - self._streamed < SILENT_STREAM:
            return 0.5
        return await self._decide(lease)

    def _ask(self, status: ServerStatus | None, lease: LeaseState) -> None:
        """Beside the loop, which must not wait for another site. Not while all is well."""
        receiver = status.receiver if status is not None else None
        well = receiver is not None and receiver.status == "streaming" and receiver.timeline == lease.timeline
        if (well and self._instance.following == self.key) or boottime() - self._asked_at < ASK_EVERY:
            return
        if self._asking is None or self._asking.done():
            self._asked_at = boottime()
            self._asking = asyncio.create_task(self._ask_source())

    async def _ask_source(self) -> None:
        try:
            self._says, self._error = await self._instance.server.identify(self.upstream()), ""
        except MatriarchError as e:
            self._says, self._error = None, str(e)

    async def _not_consistent(self) -> float:
        """A copy that was started without upstream never becomes consistent; attaching destroys nothing."""
        instance = self._instance
        self._not_consistent_since = self._not_consistent_since or boottime()
        instance.state, instance.reason = "starting", self._error or "not consistent yet"
        if boottime() - self._not_consistent_since > 5 * SECOND and instance.following is None and self._says:
            await self._attach(self._says)
        return 0.5

    async def _park(self) -> float:
        instance = self._instance
        if instance.following is not None:
            async with instance.control:
                await instance.server.cut_stream()
                instance.following = None
            log.warning("the volume is full: no more WAL is taken")
        instance.state, instance.reason = "waiting", advice(instance.space, leads=False)
        return 1.0

    async def _decide(self, lease: LeaseState) -> float:
        instance, says = self._instance, self._says
        if says is None:
            return 0.5
        found = source.verdict(await instance.position(), lease, says, instance.system_identifier)
        self._error = found.why if found.kind == "wait" else ""
        match found.kind:
            case "attach":
                if boottime() - self._streamed > GONE_AFTER and instance.following == self.key:
                    at = (await instance.position()).lsn
                    self._error = (
                        f"{self._config().host} answers and sends no WAL; it has probably removed what comes after"
                        f" {at >> 32:X}/{at & 0xFFFFFFFF:X}. To copy it anew, delete the volume of"
                        f" {instance.env.instance} and its Pod"
                    )
                    return 5.0
                if instance.following != self.key:
                    self._streamed = boottime()
                await self._attach(says)
                return 1.0
            case "rewind" if why := instance.not_by_a_copy():
                self._error = why
                return 1.0
            case "rewind":
                log.warning("%s", found.why)
                await self._rewind()
                return 0.0
            case "wait":
                return 2.0

    async def _attach(self, says: source.Source) -> None:
        instance = self._instance
        async with instance.control:
            if not instance.is_holder or instance.lease is None or instance.lease.mode != "follow":
                return  # overtaken while it waited for the lock
            with instance.wanted_stop():  # a history that is nobody's may have to go, which restarts the standby
                await instance.server.attach(self.upstream(), line=says.line)
            if instance.following != self.key:
                instance.following = self.key
                note(instance, "attach-source")
                log.info("following %s", self.key[1])

    async def _record_line(self, status: ServerStatus, lease: LeaseState) -> None:
        """The source failed over, and its new timeline arrives: the other instances compare theirs with it."""
        says, receiver = self._says, status.receiver
        if says is None or receiver is None or receiver.timeline == lease.timeline:
            return
        if says.timeline == receiver.timeline:
            await self._change(lambda s: following.line_followed(s, says.line))

    async def _change(self, derive: sites.Derive) -> None:
        try:
            await sites.change(self._instance, derive)
        except Lost as e:
            raise Unavailable(str(e)) from e

    # --- copies -----------------------------------------------------------------------------------------------

    async def clone(self) -> None:
        """A base backup of the source as a new incarnation. Raises Unavailable; what was begun is begun anew."""
        instance, lease = self._instance, self._instance.lease
        assert lease is not None
        says = await instance.server.identify(self.upstream())
        if lease.system_identifier not in ("", says.system_identifier):
            msg = f"the source is database system {says.system_identifier}, this cluster is a copy of"
            raise Unavailable(f"{msg} {lease.system_identifier}: correct spec.replica.source")
        if instance.server_role != "stopped":
            await self._stop()
        host = self._config().host
        instance.busy, instance.state, instance.reason = "cloning", "cloning", f"from {host}"
        try:
            made = instance.files.renew_incarnation(instance.env.claim_uid)
            instance.me = Member(instance.env.instance, made.id)
            instance.following = None
            await instance.sync_beats()
            await instance.server.clone(self.upstream(), progress=self._progress)
            self._made, self._rewinds_failed = True, 0
            log.info("cloned from %s as %s", host, instance.me)
        finally:
            instance.busy = ""

    async def record_copy(self) -> None:
        """The first instance's copy is whole: epoch 1. Raises Unavailable."""
        instance, me = self._instance, self._instance.me
        says = await instance.server.identify(self.upstream())
        if me is None or says.system_identifier != instance.system_identifier:
            raise Unavailable(
                f"the volume holds database system {instance.system_identifier}, the source is"
                f" {says.system_identifier}: correct spec.replica.source, or delete this cluster with its data"
            )
        try:
            await instance.leases.change(
                lambda s: following.bootstrapped(s, me, says.system_identifier, says.line, new_nonce())
            )
        except (Lost, ValueError) as e:
            raise Unavailable(str(e)) from e
        self._made = True

    async def _rewind(self) -> None:
        """Takes back what the source does not have; where that fails twice, a new copy follows."""
        instance = self._instance
        instance.busy, instance.state = "rewinding", "rewinding"
        try:
            await self._stop()
            result = await instance.server.rewind(self.upstream())
            log.info("rewind: %s", result)
            self._made = result.done
            self._rewinds_failed += 0 if result.done else REWINDS if result.unusable else 1
        finally:
            instance.busy = ""
        if self._rewinds_failed >= REWINDS:
            await self.clone()

    async def _stop(self) -> None:
        instance = self._instance
        async with instance.control:
            with instance.wanted_stop():
                stopped = await instance.server.stop("fast", timeout=30.0)
                if not stopped and not await instance.supervisor.end_others(5.0):
                    raise MatriarchError("PostgreSQL does not end; its processes wait for the disk")
                instance.server_role, instance.status, instance.following = "stopped", None, None

    def _progress(self, progress: CloneProgress) -> None:
        share = min(100, 100 * progress.done_bytes // max(progress.total_bytes, 1))
        self._instance.reason = f"{progress.step}: {progress.done_bytes >> 20} MiB, {share} %"

    # --- for the others ---------------------------------------------------------------------------------------

    async def _duties(self, lease: LeaseState) -> None:
        instance, config = self._instance, self._instance.config
        assert config is not None
        own = instance.env.instance
        try:
            others = {slot_name(i): None for i in config.instances if i != own}
            await instance.server.ensure_slots(others)
            senders = await instance.server.replication()
            streaming = {
                m.instance
                for s in senders
                if s.role == STREAM_ROLE and s.state == "streaming" and (m := Member.parse(s.application_name))
            }
            readers = [i for i in config.instances if i == own or (i in streaming and i not in config.delays)]
            await self._route(lease, readers)
            instance.warnings.pop("replicas", None)
        except MatriarchError as e:
            instance.warnings["replicas"] = str(e)

    async def _route(self, lease: LeaseState, readers: list[str]) -> None:
        """`-rw` leads nowhere: a client that wants to write is refused at once, and not by its first write."""
        instance, config = self._instance, self._instance.config
        assert config is not None
        addresses = {**instance.addresses, instance.env.instance: instance.env.pod_ip}
        wanted = (lease.epoch, tuple(readers), tuple(sorted(addresses.items())))
        if wanted == self._routed and boottime() - self._routed_at < ROUTES_EVERY:
            return
        ends = endpoints(readers, addresses)
        await instance.routing.write(lease.epoch, {"rw": [], "ro": ends, "r": ends})
        if self._routed is None or wanted[2] != self._routed[2]:
            instance.routing.forget_labels()
        await instance.routing.label(dict.fromkeys(config.instances, "replica"))
        self._routed, self._routed_at = wanted, boottime()

    def _report(self, *, streaming: bool) -> None:
        self._instance.site |= {
            "source": self._config().host,
            "streaming": streaming,
            "problem": "" if streaming else self._error,
        }

"""A cluster's way into mode `follow` and out of it, and who is designated meanwhile: each is one swap of the Lease.

Whatever dies between two steps, the next look finds either the old state, and begins again, or the new one, and goes
on by its rules (`decide/role.py`). A wish counts only as this very process read it from the API server: the copy on
the volume may be older than what was carried out already.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from matriarch.agent import poolers
from matriarch.agent.clock import SECOND, boottime
from matriarch.agent.instance import Instance
from matriarch.agent.leases import Lost, new_nonce
from matriarch.agent.postgres.facts import ServerStatus
from matriarch.agent.transitions import note
from matriarch.agent.voting import keep_promise
from matriarch.decide import designation, following, promotion
from matriarch.decide.election import next_epoch
from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
from matriarch.decide.token import Token
from matriarch.errors import MatriarchError, Refused, Unavailable
from matriarch.postgres.conninfo import STREAM_ROLE
from matriarch.postgres.lsn import parse_lsn
from matriarch.postgres.timeline import WalPosition

log = logging.getLogger(__name__)

Derive = Callable[[LeaseState], LeaseState]

CHECKPOINT_WAIT = 60.0
STOP_WAIT = 60.0
"""The stop waits until the replica clusters that stream have the last record: longer than a switchover may take."""
AGAIN = 60 * SECOND
"""After a demotion that failed, clients get so long before the next attempt."""


async def change(instance: Instance, derive: Derive) -> LeaseState:
    """A change of the Lease by the designated primary. Raises Lost when this instance is not it any more."""
    me = instance.me

    def checked(state: LeaseState) -> LeaseState:
        if state.mode != "follow" or state.holder != me:
            raise Lost(f"epoch {state.epoch} is {state.mode}, held by {state.holder}")
        return derive(state)

    return await instance.leases.change(checked)


# --- promotion --------------------------------------------------------------------------------------------------------


async def promotes(instance: Instance, status: ServerStatus) -> bool:
    """Looks at the wish, and says what comes of it in the status; True when the Lease says another mode by now.

    Raises Unavailable: the outcome of the swap is unknown, or something did not answer; the next look tells.
    """
    lease, config = instance.lease, instance.config
    instance.site.pop("promotion", None)
    instance.site.pop("message", None)
    if lease is None or config is None or config.replica is None or not instance.config_fresh:
        return False
    found = promotion.verdict(promotion.Facts(lease, config.replica.wish, status.position, status.replayed_lsn))
    if found.kind != "promote":
        if found.kind != "none":
            instance.site |= {"promotion": found.kind, "message": found.why}
        return False
    heard = await _promised(instance)
    async with instance.control:
        # From here on nothing of the source arrives: where the WAL ends now is where the new timeline begins.
        await instance.server.cut_stream()
        instance.following = None
        position = await instance.position()
        base = await instance.leases.read(wait=2.0)
        looked = await instance.look()
        if base.state.holder != instance.me or looked is None:
            return False
        found = promotion.verdict(promotion.Facts(base.state, config.replica.wish, position, looked.replayed_lsn))
        if found.kind != "promote":
            return False
        epoch = next_epoch(base.state, instance.promised, heard)
        wanted = following.promoted(base.state, epoch, position, new_nonce(), found.token)
        try:
            await instance.leases.swap(base, wanted)
        except Lost as e:
            raise Unavailable(str(e)) from e
        await keep_promise(instance, epoch)  # nobody may win this member for an epoch below the one that it leads
    instance.site.clear()
    log.warning("this cluster is promoted at epoch %d: %s", epoch, found.why)
    return True


async def _promised(instance: Instance) -> int:
    """The highest promise that any instance tells of: a member that promised more would not follow."""
    config = instance.config
    others = [i for i in config.instances if i != instance.env.instance] if config is not None else []

    async def of(name: str) -> int:
        try:
            return int((await instance.peers.get(name, "/v1/status", timeout=2.0)).get("promised") or 0)
        except (Unavailable, Refused, ValueError):
            return 0

    return max((instance.promise_heard, *await asyncio.gather(*map(of, others))))


# --- demotion ---------------------------------------------------------------------------------------------------------


class Demotion:
    """The primary's part: it stops cleanly, and the Lease says so together with the token."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._not_before = 0

    @property
    def due(self) -> bool:
        instance, lease = self._instance, self._instance.lease
        config = instance.config
        if lease is None or config is None or config.replica is None or not instance.config_fresh:
            return False
        if not config.replica.enabled:
            instance.site.clear()
            return False
        if lease.mode == "follow" or lease.promoting is not None:
            return False
        return instance.is_holder and boottime() >= self._not_before and instance.switchover.get("state") != "running"

    async def carry_out(self) -> None:
        """Raises MatriarchError when it could not be done: then this instance leads on, and tries again later.

        Between the stop and the swap only another swap gives authority back, so a write of unknown outcome can never
        make a token of a cluster that went on writing.
        """
        instance, lease = self._instance, self._instance.lease
        assert lease is not None
        self._not_before = boottime() + AGAIN
        await self._look_at_source(lease)
        await self._look_for_slots()
        log.warning("demoting this cluster, as spec.replica.enabled asks")
        await instance.server.checkpoint(timeout=CHECKPOINT_WAIT)  # most of the work while clients still write
        heard = await _promised(instance)
        stopping = contextlib.ExitStack()
        try:
            await poolers.pause(instance)
            async with instance.control:
                if instance.lease is None or instance.lease.epoch != lease.epoch or not instance.is_holder:
                    raise Unavailable("the Lease changed meanwhile")
                stopping.enter_context(instance.wanted_stop())
                instance.leases.authority = 0
                token = await self._stopped_at()
                if lease.mode == "alone":
                    await self._fence(lease.epoch)
                base = await instance.leases.read(wait=2.0)
                if base.state.epoch != lease.epoch or base.state.holder != instance.me:
                    raise Unavailable(f"epoch {base.state.epoch} is held by {base.state.holder}")
                epoch = next_epoch(base.state, instance.promised, heard)
                await instance.leases.swap(base, following.demoted(base.state, epoch, token, new_nonce()))
                await instance.disarm()
        except (Lost, ValueError) as e:
            raise Unavailable(f"this cluster could not be demoted: {e}") from e
        finally:
            stopping.close()
            instance.nudge()
            if instance.server_role == "primary":  # nothing was stopped
                await poolers.resume(instance)
        log.warning("this cluster is demoted at epoch %d; its last write is at %s", epoch, token.position)

    async def _fence(self, epoch: int) -> None:
        """A single instance may start from its own copy of the Lease, which may be older than the swap that follows.

        Where there are voters nobody starts without a swap, and being fenced would only make them elect.
        """
        instance = self._instance
        try:
            async with asyncio.timeout(5.0):
                await asyncio.to_thread(instance.files.write_fenced, epoch)
        except (TimeoutError, OSError) as e:
            raise Unavailable(f"the volume does not take the fence, so this cluster is not demoted: {e}") from e
        instance.fenced = epoch
        note(instance, "fence")

    async def _look_at_source(self, lease: LeaseState) -> None:
        """Raises Unavailable where the source is another database: this cluster would stop for nothing. One that does
        not answer may be on its way."""
        instance, config = self._instance, self._instance.config
        assert config is not None
        assert config.replica is not None
        instance.site.clear()
        try:
            says = await instance.server.identify(config.replica.upstream(instance.env))
        except Unavailable as e:
            log.warning("demoting all the same: %s", e)
            return
        if says.system_identifier != lease.system_identifier:
            why = (
                f"the source {config.replica.host} is database system {says.system_identifier}, and this cluster is"
                f" {lease.system_identifier}, so it could never follow it: correct replica.source, or set"
                " replica.enabled: false"
            )
            instance.site |= {"promotion": "refuse", "message": why}
            raise Unavailable(why)

    async def _look_for_slots(self) -> None:
        """Raises Unavailable while there are logical slots: no other site has them, and what is left of one here would
        hold up vacuum at the next primary, for ever."""
        instance = self._instance
        names = await instance.server.every_logical_slot()
        if names:
            why = (
                f"the logical slots {', '.join(names)} exist, and they cannot go along to another site: end their"
                " consumers and drop them; consumers begin anew there"
            )
            instance.site |= {"promotion": "refuse", "message": why}
            raise Unavailable(why)

    async def _stopped_at(self) -> Token:
        """The clean stop. Raises Unavailable when it was none: then the next start recovers, and leads on."""
        instance, env = self._instance, self._instance.env
        instance.door, instance.door_reason = "closed", "this cluster becomes a replica cluster"
        with contextlib.suppress(MatriarchError):
            await instance.server.end_consumers(timeout=1.0)
        if not await instance.server.stop("fast", timeout=STOP_WAIT):
            await instance.supervisor.end_others(5.0)
        instance.server_role, instance.status, instance.following = "stopped", None, None
        control = await instance.server.control_data()
        lease = instance.lease
        if control is None or control.state != "shut down" or lease is None:
            raise Unavailable("PostgreSQL did not stop cleanly; the demotion is tried again in a minute")
        return Token(
            control.system_identifier,
            control.timeline,
            control.checkpoint,
            lease.claimed,
            f"{env.namespace}/{env.cluster}",
            new_nonce(),
        )


# --- the designated primary -------------------------------------------------------------------------------------------


async def check_next(instance: Instance, to: str) -> Member:
    """The instance that may be designated next, or Refused: before anything changes."""
    if instance.server_role != "standby" or instance.status is None:
        raise Refused(f"{instance.env.instance} does not run as a standby now; wait until it does", reason="NotNow")
    if to == instance.env.instance:
        raise Refused(f"{to} is the designated primary already", reason="AlreadyPrimary")
    if instance.config is not None and to in instance.config.delays:
        raise Refused(f"{to} stays behind on purpose; choose another instance", reason="Delayed")
    for sender in await instance.server.replication():
        member = Member.parse(sender.application_name)
        if member and member.instance == to and sender.role == STREAM_ROLE and sender.state == "streaming":
            return member
    raise Refused(f"{to} does not stream now; wait until it does", reason="NotStreaming")


async def hand_on(instance: Instance, to: Member) -> None:
    """Name another designated primary. Raises Unavailable, and nothing is lost by that."""
    instance.switchover = {"to": to.instance, "state": "running", "message": ""}

    def named(s: LeaseState) -> LeaseState:
        return following.designated(s, to, next_epoch(s, instance.promised, instance.promise_heard), new_nonce())

    try:
        state = await change(instance, named)
    except (Lost, ValueError, MatriarchError) as e:
        instance.switchover |= {"state": "aborted", "message": str(e)}
        raise Unavailable(str(e)) from e
    instance.switchover["state"] = "done"
    log.info("%s is the designated primary at epoch %d", to.instance, state.epoch)


async def keep_designated(instance: Instance) -> None:
    """For as long as the agent lives: names itself when the designated primary is gone and it is its turn."""
    while True:
        await asyncio.sleep(1.0)
        lease = instance.lease
        if lease is None or lease.mode != "follow" or lease.holder is None or instance.is_holder:
            continue
        if instance.unable() or instance.delay or not instance.leases.fresh:
            continue
        mine = instance.me is not None and lease.holder.instance == instance.me.instance
        if not mine and boottime() - instance.leases.renewal_seen < designation.AWAY:
            continue
        try:
            await _stand(instance)
        except (MatriarchError, ValueError) as e:
            log.info("no other designated primary now: %s", e)


async def _stand(instance: Instance) -> None:
    standbys = await _standbys(instance)
    base = await instance.leases.read(wait=2.0)  # and with it the newest renewal
    me, config = instance.me, instance.config
    if me is None or config is None:
        return
    facts = designation.Facts(
        me, base.state, boottime() - instance.leases.renewal_seen, standbys, dict(config.priorities)
    )
    if not designation.stands(facts):
        return
    epoch = next_epoch(base.state, instance.promised, instance.promise_heard)
    await instance.leases.swap(base, following.designated(base.state, me, epoch, new_nonce()))
    instance.nudge()
    log.warning("this instance is the designated primary at epoch %d", epoch)


async def _standbys(instance: Instance) -> dict[Member, WalPosition]:
    config = instance.config
    names = [i for i in config.instances if i not in config.delays] if config is not None else []

    async def of(name: str) -> tuple[Member, WalPosition] | None:
        try:
            doc = await instance.peers.get(name, "/v1/status", timeout=2.0)
            if doc.get("role") != "replica" or not doc.get("incarnation"):
                return None
            return Member(name, str(doc["incarnation"])), WalPosition(int(doc["timeline"]), parse_lsn(doc["lsn"]))
        except (Unavailable, Refused, KeyError, ValueError):
            return None

    found = dict(f for f in await asyncio.gather(*(of(n) for n in names if n != instance.env.instance)) if f)
    status = await instance.look()
    if status is not None and status.in_recovery and instance.me is not None:
        found[instance.me] = status.position
    return found

"""The agent's loop: local facts, one decision, one act, again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from matriarch.agent import mutant, stepdown
from matriarch.agent.ahead import door_of_standby
from matriarch.agent.candidate import Won
from matriarch.agent.clock import MILLISECOND, SECOND, boottime
from matriarch.agent.follow import Follower
from matriarch.agent.instance import Instance
from matriarch.agent.lead import Leadership
from matriarch.agent.leases import Lost, new_nonce
from matriarch.agent.postgres.facts import Promotion
from matriarch.agent.rhythm import TURN, until_turn
from matriarch.agent.settings import apply_config
from matriarch.agent.sites import Demotion
from matriarch.agent.source import SourceFollower
from matriarch.agent.transitions import note
from matriarch.agent.voting import keep_promise
from matriarch.decide import lease as transitions
from matriarch.decide import role
from matriarch.decide.election import LEASE, next_epoch
from matriarch.decide.guard import gives_way
from matriarch.decide.lease import LeaseState
from matriarch.decide.logical import waited_for
from matriarch.decide.member import Member
from matriarch.decide.voters import standby_names
from matriarch.errors import Corrupt, MatriarchError, Refused, Unavailable
from matriarch.postgres.conninfo import slot_name
from matriarch.postgres.preload import Door
from matriarch.postgres.standbynames import NOBODY
from matriarch.postgres.timeline import WalPosition

log = logging.getLogger(__name__)

START_WAIT = 60.0
ORPHAN_WAIT = 10.0
HALT_WAIT = 60.0
MAX_PAUSE = 10.0


def _in_step(pause: float) -> float:
    """A pause of several turns ends with the others'; what is asked for sooner is not put off."""
    return until_turn(asyncio.get_running_loop().time(), round(pause / TURN)) if pause >= 2 * TURN else pause


class Loop:
    """`won` is what the last won election says about the door."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._follower = Follower(instance)
        self._source = SourceFollower(instance)
        self._demotion = Demotion(instance)
        self._leadership: Leadership | None = None
        self._failures = 0
        self._timeline = 0
        self._last = ""
        self.won: Won | None = None

    async def run(self) -> None:
        """Until cancelled. Every failure is logged, waited for a little longer each time, and looked at anew."""
        instance = self._instance
        while True:
            instance.wake.clear()
            try:
                pause = await self._once()
                self._failures = 0
            except asyncio.CancelledError:
                raise
            except (MatriarchError, OSError) as e:
                pause = self._pause_after(str(e))
            except Exception as e:
                log.exception("unexpected")
                pause = self._pause_after(repr(e))
            try:
                async with asyncio.timeout(_in_step(pause)):
                    await instance.wake.wait()
            except TimeoutError:
                pass
            else:
                await asyncio.sleep(0.02 if self._failures else 0)  # a nudge never turns a failure into a spin

    def _pause_after(self, what: str) -> float:
        self._failures += 1
        self._instance.reason = what
        log.warning("%s", what)
        return min(0.1 * 2.0 ** min(self._failures, 8), MAX_PAUSE)

    async def _once(self) -> float:
        instance = self._instance
        if instance.config is None:
            instance.state, instance.reason = "starting", "the configuration is not known yet"
            return 0.5
        if instance.stopping:
            return 0.02
        if not instance.is_holder:
            self.won = None
        if instance.server_role != "stopped" and instance.server.postmaster() is None:
            await stepdown.postgres_ended(instance, None)
            return 0.0
        facts = await self._facts()
        step = role.next_step(facts)
        if (said := f"{step.kind} {step.why}") != self._last:
            self._last = said
            log.info("%s%s", step.kind, f": {step.why}" if step.why else "")
        if step.kind != "lead":
            self._leadership = None if instance.server_role != "primary" else self._leadership
        if step.kind == "wait":
            instance.state = "waiting" if instance.state != "fenced" else "fenced"
            instance.reason = step.why
            return float((step.again_in or SECOND // 2) / SECOND)
        acts: dict[str, Callable[[], Awaitable[float]]] = {  # every kind of Step but `wait`
            "initialize": self._initialize,
            "record-bootstrap": self._record_bootstrap,
            "clone": self._clone,
            "reclaim": self._reclaim,
            "start-primary": self._start_primary,
            "start-standby": self._start_standby,
            "claim": self._claim,
            "promote": self._promote,
            "lead": self._lead,
            "follow": self._follower.step,
            "depose": self._depose,
            "halt": self._halt,
            "exchange": self._exchange,
            "inherit": self._inherit,
            "clone-source": self._clone_source,
            "record-copy": self._record_copy,
            "follow-source": self._source.step,
        }
        return await acts[step.kind]()

    async def _facts(self) -> role.Facts:
        instance = self._instance
        if instance.server_role == "starting":
            await instance.look()
        data: role.Data
        match instance.server_role:
            case "primary" | "standby" as running:
                data = running
            case _:
                data = await self._data()
        config = instance.config
        return role.Facts(
            instance=instance.env.instance,
            me=instance.me,
            data=data,
            timeline=self._timeline,
            server=instance.server_role,
            lease=instance.lease,
            lease_fresh=instance.leases.fresh,
            system_identifier=instance.system_identifier,
            authority=instance.leases.authority,
            promised=instance.promised,
            promise_heard=instance.promise_heard,
            epoch_heard=instance.epoch_heard,
            fenced=instance.fenced,
            single=config is not None and config.single,
            now=boottime(),
            claiming=instance.leases.claiming,
            epoch_seen=instance.leases.epoch_seen,
            quiet_since=instance.quiet_since,
            filled_by=await self._filled_by(),
            beside=await instance.server.beside() if instance.server_role == "stopped" else (),
            gives_way=instance.lease is not None and gives_way(instance.lease, boottime() - instance.served),
        )

    async def _filled_by(self) -> str:
        lease = self._instance.lease
        if lease is None or lease.filling is None:
            return ""
        return await self._instance.server.filled_by()

    async def _data(self) -> role.Data:
        instance = self._instance
        lease = instance.lease
        try:
            control = await instance.server.control_data()
        except Corrupt as e:
            if lease is not None and lease.replacing:
                return "broken"  # it is to be replaced, or may have been for that very reason
            if not self._follower.doctor.unreadable(e):
                raise
            return "broken"
        if control is None:
            return "none"
        instance.system_identifier = control.system_identifier
        self._timeline = max(control.timeline, control.minimum_recovery_timeline)
        return await instance.server.kind()

    # --- a new cluster, a new member --------------------------------------------------------------------------

    async def _initialize(self) -> float:
        instance = self._instance
        instance.busy = instance.state = "initializing"
        try:
            made = instance.files.renew_incarnation(instance.env.claim_uid)
            instance.me = Member(instance.env.instance, made.id)
            instance.system_identifier = await instance.server.initdb()
        finally:
            instance.busy = ""
        return 0.0

    async def _record_bootstrap(self) -> float:
        instance = self._instance
        me, identifier = instance.me, instance.system_identifier
        assert me is not None
        line = await instance.server.history()
        heard = [instance.promised, instance.promise_heard]
        async with instance.control:
            state = await instance.leases.change(
                lambda s: transitions.bootstrapped(s, me, identifier, new_nonce(), line, heard)
            )
            if state.epoch > 1:
                await keep_promise(instance, state.epoch)
        return 0.0

    async def _halt(self) -> float:
        """For a Restore in place. What was acknowledged is on this volume, and stays there."""
        instance = self._instance
        if instance.is_holder and instance.lease is not None:
            # Refused at once is better than swallowed by the address of a Pod that is gone.
            with contextlib.suppress(MatriarchError, OSError):
                await instance.routing.write(instance.lease.epoch, {"rw": [], "ro": [], "r": []}, timeout=1.0)
        async with instance.control:
            with instance.wanted_stop():
                await stepdown.stop(instance, "a Restore replaces the data", timeout=HALT_WAIT)
        self._leadership = None
        return 0.0

    async def _exchange(self) -> float:
        instance = self._instance
        lease = instance.lease
        assert lease is not None
        assert lease.filling is not None
        async with instance.control:
            made = instance.files.renew_incarnation(instance.env.claim_uid)
            instance.me, instance.following = Member(instance.env.instance, made.id), None
            await instance.server.exchange(lease.filling.restore)
        log.warning("what Restore %s brought is the data now; what was there is kept", lease.filling.restore)
        return 0.0

    async def _clone(self) -> float:
        instance = self._instance
        lease = instance.lease
        assert lease is not None
        assert lease.holder is not None
        await self._follower.clone(lease, lease.holder)
        return 0.0

    async def _clone_source(self) -> float:
        await self._source.clone()
        return 0.0

    async def _record_copy(self) -> float:
        await self._source.record_copy()
        return 0.0

    # --- leading ----------------------------------------------------------------------------------------------

    async def _reclaim(self) -> float:
        instance = self._instance
        heard = [instance.promised, instance.promise_heard]

        def again(state: LeaseState) -> LeaseState:
            if state.holder != instance.me:
                raise Lost(f"epoch {state.epoch} is held by {state.holder}")
            return transitions.reclaimed(state, heard, new_nonce())

        async with instance.control:
            try:
                state = await instance.leases.change(again)
            except Lost as e:
                raise Unavailable(str(e)) from e
            await keep_promise(instance, state.epoch)  # nobody may win this member for the epoch it leads
        if instance.switchover.get("state") in ("running", "done"):
            instance.switchover |= {"state": "aborted", "message": "the heir did not take over in time"}
        log.info("reclaimed: epoch %d", state.epoch)
        return 0.0

    async def _start_primary(self) -> float:
        instance = self._instance
        lease, config = instance.lease, instance.config
        assert lease is not None
        assert config is not None
        async with instance.control:
            if not instance.is_holder:
                return 0.0
            names = standby_names(lease, config.wish)
            await self._configure(names, door="waits")
            instance.server_role, instance.starts_primary = "starting", True
            instance.state, instance.reason = "starting", "recovers"
            await instance.server.start_primary(timeout=START_WAIT)
            instance.server_role = "primary"
            note(instance, "start-primary")
        return await self._lead()

    async def _promote_to(self, claim: int) -> Promotion | None:
        """None: the number can't be had from this WAL, and another was claimed; the next look promotes to that.

        Corrupt when PostgreSQL came out on another timeline: it must not take writes, so it is ended.
        """
        instance = self._instance
        try:
            with instance.wanted_stop():
                return await instance.server.promote(claim)
        except Refused as e:
            if e.reason != "TimelineTaken":
                raise
            log.warning("%s", e)
            await self._claim_from(await instance.position())
            return None
        except Corrupt:
            await stepdown.end_postgres(instance)
            raise

    async def _claim(self) -> float:
        instance = self._instance
        async with instance.control:
            status = await instance.look()  # a look that was under way during a promotion tells of before it
            if status is None or not status.in_recovery or not instance.is_holder:
                return 0.1
            await self._claim_from(await instance.position())
        return 0.0

    async def _claim_from(self, position: WalPosition) -> None:
        me = self._instance.me
        assert me is not None
        await self._instance.leases.change(lambda s: transitions.claimed_again(s, me, position))

    async def _configure(self, names: str, *, door: Door) -> None:
        instance = self._instance
        instance.applied = None
        await apply_config(instance, names, door=door)

    async def _route_here(self, lease: LeaseState) -> None:
        """Send clients here before the door opens: refused at once is better than swallowed by a dead address, and
        kube-proxy needs no second change then. What fails is made good when the door opens.

        -rw alone: kube-proxy acts at once on the first change that it hears of, and then rests for 1 s. The Services of
        the replicas would come after that in any case, so they do not cost their part of the processor now."""
        try:
            await self._instance.routing.lead_here(lease.epoch, timeout=1.0)
        except MatriarchError as e:
            log.warning("routing: %s", e)

    async def _promote(self) -> float:
        instance = self._instance
        begun = boottime()
        async with instance.control:
            lease, config = instance.lease, instance.config
            assert config is not None
            if lease is None or lease.promoting is None or not instance.is_holder:
                return 0.0
            names = standby_names(lease, config.wish)
            others = {slot_name(i): None for i in config.instances if i != instance.env.instance}
            routing = asyncio.create_task(self._route_here(lease))
            # The heartbeat asks for grants from here on, so that the door need not wait for the first; the supervisor
            # acts on them from the first client on.
            instance.armed = lease.mode != "alone"
            try:
                before: list[Awaitable[object]] = [
                    instance.sync_beats(),
                    instance.server.set_standby_names(
                        "" if mutant.is_on("empty-names") else names,
                        slots=[slot_name(m.instance) for m in waited_for(lease)],
                    ),
                    instance.server.ensure_slots(others),  # or the voters could not attach
                    self._close_door(names),
                ]
                await asyncio.gather(*before)
                prepared = boottime()
                promotion = await self._promote_to(lease.promoting.timeline)
            except BaseException:
                await routing  # bounded
                raise
            if promotion is None:
                await routing
                return 0.0
            instance.server_role, instance.starts_primary = "primary", True
            instance.following = None
            note(instance, "promote")
        log.info(
            "promoted to timeline %d at %X: %d ms to prepare, %d ms to promote",
            promotion.timeline,
            promotion.switch_lsn,
            (prepared - begun) // MILLISECOND,
            (boottime() - prepared) // MILLISECOND,
        )
        # Whoever was let in while the door closed is not there any more when the door opens.
        await instance.server.end_client_sessions()
        # A record that is flushed here: the newest that PostgreSQL wrote by itself may wait for its WAL writer.
        record = await instance.server.write_record()
        fork = promotion.switch_lsn
        self._leadership = Leadership(instance, record, self._door_not_before(lease), fork, names, routing)
        await self._leadership.hurry()
        return 0.0

    async def _close_door(self, names: str) -> None:
        await apply_config(self._instance, names, door="waits")
        await self._instance.server.end_client_sessions()

    def _door_not_before(self, lease: LeaseState) -> int:
        if self.won is not None and self.won.epoch <= lease.epoch:
            return self.won.door_not_before
        # Nothing is known of the predecessor: after a promotion it may still serve for as long as a lease lasts.
        return boottime() + LEASE if lease.promoting is not None else 0

    async def _lead(self) -> float:
        instance = self._instance
        if self._demotion.due:
            await self._demotion.carry_out()
            return 0.0
        if self._leadership is None:
            lease = instance.lease
            assert lease is not None
            await instance.look()
            record = await instance.server.write_record()
            # Where the history is recorded already, the door may have been open for long before this agent began.
            line = await instance.server.history() if lease.promoting is not None else []
            fork = line[-1].lsn if line else 0
            self._leadership = Leadership(instance, record, self._door_not_before(lease), fork)
        await instance.sync_beats()
        return await self._leadership.tick()

    async def _inherit(self) -> float:
        """A clean stop's heir: no promises are needed, for the one who could acknowledge is final."""
        instance = self._instance
        seen = instance.lease
        if seen is None or not await stepdown.inherit_ready(instance):
            return 0.01
        # The swap names the version: nothing is read first, for clients wait.
        base = instance.leases.known or await instance.leases.read(wait=1.0)
        if (base.state.epoch, base.state.heir, base.state.clean_stop) != (seen.epoch, instance.me, seen.clean_stop):
            return 0.01  # another hand-over by now: its last record must be here too
        epoch = next_epoch(base.state, instance.promised, instance.promise_heard)
        async with instance.control:
            await keep_promise(instance, epoch)
            position = await instance.position()
            wanted = transitions.heir_takes(base.state, epoch, position, new_nonce())
            try:
                await instance.leases.swap(base, wanted)
            except Lost as e:
                raise Unavailable(str(e)) from e
            await instance.server.cut_stream()
        self.won = Won(epoch, 0)
        return 0.0

    async def _depose(self) -> float:
        await stepdown.depose(self._instance)
        self._leadership = None
        return 0.0

    # --- standing by ------------------------------------------------------------------------------------------

    async def _start_standby(self) -> float:
        instance = self._instance
        lease = instance.lease
        assert lease is not None
        if (pause := await self._follower.doctor.examine(None)) is not None:
            return pause
        async with instance.control:
            instance.server_role, instance.starts_primary = "starting", False
            instance.state, instance.reason = "starting", ""
            source = lease.mode == "follow" and instance.is_holder
            upstream = self._source.first_upstream() if source else self._follower.first_upstream(lease)
            line = lease.lineage if lease.promoting is None else ()
            instance.follows_line = upstream is not None
            await self._configure(NOBODY, door=door_of_standby(instance))
            # Without upstream a copy that is not consistent never becomes it: `follow` then attaches it.
            wait = START_WAIT if upstream is not None else ORPHAN_WAIT
            await instance.server.start_standby(upstream, line=line, timeout=wait)
            instance.server_role = "standby"
            note(instance, "start-standby")
            if upstream is not None and lease.holder is not None:
                instance.following = self._source.key if source else (lease.holder, upstream.address)
                note(instance, "attach-source" if source else "attach")
            await instance.look()
        await instance.sync_beats()
        return 0.0

"""How a holder stops leading: planned (switchover), at once (fence), or because somebody else leads (depose).

"Fenced" is final: it is on the disk first, and said only when no process of PostgreSQL is left (S11).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from matriarch.agent import ahead, poolers, sites
from matriarch.agent.clock import SECOND, boottime
from matriarch.agent.instance import Instance
from matriarch.agent.leases import Lost
from matriarch.agent.logical import await_copies
from matriarch.agent.streams import streams_of
from matriarch.agent.summarizer import quiet
from matriarch.agent.transitions import note
from matriarch.decide import lease as transitions
from matriarch.decide.lease import CleanStop, LeaseState
from matriarch.decide.member import Member
from matriarch.decide.newsegment import begins_segment
from matriarch.decide.voters import standby_names
from matriarch.errors import MatriarchError, Refused, Unavailable
from matriarch.postgres.conninfo import STREAM_ROLE
from matriarch.postgres.lsn import SEGMENT_SIZE
from matriarch.postgres.standbynames import NOBODY

log = logging.getLogger(__name__)

CHECKPOINT_WAIT = 60.0
STOP_WAIT = 15.0
"""A fast stop waits for its walsenders; one that hangs must not hold up the switchover for longer."""
SEGMENT_WAIT = 10.0
ROUTES_WAIT = 5.0
"""A rolling update begins a switchover when the last replica is back, which is when the Services of readers change."""


async def end_postgres(instance: Instance) -> bool:
    """SIGKILL everything of PostgreSQL and see it gone. False: processes are left (they wait for the disk)."""
    with instance.wanted_stop():
        try:
            gone = await instance.supervisor.end_others(5.0)
        except Unavailable:
            gone = False
        if gone:
            instance.server_role = "stopped"
            instance.status = None
            instance.following = None
            instance.warnings.clear()  # they were of the server that is gone
        return gone


async def postgres_ended(instance: Instance, status: int | None) -> None:
    """After a crash of PostgreSQL: an election if one can be had, else a local restart by the loop's own rules.

    Wanted ends are somebody else's. Raises MatriarchError when processes are left or the volume does not answer.
    """
    if instance.stopping or instance.server_role == "stopped":
        return
    with instance.wanted_stop():
        log.warning("PostgreSQL ended with status %s", status)
        instance.ends = [*instance.ends[-9:], (boottime(), instance.starts_primary)]
        led = instance.server_role in ("primary", "starting") and instance.starts_primary and instance.is_holder
        instance.leases.authority = 0
        # Without the API server nobody can be elected, and "fenced" would be final: then only this one can go on.
        # In mode async an election may lose what a restart here does not.
        mode = instance.lease.mode if instance.lease is not None else "alone"
        if led and mode == "quorum" and enough_voters(instance) and "api" not in instance.warnings:
            await fence(instance, f"PostgreSQL ended with status {status}")
            return
        instance.door, instance.door_reason = "closed", "PostgreSQL is started again"
        if not await end_postgres(instance):
            raise MatriarchError("PostgreSQL's processes do not end; they wait for the disk")
        if led:
            await instance.disarm()


def enough_voters(instance: Instance) -> bool:
    """Whether the voters that answer could elect a successor."""
    lease = instance.lease
    return lease is not None and lease.mode != "alone" and instance.answering(SECOND) >= lease.election_quorum


async def depose(instance: Instance) -> None:
    """Another holds the Lease: end everything at once, whatever is under way. The door is the successor's."""
    instance.door, instance.door_reason = "closed", "another instance leads"
    instance.leases.authority = 0
    if not await end_postgres(instance):
        raise MatriarchError("PostgreSQL does not end; its processes wait for the disk, and this volume stays out")
    note(instance, "depose")
    async with instance.control:
        await instance.disarm()


async def stop(instance: Instance, why: str, *, timeout: float) -> None:
    """A fast stop of whatever runs; the Lease stays as it is. Under `control`, as a wanted stop. `why`: of the door."""
    led = instance.server_role in ("primary", "starting") and instance.starts_primary
    if led:
        instance.leases.authority = 0
        instance.door, instance.door_reason = "closed", why
    if not await instance.server.stop("fast", timeout=timeout) and not await end_postgres(instance):
        raise MatriarchError("PostgreSQL does not end; its processes wait for the disk")
    instance.server_role, instance.status, instance.following = "stopped", None, None
    if led:
        await instance.disarm()


async def fence(instance: Instance, why: str) -> None:
    """Stop being able to acknowledge, then say so: voters need not wait for any lease after that.

    If it can't be written within 0.5 s nothing is said: beats stop, and the deadline ends all.
    """
    lease = instance.lease
    assert lease is not None
    log.warning("fencing at epoch %d: %s", lease.epoch, why)
    if instance.control.locked():
        await end_postgres(instance)  # whoever holds the lock waits for this very server
    async with instance.control:
        if instance.lease is None or instance.lease.epoch != lease.epoch:
            return  # deposed or reclaimed meanwhile: that epoch is over
        await _persist_fence(instance, lease.epoch)
        await _say_fenced(instance)
        instance.state, instance.reason = "fenced", why


async def _persist_fence(instance: Instance, epoch: int, written: asyncio.Task[None] | None = None) -> None:
    """`written`: the fence on its way to the disk."""
    instance.leases.authority = 0
    instance.door, instance.door_reason = "closed", "fenced"
    # Both before a word is said, in either order: what is on the disk only forbids this member to go on by itself.
    written = written or asyncio.create_task(_write_fence(instance, epoch))
    gone = await end_postgres(instance)
    try:
        await written
    except (TimeoutError, OSError) as e:
        await _fall_silent(instance)
        raise MatriarchError("the volume does not take the fence; nothing is said, voters wait the lease out") from e
    if not gone:
        await _fall_silent(instance)
        raise MatriarchError("PostgreSQL does not end; nothing is said, and the fencing deadline decides")
    instance.fenced = epoch
    note(instance, "fence")
    instance.quiet_since = boottime()


async def _write_fence(instance: Instance, epoch: int) -> None:
    async with asyncio.timeout(0.5):
        await asyncio.to_thread(instance.files.write_fenced, epoch)


async def _fall_silent(instance: Instance) -> None:
    """No more beats: the voters' leases run out, they elect, and the deadline ends what is left here."""
    instance.mute = True
    await instance.sync_beats()


async def _say_fenced(instance: Instance) -> None:
    await instance.disarm()


async def check_heir(instance: Instance, to: str) -> Member:
    """The voter that may inherit, or Refused: before anything changes."""
    lease, me = instance.lease, instance.me
    if lease is not None and lease.mode == "follow" and instance.is_holder:
        return await sites.check_next(instance, to)
    if lease is None or not instance.is_holder or instance.server_role != "primary":
        raise Refused(f"{instance.env.instance} is not the primary; ask the one that is", reason="NotPrimary")
    if me is not None and to == me.instance:
        raise Refused(f"{to} is the primary already", reason="AlreadyPrimary")
    heir = next((v for v in lease.voters if v.instance == to), None)
    if heir is None:
        raise Refused(f"{to} is not a voter yet; wait until it streams", reason="NotAVoter")
    if to in lease.leaving:
        raise Refused(f"{to} is being removed; choose another instance", reason="Leaving")
    status = await instance.look()
    senders = await instance.server.replication()
    sender = next((s for s in senders if s.application_name == str(heir) and s.role == STREAM_ROLE), None)
    if sender is None or sender.state != "streaming":
        raise Refused(f"{to} does not stream now; wait until it does", reason="NotStreaming")
    lag = (status.flushed_lsn if status else sender.sent_lsn) - sender.flush_lsn
    if lag > SEGMENT_SIZE:
        raise Refused(f"{to} is {lag >> 20} MiB behind; wait until it caught up", reason="Behind")
    return heir


async def switchover(instance: Instance, heir: Member, *, writes_stopped: bool = False) -> None:
    """Checkpoint, stop cleanly, name the heir. The heir takes the Lease; if it does not, this instance reclaims it.

    `writes_stopped`: already, so that nothing is gained by waiting for a good moment.
    Raises MatriarchError when it could not be done; whatever is left heals by an election or a reclaim.
    """
    lease = instance.lease
    assert lease is not None
    instance.switchover = {"to": heir.instance, "state": "running", "message": ""}
    stopping = contextlib.ExitStack()
    try:
        # Most of the shutdown's checkpoint is done while clients still work.
        await instance.server.checkpoint(timeout=CHECKPOINT_WAIT)
        if not writes_stopped:
            await instance.routing.rest(timeout=ROUTES_WAIT)
        await quiet(instance, NOBODY if lease.mode == "follow" else _names(instance, lease), stopping)
        await _begin_segment(instance, lease)
        await await_copies(instance, heir)
        await poolers.pause(instance)
        await ahead.send_clients(instance, heir)
        async with instance.control:
            if instance.lease is None or instance.lease.epoch != lease.epoch or not instance.is_holder:
                raise Unavailable("the Lease changed meanwhile")
            if await check_heir(instance, heir.instance) != heir:
                raise Unavailable(f"{heir.instance} is another incarnation now")
            stopping.enter_context(instance.wanted_stop())
            stopped = await _fast_stop(instance)
            # In mode async what did not stop in order is started again here: not fenced before that is known.
            written = None if lease.mode == "async" else asyncio.create_task(_write_fence(instance, lease.epoch))
            clean = await _clean_end(instance) if stopped else None
            if clean is None and lease.mode == "async":
                # An election would lose what the replicas lack; a start here loses nothing.
                instance.leases.authority = 0
                await end_postgres(instance)
                await instance.disarm()
                raise Unavailable("PostgreSQL did not stop in order; it is started again here")
            await _persist_fence(instance, lease.epoch, written)
            try:
                if clean is not None:
                    await instance.leases.change(
                        lambda s: transitions.heir_named(s, heir, clean) if s.epoch == lease.epoch else s, wait=1.0
                    )
            finally:
                await _say_fenced(instance)  # after the heir is named: an election would only come in its way
        instance.switchover["state"] = "done"
    except (Lost, ValueError, OSError) as e:
        instance.switchover |= {"state": "aborted", "message": str(e)}
        raise Unavailable(str(e)) from e
    except MatriarchError as e:
        instance.switchover |= {"state": "aborted", "message": str(e)}
        raise
    finally:
        stopping.close()
        instance.nudge()
        if instance.server_role == "primary":  # nothing was stopped
            await poolers.resume(instance)


async def _begin_segment(instance: Instance, lease: LeaseState) -> None:
    """Where it is worth it (`decide.newsegment`), and returns when every voter has it. What fails is left out."""
    with contextlib.suppress(MatriarchError):
        status, senders = await instance.look(), await instance.server.replication()
        if status is None or instance.config is None or instance.server_role != "primary":
            return
        streams = streams_of(senders, status.flushed_lsn)
        if begins_segment(
            lease,
            streams,
            flushed=status.flushed_lsn,
            strangers=len(streams) < len(senders),
            archives=instance.config.archive is not None,
        ):
            await instance.server.pass_segment()
            record, names = await instance.server.write_record(), [str(s.member) for s in streams]
            await instance.server.confirm_flushed(record, names, len(names), timeout=SEGMENT_WAIT)


def _names(instance: Instance, lease: LeaseState) -> str:
    assert instance.config is not None
    return standby_names(lease, instance.config.wish)


async def _fast_stop(instance: Instance) -> bool:
    """Within a bound."""
    instance.door, instance.door_reason = "closed", "switchover"
    with contextlib.suppress(MatriarchError):
        await instance.server.end_consumers(timeout=1.0)  # one that is far behind would hold up the stop
    return await instance.server.stop("fast", timeout=STOP_WAIT)


async def _clean_end(instance: Instance) -> CleanStop | None:
    """Where the WAL ends; None when the stop was not clean: then an election decides."""
    try:
        control = await instance.server.control_data()
    except (MatriarchError, OSError) as e:
        log.warning("whether PostgreSQL stopped in order is not known: %s", e)
        return None
    if control is None or control.state != "shut down":
        return None
    return CleanStop(control.timeline, control.checkpoint)


async def inherit_ready(instance: Instance) -> bool:
    """Heir's side: whether the record that ended the holder's WAL is replayed here."""
    lease = instance.lease
    if lease is None or lease.clean_stop is None:
        return False
    status = await instance.look()
    if status is None or not status.in_recovery or status.replayed_lsn <= lease.clean_stop.lsn:
        return False
    position = await instance.position()
    # A clean stop's checkpoint record is in WAL of its own timeline: nobody beyond it can be on another.
    return position.timeline == lease.clean_stop.timeline

"""The Lease's renewals: every 10 s while voters answer the heartbeat, every 0.4 s while they don't (T7).

In mode async the Lease alone keeps a holder: every 2 s, with the end of its WAL, and only while PostgreSQL serves, or
starts again after it did: what cannot start must leave the lead to others in the end.
"""

from __future__ import annotations

import logging

from matriarch.agent.clock import SECOND, boottime
from matriarch.agent.instance import Instance
from matriarch.agent.leases import Lost
from matriarch.agent.rhythm import next_turn
from matriarch.decide.guard import gives_way, guard_of
from matriarch.decide.lease import LeaseState
from matriarch.errors import MatriarchError

log = logging.getLogger(__name__)

CALM, ALONE, ASYNC, FOLLOW = 10.0, 0.4, 2.0, 2.0


def period(lease: LeaseState, answering: int, *, by_lease: bool = False) -> float:
    """Seconds between two renewals. `by_lease`: the fence counts by them."""
    if by_lease:
        return ASYNC
    if lease.mode == "follow":
        return FOLLOW  # the only sign of life of a designated primary
    return ALONE if lease.mode == "quorum" and answering < lease.k else CALM


async def keep_renewing(instance: Instance) -> None:
    """For as long as the agent lives. Does nothing while this instance does not lead."""
    last = 0
    while True:
        await next_turn(2 if instance.is_holder else 5)
        if instance.server_role == "primary" or not instance.is_holder:
            instance.served = boottime()
        lease = instance.lease
        if lease is None or not instance.is_holder or instance.fenced >= lease.epoch or instance.mute:
            continue
        if instance.server_role == "stopped" and not (lease.mode == "follow" and instance.busy):
            continue  # nothing runs that a lease would keep
        if gives_way(lease, boottime() - instance.served):
            continue
        answering = instance.answering(SECOND)
        guard = instance.vouching or guard_of(lease)
        if boottime() - last < period(lease, answering, by_lease=guard is not None and guard.by_lease) * SECOND:
            continue
        last = boottime()
        no_voters = lease.mode == "quorum" and answering == 0
        wal = instance.status.position if instance.status is not None else None
        try:
            await instance.leases.renew(no_voters=no_voters, wal=wal, wait=1.0)
            await instance.sync_beats()
        except Lost as e:
            log.info("renewal: %s", e)
            instance.nudge()
        except MatriarchError as e:
            log.warning("renewal: %s", e)

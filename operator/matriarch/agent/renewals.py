"""The Lease's renewals: every 10 s while voters answer the heartbeat, every 0.4 s while they don't (T7)."""

from __future__ import annotations

import asyncio
import logging

from matriarch.agent.clock import SECOND, boottime
from matriarch.agent.instance import Instance
from matriarch.agent.leases import Lost
from matriarch.decide.lease import LeaseState
from matriarch.errors import MatriarchError

log = logging.getLogger(__name__)

CALM, ALONE, FOLLOW = 10.0, 0.4, 2.0


def period(lease: LeaseState, answering: int) -> float:
    """Seconds between two renewals."""
    if lease.mode == "follow":
        return FOLLOW  # the only sign of life of a designated primary
    return ALONE if lease.mode == "quorum" and answering < lease.k else CALM


async def keep_renewing(instance: Instance) -> None:
    """For as long as the agent lives. Does nothing while this instance does not lead."""
    last = 0
    while True:
        await asyncio.sleep(0.1)
        lease = instance.lease
        if lease is None or not instance.is_holder or instance.fenced >= lease.epoch or instance.mute:
            continue
        if instance.server_role == "stopped" and not (lease.mode == "follow" and instance.busy):
            continue  # nothing runs that a lease would keep
        answering = instance.answering(SECOND)
        if boottime() - last < period(lease, answering) * SECOND:
            continue
        last = boottime()
        no_voters = lease.mode == "quorum" and answering == 0
        try:
            await instance.leases.renew(no_voters=no_voters, wait=1.0)
            await instance.sync_beats()
        except Lost as e:
            log.info("renewal: %s", e)
            instance.nudge()
        except MatriarchError as e:
            log.warning("renewal: %s", e)

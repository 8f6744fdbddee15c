"""Mode async: the door closes when this machine's clock jumped, until the Lease was read again (T3).

Fences count CLOCK_BOOTTIME, which stands still while a virtual machine is paused: others may have elected meanwhile.
The real-time clock, which the hypervisor or NTP sets right, gives it away. A clock that was only set costs one read.
"""

from __future__ import annotations

import logging
import time

from matriarch.agent.clock import boottime
from matriarch.agent.instance import Instance
from matriarch.agent.rhythm import next_turn
from matriarch.agent.settings import apply_config
from matriarch.decide.election import ASYNC_FENCE
from matriarch.decide.voters import standby_names
from matriarch.errors import MatriarchError

log = logging.getLogger(__name__)


def jumped(before: int, now: int) -> bool:
    """Whether real time ran ahead of boot time by more than a fence; both arguments are their difference, in ns."""
    return now - before > ASYNC_FENCE


async def watch_clock(instance: Instance) -> None:
    """For as long as the agent lives."""
    known = time.time_ns() - boottime()
    while True:
        exposed = instance.lease is not None and instance.lease.mode == "async" and instance.is_holder
        await next_turn(1 if exposed else 5)
        now = time.time_ns() - boottime()
        if jumped(known, now) and instance.lease is not None and instance.lease.mode == "async":
            instance.clock_jumped = True
        known = now
        if instance.clock_jumped:
            try:
                await _look_again(instance)
            except MatriarchError as e:
                log.warning("the clock jumped, and the Lease could not be read: %s", e)


async def _look_again(instance: Instance) -> None:
    """Door first, then the Lease. Who is no holder any more is deposed by its own way."""
    if instance.door == "open" and instance.server_role == "primary" and instance.config and instance.lease:
        log.warning("this machine's clock jumped: no clients until the Lease was read again")
        instance.door, instance.door_reason = "closed", "this machine's clock jumped"
        await apply_config(instance, standby_names(instance.lease, instance.config.wish), door="waits")
        await instance.server.end_client_sessions()
    await instance.leases.read(wait=1.0)
    instance.clock_jumped = False
    instance.nudge()

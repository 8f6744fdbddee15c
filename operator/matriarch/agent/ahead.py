"""Clients go ahead of the primary: before it stops for a switchover, new connections are led to its heir, who lets them
log in and keeps them at its door until it takes writes.

So nobody runs against a server that shuts down (each attempt forks a process there, and a stop waits for all of them),
and nobody has to find out that the write Service moved. Whoever is connected stays where he is. If the switchover is
called off, the primary leads the Service back to itself, and the heir opens its door again.
"""

from __future__ import annotations

import logging
from typing import Any

from matriarch.agent.clock import SECOND, boottime
from matriarch.agent.instance import Instance
from matriarch.agent.routing import endpoints
from matriarch.agent.settings import apply_config
from matriarch.decide import standby_door
from matriarch.decide.member import Member
from matriarch.errors import MatriarchError, Refused, Unavailable
from matriarch.postgres.preload import Door
from matriarch.postgres.standbynames import NOBODY

log = logging.getLogger(__name__)

EXPECTED = 5 * SECOND
"""An heir keeps clients for so long without being elected; PostgreSQL keeps none for longer by itself."""


async def send_clients(instance: Instance, heir: Member) -> None:
    """The holder's side. What fails here costs clients a few more attempts and nothing else."""
    lease = instance.lease
    address = instance.addresses.get(heir.instance)
    if lease is None or address is None:
        return
    try:
        said = await instance.peers.post(heir.instance, "/v1/expect", {"epoch": lease.epoch}, timeout=0.5)
        if said.get("waits") and instance.is_holder:
            await instance.routing.write(lease.epoch, {"rw": endpoints([heir.instance], {heir.instance: address})})
    except (MatriarchError, OSError) as e:
        log.info("clients are not sent ahead to %s: %s", heir.instance, e)


async def expect_clients(instance: Instance, epoch: int) -> dict[str, Any]:
    """The heir's side: close the door, if clients wait there; `waits` says so. Refused to who is no standby."""
    lease = instance.lease
    if lease is None or lease.epoch != epoch or instance.is_holder or instance.server_role != "standby":
        raise Refused(f"{instance.env.instance} is no standby of epoch {epoch}", reason="NotAnHeir")
    if not instance.server.clients_wait():
        return {"waits": False}
    instance.clients_expected_until = boottime() + EXPECTED
    await apply_config(instance, NOBODY, door="waits")
    if instance.applied is None:
        raise Unavailable("the configuration is not known yet")
    return {"waits": True}


def door_of_standby(instance: Instance) -> Door:
    """What becomes of a standby's clients now."""
    now = boottime()
    return standby_door.door(
        standby_door.Facts(
            now=now,
            follows=instance.follows_line,
            clients_expected_until=instance.clients_expected_until,
            led_here=instance.routing.led_here(now),
            api_away=instance.kube.away_at,
        )
    )

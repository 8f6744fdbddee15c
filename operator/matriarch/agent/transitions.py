"""The log of transitions: one line wherever a promise, a fence, PostgreSQL's role or the Lease as known here changes.

The form is fixed (`decide/transitions.py`), for the logs of a run are held against the protocol's table afterwards.
"""

from __future__ import annotations

import logging

from matriarch.agent.instance import Instance
from matriarch.decide.lease import LeaseState
from matriarch.decide.leasetext import LeaseRead
from matriarch.decide.transitions import Illegal, Line, Seen, lease_event, render

log = logging.getLogger("matriarch.transition")


def note(instance: Instance, event: str) -> None:
    """One line. Call it after the change is in force and before anybody is told of it."""
    lease = instance.lease
    before, instance.noted = instance.noted, instance.server_role
    if lease is None or instance.me is None:
        return  # no member yet
    seen = Seen.of(lease)
    line = Line(
        member=str(instance.me),
        before=before,
        event=event,
        after=instance.server_role,
        epoch=seen.epoch,
        holder=seen.holder,
        mode=seen.mode,
        voters=seen.voters,
        k=seen.k,
        claimed=seen.claimed,
        lineage=seen.lineage,
        heir=seen.heir,
        promised=instance.promised,
        fenced=instance.fenced,
        version=instance.leases.version,
        system=seen.system,
    )
    log.info("%s", render(line))


def note_lease(instance: Instance, known: LeaseState | None, read: LeaseRead) -> None:
    """The Lease changed as this member sees it. What no rule allows is logged too: the replay is to find it."""
    if known is None:
        return
    try:
        event = lease_event(Seen.of(known), Seen.of(read.state))
    except Illegal as e:
        log.error("the Lease changed as no rule allows: %s", e)
        event = "other"
    note(instance, event)

"""What a primary tells a member that has trouble following it, and who may be copied anew."""

from __future__ import annotations

from typing import Any

from matriarch.agent.clock import SECOND, boottime
from matriarch.agent.instance import Instance
from matriarch.decide.doctor import Source, permitted
from matriarch.decide.member import Member
from matriarch.errors import Refused, Unavailable
from matriarch.postgres.conninfo import STREAM_ROLE, slot_name
from matriarch.postgres.lsn import format_lsn, parse_lsn

PERMIT = 60 * SECOND
"""A member that is copied asks again before this is over, and another may begin after it."""


async def tell(instance: Instance, asks: str) -> dict[str, Any]:
    """Holder: the WAL and the slot that there are for `asks`. Raises Unavailable on anybody else."""
    lease = instance.lease
    if lease is None or not instance.feeds:
        raise Unavailable(f"{instance.env.instance} is not the primary")
    wanted = slot_name(asks)
    slot = next((s for s in await instance.server.slots() if s.name == wanted), None)
    senders = await instance.server.replication()
    streaming = {Member.parse(s.application_name) for s in senders if s.role == STREAM_ROLE and s.state == "streaming"}
    status = instance.status
    return {
        "slot": "missing" if slot is None else "lost" if slot.lost else "there",
        "oldest_lsn": format_lsn(await instance.server.oldest_wal()),
        "flushed_lsn": format_lsn(status.position.lsn if status else 0),
        "others": sum(v in streaming for v in lease.voters if v.instance != asks),
        "used_bytes": max(0, instance.space.total_bytes - instance.space.free_bytes - instance.space.ballast_bytes),
    }


async def ask(instance: Instance, holder: Member) -> Source | None:
    """Standby: what the holder says, None when it does not."""
    try:
        told = await instance.peers.post(
            holder.instance, "/v1/upstream", {"instance": instance.env.instance}, timeout=2.0
        )
        slot = told["slot"]
        return Source(
            slot if slot in ("there", "lost") else "missing",
            parse_lsn(told["oldest_lsn"]),
            parse_lsn(told["flushed_lsn"]),
            int(told["others"]),
            int(told["used_bytes"]),
        )
    except (Unavailable, Refused, KeyError, ValueError):
        return None


def permit(instance: Instance, asks: str) -> None:
    """Holder: one member at a time is copied anew. Refused while another is."""
    now = boottime()
    found = permitted(instance.permits, asks, now, now + PERMIT)
    if isinstance(found, str):
        raise Refused(f"{found} is being copied anew; one at a time", reason="CloneRunning")
    instance.permits = found

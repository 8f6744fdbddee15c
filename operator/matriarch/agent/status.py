"""What an agent tells the controller and its peers about itself: InstanceStatus of `docs/architecture.md`."""

from __future__ import annotations

from typing import Any

from matriarch.agent.instance import Instance
from matriarch.agent.postgres.facts import WalSender
from matriarch.decide.leasetext import encode
from matriarch.decide.member import Member
from matriarch.errors import MatriarchError
from matriarch.postgres.conninfo import STREAM_ROLE
from matriarch.postgres.lsn import format_lsn


async def instance_status(instance: Instance) -> dict[str, Any]:
    """A fresh look, within about a second."""
    status = await instance.look() if instance.server_role in ("primary", "standby") else None
    senders: list[WalSender] = []
    if status is not None:
        try:
            senders = await instance.server.replication()
        except MatriarchError:
            senders = []
    lease, me, env = instance.lease, instance.me, instance.env
    role = "none" if status is None else "replica" if status.in_recovery else "primary"
    lsn = status.position.lsn if status else 0
    streaming = status is not None and status.receiver is not None and status.receiver.status == "streaming"
    streams = [_stream(s, lsn) for s in senders if s.role == STREAM_ROLE]
    holder = lease.holder if lease else None
    replayed = status.replayed_lsn if status else 0
    return {
        "instance": env.instance,
        "incarnation": me.incarnation if me else "",
        "pod_uid": env.pod_uid,
        "claim_uid": env.claim_uid,
        "node": env.node,
        "postgres_version": status.version if status else "",
        "role": role,
        "state": instance.busy or instance.state,
        "reason": instance.reason,
        "ready": is_ready(instance),
        "door": instance.door if role == "primary" else "closed",
        "door_reason": instance.door_reason,
        "lets_in": instance.lets_in,
        "closed_by": instance.closed_by,
        "told_closed_by": instance.config.closed_by if instance.config else "",
        "timeline": status.timeline if status else 0,
        "lsn": format_lsn(lsn),
        "received_lsn": format_lsn((status.received_lsn or 0) if status else 0),
        "replayed_lsn": format_lsn(replayed or lsn),
        "lag_bytes": max(0, lsn - replayed) if role == "replica" else 0,
        "lag_seconds": (status.lag_seconds or 0.0) if status and role == "replica" else 0.0,
        "epoch": lease.epoch if lease else 0,
        "holder": holder.instance if holder else "",
        "mode": lease.mode if lease else "alone",
        "voter": lease is not None and me in lease.voters,
        "streaming": streaming,
        "lease": encode(lease) if lease else "",
        "promised": instance.promised,
        "fenced": instance.fenced,
        "confirmed": [[m.instance, m.incarnation] for m in instance.confirmed],
        "system_identifier": instance.system_identifier,
        "config_generation": instance.config.generation if instance.config else 0,
        "pending_restart": {
            name: {"from": p.running, "to": p.wanted} for name, p in (status.pending_restart if status else {}).items()
        },
        "streams": [s for s in streams if s is not None],
        "switchover": instance.switchover or None,
        "disk": _disk(instance),
        "illness": instance.illness,
        "kept_data": list(instance.kept_data),
        "archive": instance.archive,
        **({"site": instance.site} if instance.site and instance.is_holder else {}),
        "logical_slots": await _logical(instance) if status is not None else [],
        "refusal": instance.refusal,
        "warnings": sorted(instance.warnings.values()),
    }


def is_ready(instance: Instance) -> bool:
    """Whether this instance serves: a primary whose door is open, or a standby that is consistent and follows."""
    if instance.terminating or instance.busy or instance.status is None:
        return False
    if instance.server_role == "primary":
        return instance.is_holder and instance.door == "open"
    follows = instance.following is not None or instance.delay > 0 or instance.feeds
    return instance.server_role == "standby" and follows


def _stream(sender: WalSender, lsn: int) -> dict[str, Any] | None:
    member = Member.parse(sender.application_name)
    if member is None:
        return None
    return {
        "instance": member.instance,
        "incarnation": member.incarnation,
        "state": sender.state,
        "flush_lsn": format_lsn(sender.flush_lsn),
        "lag_bytes": max(0, lsn - sender.flush_lsn),
    }


def _disk(instance: Instance) -> dict[str, Any]:
    """As last seen: a look would wait for a disk that hangs."""
    space = instance.space
    return {
        "total_bytes": space.total_bytes,
        "free_bytes": space.free_bytes,
        "ballast_bytes": space.ballast_bytes,
        "state": space.state,
        "writes_stopped": space.writes_stopped and instance.is_holder,
    }


async def _logical(instance: Instance) -> list[str]:
    """Logical slots that would go on here after a promotion."""
    try:
        return sorted(s.name for s in await instance.server.logical_slots() if s.whole)
    except MatriarchError:
        return []

"""Kubernetes objects and agents' answers, turned into the facts that decisions are made from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from matriarch.api.rules import quantity
from matriarch.decide.facts import Agent, Archive, Claim, Illness, Memory, Pod, Pooler, Site, Stream, Switchover
from matriarch.decide.lease import LeaseState
from matriarch.decide.leasetext import decode
from matriarch.resources import names
from matriarch.resources.claim import VERSION

Object = Mapping[str, Any]

_ROLES: dict[str, Literal["primary", "replica", "none"]] = {"primary": "primary", "replica": "replica"}
_PROMOTIONS: dict[str, Literal["wait", "refuse"]] = {"wait": "wait", "refuse": "refuse"}
_STATES: dict[str, Literal["running", "done", "aborted"]] = {"running": "running", "done": "done"}


def pod(obj: Object) -> Pod:
    """Of one Pod."""
    metadata, status = obj["metadata"], obj.get("status") or {}
    annotations = metadata.get("annotations") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    containers = status.get("containerStatuses") or ()
    state = (containers[0].get("state") if containers else None) or {}
    ready = conditions.get("Ready") or {}
    return Pod(
        uid=metadata["uid"],
        hash=annotations.get(names.POD_HASH, ""),
        restart=annotations.get(names.RESTART),
        terminating="deletionTimestamp" in metadata,
        finished=status.get("phase") in {"Failed", "Succeeded"},
        running="running" in state,
        ready=ready.get("status") == "True",
        ready_changed=instant(ready.get("lastTransitionTime")),
        node=obj["spec"].get("nodeName") or "",
        ip=status.get("podIP") or "",
        waiting=_waiting(state, conditions.get("PodScheduled") or {}),
    )


def _waiting(state: Object, scheduled: Object) -> str:
    for key in ("waiting", "terminated"):
        if found := state.get(key):
            return ": ".join(t for t in (found.get("reason"), (found.get("message") or "")[:200]) if t)
    return (scheduled.get("message") or "")[:300] if scheduled.get("status") == "False" else ""


def claim(obj: Object) -> Claim:
    """Of one PersistentVolumeClaim."""
    metadata = obj["metadata"]
    return Claim(
        uid=metadata["uid"],
        requested=int(quantity(obj["spec"]["resources"]["requests"]["storage"])),
        version=(metadata.get("annotations") or {}).get(VERSION, ""),
        bound=(obj.get("status") or {}).get("phase") == "Bound",
        terminating="deletionTimestamp" in metadata,
    )


def pooler(obj: Object) -> Pooler:
    """Of one Deployment."""
    status = obj.get("status") or {}
    seen = status.get("observedGeneration") == obj["metadata"].get("generation")
    return Pooler(
        name=obj["metadata"]["name"],
        wanted=int(obj["spec"].get("replicas") or 0),
        ready=int(status.get("readyReplicas") or 0),
        current=int(status.get("updatedReplicas") or 0) if seen else 0,
    )


def agent(answer: Object) -> Agent:
    """Of an InstanceStatus (docs/architecture.md). What an older agent leaves out has its quiet value."""
    told = answer.get("switchover") or {}
    pending = answer.get("pending_restart") or {}
    ill, disk = answer.get("illness") or {}, answer.get("disk") or {}
    return Agent(
        role=_ROLES.get(answer.get("role", ""), "none"),
        state=str(answer.get("state") or "unknown"),
        ready=bool(answer.get("ready")),
        reason=str(answer.get("reason") or ""),
        door_open=answer.get("door") == "open",
        door_reason=str(answer.get("door_reason") or ""),
        incarnation=str(answer.get("incarnation") or ""),
        voter=bool(answer.get("voter")),
        streaming=bool(answer.get("streaming")),
        config_generation=int(answer.get("config_generation") or 0),
        pending={str(k): (str(v.get("from", "")), str(v.get("to", ""))) for k, v in pending.items()},
        streams=tuple(
            Stream(str(s["instance"]), str(s.get("incarnation")), str(s.get("state")), s.get("lag_bytes"))
            for s in answer.get("streams") or ()
        ),
        switchover=(str(told["to"]), str(told.get("state")), str(told.get("message") or ""))
        if told.get("to")
        else None,
        site=_site(answer.get("site")),
        warnings=tuple(map(str, answer.get("warnings") or ())),
        illness=Illness(*(str(ill.get(k) or "") for k in ("ailment", "why", "remedy", "note"))) if ill else None,
        volume=str(disk.get("state") or "ok"),
        writes_stopped=bool(disk.get("writes_stopped")),
        lease=_known_lease(answer.get("lease")),
        kept_data=tuple(map(str, answer.get("kept_data") or ()))[:32],
        promised=int(answer.get("promised") or 0),
        fenced=int(answer.get("fenced") or 0),
        refusal=str(answer.get("refusal") or "")[:512],
        free_bytes=disk.get("free_bytes") if disk.get("total_bytes") else None,
        total_bytes=disk.get("total_bytes") or None,
        archive=_archive(answer.get("archive")),
    )


def _archive(told: Object | None) -> Archive | None:
    if not told:
        return None
    return Archive(
        pending=int(told.get("pending") or 0),
        oldest_pending=float(told.get("oldest_pending") or 0.0),
        last_segment=str(told.get("last_name") or ""),
        last_lsn=str(told.get("last_lsn") or ""),
        last_stored=told.get("last_at"),
        error=str(told.get("error") or "")[:1024],
        reason=str(told.get("reason") or ""),
    )


def _site(told: Object | None) -> Site | None:
    if not told:
        return None
    return Site(
        streaming=bool(told.get("streaming")),
        problem=str(told.get("problem") or ""),
        promotion=_PROMOTIONS.get(str(told.get("promotion") or "")),
        message=str(told.get("message") or ""),
    )


def _known_lease(text: Any) -> LeaseState | None:
    try:
        return decode(text) if isinstance(text, str) and text else None
    except ValueError:
        return None


def memory(status: Object) -> Memory:
    """What the last status remembers."""
    handled, last = status.get("handled") or {}, status.get("switchover") or {}
    ready: Object = next((c for c in status.get("conditions") or () if c.get("type") == "Ready"), {})
    started = instant(last.get("startedAt"))
    switchover = None
    if last.get("to") and started is not None:
        switchover = Switchover(
            to=last["to"],
            state=_STATES.get(last.get("state", ""), "aborted"),
            started=started,
            why=last.get("why") or "",
            message=last.get("message") or "",
            finished=instant(last.get("finishedAt")),
        )
    return Memory(
        primary_handled=handled.get("primary"),
        request_handled=handled.get("switchover"),
        switchover=switchover,
        system_identifier=status.get("systemIdentifier") or "",
        holder=(status.get("leadership") or {}).get("holder"),
        failed_over=instant(status.get("lastFailoverAt")),
        not_ready_since=instant(ready.get("lastTransitionTime")) if ready.get("status") == "False" else None,
    )


def instant(text: str | None) -> datetime | None:
    """RFC 3339, as Kubernetes writes it."""
    return datetime.fromisoformat(text) if text else None


def timestamp(at: datetime | None) -> str | None:
    """The reverse, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if at is not None else None

"""The Lease as text: the state in its annotation, which is also what a member keeps on its volume, and the object.

What an older agent does not know is written only where it says something; what can't be read is never acted upon.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from matriarch.decide.lease import CleanStop, Filling, LeaseState, Loss, Mode, Promotion
from matriarch.decide.member import Member
from matriarch.decide.site import encode_site, parse_site
from matriarch.postgres.timeline import Switch, WalPosition

ANNOTATION = "matriarch.dev/state"
_MODES: dict[str, Mode] = {"alone": "alone", "async": "async", "quorum": "quorum", "follow": "follow"}


def encode(state: LeaseState) -> str:
    """One line of JSON with sorted keys: equal states have equal text."""
    doc: dict[str, Any] = {
        "epoch": state.epoch,
        "holder": _member(state.holder),
        "bootstrap": state.bootstrap,
        "mode": state.mode,
        "voters": [_member(m) for m in state.voters],
        "k": state.k,
        "nonce": state.nonce,
        "systemIdentifier": state.system_identifier,
        "opened": state.opened,
        "lineage": [[s.timeline, s.parent, s.lsn] for s in state.lineage],
        "claimed": state.claimed,
        "promoting": state.promoting and [state.promoting.timeline, state.promoting.parent, state.promoting.lsn],
        "heir": _member(state.heir),
        "cleanStop": state.clean_stop and [state.clean_stop.timeline, state.clean_stop.lsn],
        "leaving": list(state.leaving),
        "noVoters": state.no_voters,
    }
    if state.site is not None:
        doc["site"] = encode_site(state.site)
    # Only where they say something: an agent that does not know them must find the text that it would write itself.
    if state.wal is not None:
        doc["wal"] = [state.wal.timeline, state.wal.lsn]
    if (loss := state.loss) is not None:
        ends = [*_position(loss.wal), *_position(loss.position)]
        doc["loss"] = [loss.epoch, loss.holder.instance, loss.holder.incarnation, *ends]
    if state.revision:
        doc["revision"] = state.revision
    if state.filling is not None:
        doc["filling"] = [state.filling.restore, state.filling.done, *([state.filling.epoch] if state.epoch else [])]
    if state.replaced:
        doc["replaced"] = list(state.replaced)
    return json.dumps(doc, sort_keys=True, separators=(",", ":"))


def decode(text: str) -> LeaseState:
    """The reverse of `encode`. Raises ValueError for anything else: a Lease that can't be read is never acted upon."""
    try:
        doc = json.loads(text)
        return LeaseState(
            epoch=int(doc["epoch"]),
            holder=_parse(doc["holder"]),
            bootstrap=str(doc["bootstrap"]),
            mode=_MODES[doc["mode"]],
            voters=tuple(Member(*m) for m in doc["voters"]),
            k=int(doc["k"]),
            nonce=str(doc["nonce"]),
            system_identifier=str(doc["systemIdentifier"]),
            opened=bool(doc["opened"]),
            lineage=tuple(Switch(*map(int, s)) for s in doc["lineage"]),
            claimed=int(doc["claimed"]),
            promoting=Promotion(*map(int, doc["promoting"])) if doc["promoting"] else None,
            heir=_parse(doc["heir"]),
            clean_stop=CleanStop(*map(int, doc["cleanStop"])) if doc["cleanStop"] else None,
            leaving=tuple(map(str, doc["leaving"])),
            no_voters=bool(doc["noVoters"]),
            site=parse_site(doc.get("site")),
            wal=WalPosition(*map(int, doc["wal"])) if doc.get("wal") else None,
            loss=_parse_loss(doc.get("loss")),
            revision=int(doc.get("revision") or 0),
            filling=_parse_filling(doc.get("filling"), int(doc["epoch"])),
            replaced=tuple(map(str, doc.get("replaced") or ())),
        )
    except (KeyError, IndexError, TypeError, ValueError) as e:
        raise ValueError(f"the Lease's state can't be read: {e}") from e


def _member(member: Member | None) -> list[str] | None:
    return None if member is None else [member.instance, member.incarnation]


def _position(position: WalPosition) -> tuple[int, int]:
    return position.timeline, position.lsn


def _parse_loss(value: list[Any] | None) -> Loss | None:
    if value is None:
        return None
    epoch, instance, incarnation, *ends = value
    timeline, lsn, own_timeline, own_lsn = map(int, ends)
    holder = Member(str(instance), str(incarnation))
    return Loss(int(epoch), holder, WalPosition(timeline, lsn), WalPosition(own_timeline, own_lsn))


def _parse_filling(value: list[Any] | None, epoch: int) -> Filling | None:
    """None for one of another epoch: it is void."""
    if not value:
        return None
    found = Filling(str(value[0]), bool(value[1]), int(value[2]) if len(value) > 2 else 0)
    return found if found.epoch == epoch else None


def _parse(value: list[str] | None) -> Member | None:
    return None if value is None else Member(*value)


@dataclass(frozen=True, slots=True)
class LeaseRead:
    """A Lease as read: the state and the version that a swap must name."""

    state: LeaseState
    resource_version: str
    renew_time: str = ""
    manifest: Mapping[str, Any] = field(default_factory=dict, compare=False, hash=False)


def from_manifest(manifest: Mapping[str, Any]) -> LeaseRead:
    """Raises ValueError when the object carries no readable state."""
    meta = manifest["metadata"]
    text = (meta.get("annotations") or {}).get(ANNOTATION)
    if text is None:
        raise ValueError(f"Lease {meta.get('name')} has no annotation {ANNOTATION}")
    return LeaseRead(
        decode(text), meta["resourceVersion"], (manifest.get("spec") or {}).get("renewTime") or "", manifest
    )


def to_manifest(
    state: LeaseState,
    *,
    cluster: str,
    namespace: str,
    renew_time: str,
    labels: Mapping[str, str],
    resource_version: str,
) -> dict[str, Any]:
    """The object to create (`resource_version` empty) or to swap in. `renew_time`: RFC 3339 with microseconds."""
    meta: dict[str, Any] = {
        "name": cluster,
        "namespace": namespace,
        "labels": dict(labels),
        "annotations": {ANNOTATION: encode(state)},
    }
    if resource_version:
        meta["resourceVersion"] = resource_version
    spec: dict[str, Any] = {
        "leaseTransitions": state.epoch,
        "leaseDurationSeconds": 2 if state.mode == "quorum" else 15,
        "renewTime": renew_time,
    }
    if state.holder is not None:
        spec["holderIdentity"] = state.holder.instance
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}

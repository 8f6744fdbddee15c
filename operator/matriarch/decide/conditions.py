"""How a cluster stands, and conditions from it.

The contract that kstatus (Flux, Helm), Argo CD and `kubectl wait` read alike: Ready True when all is as wished;
Reconciling True while waiting is right; Stalled True when only a person can help; the last two exclude each other.
`observedGeneration` is in every condition and moves on failures too; `lastTransitionTime` moves only on a change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from matriarch.decide.facts import Facts, Instance, Memory
from matriarch.decide.lease import LeaseState
from matriarch.decide.verdict import Standing, Verdict

HOPELESS_AFTER = timedelta(minutes=10)
"""A cluster that lost its quorum for so long is reported as needing a person; it goes on trying all the same."""

STARTING_FOR = timedelta(minutes=1)
"""Pods that all start at once answer one after the other; nothing is lost by that."""


FORGET_REPLACED = "matriarch.dev/forget-replaced"
"""The annotation by which somebody says that data which a Restore in place replaced is not needed: the Restore's uid,
or several with commas."""

LOSS_SEEN = "matriarch.dev/loss-seen"
"""The annotation by which somebody says that a possible loss was looked at; its value is the epoch."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One wanted condition."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""


def assess(facts: Facts, memory: Memory, under_way: Verdict | None, now: datetime) -> Verdict:
    """How the cluster stands. `under_way` is what the plan is doing to a cluster that serves."""
    lease, wish = facts.lease, facts.wish
    if lease is None or not (lease.opened or facts.follows):
        return Verdict(Standing.WORKING, "Creating", _creating(facts))
    if not facts.serving:
        if under_way is not None and under_way.reason == "SwitchingOver":
            return under_way
        return _not_serving(facts, memory, now)
    if (full := _writes_stopped(facts)) is not None:
        return full
    if under_way is not None:
        return under_way
    if facts.closed_for:
        message = f"Clients are refused while Restore {facts.closed_for} replaces the data."
        return Verdict(Standing.WORKING, "Restoring", message)
    left = [i.name for i in facts.instances if i.name not in wish.instances and (i.pod or i.claim)]
    keeping = [i.name for i in facts.instances if i.name in left and i.pod and keeps_replaced(lease, i)]
    if keeping:
        message = (
            f"{', '.join(keeping)} stays for the data that a Restore in place replaced, which would go with the "
            f"volume: say by the annotation {FORGET_REPLACED} that nobody needs it."
        )
        return Verdict(Standing.WORKING, "Scaling", message)
    if left:
        return Verdict(Standing.WORKING, "Scaling", f"Removing {', '.join(left)}.{_held(lease, left)}")
    behind = [i for i in facts.instances if i.name in wish.instances and not _fine(i)]
    if behind:
        said = "; ".join(f"{i.name}: {describe(i)}" for i in behind)
        return Verdict(Standing.WORKING, "InstancesNotReady", said)
    unaware = [i.name for i in facts.instances if i.agent and i.agent.config_generation < facts.config_generation]
    if unaware:
        message = f"{', '.join(unaware)} to take on the configuration."
        return Verdict(Standing.WORKING, "ApplyingConfiguration", message)
    if facts.follows:  # its pooler for writes lets nobody in before a promotion
        said = f"{facts.holder} follows {wish.source}, {_replicas(facts)}."
        return Verdict(Standing.READY, "AllInstancesReady", said)
    if short := _poolers_short(facts):
        return Verdict(Standing.WORKING, "PoolerNotReady", short)
    return Verdict(Standing.READY, "AllInstancesReady", f"{facts.holder} is primary, {_replicas(facts)}.")


def _held(lease: LeaseState, left: list[str]) -> str:
    """Why what leaves is still there."""
    held = [i for i in left if lease.names_instance(i)]
    if not held:
        return ""
    return (
        f" The primary lets go of {', '.join(held)} when {max(lease.k, 1)} of the replicas that stay hold everything."
    )


def _writes_stopped(facts: Facts) -> Verdict | None:
    """The primary's volume is full: only a person can say how much larger it may be."""
    holder = facts.get(facts.holder) if facts.holder else None
    if holder is None or holder.agent is None or not holder.agent.writes_stopped:
        return None
    if holder.claim is not None and holder.claim.requested < facts.wish.storage:
        return Verdict(Standing.WORKING, "VolumeGrowing", f"The volume of {holder.name} is full and grows.")
    message = (
        f"The volume of {holder.name} is full{_room(holder)} and no replica has room to take over, so writes are "
        "stopped; reads go on. Raise spec.storage.size. To make room instead, begin a session with "
        "SET default_transaction_read_only = off and DROP or TRUNCATE what is not needed."
    )
    return Verdict(Standing.STALLED, "VolumeFull", message)


def _room(i: Instance) -> str:
    if i.agent is None or i.agent.free_bytes is None or i.agent.total_bytes is None:
        return ""
    return f" ({i.agent.free_bytes >> 20} of {i.agent.total_bytes >> 20} MiB are free)"


def _poolers_short(facts: Facts) -> str:
    """Which poolers lack Pods, for people; empty when none does."""
    said = []
    for name in facts.wish.poolers:
        found = next((p for p in facts.poolers if p.name == name), None)
        if found is None:
            said.append(f"{name} is being created")
        elif min(found.ready, found.current) < found.wanted:
            said.append(f"{name}: {min(found.ready, found.current)} of {found.wanted} Pods are ready")
    return "; ".join(said)


def _pooler(facts: Facts) -> Condition:
    none = [n for n in facts.wish.poolers if not any(p.name == n and p.ready for p in facts.poolers)]
    if none:
        return Condition("PoolerAvailable", "False", "NoPod", f"No Pod of {', '.join(none)} lets clients in.")
    message = _poolers_short(facts) or f"{', '.join(facts.wish.poolers)} let clients in."
    return Condition("PoolerAvailable", "True", "PodsReady", message)


def _replicas(facts: Facts) -> str:
    count = len(facts.wish.instances) - 1
    if count == 0:
        return "it is the only instance"
    return "1 replica is ready" if count == 1 else f"{count} replicas are ready"


def _fine(i: Instance) -> bool:
    return i.pod is not None and i.pod.ready and not i.pod.terminating and i.agent is not None and i.agent.ready


def describe(i: Instance) -> str:
    """What keeps an instance from being ready, for people."""
    if i.claim is not None and i.claim.terminating:
        return "its volume is being deleted; delete its Pod to have it built anew"
    if i.pod is None:
        return "its Pod is being created"
    if i.pod.terminating:
        return "its Pod is stopping"
    if not i.pod.node:
        return f"its Pod has no node ({i.pod.waiting})" if i.pod.waiting else "its Pod waits for a node"
    if not i.pod.running:
        return f"its container does not run ({i.pod.waiting})" if i.pod.waiting else "its container starts"
    if i.agent is None:
        return "its agent does not answer"
    return i.agent.reason or i.agent.state


def _creating(facts: Facts) -> str:
    said = [f"{i.name}: {describe(i)}" for i in facts.instances if not _fine(i)]
    return "; ".join(said) or "Waiting for the first primary to let clients in."


def _not_serving(facts: Facts, memory: Memory, now: datetime) -> Verdict:
    lease = facts.lease
    assert lease is not None
    holder = facts.get(facts.holder) if facts.holder else None
    state = describe(holder) if holder is not None else "it does not exist"
    if holder is not None and holder.agent is not None and holder.agent.role == "primary":
        why = holder.agent.door_reason or state
        return Verdict(Standing.WORKING, "DoorClosed", f"{facts.holder} is primary but lets nobody in yet: {why}")
    if lease.mode == "async":
        return _no_async_primary(facts, state)
    voters = [i for i in facts.instances if i.agent is not None and i.name in {v.instance for v in lease.voters}]
    if lease.mode == "quorum" and len(voters) < lease.election_quorum:
        message = (
            f"The primary {facts.holder} is gone ({state}) and only {len(voters)} of {lease.election_quorum} voters "
            "needed for an election answer. Bring their nodes or volumes back; no data is given up by itself."
            f"{_said(facts)}"
        )
        since = now - memory.not_ready_since if memory.not_ready_since is not None else timedelta(0)
        if holder is not None and holder.pod is not None and holder.pod.running and since < STARTING_FOR:
            return Verdict(Standing.WORKING, "Starting", f"{facts.holder}: {state}")
        long = since >= HOPELESS_AFTER
        return Verdict(Standing.STALLED if long else Standing.WORKING, "QuorumLost", message)
    if len(facts.wish.instances) == 1 or lease.mode == "alone":
        since = now - memory.not_ready_since if memory.not_ready_since is not None else timedelta(0)
        if len(facts.wish.instances) == 1 or since < STARTING_FOR:
            return Verdict(Standing.WORKING, "Starting", f"{facts.holder}: {state}")
        message = (
            f"{facts.holder} acknowledged writes alone before it was lost ({state}), so no replica may have them all "
            "and none is elected. Bring its node or volume back, or restore a backup."
        )
        return Verdict(Standing.STALLED if since >= HOPELESS_AFTER else Standing.WORKING, "PrimaryMissing", message)
    message = f"{facts.holder} does not serve ({state}); its replicas elect.{_said(facts)}"
    return Verdict(Standing.WORKING, "FailingOver", message)


def _said(facts: Facts) -> str:
    """Why replicas do not elect, in their own words; empty when none says anything."""
    said = [f"{i.name} says: {i.agent.refusal}." for i in facts.instances if i.agent is not None and i.agent.refusal]
    return " " + " ".join(said) if said else ""


def _no_async_primary(facts: Facts, state: str) -> Verdict:
    """In mode async a replica takes over when the Lease ran out, if it lacks little."""
    message = f"{facts.holder} does not serve ({state}). It is started again where it is, which loses nothing;"
    return Verdict(
        Standing.WORKING, "FailingOver", f"{message} without it a replica takes over after 15 s.{_said(facts)}"
    )


def standing(verdict: Verdict) -> list[Condition]:
    """Ready, Reconciling and Stalled, as the contract wants them."""
    conditions = [
        Condition("Ready", "True" if verdict.standing is Standing.READY else "False", verdict.reason, verdict.message)
    ]
    if verdict.standing is Standing.WORKING:
        conditions.append(Condition("Reconciling", "True", verdict.reason, verdict.message))
    elif verdict.standing is Standing.STALLED:
        conditions.append(Condition("Stalled", "True", verdict.reason, verdict.message))
    return conditions


def of_cluster(facts: Facts, verdict: Verdict) -> list[Condition]:
    """All conditions of a DatabaseCluster but those of other writers (BackupHealthy)."""
    found = standing(verdict)
    if facts.follows:
        pass  # `decide/replica_cluster.py` says it
    elif facts.serving and verdict.reason in ("VolumeFull", "VolumeGrowing"):
        found.append(Condition("Available", "False", verdict.reason, verdict.message))
    elif facts.serving:
        found.append(Condition("Available", "True", "PrimaryServes", f"{facts.holder} takes writes."))
    else:
        found.append(Condition("Available", "False", verdict.reason, verdict.message))
    lease = facts.lease
    several = lease is not None and len(facts.wish.instances) > 1
    if several and lease is not None and lease.opened:
        found.append(_synchronous(facts))
    if several and lease is not None and (lease.opened or (facts.follows and lease.holder is not None)):
        found.append(_healthy(facts))
    if lease is not None and (lost := _lost(facts, lease)) is not None:
        found.append(lost)
    if (kept := _kept(facts)) is not None:
        found.append(kept)
    if tight := [i for i in facts.instances if i.agent is not None and i.agent.volume != "ok"]:
        said = "; ".join(f"{i.name}: its volume is {i.agent.volume if i.agent else ''}{_room(i)}" for i in tight)
        found.append(Condition("VolumePressure", "True", "SeeMessage", f"{said}. Raise spec.storage.size."))
    if facts.wish.poolers:
        found.append(_pooler(facts))
    if facts.wish.advice:
        found.append(Condition("Advice", "True", "ReviewSpec", " ".join(facts.wish.advice)))
    warnings = [f"{i.name}: {w}" for i in facts.instances if i.agent is not None for w in i.agent.warnings]
    if warnings:
        found.append(Condition("InstanceWarnings", "True", "SeeMessage", "; ".join(warnings)[:1024]))
    return found


def _lost(facts: Facts, lease: LeaseState) -> Condition | None:
    """A failover in mode async that may have lost writes, until somebody says that it was looked at."""
    loss = lease.loss
    if loss is None or facts.wish.loss_seen == str(loss.epoch):
        return None
    known = f"at least {_bytes(loss.missing)} of WAL are missing" if loss.missing else "nothing of that is missing"
    message = (
        f"{loss.holder.instance} was replaced without waiting for its replicas at epoch {loss.epoch}. When it last said"
        f" so its WAL ended at {loss.wal}, and the next primary went on from {loss.position}: {known}; what was written"
        f" after that is lost too. Annotate the cluster with {LOSS_SEEN}={loss.epoch} when that was looked at."
    )
    return Condition("PossibleLoss", "True", "AsyncFailover", message)


def keeps_replaced(lease: LeaseState, i: Instance) -> bool:
    """Whether this volume has data that a Restore in place replaced, and nobody confirmed yet that it may go. Where a
    Restore ever did that, an agent that does not answer may have some."""
    return bool(lease.replaced) and (i.agent is None or bool(i.agent.kept_data))


def _kept(facts: Facts) -> Condition | None:
    """Data that a Restore in place replaced, until somebody says that nobody needs it."""
    kept = [(i.name, uid) for i in facts.instances if i.agent is not None for uid in i.agent.kept_data]
    if not kept:
        return None
    where = ", ".join(f"{name}: that of before Restore {uid}" for name, uid in kept)
    uids = ",".join(dict.fromkeys(uid for _, uid in kept))
    message = (
        f"Replaced data is kept and takes room ({where}). Annotate the cluster with {FORGET_REPLACED}={uids} when "
        "nobody needs it any more."
    )
    return Condition("ReplacedDataKept", "True", "NotConfirmed", message[:1024])


def _bytes(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB" if count >= 1 << 10 else f"{count} bytes"


def _healthy(facts: Facts) -> Condition:
    """What the replica doctors say."""
    ill = [(i.name, i.agent.illness) for i in facts.instances if i.agent is not None and i.agent.illness is not None]
    if not ill:
        return Condition("ReplicasHealthy", "True", "NothingFound", "No replica needs repair.")
    said = "; ".join(
        f"{name}: {found.why}; remedy: {found.remedy}" + (f" ({found.note})" if found.note else "")
        for name, found in ill
    )
    return Condition("ReplicasHealthy", "False", ill[0][1].ailment, said[:1024])


def _synchronous(facts: Facts) -> Condition:
    """Whether a commit is on as many replicas as the spec asks before it is acknowledged."""
    lease = facts.lease
    assert lease is not None
    if lease.mode == "alone" and facts.wish.asynchronous:
        message = f"No replica has come near enough yet to take over from {facts.holder}."
        return Condition("SyncDegraded", "True", "Alone", message)
    if lease.mode == "alone":
        message = (
            f"{facts.holder} acknowledges writes alone, so a failure of it could lose them. "
            "It goes back to waiting for replicas as soon as one has caught up."
        )
        return Condition("SyncDegraded", "True", "Alone", message)
    streaming = len(facts.streaming_voters)
    if lease.mode == "async" and facts.wish.asynchronous:
        message = f"No commit waits for a replica, as the spec says; {streaming} replicas stream."
        return Condition("SyncDegraded", "False", "Asynchronous", message)
    if lease.mode == "async":
        message = "Commits do not wait for replicas yet: too few have caught up for what the spec asks."
        return Condition("SyncDegraded", "True", "Asynchronous", message)
    if facts.serving and streaming < lease.k:
        message = f"{streaming} of {lease.k} needed replicas stream; writes wait for the others."
        return Condition("SyncDegraded", "True", "TooFewReplicas", message)
    return Condition(
        "SyncDegraded", "False", "Synchronous", f"Commits wait for {lease.k} of {len(lease.voters)} replicas."
    )


def conditions(
    previous: Iterable[Mapping[str, Any]], wanted: Iterable[Condition], generation: int, now: str
) -> list[dict[str, Any]]:
    """Conditions as the status holds them. `now` is RFC 3339; a condition that keeps its status keeps its time."""
    before = {c.get("type"): c for c in previous}
    made = []
    for c in wanted:
        old = before.get(c.type)
        since = old["lastTransitionTime"] if old is not None and old.get("status") == c.status else now
        made.append(
            {
                "type": c.type,
                "status": c.status,
                "observedGeneration": generation,
                "lastTransitionTime": since,
                "reason": c.reason,
                "message": c.message[:4096],
            }
        )
    return made

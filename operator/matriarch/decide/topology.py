"""What a DatabaseCluster needs next: its objects, volumes and Pods, what leaves, and who should lead.

Rules that the rest leans on:
- nothing is initialised while anything shows that data existed (the Lease is made before any volume, and never after);
- no incarnation that the Lease names is deleted; an instance is deleted only after the Lease says that it is leaving;
- all Pods are made at once: agents find their order by themselves;
- at most one step that takes a working instance away is in a plan, and none while another is under way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from matriarch.decide import replica_cluster, rollout, switchover
from matriarch.decide.actions import (
    Action,
    Announce,
    Apply,
    BeginSwitchover,
    Certify,
    CreateClaim,
    CreateLease,
    CreatePod,
    DeleteClaim,
    DeletePod,
    FinishErasure,
    ForgetErasure,
    GrowClaim,
    MakePassword,
    MoveBootstrap,
    NotePolicy,
    Plan,
    Remove,
    RestoreLease,
    Resume,
    SetLeaving,
)
from matriarch.decide.conditions import STARTING_FOR, assess, describe, keeps_replaced
from matriarch.decide.facts import Facts, Instance, Memory, Wish
from matriarch.decide.lease import LeaseState
from matriarch.decide.lost import Mended, is_behind, mend
from matriarch.decide.verdict import Standing, Verdict

SOON = 1.0  # seconds until the next look while something is under way that no event will tell


def decide(facts: Facts, now: datetime) -> Plan:
    """The next steps. Carrying out any prefix of them and deciding again leads to the same end."""
    if facts.lease_problem or _lease_is_missing(facts) or is_behind(facts.lease, facts.instances):
        return _without_lease(facts, now)
    memory = switchover.remember(facts, now)
    news = switchover.news(facts.memory, memory)
    if facts.suspended:  # before anything that blocks the rest: under a spec that is refused, what runs goes on
        return _given_up(facts, memory, news) if facts.restore_problem else _suspended(facts, memory, news)
    if blocked := _blocked(facts):
        return Plan(tuple(news), blocked, memory, facts.wish.health_interval)
    if facts.erasing:
        return _after_erasure(facts, memory)
    actions: list[Action] = [*news, *_children(facts)]
    if facts.lease is None:
        actions.append(CreateLease(bootstrap(facts.wish), facts.wish.replica, facts.wish.restore))
    elif facts.lease.epoch == 0 and facts.lease.bootstrap not in facts.wish.instances:
        actions.append(MoveBootstrap(bootstrap(facts.wish)))
    if facts.lease is not None and not facts.policy_noted:
        actions.append(NotePolicy())
    if facts.held:
        return _held(facts, memory, actions)
    if facts.lease is not None and facts.lease.replacing:
        return _restored(facts, facts.lease, memory, actions)
    actions += _volumes_and_pods(facts)
    leaving = _leaving(facts)
    actions += leaving
    disruption, memory, note = _one_disruption(facts, memory, now, busy=any(isinstance(a, DeletePod) for a in leaving))
    actions += disruption
    verdict = replica_cluster.assess(facts) or assess(facts, memory, note, now)
    if verdict.standing is Standing.READY and not actions:
        return Plan((), verdict, memory, facts.wish.health_interval)
    return Plan(tuple(actions), verdict, memory, SOON if verdict.standing is Standing.WORKING else SOON * 2)


def _held(facts: Facts, memory: Memory, actions: list[Action]) -> Plan:
    """Only the volume that the Restore fills is made, and nothing is started on it."""
    first = facts.lease.bootstrap if facts.lease is not None else bootstrap(facts.wish)
    found = facts.get(first)
    if found is None or found.claim is None:
        actions.append(CreateClaim(first))
    name = facts.wish.restore_name
    if facts.restore_problem:
        message = (
            f"{facts.restore_problem} So no instance of this cluster is started, and none ever had data: delete this "
            "resource and that Restore, the volume goes with them, and make a new Restore."
        )
        verdict = Verdict(Standing.STALLED, "RestoreFailed", message)
    else:
        message = f"Restore {name} brings the data to the volume of {first}; instances start when it is there."
        verdict = Verdict(Standing.WORKING, "Restoring", message)
    return Plan(tuple(actions), verdict, memory, SOON if actions else facts.wish.health_interval)


def _suspended(facts: Facts, memory: Memory, news: Iterable[Action]) -> Plan:
    """Every Pod goes, the primary's first: its voters keep the fence away while it stops in order."""
    name, actions = facts.restore_name, [*news]
    there = [i for i in facts.instances if i.pod is not None]
    first = [i for i in there if i.name == facts.holder] or there
    actions += [
        DeletePod(i.name, i.pod.uid, f"Restore {name} replaces the data")
        for i in first
        if i.pod is not None and not i.pod.terminating
    ]
    message = f"Restore {name} prepares the data that is to replace this cluster's; no instance runs meanwhile."
    return Plan(tuple(actions), Verdict(Standing.WORKING, "Restoring", message), memory, SOON)


def _restored(facts: Facts, lease: LeaseState, memory: Memory, actions: list[Action]) -> Plan:
    """What a Restore brought counts, and its instance has not said yet that it runs on it. Nobody else leads."""
    first = facts.get(lease.bootstrap)
    if first is None or first.claim is None or first.claim.terminating:
        message = (
            f"The data that a Restore brought to the volume of {lease.bootstrap} is gone with it, before anybody ran "
            "on it. The other volumes have the data of before: make a new Restore in place, with "
            "inPlace.skipSafetyBackup."
        )
        verdict = Verdict(Standing.STALLED, "RestoredDataMissing", message)
        return Plan(tuple(actions), verdict, memory, facts.wish.health_interval)
    actions += _volumes_and_pods(facts)
    message = f"{first.name} starts on the data that a Restore brought: {describe(first)}. The others follow it then."
    return Plan(tuple(actions), Verdict(Standing.WORKING, "StartingRestored", message), memory, SOON)


def _given_up(facts: Facts, memory: Memory, news: Iterable[Action]) -> Plan:
    """The hold is taken back."""
    assert facts.lease is not None
    assert facts.lease.filling is not None
    message = f"{facts.restore_problem} Nothing was replaced: {facts.wish.cluster} goes on with the data that it had."
    actions = (*news, Resume(facts.lease.filling.restore), Announce("RestoreGivenUp", message, warning=True))
    return Plan(actions, Verdict(Standing.WORKING, "RestoreGivenUp", message), memory, SOON)


def _blocked(facts: Facts) -> Verdict | None:
    """Reasons to change nothing at all."""
    if facts.refusals:
        return Verdict(Standing.STALLED, "InvalidSpec", "; ".join(facts.refusals))
    if facts.follows and not facts.wish.source:
        return Verdict(
            Standing.STALLED,
            "InvalidSpec",
            "This is a replica cluster, and spec.replica is gone: put it back. To end following, set replica.enabled:"
            " false with a promotionToken.",
        )
    if facts.certificates.broken:
        return Verdict(Standing.STALLED, "CertificatesUnreadable", f"{facts.certificates.broken}: restore it")
    return _data_gone(facts) if not facts.erasing else None


def _lease_is_missing(facts: Facts) -> bool:
    """There is none, and something shows that data existed: then nothing is initialised."""
    shown = any(i.claim is not None for i in facts.instances) or bool(facts.memory.system_identifier)
    return facts.lease is None and not facts.lease_problem and shown


def _without_lease(facts: Facts, now: datetime) -> Plan:
    """Written again from the members' copies where that is certain. Until then all that helps is that they run."""
    cluster = facts.wish.cluster
    if facts.lease_problem:
        reason, what = "LeaseUnreadable", f"The Lease {cluster} cannot be read ({facts.lease_problem})"
    elif facts.lease is None:
        reason, what = "LeaseLost", f"The Lease {cluster} is gone"
    else:
        reason, what = "LeaseRolledBack", f"The Lease {cluster} was restored from an older copy"
    found = mend(facts.lease, facts.instances)
    if isinstance(found, Mended):
        message = f"{what}; it is written again as {found.source} knows it."
        actions = (RestoreLease(found.state), Announce(reason, message, warning=True))
        return Plan(actions, Verdict(Standing.WORKING, reason, message), facts.memory, SOON)
    claims = [i for i in facts.instances if i.claim is not None]
    if not claims:
        message = (
            f"{what}, and there are no volumes, but the status knows database {facts.memory.system_identifier}, so "
            "nothing is initialised. Restore a backup into a new cluster, or delete this resource to begin anew."
        )
        return Plan((), Verdict(Standing.STALLED, reason, message), facts.memory, facts.wish.health_interval)
    message = (
        f"{what}, so nobody can be elected and nothing is initialised. It is not written again: {found.why}. "
        "Bring back what is missing, restore the Lease from a newer backup of etcd, or delete the volumes (and the "
        "resource) to begin with an empty database."
    )
    since = now - facts.memory.not_ready_since if facts.memory.not_ready_since is not None else timedelta(0)
    standing = Standing.STALLED if since >= STARTING_FOR else Standing.WORKING
    pods = [CreatePod(i.name) for i in claims if i.pod is None and i.claim is not None and not i.claim.terminating]
    told = () if facts.refusals or facts.certificates.broken else (*_children(facts), *pods)
    return Plan(tuple(told), Verdict(standing, reason, message), facts.memory, SOON)


def _data_gone(facts: Facts) -> Verdict | None:
    """The Lease names members, and not one of their volumes is left: empty ones would only wait for ever."""
    lease = facts.lease
    if lease is None or lease.epoch == 0 or lease.holder is None or facts.follows:
        return None  # a replica cluster copies its source again
    named = sorted({m.instance for m in (lease.holder, *lease.voters)})
    if any(i.claim is not None for i in facts.instances if i.name in named):
        return None
    return Verdict(
        Standing.STALLED,
        "DataMissing",
        f"The Lease {facts.wish.cluster} says that {', '.join(named)} hold database {lease.system_identifier}, "
        "but none of their volumes exists. Bring a volume back, or restore a backup into a new cluster; "
        f"to begin with an empty database, delete this resource and that Lease, and create it again.",
    )


def _after_erasure(facts: Facts, memory: Memory) -> Plan:
    """The resource came back while its data was being deleted on request."""
    claims = [i.claim for i in facts.instances if i.claim is not None]
    memory = replace(memory, system_identifier="", holder=None)
    if any(not c.terminating for c in claims):
        verdict = Verdict(Standing.WORKING, "Adopting", "Taking over the volumes that are still there.")
        return Plan((ForgetErasure(),), verdict, memory, SOON)
    if claims:
        verdict = Verdict(Standing.WORKING, "Erasing", "Waiting until the former volumes are deleted.")
        return Plan((), verdict, memory, SOON)
    verdict = Verdict(Standing.WORKING, "Creating", "The former data is deleted; a new cluster begins.")
    return Plan((FinishErasure(),), verdict, memory, 0.1)


def bootstrap(wish: Wish) -> str:
    """Who may run initdb: the wanted primary, if it is one of the instances."""
    if wish.primary is not None and wish.primary in wish.instances:
        return wish.primary
    return next((i for i in wish.instances if i not in wish.delayed), wish.instances[0])


def _children(facts: Facts) -> list[Action]:
    plan = facts.certificates
    actions: list[Action] = []
    if plan.authority or plan.issue or plan.refresh:
        actions.append(Certify(plan))
    for secret in facts.passwords:
        actions.append(MakePassword(secret))
        if facts.lease is not None and facts.lease.epoch > 0:
            message = f"Secret {secret} had no password; a new one was made and clients must read it again."
            actions.append(Announce("PasswordMade", message, warning=True))
    actions += [Apply(ref) for ref in facts.missing]
    actions += [Remove(ref) for ref in facts.surplus]
    return actions


def _must_run(facts: Facts, instance: Instance) -> bool:
    """Wanted, or still named by the Lease: what leaves must be up to hand over what it holds."""
    if instance.name in facts.wish.instances:
        return True
    return facts.lease is not None and facts.lease.names_instance(instance.name) and instance.claim is not None


def _volumes_and_pods(facts: Facts) -> list[Action]:
    claims: list[Action] = []
    pods: list[Action] = []
    larger: list[Action] = []  # last: a class that does not let volumes grow must not hold up the rest
    for i in facts.instances:
        if i.pod is not None and i.pod.finished and not i.pod.terminating:
            pods.append(DeletePod(i.name, i.pod.uid, "its Pod ended and will not run again"))
            continue
        if not _must_run(facts, i):
            continue
        if i.claim is None:
            claims.append(CreateClaim(i.name))
        elif i.claim.terminating:
            continue  # a new Pod would keep a volume alive that somebody wants gone
        elif i.claim.bound and i.claim.requested < facts.wish.storage:
            larger.append(GrowClaim(i.name))
        if i.pod is None:
            pods.append(CreatePod(i.name))
    return [*claims, *pods, *larger]


def _leaving(facts: Facts) -> list[Action]:
    """Scale down: mark, wait for the holder to let go, then the Pod, then the volume."""
    lease = facts.lease
    if lease is None:
        return []
    gone = [i for i in facts.instances if i.name not in facts.wish.instances]
    marked = {i.name for i in gone if i.pod is not None or i.claim is not None}
    marked |= {m.instance for m in lease.voters if m.instance not in facts.wish.instances}
    marked.discard(facts.holder or "")
    actions: list[Action] = []
    if tuple(sorted(marked)) != lease.leaving:
        actions.append(SetLeaving(tuple(sorted(marked))))
    for i in gone:
        may_initialise = lease.epoch == 0 and lease.bootstrap == i.name
        if i.name not in lease.leaving or lease.names_instance(i.name) or may_initialise:
            continue  # only what this very Lease says counts, not what the swap above will make it say
        if i.pod is not None:
            if not i.pod.terminating and not keeps_replaced(lease, i):
                actions.append(DeletePod(i.name, i.pod.uid, "scaled down"))
        elif i.claim is not None and not i.claim.terminating:
            actions.append(DeleteClaim(i.name, i.claim.uid))
    return actions


def _one_disruption(
    facts: Facts, memory: Memory, now: datetime, *, busy: bool
) -> tuple[list[Action], Memory, Verdict | None]:
    """At most one step that takes something away from clients, by urgency. Returns what to say about it as well."""
    if facts.lease is None or facts.holder is None:
        return [], memory, None
    if memory.switchover is not None and memory.switchover.state == "running":
        return [], memory, Verdict(Standing.WORKING, "SwitchingOver", f"Switching over to {memory.switchover.to}.")
    if broken := rollout.broken(facts, now):
        return list(broken), memory, Verdict(Standing.WORKING, "RollingUpdate", "Replacing Pods that could not start.")
    if facts.holder not in facts.wish.instances or facts.holder in facts.wish.delayed:
        return _hand_over_leaving(facts, memory, now)
    asked, memory, note = switchover.asked_for(facts, memory, now)
    if asked or busy:
        return asked, memory, note
    steps, rolling = rollout.step(facts)
    for step in steps:
        if isinstance(step, BeginSwitchover):
            if switchover.too_soon(memory, now):
                return [], memory, switchover.paused(memory, rolling, now) if rolling is not None else None
            memory = switchover.begun(memory, step, now)
    return list(steps), memory, rolling or note


def _hand_over_leaving(facts: Facts, memory: Memory, now: datetime) -> tuple[list[Action], Memory, Verdict | None]:
    assert facts.holder is not None
    target = switchover.best_target(facts, among=frozenset(facts.wish.instances))
    if target is None:
        message = f"{facts.holder} is primary and leaves; waiting for an instance that stays to stream."
        return [], memory, Verdict(Standing.WORKING, "Scaling", message)
    note = Verdict(Standing.WORKING, "Scaling", f"{facts.holder} leaves: switching over to {target}.")
    if switchover.too_soon(memory, now):
        return [], memory, switchover.paused(memory, note, now)
    action = BeginSwitchover(facts.holder, target, "scale down")
    return [action], switchover.begun(memory, action, now), note

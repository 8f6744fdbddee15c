"""Replacing or restarting instances without taking more away than the cluster can spare.

Replicas first, one at a time while enough others stream; then a switchover; then the former primary, which is a
replica by then. Parameters of which a standby needs at least the primary's value go the other way round when they are
lowered: the primary restarts first, in place. A single instance is restarted where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from matriarch.decide.actions import Action, BeginSwitchover, DeletePod, RestartPostgres
from matriarch.decide.facts import Facts, Instance
from matriarch.decide.switchover import best_target
from matriarch.decide.verdict import Standing, Verdict

STANDBY_NEEDS = frozenset(
    {
        "max_connections",
        "max_locks_per_transaction",
        "max_prepared_transactions",
        "max_wal_senders",
        "max_worker_processes",
    }
)
"""A standby does not replay with less of these than its primary has (PostgreSQL 17, 26.4.3)."""

GIVEN_UP_AFTER = timedelta(minutes=5)
"""An outdated instance that runs but has not been ready for so long is replaced: the new spec may be its cure."""


def outdated(facts: Facts, i: Instance) -> bool:
    """Its Pod is not the wanted one."""
    if i.pod is None or i.pod.terminating:
        return False
    restart = facts.wish.restart is not None and i.pod.restart != facts.wish.restart
    return i.pod.hash != i.wanted_hash or restart


def broken(facts: Facts, now: datetime) -> Sequence[Action]:
    """Outdated Pods that serve nobody: replacing them takes nothing away, and may be the cure.

    All whose container does not run; of those that run without being ready, one at a time, and not while they copy.
    """
    mine = [i for i in facts.instances if i.pod is not None and outdated(facts, i) and i.name in facts.wish.instances]
    found: list[Action] = []
    for i in mine:
        if i.pod is not None and not i.pod.running:
            why = f"it could not start ({i.pod.waiting or 'not running'}) and is out of date"
            found.append(DeletePod(i.name, i.pod.uid, why))
    for i in mine:
        if found or i.pod is None or i.pod.ready or (i.agent is not None and i.agent.state in _COPYING):
            continue
        if i.pod.ready_changed is not None and now - i.pod.ready_changed >= GIVEN_UP_AFTER:
            found.append(DeletePod(i.name, i.pod.uid, "it did not become ready and is out of date"))
    return found


_COPYING = frozenset({"cloning", "rewinding", "initializing"})


def step(facts: Facts) -> tuple[Sequence[Action], Verdict | None]:
    """The next instance, if it is anybody's turn, and how the rollout stands."""
    mine = [i for i in facts.instances if i.name in facts.wish.instances]
    due = [i for i in mine if outdated(facts, i) or (i.agent is not None and i.agent.pending)]
    if not due:
        return (), None
    waiting = _waits_for(facts, mine)
    if waiting is not None:
        names = ", ".join(i.name for i in due)
        return (), Verdict(Standing.WORKING, "RollingUpdate", f"{names} to be restarted; {waiting}")
    holder = next((i for i in mine if i.name == facts.holder), None)
    if len(mine) == 1 and holder is not None:
        return _alone(facts, holder)
    if holder is not None and _lowered(holder):
        message = (
            f"Restarting {holder.name} in place: lowered {', '.join(_lowered(holder))} must come from the primary."
        )
        return [RestartPostgres(holder.name, in_place=True)], Verdict(Standing.WORKING, "RollingUpdate", message)
    replicas = sorted(
        (i for i in due if i.name != facts.holder), key=lambda i: (facts.wish.priorities.get(i.name, 100), i.name)
    )
    for i in replicas:
        if not _spare(facts, i):
            message = f"{i.name} to be restarted; waiting until enough other replicas stream."
            return (), Verdict(Standing.WORKING, "RollingUpdate", message)
        note = Verdict(Standing.WORKING, "RollingUpdate", f"Restarting {i.name}.")
        if outdated(facts, i) and i.pod is not None:
            return [DeletePod(i.name, i.pod.uid, "rolling update")], note
        return [RestartPostgres(i.name, in_place=False)], note
    return _primary_last(facts, holder)


def _alone(facts: Facts, i: Instance) -> tuple[Sequence[Action], Verdict]:
    note = Verdict(Standing.WORKING, "RollingUpdate", f"Restarting {i.name}, the only instance.")
    if outdated(facts, i) and i.pod is not None:
        return [DeletePod(i.name, i.pod.uid, "update of the only instance")], note
    return [RestartPostgres(i.name, in_place=True)], note


def _primary_last(facts: Facts, holder: Instance | None) -> tuple[Sequence[Action], Verdict | None]:
    if holder is None:
        return (), None
    current = frozenset(
        i.name for i in facts.instances if not outdated(facts, i) and not (i.agent is not None and i.agent.pending)
    )
    target = best_target(facts, among=current & frozenset(facts.wish.instances))
    if target is None:
        message = f"{holder.name} to be restarted; waiting for a replica that can take over."
        return (), Verdict(Standing.WORKING, "RollingUpdate", message)
    note = Verdict(Standing.WORKING, "RollingUpdate", f"Switching over from {holder.name} to {target}.")
    return [BeginSwitchover(holder.name, target, "rolling update")], note


def _waits_for(facts: Facts, mine: list[Instance]) -> str | None:
    """Something is not as it should be: then taking away one more helps nobody.

    An instance that has no place to run does not hold up the others: `_spare` still looks that enough of them stream.
    """
    for i in mine:
        if i.pod is None or i.pod.terminating:
            return f"waiting for the Pod of {i.name}."
        if i.pod.node and not i.pod.ready:
            return f"waiting for {i.name} to become ready."
        if i.pod.node and i.agent is None:
            return f"waiting for the agent of {i.name} to answer."
    if not facts.serving and len(mine) > 1:
        return "waiting for a primary that lets clients in."
    return None


def _spare(facts: Facts, i: Instance) -> bool:
    """k others stream (one in mode async, which has no k), or it takes no part, or there are only two: then the pause
    is part of the bargain."""
    lease = facts.lease
    if lease is None or i.name not in facts.streaming_voters:
        # it does not acknowledge now; only wait if it is about to, since then the cluster is still coming up
        return lease is not None and lease.mode != "alone"
    others = facts.streaming_voters - {i.name}
    return len(others) >= max(lease.k, 1) or len(facts.wish.instances) == 2


def _lowered(i: Instance) -> list[str]:
    if i.agent is None:
        return []
    found = []
    for name, (old, new) in sorted(i.agent.pending.items()):
        if name in STANDBY_NEEDS and old.isdigit() and new.isdigit() and int(new) < int(old):
            found.append(name)
    return found

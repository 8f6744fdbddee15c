"""What is particular to a physical backup in place: the cluster is stopped by its Lease, and started on other data.

Until the hold is lifted nothing of the cluster's own data was touched, and whoever gives up, deletes the Restore or
cannot go on leaves it to the cluster's controller to take the hold back (`decide/topology.py`). Pure.
"""

from __future__ import annotations

from datetime import timedelta

from matriarch.decide.restore_facts import HoldFacts, RestoreFacts, RestorePlan, Step
from matriarch.decide.restore_steps import READY_WITHIN, at_work, done, failed, late, target_lost
from matriarch.decide.verdict import Standing, Verdict

STOP_WITHIN = timedelta(minutes=15)
"""How long Pods may take to end; a node that is away would take for ever."""

LONGEST = timedelta(hours=24)
"""For what nobody can say how long it takes, such as copies of a large database."""

LOOK = timedelta(seconds=2)


def unchanged(facts: RestoreFacts) -> str:
    """What holds whenever a step before the last one fails."""
    return f"Nothing was replaced: DatabaseCluster {facts.target_name} goes on with the data that it had."


def stop(facts: RestoreFacts) -> RestorePlan:
    """Hold the cluster up by its Lease, then wait until nobody runs."""
    if (lost := target_lost(facts, Step.STOP)) is not None:
        return lost
    hold, name = facts.hold, facts.target_name
    overdue = late(facts, STOP_WITHIN)
    if hold is None or not hold.system:
        if overdue:
            message = f"The Lease {name} is gone or cannot be read. {unchanged(facts)}"
            return failed(facts, Step.STOP, "LeaseUnreadable", message)
        verdict = Verdict(Standing.WORKING, "LeaseUnreadable", f"Waits for the Lease {name}, which cannot be read now.")
        return at_work(facts, Step.STOP, verdict, again=LOOK)
    if hold.restore not in (None, facts.uid) and not hold.lost:
        message = f"Another Restore holds {name} up. {unchanged(facts)}"
        if hold.lifted:
            message = f"{name} starts on what another Restore brought: make a new Restore when it serves."
        return failed(facts, Step.STOP, "AnotherRestore", message)
    if hold.restore != facts.uid:
        if not hold.volume:
            message = f"The volume of {hold.instance}, to be restored onto, is gone or going. {unchanged(facts)}"
            return failed(facts, Step.STOP, "NoVolume", message)
        if facts.room is not None and facts.room < facts.size:
            message = (
                f"The volume of {hold.instance} has {_mib(facts.room)} MiB free, and the backup needs "
                f"{_mib(facts.size)} beside the present data, which is kept: raise spec.storage.size and make a new "
                f"Restore, or restore into a new cluster. {unchanged(facts)}"
            )
            return failed(facts, Step.STOP, "NoRoom", message)
        if facts.unaware:
            message = (
                f"The agents of {', '.join(facts.unaware)} do not answer, or are of a version that knows no Restore in "
                "place, and somebody who does not stop when told may go on writing."
            )
            if overdue:
                message = f"{message} Bring their Pods to the present image. {unchanged(facts)}"
                return failed(facts, Step.STOP, "AgentsNotReady", message)
            return at_work(facts, Step.STOP, Verdict(Standing.WORKING, "AgentsNotReady", message), again=LOOK)
        verdict = Verdict(Standing.WORKING, "Stopping", f"DatabaseCluster {name} is being stopped.")
        return at_work(facts, Step.STOP, verdict, suspend=hold.instance, again=LOOK)
    if not facts.pods:
        return done(facts, Step.STOP)
    since = facts.stopping_since
    if (since is not None and facts.now - since > STOP_WITHIN) or late(facts, LONGEST):
        message = (
            f"{', '.join(facts.pods)} did not end within {STOP_WITHIN // timedelta(minutes=1)} minutes, so somebody "
            f"may still write there. {unchanged(facts)}"
        )
        return failed(facts, Step.STOP, "InstancesDoNotStop", message)
    verdict = Verdict(Standing.WORKING, "Stopping", f"Waits until {', '.join(facts.pods)} have ended.")
    return at_work(facts, Step.STOP, verdict, again=LOOK)


def hindered(facts: RestoreFacts) -> RestorePlan | None:
    """Why the Job that fills the volume shall not go on: nobody keeps the cluster stopped, or it cannot begin."""
    hold = facts.hold
    if hold is not None and hold.system and hold.restore != facts.uid:
        return _hold_lost(facts, hold, Step.RESTORE)
    return never_begins(facts)


def never_begins(facts: RestoreFacts) -> RestorePlan | None:
    """The Job that brings the data found no node for long, and clients are refused meanwhile."""
    job = facts.work.job
    if job is not None and job.waiting and late(facts, STOP_WITHIN):
        message = (
            f"The Job could not begin within {STOP_WITHIN // timedelta(minutes=1)} minutes ({job.waiting}), and nobody "
            f"is served meanwhile. {unchanged(facts)}"
        )
        return failed(facts, Step.RESTORE, "PodWaiting", message)
    return None


def _hold_lost(facts: RestoreFacts, hold: HoldFacts, step: Step) -> RestorePlan:
    message = (
        f"The Lease {facts.target_name} does not wait for this Restore any more, and names database system "
        f"{hold.system}. {unchanged(facts)} Make a new Restore."
    )
    return failed(facts, step, "HoldLost", message)


def start(facts: RestoreFacts) -> RestorePlan:
    """Let what was restored count, and wait until it takes writes."""
    hold, name, target = facts.hold, facts.target_name, facts.target
    counts = hold is not None and ((hold.restore == facts.uid and hold.lifted) or hold.system == facts.system)
    if (lost := target_lost(facts, Step.START)) is not None:
        if not counts:
            return lost
        message = (
            f"DatabaseCluster {name} was deleted after the restored data began to count: where its volumes are kept, "
            "one that is made again under its name goes on with that data."
        )
        return failed(facts, Step.START, "TargetDeleted", message)
    assert target is not None
    verdict = Verdict(Standing.WORKING, "WaitingForCluster", f"DatabaseCluster {name} starts on what was restored.")
    if hold is not None and hold.restore == facts.uid and not hold.lifted:
        return at_work(facts, Step.START, verdict, lift=True, again=LOOK)
    if hold is not None and hold.system and hold.restore != facts.uid and hold.system != facts.system:
        return _hold_lost(facts, hold, Step.START)
    if target.ready and target.system == facts.system:
        return done(facts, Step.START)
    begun = hold is not None and hold.system == facts.system  # what is left are copies for the replicas
    limit = LONGEST if begun else READY_WITHIN
    if late(facts, limit):
        message = (
            f"The data is restored, but DatabaseCluster {name} did not become ready within "
            f"{limit // timedelta(minutes=1)} minutes; see `kubectl describe dbc {name}`. It goes on trying, "
            "and the data of before is kept on its volume."
        )
        return failed(facts, Step.START, "ClusterNotReady", message)
    return at_work(facts, Step.START, verdict, again=LOOK)


def _mib(size: int) -> str:
    return f"{size >> 20:,}"

"""What is particular to a physical backup in place: the cluster is stopped by its Lease, and started on other data.

Until the hold is lifted nothing of the cluster's own data was touched, and whoever gives up, deletes the Restore or
cannot go on leaves it to the cluster's controller to take the hold back (`decide/topology.py`). Pure.
"""

from __future__ import annotations

from datetime import timedelta

from matriarch.decide.restore_facts import RestoreFacts, RestorePlan, Step
from matriarch.decide.restore_steps import READY_WITHIN, at_work, done, failed, target_lost
from matriarch.decide.verdict import Standing, Verdict

STOP_WITHIN = timedelta(minutes=15)
"""How long Pods may take to end; a node that is away would take for ever."""

LOOK = timedelta(seconds=2)


def unchanged(facts: RestoreFacts) -> str:
    """What holds whenever a step before the last one fails."""
    return f"Nothing was replaced: DatabaseCluster {facts.target_name} goes on with the data that it had."


def stop(facts: RestoreFacts) -> RestorePlan:
    """Hold the cluster up by its Lease, then wait until nobody runs."""
    if (lost := target_lost(facts, Step.STOP)) is not None:
        return lost
    hold, name = facts.hold, facts.target_name
    late = facts.step_started is not None and facts.now - facts.step_started > STOP_WITHIN
    if hold is None or not hold.system:
        if late:
            message = f"The Lease {name} is gone or cannot be read. {unchanged(facts)}"
            return failed(facts, Step.STOP, "LeaseUnreadable", message)
        verdict = Verdict(Standing.WORKING, "LeaseUnreadable", f"Waits for the Lease {name}, which cannot be read now.")
        return at_work(facts, Step.STOP, verdict, again=LOOK)
    if hold.restore not in (None, facts.uid):
        message = f"Another Restore holds {name} up. {unchanged(facts)}"
        return failed(facts, Step.STOP, "AnotherRestore", message)
    if hold.restore is None:
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
        verdict = Verdict(Standing.WORKING, "Stopping", f"DatabaseCluster {name} is being stopped.")
        return at_work(facts, Step.STOP, verdict, suspend=True, again=LOOK)
    if not facts.pods:
        return done(facts, Step.STOP)
    if late:
        message = (
            f"{', '.join(facts.pods)} did not end within {STOP_WITHIN // timedelta(minutes=1)} minutes, so somebody "
            f"may still write there. {unchanged(facts)}"
        )
        return failed(facts, Step.STOP, "InstancesDoNotStop", message)
    verdict = Verdict(Standing.WORKING, "Stopping", f"Waits until {', '.join(facts.pods)} have ended.")
    return at_work(facts, Step.STOP, verdict, again=LOOK)


def start(facts: RestoreFacts) -> RestorePlan:
    """Let what was restored count, and wait until it takes writes."""
    if (lost := target_lost(facts, Step.START)) is not None:
        return lost
    hold, name, target = facts.hold, facts.target_name, facts.target
    assert target is not None
    verdict = Verdict(Standing.WORKING, "WaitingForCluster", f"DatabaseCluster {name} starts on what was restored.")
    if hold is not None and hold.restore == facts.uid and not hold.lifted:
        return at_work(facts, Step.START, verdict, lift=True, again=LOOK)
    if hold is not None and hold.system and hold.restore != facts.uid and hold.system != facts.system:
        message = (
            f"The Lease {name} does not wait for this Restore any more, and names database system {hold.system}. "
            f"{unchanged(facts)} Make a new Restore."
        )
        return failed(facts, Step.START, "HoldLost", message)
    if target.ready and target.system == facts.system:
        return done(facts, Step.START)
    if facts.step_started is not None and facts.now - facts.step_started > READY_WITHIN:
        message = (
            f"The data is restored, but DatabaseCluster {name} did not become ready within "
            f"{READY_WITHIN // timedelta(minutes=1)} minutes; see `kubectl describe dbc {name}`. It goes on trying, "
            "and the data of before is kept on its volume."
        )
        return failed(facts, Step.START, "ClusterNotReady", message)
    return at_work(facts, Step.START, verdict, again=LOOK)


def _mib(size: int) -> str:
    return f"{size >> 20:,}"

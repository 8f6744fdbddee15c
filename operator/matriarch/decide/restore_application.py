"""Before data is replaced in place nobody writes any more, and afterwards everybody comes back.

The order is that of a recovery by hand: stop the application, back up what is there, replace it, start the application.
Whatever was acknowledged is then in the safety backup. Workloads that the Restore names are scaled to nothing; then the
instances refuse clients, whoever they are, until the data is replaced or the Restore has failed or was deleted. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from matriarch.decide.restore_facts import RestoreFacts, RestorePlan, Step, StepState
from matriarch.decide.restore_steps import at_work, done, failed, late, target_lost
from matriarch.decide.verdict import Standing, Verdict

APPLICATION_WITHIN = timedelta(minutes=15)
"""How long Pods of the application may take to end: longer than any grace that is usual."""

DOOR_WITHIN = timedelta(minutes=5)
"""How long instances may take to refuse clients, or to let them in again."""

LOOK = timedelta(seconds=2)


def keeps_out(steps: Mapping[Step, StepState]) -> bool:
    """Whether a Restore at these steps wants clients to be refused."""
    begun = (StepState.RUNNING, StepState.DONE)
    return steps.get(Step.CLOSE) in begun and steps.get(Step.OPEN) not in begun


def stop_application(facts: RestoreFacts) -> RestorePlan:
    """Scale what the Restore names to nothing, and wait until it has ended."""
    step = Step.STOP_APPLICATION
    if (lost := target_lost(facts, step)) is not None:
        return lost
    runs = tuple(w for w in facts.workloads if w.replicas > 0)
    ends = tuple(w for w in facts.workloads if w.stopped_by == facts.uid and w.there)
    if not runs and not ends:
        return done(facts, step)
    who = ", ".join(str(w) for w in (*runs, *ends))
    if late(facts, APPLICATION_WITHIN):
        minutes = APPLICATION_WITHIN // timedelta(minutes=1)
        message = (
            f"{who} did not end within {minutes} minutes. Nothing was changed, and the application is started again."
        )
        return failed(facts, step, "ApplicationDoesNotStop", message)
    verdict = Verdict(Standing.WORKING, "StoppingApplication", f"Waits until {who} has ended.")
    return at_work(facts, step, verdict, scale=runs, again=LOOK)


def close(facts: RestoreFacts) -> RestorePlan:
    """Wait until the primary refuses clients, and every other instance that answers knows that it shall.

    A replica that is being copied, or does not follow, has no door to close: it opens none later than it is told.
    """
    step = Step.CLOSE
    if (lost := target_lost(facts, step)) is not None:
        return lost
    if facts.skip_safety:  # whoever cannot be backed up may not answer; there is no backup that anything could miss
        return done(facts, step)
    verdict = _letting_in(facts)
    if verdict is None:
        return done(facts, step)
    if late(facts, DOOR_WITHIN):
        minutes = DOOR_WITHIN // timedelta(minutes=1)
        message = f"{verdict.message} That did not come within {minutes} minutes. Nothing was changed."
        return failed(facts, step, _NEVER.get(verdict.reason, verdict.reason), message)
    return at_work(facts, step, verdict, again=LOOK)


_NEVER = {"ClosingDoor": "DoorDoesNotClose"}


def _letting_in(facts: RestoreFacts) -> Verdict | None:
    """Who still lets clients in, or might."""
    if facts.unaware:
        return too_old(facts)
    holder = facts.hold.instance if facts.hold is not None else ""
    found = facts.doors.get(holder)
    waits = tuple(i for i, door in sorted(facts.doors.items()) if door.told != facts.uid)
    if not waits and (found is None or found.closed_by != facts.uid):
        waits = (holder or facts.target_name,)
    if not waits:
        return None
    return Verdict(Standing.WORKING, "ClosingDoor", f"Waits until {', '.join(waits)} refuses clients.")


def too_old(facts: RestoreFacts) -> Verdict | None:
    """Known before anything is stopped, and looked at again when it matters."""
    if not facts.unaware:
        return None
    message = (
        f"The agents of {', '.join(facts.unaware)} are of a version that lets clients in whatever a Restore wants: "
        "bring their Pods to the present image."
    )
    return Verdict(Standing.WORKING, "AgentsNotReady", message)


def open_again(facts: RestoreFacts) -> RestorePlan:
    """Wait until the primary lets clients in. Not for ever: the data is there, and the cluster says how it stands."""
    holder = facts.hold.instance if facts.hold is not None else ""
    found = facts.doors.get(holder)
    opened = found is not None and found.lets_in and not found.told
    if opened or late(facts, DOOR_WITHIN):
        return done(facts, Step.OPEN)
    verdict = Verdict(Standing.WORKING, "OpeningDoor", f"Waits until {holder or facts.target_name} lets clients in.")
    return at_work(facts, Step.OPEN, verdict, again=LOOK)


def start_application(facts: RestoreFacts) -> RestorePlan:
    """Whatever this Restore stopped gets its replicas back."""
    stopped = tuple(w for w in facts.workloads if w.stopped_by == facts.uid)
    if not stopped:
        return done(facts, Step.START_APPLICATION)
    verdict = Verdict(Standing.WORKING, "StartingApplication", "The application is being started again.")
    return at_work(facts, Step.START_APPLICATION, verdict, start=True, again=LOOK)


def nothing_selected(facts: RestoreFacts) -> Verdict | None:
    """A selector that matches nothing is a mistake, found before anything is done."""
    if facts.selects is None or facts.workloads:
        return None
    message = (
        f"inPlace.applicationSelector ({facts.selects}) matches no Deployment or StatefulSet in this namespace: "
        "correct it in a new Restore, or leave it out."
    )
    return Verdict(Standing.WORKING, "MissingApplication", message)

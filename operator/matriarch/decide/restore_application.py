"""Before data is replaced in place nobody writes any more, and afterwards everybody comes back.

The order is that of a recovery by hand: stop the application, back up what is there, replace it, start the application.
Whatever was acknowledged is then in the safety backup. Workloads that the Restore names are scaled to nothing; then the
instances refuse clients, whoever they are, until the data is replaced or the Restore has failed or was deleted. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from matriarch.decide.restore_facts import RestoreFacts, RestorePlan, Step, StepState
from matriarch.decide.restore_steps import at_work, done, failed, target_lost
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
    if _late(facts, APPLICATION_WITHIN):
        minutes = APPLICATION_WITHIN // timedelta(minutes=1)
        message = (
            f"{who} did not end within {minutes} minutes. Nothing was changed, and the application is started again."
        )
        return failed(facts, step, "ApplicationDoesNotStop", message)
    verdict = Verdict(Standing.WORKING, "StoppingApplication", f"Waits until {who} has ended.")
    return at_work(facts, step, verdict, scale=runs, again=LOOK)


def close(facts: RestoreFacts) -> RestorePlan:
    """Wait until every instance that answers refuses clients, the primary among them."""
    step = Step.CLOSE
    if (lost := target_lost(facts, step)) is not None:
        return lost
    if facts.skip_safety:  # whoever cannot be backed up may not answer; there is no backup that anything could miss
        return done(facts, step)
    holder, name = facts.hold.instance if facts.hold is not None else "", facts.target_name
    letting_in = tuple(i for i, by in sorted(facts.doors.items()) if by != facts.uid)
    if holder in facts.doors and not letting_in and not facts.unaware:
        return done(facts, step)
    if facts.unaware:
        who = ", ".join(facts.unaware)
        reason, message = (
            "AgentsNotReady",
            (
                f"The agents of {who} are of a version that lets clients in whatever a Restore wants: bring their Pods "
                "to the present image."
            ),
        )
    else:
        who = ", ".join(letting_in) or holder or name
        reason, message = "ClosingDoor", f"Waits until {who} refuses clients."
    if _late(facts, DOOR_WITHIN):
        reason = "DoorDoesNotClose" if reason == "ClosingDoor" else reason
        message = (
            f"{message} That did not come within {DOOR_WITHIN // timedelta(minutes=1)} minutes. Nothing was changed."
        )
        return failed(facts, step, reason, message)
    return at_work(facts, step, Verdict(Standing.WORKING, reason, message), again=LOOK)


def open_again(facts: RestoreFacts) -> RestorePlan:
    """Wait until the primary lets clients in. Not for ever: the data is there, and the cluster says how it stands."""
    holder = facts.hold.instance if facts.hold is not None else ""
    if facts.doors.get(holder) == "" or _late(facts, DOOR_WITHIN):
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


def _late(facts: RestoreFacts, limit: timedelta) -> bool:
    return facts.step_started is not None and facts.now - facts.step_started > limit

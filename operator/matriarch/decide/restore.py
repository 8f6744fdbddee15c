"""How one Restore goes from wished to done, step by step, once and never again.

Four ways. Into a new cluster: the backup is checked, a DatabaseCluster is made, it becomes ready, the backup is loaded
and compared. In place: the backup is checked, nobody writes any more (`decide/restore_application.py`), the cluster is
backed up, then its data is replaced in one step, and clients come back.
Whatever fails before the last step has changed nothing; the last step is one Job that leaves the old data serving
unless everything was loaded and compared. By recovery, for physical backups: a DatabaseCluster is made of which no
instance starts (the hold in its Lease), a Job fills the first volume, and only then the hold is lifted; the Job may be
run again, for nobody has written meanwhile. And by recovery in place (`decide/restore_replace.py`).

Every step's end is in the status before the next step begins. The Job that changes data is made suspended, noted in
the status, and only then let go: if a noted Job is gone, it may have run, and nobody runs it a second time over what
clients have written since.
"""

from __future__ import annotations

from datetime import timedelta

from matriarch.decide import restore_application, restore_replace
from matriarch.decide.backups import START_WITHIN, Phase, lacking
from matriarch.decide.restore_facts import STEPS, Mode, RestoreFacts, RestorePlan, Step, StepState
from matriarch.decide.restore_steps import (
    READY_WITHIN,
    at_work,
    complete,
    done,
    failed,
    late,
    no,
    target_lost,
    through_job,
    wait,
)
from matriarch.decide.verdict import Standing, Verdict


def plan_restore(facts: RestoreFacts) -> RestorePlan:
    """Decide the next step of one Restore."""
    if facts.phase is not None and facts.phase.over:
        raise ValueError(f"Restore {facts.name} is over: it is never repeated")
    step = next((s for s in STEPS[facts.mode] if facts.steps.get(s) is not StepState.DONE), None)
    if step is not None and facts.refused is not None:
        return failed(facts, step, "Refused", f"Step {step} was refused: {facts.refused}")
    match step:
        case None:
            return complete(facts)
        case Step.CHECK:
            return _check(facts)
        case Step.VERIFY:
            return _verify(facts)
        case Step.CREATE:
            return _create(facts)
        case Step.READY:
            return _ready(facts)
        case Step.STOP_APPLICATION:
            return restore_application.stop_application(facts)
        case Step.CLOSE:
            return restore_application.close(facts)
        case Step.SAFETY:
            return _safety(facts)
        case Step.RESTORE:
            return _restore(facts)
        case Step.PREPARE:
            return _prepare(facts)
        case Step.STOP:
            return restore_replace.stop(facts)
        case Step.START:
            return restore_replace.start(facts) if facts.mode is Mode.REPLACE else _start(facts)
        case Step.OPEN:
            return restore_application.open_again(facts)
        case Step.START_APPLICATION:
            return restore_application.start_application(facts)


def _check(facts: RestoreFacts) -> RestorePlan:
    verdict = _refusal(facts) or _obstacle(facts)
    if verdict is None:
        target = facts.target.uid if facts.mode.in_place and facts.target else None
        return done(facts, Step.CHECK, note_target=target)
    if verdict.standing is Standing.STALLED or facts.now - facts.created > START_WITHIN:
        return failed(facts, Step.CHECK, verdict.reason, verdict.message)
    return at_work(facts, Step.CHECK, verdict, phase=Phase.PENDING)


def _refusal(facts: RestoreFacts) -> Verdict | None:
    """What no waiting can mend; nothing was changed."""
    name = facts.target_name
    if facts.rival is not None:
        return no(
            "AnotherRestore",
            f"Restore {facts.rival} into {name} is not over. Make a new Restore when it is, if it is still wanted.",
        )
    if facts.mode.in_place:
        if facts.confirmation != name:
            return no(
                "NotConfirmed",
                f"inPlace.confirm has to be {name!r}, the cluster whose data is replaced. Nothing was changed; make a "
                "new Restore with it.",
            )
        if facts.target is not None and facts.target.deleting:
            return no("TargetDeleted", f"DatabaseCluster {name} is being deleted.")
        return None
    if facts.target is not None:
        also = "" if facts.mode is Mode.RECOVER else f", or set inPlace.confirm: {name} to replace its data"
        return no("TargetExists", f"DatabaseCluster {name} exists already. Restore into a new name{also}.")
    if facts.leftover is not None:
        return no(
            "TargetHasData",
            f"{facts.leftover} is left of an earlier cluster {name}. Restore into another name, or delete it if that "
            "data is not wanted any more.",
        )
    return None


def _obstacle(facts: RestoreFacts) -> Verdict | None:
    """What may be mended while we wait, or is known only once the source is."""
    if facts.source is not None:
        return facts.source
    if facts.skip_safety and facts.mode is Mode.IN_PLACE:  # known only now: what is not complete has no method yet
        return no(
            "SafetyBackupNeeded",
            "Databases are replaced by a logical restore only after a safety backup. Nothing was changed; make a "
            "new Restore without inPlace.skipSafetyBackup.",
        )
    for need in facts.needs:
        if (verdict := lacking(need)) is not None:
            return verdict
    if facts.mode.in_place:
        if facts.target is None:
            return wait(
                "MissingCluster", f"There is no DatabaseCluster {facts.target_name}: leave inPlace out to make one."
            )
        if not facts.target.ready and not facts.skip_safety:
            return wait(
                "ClusterNotReady", f"DatabaseCluster {facts.target_name} takes no writes, which a restore needs."
            )
        if (verdict := restore_application.nothing_selected(facts)) is not None:
            return verdict
        if not facts.skip_safety and (verdict := restore_application.too_old(facts)) is not None:
            return verdict
        if facts.busy is not None:
            return wait("BackupInProgress", f"Waits for Backup {facts.busy} of this cluster, which is at work.")
    return None


def _verify(facts: RestoreFacts) -> RestorePlan:
    nothing = "Nothing was changed."
    return through_job(facts, Step.VERIFY, "check of the backup", after=nothing, repeatable=True)


def _create(facts: RestoreFacts) -> RestorePlan:
    if facts.target is None:
        verdict = Verdict(Standing.WORKING, "CreatingCluster", f"DatabaseCluster {facts.target_name} is being made.")
        return at_work(facts, Step.CREATE, verdict, create_cluster=True, again=timedelta(seconds=2))
    if facts.target.made_by != facts.uid:
        return failed(
            facts,
            Step.CREATE,
            "TargetExists",
            f"DatabaseCluster {facts.target_name} was made by somebody else meanwhile. It was not touched; make a new "
            "Restore into another name.",
        )
    return done(facts, Step.CREATE, note_target=facts.target.uid)


def _ready(facts: RestoreFacts) -> RestorePlan:
    if (lost := target_lost(facts, Step.READY)) is not None:
        return lost
    assert facts.target is not None
    if facts.target.ready:
        return done(facts, Step.READY)
    if facts.step_started is not None and facts.now - facts.step_started > READY_WITHIN:
        return failed(
            facts,
            Step.READY,
            "ClusterNotReady",
            f"DatabaseCluster {facts.target_name} was made and did not become ready within "
            f"{READY_WITHIN // timedelta(minutes=1)} minutes; see `kubectl describe dbc {facts.target_name}`. It is "
            "empty: delete it and make a new Restore.",
        )
    verdict = Verdict(Standing.WORKING, "WaitingForCluster", f"DatabaseCluster {facts.target_name} is starting.")
    return at_work(facts, Step.READY, verdict, again=timedelta(seconds=5))


def _safety(facts: RestoreFacts) -> RestorePlan:
    if (lost := target_lost(facts, Step.SAFETY)) is not None:
        return lost
    verdict = Verdict(
        Standing.WORKING, "SafetyBackup", f"Backup {facts.safety_name} of the data that will be replaced is being made."
    )
    if facts.skip_safety:
        return done(facts, Step.SAFETY)
    if facts.safety is None:
        return at_work(facts, Step.SAFETY, verdict, create_safety=True, again=timedelta(seconds=5))
    if facts.safety.phase is Phase.COMPLETE:
        return done(facts, Step.SAFETY)
    if facts.safety.phase is Phase.FAILED:
        return failed(
            facts,
            Step.SAFETY,
            "SafetyBackupFailed",
            f"The safety backup {facts.safety_name} failed ({facts.safety.reason}): {facts.safety.message} Nothing was "
            "changed; the cluster serves its data as before.",
        )
    if facts.safety.waiting and late(facts, restore_replace.STOP_WITHIN):
        minutes = restore_replace.STOP_WITHIN // timedelta(minutes=1)
        message = (
            f"The safety backup {facts.safety_name} did not begin within {minutes} minutes, and clients are refused "
            f"meanwhile. {facts.safety.waiting} Nothing was changed; the cluster serves its data as before."
        )
        return failed(facts, Step.SAFETY, "SafetyBackupFailed", message)
    return at_work(facts, Step.SAFETY, verdict)


def _prepare(facts: RestoreFacts) -> RestorePlan:
    if (lost := target_lost(facts, Step.PREPARE)) is not None:
        return lost
    hold, name = facts.hold, facts.target_name
    if hold is not None and hold.restore != facts.uid:
        message = (
            f"The Lease {name} is not one that waits for this restore, so there may be data of somebody else. Nothing "
            f"was written; delete DatabaseCluster {name} if that is not wanted, and restore into another name."
        )
        return failed(facts, Step.PREPARE, "TargetHasData", message)
    if hold is not None and hold.volume:
        return done(facts, Step.PREPARE)
    if facts.step_started is not None and facts.now - facts.step_started > READY_WITHIN:
        return failed(
            facts,
            Step.PREPARE,
            "ClusterNotReady",
            f"DatabaseCluster {name} was made and got no volume within {READY_WITHIN // timedelta(minutes=1)} minutes; "
            f"see `kubectl describe dbc {name}`. {_held(facts)}",
        )
    verdict = Verdict(Standing.WORKING, "WaitingForVolume", f"The first volume of {name} is being made.")
    return at_work(facts, Step.PREPARE, verdict, again=timedelta(seconds=2))


def _start(facts: RestoreFacts) -> RestorePlan:
    if (lost := target_lost(facts, Step.START)) is not None:
        return lost
    hold, name, target = facts.hold, facts.target_name, facts.target
    assert target is not None
    verdict = Verdict(Standing.WORKING, "WaitingForCluster", f"DatabaseCluster {name} starts on what was restored.")
    if hold is not None and hold.restore == facts.uid and not hold.lifted:
        return at_work(facts, Step.START, verdict, lift=True, again=timedelta(seconds=2))
    if target.ready and target.system == facts.system:
        return done(facts, Step.START)
    if target.ready:
        message = (
            f"DatabaseCluster {name} serves database system {target.system}, and this restore made {facts.system}: it "
            "is another database. Do not use it before you know whose it is."
        )
        return failed(facts, Step.START, "AnotherDatabase", message)
    if facts.step_started is not None and facts.now - facts.step_started > READY_WITHIN:
        message = (
            f"The data is restored, but DatabaseCluster {name} did not become ready within "
            f"{READY_WITHIN // timedelta(minutes=1)} minutes; see `kubectl describe dbc {name}`. It goes on trying."
        )
        return failed(facts, Step.START, "ClusterNotReady", message)
    return at_work(facts, Step.START, verdict, again=timedelta(seconds=5))


def _held(facts: RestoreFacts) -> str:
    return (
        f"No instance of {facts.target_name} was started: delete that DatabaseCluster and this Restore, its volume "
        "goes with them, and make a new Restore."
    )


def _restore(facts: RestoreFacts) -> RestorePlan:
    if facts.mode is Mode.RECOVER:
        if (lost := target_lost(facts, Step.RESTORE)) is not None:
            return lost
        return through_job(facts, Step.RESTORE, "recovery", after=_held(facts), repeatable=True)
    if facts.mode is Mode.REPLACE:
        if (lost := target_lost(facts, Step.RESTORE) or restore_replace.hindered(facts)) is not None:
            return lost
        return through_job(facts, Step.RESTORE, "recovery", after=restore_replace.unchanged(facts), repeatable=True)
    if not facts.work.noted and (lost := target_lost(facts, Step.RESTORE)) is not None:
        return lost
    if facts.mode is Mode.NEW:
        after = (
            f"DatabaseCluster {facts.target_name} is there without the restored data: delete it and make a new Restore."
        )
    else:
        after = (
            f"Data is replaced only after all of it was compared, so {facts.target_name} serves what it had; Backup "
            f"{facts.safety_name} holds it too."
        )
        if (plan := restore_replace.never_begins(facts)) is not None:
            return plan
    return through_job(facts, Step.RESTORE, "restore", after=after, repeatable=False)

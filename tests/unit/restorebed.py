"""One Restore's facts for the tests of its decisions: what they are where a test says nothing of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from matriarch.decide.backups import JobFacts, JobState, Need, Phase, Result
from matriarch.decide.restore_facts import (
    NO_JOB,
    STEPS,
    Door,
    HoldFacts,
    Mode,
    RestoreFacts,
    Step,
    StepJob,
    StepState,
    TargetFacts,
    Workload,
)

NOW = datetime(2026, 3, 1, 2, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
TARGET = TargetFacts(uid="t1", deleting=False, ready=True, made_by=None)
MADE = TargetFacts(uid="t1", deleting=False, ready=True, made_by="r1")
HELD = HoldFacts(restore="r1", lifted=False, volume=True)
LIFTED = replace(HELD, lifted=True)
BEGAN = HoldFacts(restore=None, lifted=False, volume=True)
LEADS = HoldFacts(restore=None, lifted=False, volume=True, instance="orders-2", system="7", begins="orders-2")
SUSPENDED = replace(LEADS, restore="r1")
COUNTS = replace(SUSPENDED, lifted=True)
NEWER = replace(LEADS, system="8")
SHOP = Workload(kind="Deployment", name="shop", replicas=3, there=3)
STOPPED = replace(SHOP, replicas=0, there=0, stopped_by="r1")
OPEN, CLOSED = Door(lets_in=True), Door(told="r1", closed_by="r1")
KEY = Need(kind="Secret", name="key", holds="the key of the backup", keys=("key",), found=frozenset({"key"}))

WITH_TARGET = (Step.READY, Step.RESTORE, Step.PREPARE, Step.START)
OK = Result(ok=True)
WRONG_KEY = Result(ok=False, reason="WrongKey", message="The backup is encrypted with key ab, key cd was given.")


def before(mode: Mode, step: Step) -> dict[Step, StepState]:
    """All steps before `step` are done and it is at work."""
    steps = STEPS[mode]
    return dict.fromkeys(steps[: steps.index(step)], StepState.DONE) | {step: StepState.RUNNING}


def facts(mode: Mode = Mode.NEW, step: Step | None = None, **given: Any) -> RestoreFacts:
    base: dict[str, Any] = {
        "name": "back",
        "uid": "r1",
        "now": NOW,
        "created": NOW,
        "mode": mode,
        "confirmation": "orders" if mode.in_place else None,
        "target_name": "orders",
        "phase": Phase.RUNNING if step else None,
        "steps": before(mode, step) if step else {},
        "step_started": NOW if step else None,
        "source": None,
        "needs": (KEY,),
        "target": TARGET if mode.in_place else MADE if step in WITH_TARGET else None,
        "target_uid": "t1" if step not in (None, Step.CHECK) else None,
        "leftover": None,
        "rival": None,
        "busy": None,
        "safety_name": "back-before",
        "safety": None,
        "work": NO_JOB,
    }
    return RestoreFacts(**{**base, **given})


def work(state: JobState | None, *, noted: bool = True, suspended: bool = False, **given: Any) -> StepJob:
    job = JobFacts(name="job-1", state=state, **given.pop("job", {})) if state else None
    return StepJob(**{"made": 1, "noted": noted, "job": job, "suspended": suspended, "result": None, **given})


def acts(plan: Any) -> bool:
    return bool(
        plan.create_cluster
        or plan.create_safety
        or plan.make_job
        or plan.resume_job
        or plan.suspend
        or plan.lift
        or plan.scale
        or plan.start
    )

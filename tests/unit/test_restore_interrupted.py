"""A Restore that is interrupted anywhere: it ends, and data is replaced at most once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from matriarch.decide.backups import JobFacts, JobState, Phase, Result
from matriarch.decide.restore import plan_restore
from matriarch.decide.restore_application import keeps_out
from matriarch.decide.restore_facts import (
    STEPS,
    HoldFacts,
    Mode,
    RestoreFacts,
    SafetyFacts,
    Step,
    StepJob,
    StepState,
    TargetFacts,
    Workload,
)
from tests.unit.restorebed import (
    CLOSED,
    COUNTS,
    HELD,
    LEADS,
    MADE,
    NEWER,
    NOW,
    OK,
    OPEN,
    SHOP,
    SUSPENDED,
    TARGET,
    WRONG_KEY,
    facts,
)


@dataclass
class World:
    mode: Mode
    phase: Phase | None = None
    steps: dict[Step, StepState] = field(default_factory=dict)
    target: TargetFacts | None = None
    target_uid: str | None = None
    safety: SafetyFacts | None = None
    made: int = 0
    noted: bool = False
    job_step: Step | None = None
    job: JobState | None = None
    suspended: bool = False
    result: Result | None = None
    loads: int = 0
    """How often the data of the target was replaced."""
    safety_at_load: bool = True
    verified_at_load: bool = True
    hold: HoldFacts | None = None
    filled_at_lift: bool = True
    loads_after_lift: int = 0
    loads_beside_pods: int = 0
    system: str | None = None
    pods: tuple[str, ...] = ("orders-1", "orders-2")
    shop: Workload = SHOP
    closed: bool = False
    """Instances refuse clients."""
    wrote_unsaved: bool = False
    """Somebody could write while the safety backup was made or after it, to what was then replaced."""

    def current(self) -> Step | None:
        return next((s for s in STEPS[self.mode] if self.steps.get(s) is not StepState.DONE), None)

    def facts(self) -> RestoreFacts:
        here = self.job_step is self.current()
        job = JobFacts(name="job", state=self.job) if self.job and here else None
        return facts(
            self.mode,
            phase=self.phase,
            steps=dict(self.steps),
            step_started=NOW,
            target=self.target,
            target_uid=self.target_uid,
            safety=self.safety,
            hold=self.hold,
            system=self.system,
            pods=self.pods,
            workloads=(self.shop,) if self.mode.in_place else (),
            doors={"orders-2": CLOSED if self.closed else OPEN},
            work=StepJob(
                made=self.made,
                noted=self.noted,
                job=job,
                suspended=self.suspended,
                result=self.result if job and here else None,
            ),
        )

    def controller(self, *, dies_after_status: bool) -> None:
        if self.phase is not None and self.phase.over:
            return
        plan = plan_restore(self.facts())
        moved = plan.step is not self.current()
        self.phase, self.steps, self.target_uid = plan.phase, dict(plan.steps), plan.note_target or self.target_uid
        self.made, self.noted = (0, False) if moved else (plan.jobs_made, plan.job_noted)
        if dies_after_status:
            return
        if plan.make_job and (self.job is None or self.job_step is not plan.make_job):
            self.job, self.job_step, self.result = JobState.ACTIVE, plan.make_job, None
            self.suspended = plan.make_job is Step.RESTORE and self.mode not in REPEATED
        if plan.resume_job:
            self.suspended = False
        if plan.suspend:
            assert self.hold == LEADS
            self.hold = SUSPENDED
        if plan.lift and self.hold is not None:
            self.filled_at_lift &= self.loads > 0 and self.steps.get(Step.RESTORE) is StepState.DONE
            self.hold = replace(self.hold, lifted=True)
        for _ in plan.scale:
            self.shop = replace(self.shop, replicas=0, stopped_by="r1")
        if plan.start or plan.finished:
            self.start_again()
        if plan.create_cluster and self.target is None:
            self.target = replace(MADE, ready=False)
        if plan.create_safety and self.safety is None:
            self.safety = SafetyFacts(phase=Phase.RUNNING)
            self.wrote_unsaved |= not self.closed or self.shop.there > 0

    def start_again(self) -> None:
        if self.shop.stopped_by:
            self.shop = SHOP

    def happens(self, event: str) -> None:
        if event == "agents hear":
            over = self.phase is not None and self.phase.over
            self.closed = self.mode.in_place and not over and keeps_out(self.steps)
            if over:  # the controller looks at what is over, too
                self.start_again()
        if event == "application ends":
            self.shop = replace(self.shop, there=self.shop.replicas)
        if event == "job ends" and self.job is JobState.ACTIVE and not self.suspended:
            if self.job_step is Step.RESTORE:
                self.loads += 1
                self.loads_after_lift += self.hold is not None and self.hold.lifted
                self.loads_beside_pods += self.mode is Mode.REPLACE and (self.hold != SUSPENDED or bool(self.pods))
                self.system = "8"
                self.verified_at_load &= self.steps.get(Step.VERIFY) is StepState.DONE
                if self.mode.in_place:
                    self.wrote_unsaved |= not self.closed or self.shop.there > 0
                    self.safety_at_load &= self.safety == SafetyFacts(phase=Phase.COMPLETE)
            self.job, self.result = JobState.SUCCEEDED, OK
        elif event == "job fails" and self.job is JobState.ACTIVE and not self.suspended:
            self.job, self.result = JobState.FAILED, WRONG_KEY
        elif event == "job deleted":
            self.job, self.result = None, None
        elif event == "cluster ready" and self.mode is Mode.REPLACE:
            if self.hold == SUSPENDED:
                self.pods = self.pods[1:]
            elif self.hold == COUNTS:
                assert self.target is not None
                self.hold, self.target = NEWER, replace(self.target, ready=True, system="8")
        elif event == "cluster ready" and self.target is not None and self.mode is Mode.RECOVER:
            if self.hold is None:
                self.hold = HELD
            elif self.hold.lifted:
                self.target = replace(self.target, ready=True, system="8")
        elif event == "cluster ready" and self.target is not None:
            self.target = replace(self.target, ready=True)
        elif event == "safety done" and self.safety is not None and self.safety.phase is Phase.RUNNING:
            self.safety = SafetyFacts(phase=Phase.COMPLETE)
        elif event == "safety fails" and self.safety is not None and self.safety.phase is Phase.RUNNING:
            self.safety = SafetyFacts(phase=Phase.FAILED, reason="StoreFull", message="Full.")


REPEATED = (Mode.RECOVER, Mode.REPLACE)
BAD = ["job fails", "job deleted", "safety fails"]
GOOD = ["nothing", "job ends", "cluster ready", "safety done", "application ends", "agents hear"]
LOOKS = st.lists(st.booleans(), max_size=3)
"""How often the controller looks after an event, and whether it dies before it acts."""


@settings(max_examples=500)
@given(
    st.sampled_from(list(Mode)),
    st.integers(0, 14),
    st.lists(st.tuples(st.sampled_from(GOOD + BAD), LOOKS), max_size=8),
)
def test_from_any_interruption_it_ends_and_data_is_replaced_at_most_once(
    mode: Mode, smooth: int, events: list[tuple[str, list[bool]]]
) -> None:
    """It goes smoothly for a while, so that every step is reached; then anything happens; then all is well again."""
    world = World(mode, target=TARGET if mode.in_place else None, hold=LEADS if mode.in_place else None)
    for _ in range(smooth):
        world.controller(dies_after_status=False)
        for event in GOOD:
            world.happens(event)
    for event, looks in events:
        world.happens(event)
        for dies in looks:
            world.controller(dies_after_status=dies)
        assert world.loads <= 1 or mode in REPEATED, "the data was replaced twice"
    for _ in range(40):
        world.controller(dies_after_status=False)
        for event in GOOD:
            world.happens(event)
        assert world.loads <= 1 or mode in REPEATED, "the data was replaced twice"
    assert world.loads_after_lift == 0, "written below a server that runs"
    assert world.loads_beside_pods == 0, "the volume was written to while an instance could run"
    assert world.filled_at_lift, "started on nothing"
    assert world.phase is not None
    assert world.phase.over, "it never ended"
    assert world.verified_at_load, "loaded before the backup was checked"
    assert world.safety_at_load, "replaced without a safety backup"
    assert not world.wrote_unsaved, "what clients wrote is in no backup"
    assert not world.closed, "clients are refused for ever"
    assert world.shop == SHOP, "the application is not started again"
    if world.phase is Phase.COMPLETE:
        assert world.loads == 1 or (mode in REPEATED and world.loads)
    if not {event for event, _ in events} & set(BAD):
        assert world.phase is Phase.COMPLETE, "nothing went wrong, and it did not get through"

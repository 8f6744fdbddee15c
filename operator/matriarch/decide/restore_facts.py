"""What the decision about a Restore rests on and what it says: `decide/restore.py` decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from matriarch.decide.backups import JobFacts, Need, Phase, Result
from matriarch.decide.verdict import Verdict


class Mode(StrEnum):
    """Where to."""

    NEW = "new"
    IN_PLACE = "in-place"
    RECOVER = "recover"
    """A physical backup into a new cluster."""
    REPLACE = "replace"
    """A physical backup in place."""

    @property
    def in_place(self) -> bool:
        return self in (Mode.IN_PLACE, Mode.REPLACE)


class Step(StrEnum):
    """The steps in their order; which ones there are depends on the mode."""

    CHECK = "check"
    """All that is named exists, and nothing is in the way."""
    VERIFY = "verify"
    """A Job reads the whole backup and checks it; it touches nothing."""
    CREATE = "create-cluster"
    READY = "wait-ready"
    STOP_APPLICATION = "stop-application"
    """The workloads that the Restore names are scaled to nothing."""
    CLOSE = "close-door"
    """Instances refuse clients, so that the safety backup has all that was acknowledged."""
    SAFETY = "safety-backup"
    RESTORE = "restore"
    """A Job loads, compares and switches; or fills the first volume."""
    STOP = "stop-instances"
    """The Lease holds the cluster up, and no instance runs any more."""
    PREPARE = "prepare-volume"
    """The held cluster has its Lease and its first volume."""
    START = "start"
    """The hold is lifted, and the cluster takes writes."""
    OPEN = "open-door"
    START_APPLICATION = "start-application"


STEPS: Mapping[Mode, tuple[Step, ...]] = {
    Mode.NEW: (Step.CHECK, Step.VERIFY, Step.CREATE, Step.READY, Step.RESTORE),
    Mode.IN_PLACE: (
        Step.CHECK,
        Step.VERIFY,
        Step.STOP_APPLICATION,
        Step.CLOSE,
        Step.SAFETY,
        Step.RESTORE,
        Step.OPEN,
        Step.START_APPLICATION,
    ),
    Mode.RECOVER: (Step.CHECK, Step.VERIFY, Step.CREATE, Step.PREPARE, Step.RESTORE, Step.START),
    Mode.REPLACE: (
        Step.CHECK,
        Step.VERIFY,
        Step.STOP_APPLICATION,
        Step.CLOSE,
        Step.SAFETY,
        Step.STOP,
        Step.RESTORE,
        Step.START,
        Step.OPEN,
        Step.START_APPLICATION,
    ),
}


class StepState(StrEnum):
    """As `status.steps` shows it."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFacts:
    """The DatabaseCluster of the target's name."""

    uid: str
    deleting: bool
    ready: bool
    """Its primary takes writes."""
    made_by: str | None
    """uid of the Restore that made it."""
    system: str | None = None
    """Its database system identifier, once it is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldFacts:
    """The Lease of a cluster that a Restore fills, as far as that needs it."""

    restore: str | None
    """uid of the Restore that it waits for; None: for none, or it began already."""
    lifted: bool
    volume: bool
    """The claim of the instance that begins is there."""
    instance: str = ""
    """Whose volume the Restore fills: the one that begins, or in place that of the present primary."""
    system: str = ""
    """The database system that the Lease names; empty at epoch 0, or where it cannot be read."""
    begins: str = ""
    """Where the data of the last Restore in place began."""
    lost: bool = False
    """A Restore's data counts, and its volume is gone before anybody ran on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetyFacts:
    """The safety Backup, if it exists."""

    phase: Phase
    reason: str = ""
    message: str = ""
    waiting: str = ""
    """Why nothing of it is at work yet, as a sentence; empty when it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A Deployment or StatefulSet of the application."""

    kind: str
    name: str
    replicas: int
    """Wanted; 0 when it is stopped."""
    there: int
    """Pods of it that have not ended."""
    stopped_by: str = ""
    """uid of the Restore that stopped it."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What one instance does with clients. Restores by uid."""

    told: str = ""
    """For which Restore it shall refuse them; empty: for none."""
    closed_by: str = ""
    """For which one it does, and nobody is left."""
    lets_in: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StepJob:
    """The Job of the step at work."""

    made: int
    """How many were made for this step."""
    noted: bool
    """The status names the newest of them."""
    job: JobFacts | None
    suspended: bool
    result: Result | None


NO_JOB = StepJob(made=0, noted=False, job=None, suspended=False, result=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreFacts:
    """Everything the decision about one Restore rests on, read at one time."""

    name: str
    uid: str
    now: datetime
    created: datetime
    mode: Mode
    confirmation: str | None
    target_name: str
    phase: Phase | None
    steps: Mapping[Step, StepState]
    step_started: datetime | None
    """When the step at work began."""
    source: Verdict | None
    """What is wrong with the source: a Backup that is not there, not complete, or has failed."""
    needs: tuple[Need, ...]
    target: TargetFacts | None
    target_uid: str | None
    """The cluster that this Restore works on, once noted."""
    leftover: str | None
    """A volume or Lease of a deleted cluster of the target's name."""
    rival: str | None
    """Another Restore into this target that is at work or was made earlier and is not over."""
    busy: str | None
    """A Backup of the target that is at work and is not ours."""
    safety_name: str
    safety: SafetyFacts | None
    work: StepJob = NO_JOB
    hold: HoldFacts | None = None
    """None: there is no Lease."""
    system: str | None = None
    """The identifier of the database system that the Job made, as the status has it."""
    skip_safety: bool = False
    """Somebody said that no safety backup is wanted."""
    pods: tuple[str, ...] = ()
    """Of the target's instances, those whose Pod is there."""
    stopping_since: datetime | None = None
    """When the last of them was asked to end; None while one was not."""
    unaware: tuple[str, ...] = ()
    """Instances that may not obey a hold: their agent is of an older version, or does not answer."""
    room: int | None = None
    """Bytes that are free on the volume to be restored onto, where its agent says so."""
    size: int = 0
    """Bytes that the backup takes there."""
    selects: str | None = None
    """The selector of the application's workloads, for people; None: there is none."""
    workloads: tuple[Workload, ...] = ()
    doors: Mapping[str, Door] = field(default_factory=dict)
    """Of the instances that answer."""
    refused: str | None = None
    """Why the API server does not take what this step would create, as a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    """Status is written first, then at most one action is carried out."""

    phase: Phase
    verdict: Verdict
    steps: Mapping[Step, StepState]
    step: Step | None = None
    """The step at work."""
    message: str = ""
    """For that step."""
    note_target: str | None = None
    jobs_made: int = 0
    job_noted: bool = False
    create_cluster: bool = False
    create_safety: bool = False
    make_job: Step | None = None
    resume_job: bool = False
    suspend: str = ""
    """Hold the running cluster up, so that its data can be replaced on the volume of this instance."""
    scale: tuple[Workload, ...] = ()
    """Of the application, to nothing."""
    start: bool = False
    """Give whatever this Restore stopped its replicas back."""
    lift: bool = False
    """Let the instances start on what the Job made."""
    finished: bool = False
    requeue: timedelta | None = None

"""How one Backup goes from wished to complete: what it lacks, when its turn is, what its Job's end means.

The file name in the store is chosen once and written to the Backup's status before a Job exists. A Job that is killed,
and one that is made again because it vanished, therefore writes to the same name, and the engine answers a second run
of a finished name with the first one's result: however often this decision is repeated there is one backup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from matriarch.decide.verdict import Standing, Verdict

START_WITHIN = timedelta(hours=1)
"""How long a Backup waits for what it lacks (a Secret that Git brings a moment later) before it fails."""

QUEUE_WITHIN = timedelta(hours=24)
"""How long a Backup waits for its turn."""

MAX_JOBS = 3
"""A Job that vanished before its result was known is made again so often, all in all. Within one Job pods that were
killed are replaced by Kubernetes, see resources/job.py."""

MEMBER_WITHIN = timedelta(minutes=10)
"""How long the pod of a physical backup may wait beside the member that was chosen (its node may be full, or the member
gone) before another member is chosen, with another Job."""

LOOK_AGAIN = timedelta(seconds=15)
"""While something is missing that raises no event here, such as a Secret."""


class Phase(StrEnum):
    """Of Backups and Restores, for people."""

    PENDING = "Pending"
    RUNNING = "Running"
    COMPLETE = "Complete"
    FAILED = "Failed"

    @property
    def over(self) -> bool:
        """Never changes again."""
        return self in (Phase.COMPLETE, Phase.FAILED)


class JobState(StrEnum):
    """What the Job's own conditions say."""

    ACTIVE = "Active"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFacts:
    """One Job as it stands."""

    name: str
    state: JobState
    reason: str = ""
    """Why it failed, in the Job controller's word, such as `DeadlineExceeded`."""
    waiting: str = ""
    """Why its pod does not run yet, as a sentence; empty when it runs."""
    pending: timedelta = timedelta(0)
    """How long its pod has not begun to run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The last word of a Job about its task."""

    ok: bool
    reason: str = ""
    message: str = ""
    suspect: int = 0
    """Pages that failed their checksum: such a backup is kept and never counts as good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """An object that a Job would mount."""

    kind: str
    name: str
    holds: str
    """What it holds, as the end of a sentence: `the credentials of store offsite`."""
    keys: tuple[str, ...] = ()
    """Keys that a Secret must have."""
    found: frozenset[str] | None = None
    """Keys that it has; None when there is no such object."""
    problem: str = ""
    """What is wrong with its content, as a sentence."""
    reason: str = ""
    """CamelCase word for `problem`; `InvalidSecret` if empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """The DatabaseCluster that is backed up."""

    uid: str
    deleting: bool
    ready_instances: int
    refusal: Verdict | None
    """Why its settings do not allow this backup: no store, or none of that name."""
    restoring: str | None
    """The Restore that replaces its data in place at this time."""
    safety_backup: str | None
    """The Backup that this Restore waits for."""
    no_member: Verdict | None = None
    """Why there is no member whose files a physical backup could read now; None: there is, or it is a logical one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherBackup:
    """Another Backup of the same cluster that is not over."""

    name: str
    created: datetime
    started: bool
    """Its name in the store is chosen."""
    obstructed: bool
    """It lacks something of its own and does not hold up those behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupFacts:
    """Everything the decision about one Backup rests on, read at one time."""

    name: str
    cluster_name: str
    created: datetime
    now: datetime
    queue_moved: datetime | None
    """When the newest backup of this cluster that is over ended."""
    phase: Phase | None
    backup_id: str | None
    """Its file name in the store, once chosen."""
    begun: datetime | None
    """When that was."""
    jobs_made: int
    job_seen: bool
    """The Job number `jobs_made` was seen at least once."""
    cluster: ClusterFacts | None
    needs: tuple[Need, ...]
    others: tuple[OtherBackup, ...]
    job: JobFacts | None
    """The Job number `jobs_made`, if it is there."""
    result: Result | None
    """Only that of `backup_id`."""
    physical: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupPlan:
    """At most one of `begin`, `make_job` is set. Status is written before anything else is done."""

    phase: Phase
    verdict: Verdict
    begin: bool = False
    """Choose the file name and write it down, against the resourceVersion that was read; then look again at once."""
    make_job: bool = False
    """Make Job number `jobs_made`; that it exists already is success."""
    drop_job: bool = False
    """Take Job number `job`'s away, whose pod never began; what follows is as after a Job that vanished."""
    jobs_made: int = 0
    job_seen: bool = False
    finished: bool = False
    requeue: timedelta | None = None


def plan_backup(facts: BackupFacts) -> BackupPlan:
    """Decide the next step of one Backup."""
    if facts.phase is not None and facts.phase.over:
        raise ValueError(f"Backup {facts.name} is over: nothing is left to decide")
    return _waiting(facts) if facts.backup_id is None else _running(facts)


def _waiting(facts: BackupFacts) -> BackupPlan:
    age = facts.now - facts.created
    obstacle = _obstacle(facts)
    if obstacle is not None:
        had_its_turn = max(facts.created, facts.queue_moved or facts.created)
        if obstacle.standing is Standing.STALLED or facts.now - had_its_turn > START_WITHIN:
            return _failed(facts, obstacle.reason, obstacle.message)
        return BackupPlan(phase=Phase.PENDING, verdict=obstacle, requeue=LOOK_AGAIN)
    ahead = _ahead(facts)
    if ahead is not None:
        if age > QUEUE_WITHIN:
            return _failed(
                facts, "NeverStarted", f"{ahead} for {_hours(QUEUE_WITHIN)}. Make a new Backup when it is done."
            )
        verdict = Verdict(Standing.WORKING, "Queued", f"{ahead}; one backup of a cluster runs at a time.")
        return BackupPlan(phase=Phase.PENDING, verdict=verdict, requeue=LOOK_AGAIN)
    return BackupPlan(
        phase=Phase.RUNNING,
        verdict=Verdict(Standing.WORKING, "Starting", "The backup's Job is being made."),
        begin=True,
        jobs_made=1,
        requeue=timedelta(0),
    )


def _running(facts: BackupFacts) -> BackupPlan:
    job, made = facts.job, facts.jobs_made
    if facts.result is not None and facts.result.ok:
        # The manifest is in the store: that decides, even when the pod was killed before its exit counted.
        verdict = _complete(facts.result)
        return BackupPlan(phase=Phase.COMPLETE, verdict=verdict, jobs_made=made, job_seen=True, finished=True)
    if job is None and not facts.job_seen and facts.begun is not None and facts.now - facts.begun > QUEUE_WITHIN:
        message = "The backup's Job could not be made; see the events. Make a new Backup when what they name is mended."
        return _failed(facts, "JobNotMade", message)
    if job is None and not facts.job_seen and facts.cluster is not None and facts.cluster.no_member is not None:
        return BackupPlan(
            phase=Phase.RUNNING, verdict=facts.cluster.no_member, jobs_made=made, requeue=LOOK_AGAIN
        )  # the member went away between the beginning and now
    if job is None and not facts.job_seen and facts.physical and facts.cluster is None:
        return _failed(facts, "ClusterDeleted", "The cluster was deleted before its files were read.")
    if job is None and not facts.job_seen:
        verdict = Verdict(Standing.WORKING, "Starting", "The backup's Job is being made.")
        return BackupPlan(
            phase=Phase.RUNNING, verdict=verdict, make_job=True, jobs_made=made, requeue=timedelta(seconds=5)
        )
    if job is not None and job.state is JobState.ACTIVE and facts.physical and job.pending > MEMBER_WITHIN:
        return _never_began(facts, job)
    if job is not None and job.state is JobState.ACTIVE:
        verdict = _at_work(job, facts.result)
        return BackupPlan(phase=Phase.RUNNING, verdict=verdict, jobs_made=made, job_seen=True, requeue=LOOK_AGAIN)
    if job is not None and job.state is JobState.FAILED:
        return _failed(facts, *why_failed(job, facts.result, "backup"))
    # It succeeded but its result is lost, or it vanished: the same task again tells, or finishes it.
    if made < MAX_JOBS:
        verdict = Verdict(
            Standing.WORKING,
            "Retrying",
            "The backup's Job is gone and left no result; it is made again for the same backup.",
        )
        return BackupPlan(phase=Phase.RUNNING, verdict=verdict, jobs_made=made + 1, requeue=timedelta(0))
    return _failed(
        facts,
        "JobVanished",
        f"{MAX_JOBS} Jobs of this backup are gone without a result. Find out who deletes Jobs or pods here, then make "
        "a new Backup.",
    )


def _complete(result: Result) -> Verdict:
    said = "The backup is complete: its manifest is in the store."
    if result.suspect:
        said = (
            f"The backup is complete and Suspect: {result.suspect} pages fail their checksum. It is kept and does not "
            "count as good; look at the disk of the instance that was read, then make another one."
        )
    return Verdict(Standing.READY, "Suspect" if result.suspect else "Complete", said)


def _never_began(facts: BackupFacts, job: JobFacts) -> BackupPlan:
    """The pod has to be on the member's node, which may be full, cordoned or gone."""
    waited = f"for {MEMBER_WITHIN // timedelta(minutes=1)} minutes"
    if facts.jobs_made < MAX_JOBS:
        verdict = Verdict(
            Standing.WORKING,
            "Retrying",
            f"Its pod did not begin {waited} beside the member to read: one is chosen again. {job.waiting}".strip(),
        )
        return BackupPlan(
            phase=Phase.RUNNING,
            verdict=verdict,
            drop_job=True,
            jobs_made=facts.jobs_made,
            job_seen=True,
            requeue=timedelta(seconds=2),
        )
    message = (
        f"Its pod did not begin {waited} beside the member to read, {MAX_JOBS} times. {job.waiting} Make room on the "
        "member's node, or make a logical backup."
    )
    return replace(_failed(facts, "NeverStarted", " ".join(message.split())), drop_job=True)


def _obstacle(facts: BackupFacts) -> Verdict | None:
    """The first thing that keeps the Job from being made, in the order in which a person would look."""
    cluster = facts.cluster
    if cluster is None:
        return Verdict(
            Standing.WORKING,
            "MissingCluster",
            f"There is no DatabaseCluster {facts.cluster_name} in this namespace. Create it, or make a new Backup with "
            "another spec.cluster.",
        )
    if cluster.deleting:
        return Verdict(
            Standing.STALLED,
            "ClusterDeleted",
            f"DatabaseCluster {facts.cluster_name} is being deleted: back it up before that.",
        )
    if cluster.refusal is not None:
        return cluster.refusal
    for need in facts.needs:
        if (verdict := lacking(need)) is not None:
            return verdict
    if cluster.restoring is not None and cluster.safety_backup != facts.name:
        return Verdict(
            Standing.WORKING,
            "RestoreInProgress",
            f"Restore {cluster.restoring} is replacing this cluster's data; the backup starts when that is over.",
        )
    if cluster.ready_instances == 0:
        return Verdict(
            Standing.WORKING,
            "ClusterNotReady",
            f"No instance of {facts.cluster_name} is ready; see `kubectl describe dbc {facts.cluster_name}`.",
        )
    return cluster.no_member


def lacking(need: Need) -> Verdict | None:
    """What is wrong with something that a Job would mount; None when it is as it should be."""
    if need.found is None:
        return Verdict(
            Standing.WORKING,
            f"Missing{'Claim' if need.kind == 'PersistentVolumeClaim' else need.kind}",
            f"{need.kind} {need.name} does not exist, and it should hold {need.holds}. Create it in this namespace.",
        )
    missing = [key for key in need.keys if key not in need.found]
    if missing:
        return Verdict(
            Standing.WORKING,
            "MissingSecretKey",
            f"Secret {need.name} has no {' and no '.join(missing)}, and it should hold {need.holds}. Add "
            f"{'it' if len(missing) == 1 else 'them'}, or name other keys in the cluster's spec.backup.",
        )
    if need.problem:
        return Verdict(Standing.WORKING, need.reason or f"Invalid{need.kind}", need.problem)
    return None


def _ahead(facts: BackupFacts) -> str | None:
    """Why it is not this Backup's turn, as the beginning of a sentence."""
    running = sorted(other.name for other in facts.others if other.started)
    if running:
        return f"Waits for Backup {running[0]}, which is at work"
    before = sorted(
        (other.created, other.name)
        for other in facts.others
        if not other.obstructed and (other.created, other.name) < (facts.created, facts.name)
    )
    return f"Waits for Backup {before[0][1]}, which was made earlier" if before else None


def _at_work(job: JobFacts, result: Result | None) -> Verdict:
    if job.waiting:
        return Verdict(Standing.WORKING, "PodWaiting", job.waiting)
    if result is not None:
        return Verdict(
            Standing.WORKING, "Retrying", f"An attempt failed and is repeated: {result.message or result.reason}"
        )
    return Verdict(Standing.WORKING, "Running", f"Job {job.name} is at work; see status.progress.")


def why_failed(job: JobFacts, result: Result | None, what: str) -> tuple[str, str]:
    """Reason and sentence of a Job that failed for good: its own word if it left one, else Kubernetes'."""
    if result is not None and (result.reason or result.message):
        return result.reason or "JobFailed", result.message or f"The {what} failed; see the log of Job {job.name}."
    if job.reason == "DeadlineExceeded":
        return (
            job.reason,
            f"The {what} took longer than its Job may; see the log of Job {job.name}, and whether the store is slow.",
        )
    message = (
        f"The {what}'s pods were killed or failed without a word too often; see `kubectl describe job {job.name}`."
    )
    return job.reason or "JobFailed", message


def _failed(facts: BackupFacts, reason: str, message: str) -> BackupPlan:
    return BackupPlan(
        phase=Phase.FAILED,
        verdict=Verdict(Standing.STALLED, reason, message),
        jobs_made=facts.jobs_made,
        job_seen=facts.job_seen or facts.job is not None,
        finished=True,
    )


def _hours(time: timedelta) -> str:
    return f"{time // timedelta(hours=1)} hours"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthFacts:
    """What a cluster's BackupHealthy condition rests on."""

    configured: bool
    now: datetime
    last_success: datetime | None
    last_failure: datetime | None
    last_failure_name: str = ""
    last_failure_message: str = ""
    last_suspect: datetime | None = None
    last_suspect_name: str = ""
    due: Mapping[str, datetime | None]
    """The newest scheduled time of each schedule that is not suspended; None: it has not come yet."""


OVERDUE_AFTER = timedelta(hours=2)
"""A scheduled backup that is not complete this long after its time is overdue; as long as a slow one may take before
somebody should look."""


def backup_health(facts: HealthFacts) -> tuple[Literal["True", "False", "Unknown"], str, str]:
    """Status, reason and message of the cluster's BackupHealthy condition."""
    if not facts.configured:
        return (
            "False",
            "NotConfigured",
            "This cluster has no backup store: set spec.backup.stores and make a BackupSchedule.",
        )
    if facts.last_failure is not None and (facts.last_success is None or facts.last_failure > facts.last_success):
        return "False", "LastBackupFailed", f"Backup {facts.last_failure_name} failed: {facts.last_failure_message}"
    if facts.last_suspect is not None and (facts.last_success is None or facts.last_suspect > facts.last_success):
        return (
            "False",
            "LastBackupSuspect",
            f"Pages of Backup {facts.last_suspect_name} fail their checksum, so it does not count. Look at that disk.",
        )
    late = sorted(
        (due, name)
        for name, due in facts.due.items()
        if due is not None
        and facts.now - due > OVERDUE_AFTER
        and (facts.last_success is None or facts.last_success < due)
    )
    if late:
        due, name = late[0]
        return (
            "False",
            "Overdue",
            f"BackupSchedule {name} was due at {_at(due)} and no backup is complete since.",
        )
    if facts.last_success is None:
        if not facts.due:
            return "False", "NoBackup", "No backup was ever made: make a BackupSchedule, or a Backup by hand."
        return "Unknown", "NoBackupYet", "The first scheduled backup has not been made yet."
    if not facts.due:
        return (
            "True",
            "BackedUpByHand",
            f"The newest backup is of {_at(facts.last_success)}; no schedule makes more.",
        )
    return "True", "BackedUp", f"The newest backup is of {_at(facts.last_success)}."


def _at(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"


def newest(times: Iterable[datetime | None]) -> datetime | None:
    """The newest of times of which some may be unknown."""
    return max((time for time in times if time is not None), default=None)

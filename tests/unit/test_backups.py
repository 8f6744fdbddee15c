"""One Backup from wished to complete, through everything that may be missing, in the way, or killed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide.backups import (
    MAX_JOBS,
    MEMBER_WITHIN,
    BackupFacts,
    ClusterFacts,
    HealthFacts,
    JobFacts,
    JobState,
    Need,
    OtherBackup,
    Phase,
    Result,
    backup_health,
    plan_backup,
)
from matriarch.decide.verdict import Standing, Verdict

NOW = datetime(2026, 3, 1, 2, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
FILE = "backup-2026-03-01T02:00:00.000Z-abc123.sql.gz.enc"
CLUSTER = ClusterFacts(uid="c1", deleting=False, ready_instances=3, refusal=None, restoring=None, safety_backup=None)
NO_STORE = Verdict(Standing.STALLED, "NoStore", "The cluster has no store: set spec.backup.stores.")
SECRET = Need(
    kind="Secret",
    name="s3",
    holds="the credentials of store offsite",
    keys=("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"),
    found=frozenset({"ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "other"}),
)
CLAIM = Need(kind="PersistentVolumeClaim", name="orders-backups", holds="the backups of store local", found=frozenset())


def facts(**given: Any) -> BackupFacts:
    base: dict[str, Any] = {
        "name": "by-hand",
        "cluster_name": "orders",
        "created": NOW,
        "now": NOW,
        "queue_moved": None,
        "phase": None,
        "backup_id": None,
        "begun": None,
        "jobs_made": 0,
        "job_seen": False,
        "cluster": CLUSTER,
        "needs": (SECRET,),
        "others": (),
        "job": None,
        "result": None,
    }
    return BackupFacts(**{**base, **given})


def running(**given: Any) -> BackupFacts:
    return facts(**{"phase": Phase.RUNNING, "backup_id": FILE, "jobs_made": 1, "job_seen": True, **given})


def other(name: str, **given: Any) -> OtherBackup:
    return OtherBackup(**{"name": name, "created": NOW, "started": False, "obstructed": False, **given})


def job(state: JobState = JobState.ACTIVE, **given: Any) -> JobFacts:
    return JobFacts(name="orders-backup-1", state=state, **given)


def test_the_name_is_written_down_before_a_job_is_made() -> None:
    first = plan_backup(facts())
    assert first.begin
    assert not first.make_job
    assert first.requeue == timedelta(0)
    second = plan_backup(running(job_seen=False))
    assert second.make_job
    assert not second.begin
    assert second.jobs_made == 1


@pytest.mark.parametrize(
    ("given", "reason", "says"),
    [
        pytest.param({"cluster": None}, "MissingCluster", "no DatabaseCluster orders", id="cluster"),
        pytest.param(
            {"needs": (replace(SECRET, found=None),)}, "MissingSecret", "Secret s3 does not exist", id="secret"
        ),
        pytest.param(
            {"needs": (replace(SECRET, found=frozenset({"ACCESS_KEY_ID"})),)},
            "MissingSecretKey",
            "Secret s3 has no SECRET_ACCESS_KEY",
            id="key of a secret",
        ),
        pytest.param(
            {"needs": (SECRET, replace(SECRET, name="key", problem="Secret key holds no 32 bytes of base64."))},
            "InvalidSecret",
            "no 32 bytes",
            id="content of a secret",
        ),
        pytest.param(
            {"needs": (replace(CLAIM, found=None),)}, "MissingClaim", "orders-backups does not exist", id="claim"
        ),
        pytest.param(
            {"cluster": replace(CLUSTER, ready_instances=0)}, "ClusterNotReady", "No instance", id="no instance"
        ),
        pytest.param(
            {"cluster": replace(CLUSTER, restoring="r1", safety_backup="other")},
            "RestoreInProgress",
            "Restore r1",
            id="restore in place",
        ),
    ],
)
def test_what_is_missing_is_said_before_a_job_exists_and_waited_for(given: Any, reason: str, says: str) -> None:
    plan = plan_backup(facts(**given))
    assert (plan.phase, plan.verdict.standing, plan.verdict.reason) == (Phase.PENDING, Standing.WORKING, reason)
    assert says in plan.verdict.message
    assert plan.requeue
    assert not plan.begin
    assert not plan.make_job
    late = plan_backup(facts(**given, created=NOW - HOUR - MINUTE))
    assert (late.phase, late.verdict.standing, late.verdict.reason) == (Phase.FAILED, Standing.STALLED, reason)


@pytest.mark.parametrize(
    ("cluster", "reason"),
    [(replace(CLUSTER, refusal=NO_STORE), "NoStore"), (replace(CLUSTER, deleting=True), "ClusterDeleted")],
)
def test_what_waiting_cannot_mend_fails_at_once(cluster: ClusterFacts, reason: str) -> None:
    plan = plan_backup(facts(cluster=cluster))
    assert (plan.phase, plan.verdict.reason, plan.finished) == (Phase.FAILED, reason, True)


def test_the_safety_backup_of_a_restore_runs_during_the_restore() -> None:
    assert plan_backup(facts(cluster=replace(CLUSTER, restoring="r1", safety_backup="by-hand"))).begin


@pytest.mark.parametrize(
    ("others", "waits_for"),
    [
        pytest.param((), None, id="alone"),
        pytest.param((other("a", started=True),), "a", id="one at work"),
        pytest.param((other("z", created=NOW - MINUTE),), "z", id="an earlier one"),
        pytest.param((other("z", created=NOW + MINUTE),), None, id="a later one"),
        pytest.param((other("a"),), "a", id="the same second: by name"),
        pytest.param((other("z"),), None, id="the same second, after it"),
        pytest.param(
            (other("a", created=NOW - MINUTE, obstructed=True),), None, id="an earlier one that lacks something"
        ),
        pytest.param((other("a", created=NOW + MINUTE, started=True),), "a", id="a later one that is at work"),
    ],
)
def test_one_at_a_time_in_order_of_creation(others: tuple[OtherBackup, ...], waits_for: str | None) -> None:
    plan = plan_backup(facts(others=others))
    assert plan.begin == (waits_for is None)
    if waits_for:
        assert (plan.phase, plan.verdict.reason) == (Phase.PENDING, "Queued")
        assert waits_for in plan.verdict.message


def test_waiting_in_the_queue_ends() -> None:
    plan = plan_backup(facts(others=(other("a", started=True),), created=NOW - 25 * HOUR))
    assert (plan.phase, plan.verdict.reason) == (Phase.FAILED, "NeverStarted")


def test_what_is_found_missing_after_a_long_queue_is_still_waited_for() -> None:
    late = facts(created=NOW - 5 * HOUR, needs=(replace(SECRET, found=None),))
    assert plan_backup(late).phase is Phase.FAILED
    assert plan_backup(replace(late, queue_moved=NOW - MINUTE)).phase is Phase.PENDING


@pytest.mark.parametrize(
    ("given", "phase", "reason"),
    [
        pytest.param({"job": job()}, Phase.RUNNING, "Running", id="at work"),
        pytest.param(
            {"job": job(), "job_seen": False}, Phase.RUNNING, "Running", id="at work, seen for the first time"
        ),
        pytest.param({"job": job(waiting="The image cannot be pulled.")}, Phase.RUNNING, "PodWaiting", id="no pod yet"),
        pytest.param(
            {"job": job(), "result": Result(ok=False, reason="StoreUnavailable")}, Phase.RUNNING, "Retrying", id="retry"
        ),
        pytest.param(
            {"job": job(JobState.SUCCEEDED), "result": Result(ok=True)}, Phase.COMPLETE, "Complete", id="complete"
        ),
        pytest.param({"result": Result(ok=True)}, Phase.COMPLETE, "Complete", id="complete, its Job cleaned up"),
        pytest.param(
            {"job": job(JobState.FAILED, reason="BackoffLimitExceeded"), "result": Result(ok=True)},
            Phase.COMPLETE,
            "Complete",
            id="complete, its pod killed before it could exit",
        ),
        pytest.param(
            {"job": job(JobState.FAILED), "result": Result(ok=False, reason="MissingBucket", message="There is none.")},
            Phase.FAILED,
            "MissingBucket",
            id="failed with a word",
        ),
        pytest.param(
            {"job": job(JobState.FAILED, reason="BackoffLimitExceeded")},
            Phase.FAILED,
            "BackoffLimitExceeded",
            id="killed",
        ),
        pytest.param(
            {"job": job(JobState.FAILED, reason="DeadlineExceeded")}, Phase.FAILED, "DeadlineExceeded", id="too slow"
        ),
        pytest.param({"job": job(JobState.SUCCEEDED)}, Phase.RUNNING, "Retrying", id="succeeded, result lost"),
        pytest.param({}, Phase.RUNNING, "Retrying", id="vanished"),
        pytest.param({"job_seen": False, "begun": NOW - 25 * HOUR}, Phase.FAILED, "JobNotMade", id="refused for a day"),
        pytest.param({"jobs_made": MAX_JOBS}, Phase.FAILED, "JobVanished", id="vanished once too often"),
        pytest.param(
            {"job": job(JobState.SUCCEEDED), "jobs_made": MAX_JOBS}, Phase.FAILED, "JobVanished", id="mute for good"
        ),
        pytest.param({"cluster": None, "job": job()}, Phase.RUNNING, "Running", id="the cluster was deleted meanwhile"),
    ],
)
def test_what_the_job_s_end_means(given: Any, phase: Phase, reason: str) -> None:
    plan = plan_backup(running(**given))
    assert (plan.phase, plan.verdict.reason) == (phase, reason)
    assert plan.finished == phase.over
    assert plan.verdict.message.endswith((".", "Unavailable"))


NO_MEMBER = Verdict(Standing.WORKING, "NoMember", "None is ready to be read.")


@pytest.mark.parametrize(
    ("given", "phase", "reason", "acts"),
    [
        pytest.param({"job": job(pending=MEMBER_WITHIN)}, Phase.RUNNING, "Running", "", id="its pod waits"),
        pytest.param({"job": job(pending=DAY)}, Phase.RUNNING, "Retrying", "drop", id="it waited long enough"),
        pytest.param(
            {"job": job(pending=DAY), "jobs_made": MAX_JOBS}, Phase.FAILED, "NeverStarted", "drop", id="once too often"
        ),
        pytest.param({"physical": False, "job": job(pending=DAY)}, Phase.RUNNING, "Running", "", id="a logical one"),
        pytest.param({"job_seen": False}, Phase.RUNNING, "Starting", "make", id="its member is there"),
        pytest.param(
            {"job_seen": False, "cluster": replace(CLUSTER, no_member=NO_MEMBER)},
            Phase.RUNNING,
            "NoMember",
            "",
            id="its member went away",
        ),
        pytest.param(
            {"job_seen": False, "cluster": None}, Phase.FAILED, "ClusterDeleted", "", id="its cluster was deleted"
        ),
        pytest.param(
            {"job": job(JobState.SUCCEEDED), "result": Result(ok=True, suspect=2)},
            Phase.COMPLETE,
            "Suspect",
            "",
            id="pages were bad",
        ),
    ],
)
def test_a_physical_backup_waits_for_its_member_within_bounds(given: Any, phase: Phase, reason: str, acts: str) -> None:
    plan = plan_backup(running(**{"physical": True, **given}))
    assert (plan.phase, plan.verdict.reason) == (phase, reason)
    assert (plan.drop_job, plan.make_job) == (acts == "drop", acts == "make")


def test_no_physical_backup_begins_without_a_member() -> None:
    given = facts(physical=True, cluster=replace(CLUSTER, no_member=NO_MEMBER))
    assert plan_backup(given).verdict.reason == "NoMember"
    assert not plan_backup(given).begin
    assert plan_backup(replace(given, created=NOW - 2 * HOUR)).phase is Phase.FAILED


def test_what_is_over_is_never_decided_again() -> None:
    for phase in (Phase.COMPLETE, Phase.FAILED):
        with pytest.raises(ValueError, match="is over"):
            plan_backup(running(phase=phase))


# Interruptions: a small world in which anything dies at any time.


@dataclass
class World:
    """A Backup's status, its Jobs and the store; each step does what the real parts do, or dies before it."""

    phase: Phase | None = None
    backup_id: str | None = None
    jobs_made: int = 0
    job_seen: bool = False
    jobs: dict[int, JobState] = field(default_factory=dict)
    ever_made: set[int] = field(default_factory=set)
    result: Result | None = None
    store: dict[str, int] = field(default_factory=dict)
    """File name to how many manifests were written under it."""
    chosen: int = 0

    def facts(self) -> BackupFacts:
        state = self.jobs.get(self.jobs_made)
        return facts(
            phase=self.phase,
            backup_id=self.backup_id,
            jobs_made=self.jobs_made,
            job_seen=self.job_seen,
            job=JobFacts(name=f"job-{self.jobs_made}", state=state) if state else None,
            result=self.result,
        )

    def controller(self, *, dies_after_status: bool) -> None:
        if self.phase is not None and self.phase.over:
            return
        plan = plan_backup(self.facts())
        if plan.begin:
            assert self.backup_id is None, "a second name was chosen"
            self.chosen += 1
            self.backup_id = f"file-{self.chosen}"
        self.phase, self.jobs_made, self.job_seen = plan.phase, plan.jobs_made, plan.job_seen
        if plan.make_job and not dies_after_status:
            self.jobs.setdefault(plan.jobs_made, JobState.ACTIVE)
            self.ever_made.add(plan.jobs_made)

    def pod(self, event: str) -> None:
        """The newest Job that is at work comes to an end of some kind."""
        at_work = [n for n, state in self.jobs.items() if state is JobState.ACTIVE]
        if not at_work or self.backup_id is None:
            return
        number = at_work[-1]
        if event in ("succeeds", "killed after the manifest", "mute success"):
            self.store.setdefault(self.backup_id, 1)  # a second run finds the manifest and only reports
            if event == "succeeds":
                self.result = Result(ok=True)
            self.jobs[number] = JobState.FAILED if event == "killed after the manifest" else JobState.SUCCEEDED
        elif event == "fails":
            self.result = Result(ok=False, reason="StoreUnavailable", message="S3 does not answer.")
            self.jobs[number] = JobState.FAILED

    def somebody_deletes_the_job(self) -> None:
        self.jobs.pop(self.jobs_made, None)


EVENTS = st.sampled_from(
    ["look", "look", "die", "succeeds", "fails", "killed after the manifest", "mute success", "delete job"]
)


@given(st.lists(EVENTS, max_size=40))
def test_from_any_interruption_it_ends_with_at_most_one_backup(events: list[str]) -> None:
    world = World()
    for event in events:
        if event in ("look", "die"):
            world.controller(dies_after_status=event == "die")
        elif event == "delete job":
            world.somebody_deletes_the_job()
        else:
            world.pod(event)
        assert sum(state is JobState.ACTIVE for state in world.jobs.values()) <= 1, "two Jobs at work at once"
    for _ in range(3 * MAX_JOBS + 3):  # then all goes well
        world.controller(dies_after_status=False)
        world.pod("succeeds")
    assert world.phase is not None
    assert world.phase.over, "it never ended"
    assert world.chosen == 1
    assert len(world.store) <= 1
    assert len(world.ever_made) <= MAX_JOBS
    if world.phase is Phase.COMPLETE:
        assert world.store == {"file-1": 1}, "complete without a backup in the store"


# Health of the cluster's backups


def health(**given: Any) -> tuple[str, str]:
    base: dict[str, Any] = {
        "configured": True,
        "now": NOW,
        "last_success": NOW - HOUR,
        "last_failure": None,
        "due": {"nightly": NOW - 3 * HOUR},
    }
    status, reason, message = backup_health(HealthFacts(**{**base, **given}))
    assert message
    return status, reason


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("True", "BackedUp")),
        ({"due": {}}, ("True", "BackedUpByHand")),
        ({"configured": False}, ("False", "NotConfigured")),
        ({"last_failure": NOW - MINUTE}, ("False", "LastBackupFailed")),
        ({"last_failure": NOW - 2 * HOUR}, ("True", "BackedUp")),
        ({"last_success": None, "last_failure": NOW}, ("False", "LastBackupFailed")),
        ({"last_success": NOW - DAY}, ("False", "Overdue")),
        ({"last_suspect": NOW}, ("False", "LastBackupSuspect")),
        ({"last_suspect": NOW - 2 * HOUR}, ("True", "BackedUp")),
        ({"last_suspect": NOW, "last_success": None}, ("False", "LastBackupSuspect")),
        ({"last_success": NOW - DAY, "due": {"nightly": NOW - HOUR}}, ("True", "BackedUp")),
        ({"last_success": NOW - 3 * DAY, "due": {"weekly": NOW - 5 * DAY}}, ("True", "BackedUp")),
        ({"last_success": None}, ("False", "Overdue")),
        ({"last_success": None, "due": {"nightly": NOW - HOUR}}, ("Unknown", "NoBackupYet")),
        ({"last_success": None, "due": {}}, ("False", "NoBackup")),
        ({"last_success": None, "due": {"weekly": None}}, ("Unknown", "NoBackupYet")),
    ],
)
def test_health_of_a_cluster_s_backups(given: Any, expected: tuple[str, str]) -> None:
    assert health(**given) == expected

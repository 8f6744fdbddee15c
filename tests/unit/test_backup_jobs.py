"""What a Job and its pods say, as facts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from matriarch.backup import jobresult, jobspec
from matriarch.controller.backup_jobs import seen
from matriarch.decide.backups import JobState

NOW = datetime(2026, 3, 1, 2, 10, tzinfo=UTC)
GOOD = jobresult.Result(ok=True, task="list", reason=jobspec.Reason.COMPLETED, message="ok")
BAD = jobresult.Result(ok=False, task="list", reason=jobspec.Reason.STORE_UNAVAILABLE, message="S3 does not answer.")


def job(*conditions: tuple[str, str], **spec: Any) -> dict[str, Any]:
    status = {"conditions": [{"type": t, "status": "True", "reason": r} for t, r in conditions]}
    return {"metadata": {"name": "job-1"}, "spec": spec, "status": status}


def pod(name: str, created: str, *, said: str | None = None, waits: Any = None, unplaced: str = "") -> dict[str, Any]:
    status: dict[str, Any] = {}
    if said is not None:
        status["containerStatuses"] = [{"state": {"terminated": {"exitCode": 0, "message": said}}}]
    if waits is not None:
        status["containerStatuses"] = [{"state": {"waiting": waits}}]
    if unplaced:
        status["conditions"] = [{"type": "PodScheduled", "status": "False", "message": unplaced}]
    return {"metadata": {"name": name, "creationTimestamp": created}, "status": status}


@pytest.mark.parametrize(
    ("conditions", "state", "reason"),
    [
        ((), JobState.ACTIVE, ""),
        ((("SuccessCriteriaMet", "x"), ("Complete", "x")), JobState.SUCCEEDED, ""),
        ((("FailureTarget", "PodFailurePolicy"),), JobState.ACTIVE, ""),
        ((("FailureTarget", "x"), ("Failed", "BackoffLimitExceeded")), JobState.FAILED, "BackoffLimitExceeded"),
        ((("Suspended", "JobSuspended"),), JobState.ACTIVE, ""),
    ],
)
def test_the_job_s_state(conditions: Any, state: JobState, reason: str) -> None:
    found = seen(job(*conditions), [], NOW).job
    assert found is not None
    assert (found.state, found.reason) == (state, reason)


def test_the_newest_pod_that_left_a_result_counts() -> None:
    pods = [
        pod("a", "2026-03-01T02:00:00Z", said=BAD.to_json()),
        pod("b", "2026-03-01T02:01:00Z", said=GOOD.to_json()),
        pod("c", "2026-03-01T02:02:00Z", said="failed to start container: no such image"),
    ]
    assert seen(job(), pods, NOW).report == GOOD
    assert seen(job(), pods[:1], NOW).report == BAD
    assert seen(job(), pods[2:], NOW).report is None


@pytest.mark.parametrize(
    ("waits", "unplaced", "says"),
    [
        ({"reason": "ImagePullBackOff", "message": "not found"}, "", "does not start (ImagePullBackOff: not found)"),
        ({"reason": "ContainerCreating"}, "", ""),
        (None, "0/3 nodes are available", "has no node (0/3 nodes are available)"),
    ],
)
def test_why_a_pod_does_not_run(waits: Any, unplaced: str, says: str) -> None:
    found = seen(job(), [pod("p", "2026-03-01T02:00:00Z", waits=waits, unplaced=unplaced)], NOW).job
    assert found is not None
    assert says in found.waiting
    assert bool(found.waiting) == bool(says)


def test_a_suspended_job_is_seen_as_such() -> None:
    assert seen(job(suspend=True), [], NOW).suspended
    assert not seen(job(suspend=False), [], NOW).suspended


@pytest.mark.parametrize(
    ("deadline", "phase", "stuck"),
    [
        (None, "Running", False),
        ("2026-03-01T02:09:30Z", "Running", False),
        ("2026-03-01T02:08:30Z", "Running", True),
        ("2026-03-01T02:08:30Z", "Pending", True),
        ("2026-03-01T02:08:30Z", "Failed", False),
    ],
)
def test_a_pod_that_no_node_ever_ends_is_found(deadline: str | None, phase: str, stuck: bool) -> None:
    one = pod("p", "2026-03-01T02:00:00Z")
    one["status"]["phase"] = phase
    if deadline:
        one["metadata"]["deletionTimestamp"] = deadline
    assert bool(seen(job(), [one], NOW).stuck) is stuck

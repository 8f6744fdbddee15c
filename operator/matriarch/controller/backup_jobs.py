"""Looks at a Job and hears its last word: what `decide` knows of it comes from here."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from matriarch.backup import jobresult
from matriarch.decide.backups import JobFacts, JobState, Result
from matriarch.kube.client import Kube, Object

log = logging.getLogger(__name__)

STUCK_AFTER = timedelta(seconds=60)
"""A pod that is there so long after its grace time is on a node that is gone: nobody will ever end it."""

_PATIENCE = {"ContainerCreating", "PodInitializing"}
"""Reasons of waiting that are part of every start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One Job as it stands; `report` is the newest result that any of its pods left."""

    job: JobFacts | None
    suspended: bool = False
    stuck: tuple[Object, ...] = ()
    """Pods that wait for a kubelet to end them, and none does."""
    report: jobresult.Result | None = None

    @property
    def result(self) -> Result | None:
        """The report as decisions take it."""
        if self.report is None:
            return None
        made = self.report.backup
        return Result(
            ok=self.report.ok,
            reason=str(self.report.reason),
            message=self.report.message,
            suspect=made.physical.bad_pages if made is not None and made.suspect and made.physical is not None else 0,
        )


ABSENT = Seen(job=None)


async def look(kube: Kube, namespace: str, name: str, owner_uid: str, now: datetime) -> Seen:
    """The Job of this name if it belongs to `owner_uid`; a stranger's counts as absent and will be a conflict.

    Pods on a node that is gone are taken off the books: a Job starts its next pod only when the one before has ended,
    and would wait until a person looks after the node. Should that node still run the pod, unheard, the two meet at the
    store's conditional write or at the target's lock, and one of them gives way.
    """
    job = await kube.get("Job", namespace, name)
    if job is None or not _owned(job, owner_uid):
        return ABSENT
    pods = await kube.list("Pod", namespace, {"batch.kubernetes.io/job-name": name})
    found = seen(job, pods, now)
    for pod in found.stuck:
        metadata = pod["metadata"]
        log.warning("pod %s/%s was never ended by its node: deleting its record", namespace, metadata["name"])
        await kube.delete("Pod", namespace, metadata["name"], uid=metadata["uid"], grace=0)
    return found


def seen(job: Object, pods: Iterable[Object], now: datetime) -> Seen:
    """Pure: a Job and its pods, as facts."""
    conditions = {c["type"]: c for c in (job.get("status") or {}).get("conditions") or () if c.get("status") == "True"}
    state, reason = JobState.ACTIVE, ""
    if "Complete" in conditions:
        state = JobState.SUCCEEDED
    elif "Failed" in conditions:
        state, reason = JobState.FAILED, conditions["Failed"].get("reason") or "JobFailed"
    newest_first = sorted(pods, key=lambda pod: pod["metadata"].get("creationTimestamp") or "", reverse=True)
    waiting = _waiting(newest_first[0]) if newest_first and state is JobState.ACTIVE else ""
    pending = _pending(newest_first[0], now) if newest_first and state is JobState.ACTIVE else timedelta(0)
    facts = JobFacts(name=job["metadata"]["name"], state=state, reason=reason, waiting=waiting, pending=pending)
    report = next((found for pod in newest_first if (found := _report(pod)) is not None), None)
    suspended = bool((job.get("spec") or {}).get("suspend"))
    return Seen(job=facts, suspended=suspended, stuck=tuple(p for p in newest_first if _stuck(p, now)), report=report)


def _pending(pod: Object, now: datetime) -> timedelta:
    """How long it has waited to run; zero once it does."""
    if (pod.get("status") or {}).get("phase", "Pending") != "Pending" or "creationTimestamp" not in pod["metadata"]:
        return timedelta(0)
    return now - datetime.fromisoformat(pod["metadata"]["creationTimestamp"])


def _stuck(pod: Object, now: datetime) -> bool:
    deadline = pod["metadata"].get("deletionTimestamp")  # the grace time is in it
    if not deadline or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return False
    return now - datetime.fromisoformat(deadline) > STUCK_AFTER


def _owned(job: Object, uid: str) -> bool:
    return any(ref.get("uid") == uid for ref in job["metadata"].get("ownerReferences") or ())


def _report(pod: Object) -> jobresult.Result | None:
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        ended = (status.get("state") or {}).get("terminated") or {}
        text = ended.get("message") or ""
        if not text:
            continue
        try:
            return jobresult.Result.from_json(text)
        except ValueError as error:  # not the engine's word: the runtime's, such as `failed to start container`
            log.info("pod %s left no result: %s", pod["metadata"]["name"], error)
    return None


def _waiting(pod: Object) -> str:
    """Why a pod does not run, as a sentence; empty while there is nothing unusual."""
    status, name = pod.get("status") or {}, pod["metadata"]["name"]
    for container in status.get("containerStatuses") or ():
        waits = (container.get("state") or {}).get("waiting") or {}
        if waits.get("reason") and waits["reason"] not in _PATIENCE:
            said = f": {waits['message']}" if waits.get("message") else ""
            return f"Pod {name} does not start ({waits['reason']}{said[:300]})."
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"Pod {name} has no node ({(condition.get('message') or condition.get('reason') or '')[:300]})."
    return ""

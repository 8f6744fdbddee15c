"""Looks at a Job and hears its last word: what `decide` knows of it comes from here."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from matriarch.backup import jobspec
from matriarch.decide.backups import JobFacts, JobState, Result
from matriarch.kube.client import Kube, Object

log = logging.getLogger(__name__)

_PATIENCE = {"ContainerCreating", "PodInitializing"}
"""Reasons of waiting that are part of every start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One Job as it stands; `report` is the newest result that any of its pods left."""

    job: JobFacts | None
    suspended: bool = False
    report: jobspec.Result | None = None

    @property
    def result(self) -> Result | None:
        """The report as decisions take it."""
        if self.report is None:
            return None
        return Result(ok=self.report.ok, reason=str(self.report.reason), message=self.report.message)


ABSENT = Seen(job=None)


async def look(kube: Kube, namespace: str, name: str, owner_uid: str) -> Seen:
    """The Job of this name if it belongs to `owner_uid`; a stranger's counts as absent and will be a conflict."""
    job = await kube.get("Job", namespace, name)
    if job is None or not _owned(job, owner_uid):
        return ABSENT
    pods = await kube.list("Pod", namespace, {"batch.kubernetes.io/job-name": name})
    return seen(job, pods)


def seen(job: Object, pods: Iterable[Object]) -> Seen:
    """Pure: a Job and its pods, as facts."""
    conditions = {c["type"]: c for c in (job.get("status") or {}).get("conditions") or () if c.get("status") == "True"}
    state, reason = JobState.ACTIVE, ""
    if "Complete" in conditions:
        state = JobState.SUCCEEDED
    elif "Failed" in conditions:
        state, reason = JobState.FAILED, conditions["Failed"].get("reason") or "JobFailed"
    newest_first = sorted(pods, key=lambda pod: pod["metadata"].get("creationTimestamp") or "", reverse=True)
    waiting = _waiting(newest_first[0]) if newest_first and state is JobState.ACTIVE else ""
    facts = JobFacts(name=job["metadata"]["name"], state=state, reason=reason, waiting=waiting)
    report = next((found for pod in newest_first if (found := _report(pod)) is not None), None)
    return Seen(job=facts, suspended=bool((job.get("spec") or {}).get("suspend")), report=report)


def _owned(job: Object, uid: str) -> bool:
    return any(ref.get("uid") == uid for ref in job["metadata"].get("ownerReferences") or ())


def _report(pod: Object) -> jobspec.Result | None:
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        ended = (status.get("state") or {}).get("terminated") or {}
        text = ended.get("message") or ""
        if not text:
            continue
        try:
            return jobspec.Result.from_json(text)
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

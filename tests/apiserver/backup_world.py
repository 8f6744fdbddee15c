"""A namespace of a real API server in which the backup reconcilers run, and hands that play what is not there.

No nodes, no controllers of Kubernetes: what kubelets, the Job controller and a cluster's agents would write into
statuses is written here, in the form in which the API server accepts it from them.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from dev.apiserver import ApiServer
from dev.host import PROJECT
from dev.kubectl import Kubectl
from matriarch.backup import jobresult, jobspec
from matriarch.controller import backup_reconcile, pki, restore_reconcile, schedule_reconcile
from matriarch.controller.agents import Agents
from matriarch.controller.env import Env
from matriarch.controller.queue import Key, WorkQueue
from matriarch.controller.reconcile import RECONCILERS, run_one
from matriarch.controller.settings import Settings
from matriarch.kube.client import Kube, Object
from matriarch.kube.events import Recorder

OURS = {
    k
    for k, fn in RECONCILERS.items()
    if fn.__module__ in (backup_reconcile.__name__, restore_reconcile.__name__, schedule_reconcile.__name__)
}
SYSTEM = "7412345678901234567"
IMAGE = "localhost/matriarch/postgres:test"
KEY_TEXT = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
API = "matriarch.dev/v1alpha1"
SHA = "ab" * 32


@dataclass(frozen=True)
class Clocked(Env):
    """The environment with a clock of its own: `offset` is added to the real time."""

    ahead: list[float] = field(default_factory=lambda: [0.0])

    def now(self) -> datetime:
        return datetime.fromtimestamp(datetime.now(UTC).timestamp() + self.ahead[0], UTC)


class Dying(BaseException):
    """The controller's process ends here."""


class Mortal(Kube):
    """The API client of a controller that dies before its call number `dies_before` that changes something."""

    dies_before: int | None = None
    changes: int = 0

    async def _call(self, method: str, path: str, **more: Any) -> Object:
        if method != "GET" and "/events" not in path:
            if self.dies_before is not None and self.changes >= self.dies_before:
                raise Dying
            self.changes += 1
        return await super()._call(method, path, **more)


@dataclass
class World:
    kube: Mortal
    env: Clocked
    namespace: str
    kubectl: Kubectl

    async def run(self) -> None:
        """Let the controller work until nothing is left to do at once."""
        queue = self.env.queue
        for _ in range(200):
            if not queue.waiting:
                return
            key = await queue.get()
            if key.kind in OURS:
                await run_one(key, self.env)
            else:
                queue.done(key)
        raise AssertionError("the controller never came to rest")

    async def look(self, kind: str, name: str) -> Object:
        """Have the controller look at an object, and see it afterwards."""
        before = ""
        for _ in range(12):  # a run may ask to be run again at once
            self.env.queue.add(Key(kind, self.namespace, name))
            await self.run()
            found = await self.kube.get(kind, self.namespace, name)
            assert found is not None
            if found["metadata"]["resourceVersion"] == before:
                return found
            before = found["metadata"]["resourceVersion"]
        raise AssertionError(f"{kind} {name} never came to rest")

    async def make(self, kind: str, name: str, spec: Object | None = None, **more: Any) -> Object:
        core, apps = ("Secret", "PersistentVolumeClaim", "Pod"), ("Deployment", "StatefulSet")
        version = "v1" if kind in core else "apps/v1" if kind in apps else API
        metadata = {"name": name, "namespace": self.namespace, **more.pop("metadata", {})}
        obj = {"apiVersion": version, "kind": kind, "metadata": metadata, **more}
        if spec is not None:
            obj["spec"] = spec
        return await self.kube.create(obj)

    async def cluster(self, name: str = "orders", *, stores: list[Object] | None = None, **spec: Any) -> Object:
        """A cluster that serves, as its reconciler and agents would say."""
        backup = {"backup": {"stores": stores or [S3]}} if stores != [] else {}
        made = await self.make(
            "DatabaseCluster",
            name,
            {"version": "17", "instances": 3, "storage": {"size": "1Gi"}, **backup, **spec},
        )
        account = {"metadata": {"name": f"{name}-backup", "namespace": self.namespace}}
        await self.kube.create({"apiVersion": "v1", "kind": "ServiceAccount", **account})
        return await self.serve(made["metadata"]["name"])

    async def serve(self, name: str, *, ready: int = 3) -> Object:
        condition = {
            "type": "Available",
            "status": "True" if ready else "False",
            "reason": "PrimaryServes",
            "lastTransitionTime": "2026-03-01T02:00:00Z",
        }
        status = {"readyInstances": ready, "systemIdentifier": SYSTEM, "conditions": [condition]}
        obj = {"kind": "DatabaseCluster", "metadata": {"name": name, "namespace": self.namespace}, "status": status}
        return await self.kube.apply_status(obj, manager="matriarch-controller")

    async def serve_authority(self, name: str) -> None:
        """The cluster's certificate authority, as its reconciler makes it."""
        pair = pki.make_authority(name, self.namespace, datetime.now(UTC))
        data = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": pair.certificate}
        await self.make("Secret", f"{name}-ca", stringData=data)

    async def look_backups(self, cluster: str) -> None:
        """Have the controller look at a cluster's backups as a whole."""
        self.env.queue.add(Key("ClusterBackups", self.namespace, cluster))
        await self.run()

    async def credentials(self) -> None:
        await self.make("Secret", "s3", stringData={"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"})

    async def jobs(self, purpose: str | None = None) -> list[Object]:
        labels = {"matriarch.dev/job": purpose} if purpose else None
        found = await self.kube.list("Job", self.namespace, labels)
        return sorted(found, key=lambda job: job["metadata"]["name"])

    async def pod_ends(self, job: Object, result: jobresult.Result | None, *, code: int = 0) -> None:
        """The kubelet: the Job's pod ended and left its word, or none."""
        pod = await self.make(
            "Pod",
            f"{job['metadata']['name'][:50]}-{uuid.uuid4().hex[:5]}",
            job["spec"]["template"]["spec"],  # admitted as it is, under the restricted standard
            metadata={"labels": {"batch.kubernetes.io/job-name": job["metadata"]["name"]}},
        )
        ended: Object = {"exitCode": code, "reason": "Completed" if code == 0 else "Error"}
        if result is not None:
            ended["message"] = result.to_json()
        container = {"name": "backup", "image": IMAGE, "imageID": "", "ready": False, "restartCount": 0}
        status = {
            "phase": "Succeeded" if code == 0 else "Failed",
            "containerStatuses": [{**container, "state": {"terminated": ended}}],
        }
        await self.kube.patch("Pod", self.namespace, pod["metadata"]["name"], {"status": status}, subresource="status")

    async def job_ends(self, job: Object, *, failed: str | None = None) -> None:
        """The Job controller: complete, or failed for a reason."""
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        kinds = ("FailureTarget", "Failed") if failed else ("SuccessCriteriaMet", "Complete")
        conditions = [
            {"type": kind, "status": "True", "reason": failed or "CompletionsReached", "message": "",
             "lastProbeTime": now, "lastTransitionTime": now}
            for kind in kinds
        ]  # fmt: skip
        status: Object = {"startTime": now, "ready": 0, "terminating": 0, "conditions": conditions}
        status |= {"failed": 1} if failed else {"succeeded": 1, "completionTime": now}
        name = job["metadata"]["name"]
        await self.kube.patch("Job", self.namespace, name, {"status": status}, subresource="status")

    async def finish(self, job: Object, result: jobresult.Result) -> None:
        """A Job that ended well."""
        await self.pod_ends(job, result)
        await self.job_ends(job)

    async def refuse(self, job: Object, result: jobresult.Result) -> None:
        """A Job that ended with a word that no repetition mends."""
        await self.pod_ends(job, result, code=20)
        await self.job_ends(job, failed="PodFailurePolicy")

    def forget(self) -> None:
        """A controller that was started anew knows nothing."""
        queue = WorkQueue()
        self.env = Clocked(self.kube, self.env.agents, Recorder(self.kube, "test"), queue, self.env.settings)


S3: Object = {
    "name": "offsite",
    "s3": {
        "bucket": "backups",
        "prefix": "here",
        "endpoint": "http://10.0.0.1:7070",
        "credentials": {"secretName": "s3"},
    },
}


def task(job: Object) -> jobspec.JobSpec:
    """What the Job is told."""
    env = job["spec"]["template"]["spec"]["containers"][0]["env"]
    return jobspec.JobSpec.from_json(next(e["value"] for e in env if e["name"] == "MATRIARCH_JOB"))


def backup_result(name: str, **more: Any) -> jobresult.Result:
    """What the engine says of a complete backup, or of one that it checked."""
    done = jobresult.BackupResult(
        id=name.split("Z-")[1].split(".", maxsplit=1)[0],
        name=name,
        sequence=1,
        started="2026-03-01T02:00:00.000Z",
        finished="2026-03-01T02:00:09.000Z",
        size=300_000_000,
        stored_size=90_000_000,
        location=f"s3://backups/here/{name}",
        sha256=SHA,
        manifest="manifests/1.json",
        manifest_sha256=SHA,
        encrypted=True,
        key_id="0123456789abcdef",
        server_version="17.11",
        system_identifier=SYSTEM,
        timeline=1,
        snapshot_lsn="0/3000148",
        source="standby",
        instance="orders-2",
        databases=(jobresult.DatabaseResult(name="shop", owner="keeper", size=300_000_000),),
        tables=8,
        rows=214_000,
    )
    return jobresult.Result(**{
        "ok": True, "task": "backup", "reason": jobspec.Reason.COMPLETED, "message": "Done.", "backup": done, **more
    })  # fmt: skip


def failure(task: jobspec.Task, reason: jobspec.Reason, message: str) -> jobresult.Result:
    return jobresult.Result(ok=False, task=task, reason=reason, message=message)


def condition(obj: Object, kind: str) -> tuple[str, str] | None:
    """Status and reason of one condition."""
    found = next((c for c in obj["status"].get("conditions") or () if c["type"] == kind), None)
    return (found["status"], found["reason"]) if found else None


def events(found: Iterable[Object]) -> set[str]:
    return {event["reason"] for event in found}


@pytest.fixture
async def world(api_server: ApiServer, kubectl: Kubectl) -> AsyncIterator[World]:
    """A namespace of its own, where only restricted pods are admitted, with the definitions in place."""
    kubectl.run("apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", PROJECT / "crds")
    kubectl.run("wait", "--for=condition=Established", "--timeout=60s", "-f", PROJECT / "crds")
    namespace = f"t-{uuid.uuid4().hex[:12]}"
    kubectl.run("create", "namespace", namespace)
    kubectl.run("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    kubectl.run("create", "serviceaccount", "default", "-n", namespace)
    mortal = Mortal.connect(kubeconfig=api_server.kubeconfig)
    assert isinstance(mortal, Mortal)
    agents = Agents()
    settings = Settings(postgres_images={"17": IMAGE})
    env = Clocked(mortal, agents, Recorder(mortal, "test"), WorkQueue(), settings)
    try:
        yield World(mortal, env, namespace, kubectl)
    finally:
        await agents.close()
        await mortal.close()
        kubectl.run("delete", "namespace", namespace, "--wait=false")

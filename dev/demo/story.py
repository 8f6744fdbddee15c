"""The demo's steps, in order: each is a function that does one thing and says what came out.

All goes through the product's own surface: the chart, `kubectl apply`, Secrets, the write Service, the status.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.faults import FAULTS, Victim, struck
from bench.figures import Figures
from bench.load import Load
from dev import cluster, install
from dev.codepal import data, schema
from dev.demo.compare import Compared, compare
from dev.demo.display import Step
from dev.host import DevError
from dev.kubectl import Kubectl, Object, wait
from dev.product import Cluster, one_shot, resource, s3_store
from dev.s3 import S3Server

NAME = "demo"
NAMESPACE = "prod"
STORE = "offsite"
CREDENTIALS = "s3-credentials"
BUCKET = "codepal-backups"
BACKUP = "under-load"
CLUSTER = "orders"
COPY = "orders-copy"


@dataclass(slots=True)
class Demo:
    """What the steps hand on to each other."""

    folder: Path
    ground: cluster.Ground = field(init=False)
    kubectl: Kubectl = field(init=False)
    image_names: dict[str, str] = field(init=False)
    s3: S3Server = field(init=False)
    seen: Figures = field(init=False)

    @property
    def orders(self) -> Cluster:
        return Cluster(self.kubectl, NAMESPACE, CLUSTER)

    @property
    def copy(self) -> Cluster:
        return Cluster(self.kubectl, NAMESPACE, COPY)

    def kubernetes(self, step: Step) -> None:
        """A Kubernetes of three nodes: the one that is up, or a new one."""
        self.ground = cluster.up(NAME)
        self.kubectl = Kubectl(self.ground.kubeconfig)
        nodes = self.kubectl.list("node")
        version = nodes[0]["status"]["nodeInfo"]["kubeletVersion"]
        step.result = f"{len(nodes)} nodes, Kubernetes {version}"

    def images(self, step: Step) -> None:
        """The two images, built when they changed, on every node."""
        self.image_names = self.ground.load_images()
        step.result = ", ".join(self.image_names.values())

    def operator(self, step: Step) -> None:
        """The operator by its chart; what an earlier demo left in the namespace goes first."""
        kubectl = self.kubectl
        install.Helm(kubectl.kubeconfig).install(install.values(self.image_names))
        step.note = "removing what an earlier demo left"
        if kubectl.get("namespace", NAMESPACE):
            kubectl.run(
                "delete", "databasecluster,backup,backupschedule,restore", "--all", "-n", NAMESPACE, timeout=180
            )
            kubectl.run("delete", "namespace", NAMESPACE, timeout=180)
        kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        step.result = f"release {install.RELEASE} in namespace {install.NAMESPACE}; active: {self._active()}"

    def _active(self) -> str:
        return wait("an active operator", lambda: install.active_operator(self.kubectl) or None, timeout=60)

    def store(self, step: Step) -> None:
        """A real S3 server with an empty bucket, and a Secret with its keys."""
        self.s3 = self.ground.s3()
        self.s3.make_bucket(BUCKET)
        self.kubectl.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": CREDENTIALS, "namespace": NAMESPACE},
                "stringData": {"ACCESS_KEY_ID": self.s3.access_key, "SECRET_ACCESS_KEY": self.s3.secret_key},
            }
        )
        step.result = f"bucket {BUCKET} at {self.s3.endpoint}"

    def cluster(self, step: Step) -> None:
        """Three instances of PostgreSQL: a write waits until a replica has it on disk."""
        store = s3_store(STORE, BUCKET, self.s3.endpoint, CREDENTIALS)
        started = time.monotonic()
        self.orders.apply(backup={"stores": [store]})
        found = self.orders.wait_ready(timeout=240, tick=lambda _: self._note_instances(step))
        status = found["status"]
        step.result = (
            f"{status['readyInstances']} instances of PostgreSQL {status['postgresVersion']} ready after"
            f" {time.monotonic() - started:.1f} s; primary {status['primary']}"
        )

    def _note_instances(self, step: Step) -> None:
        # Looks only now and then: a sign of life must not cost the machine what it reports about.
        if int(time.monotonic() * 2) % 4 == 0:
            told = [f"{i['name']} {i.get('state', '')}" for i in self.orders.status().get("instanceStatuses", [])]
            step.note = ", ".join(told)

    def codepal(self, step: Step) -> None:
        """The sample application's schema by its three migrations, then its rows."""

        async def fill(connection: Any) -> tuple[list[str], dict[str, int]]:
            applied = await schema.deploy(connection)
            step.note = f"{len(applied)} migrations applied, rows are on their way"
            return applied, dict(await data.load(connection))

        applied, loaded = self.orders.database().run(fill, timeout=300)
        step.result = f"{len(applied)} migrations, {sum(loaded.values()):,} rows in {len(loaded)} tables"

    def schedule(self, step: Step) -> None:
        """A schedule that backs up to S3 every night and keeps 30 days."""
        kubectl = self.kubectl
        spec = {"cluster": CLUSTER, "cron": "0 2 * * *", "timeZone": "Europe/Berlin", "retention": {"days": 30}}
        kubectl.apply(resource("BackupSchedule", "nightly", spec), namespace=NAMESPACE)

        def next_run() -> str | None:
            found = kubectl.get("backupschedule", "nightly", NAMESPACE) or {}
            due: str | None = found.get("status", {}).get("nextRun")
            return due

        step.result = f"nightly, next at {wait('the next run', next_run, timeout=30)}"

    @contextlib.contextmanager
    def load(self, step: Step) -> Iterator[Load]:
        """Four clients write through the write Service as long as the block lasts."""
        with Load(self.orders.database(), self.folder / "load.log") as load:
            load.flowing(more=400)
            step.result = "four connections, a row every 10 ms each, by the Secret's plain uri"
            yield load

    def backup(self, step: Step, load: Load) -> None:
        """A backup while the clients write."""
        before = load.acknowledged()
        manifest = resource("Backup", BACKUP, {"cluster": CLUSTER})
        found = one_shot(self.kubectl, manifest, NAMESPACE, timeout=240, tick=lambda _: self._note(step, manifest))
        status = found["status"]
        step.result = (
            f"{status['backupName']}\n"
            f"{_size(status.get('sizeBytes'))} as {_size(status.get('storedBytes'))} compressed and encrypted,"
            f" read from {status.get('instance', 'a replica')};"
            f" {load.acknowledged() - before:,} writes acknowledged meanwhile"
        )

    def _note(self, step: Step, manifest: Object) -> None:
        if int(time.monotonic() * 2) % 4 == 0:
            found = self.kubectl.get(manifest["kind"], manifest["metadata"]["name"], NAMESPACE) or {}
            status = found.get("status", {})
            progress = status.get("progress", {})
            told = (status.get("step"), progress.get("step"), progress.get("message"))
            step.note = ", ".join(dict.fromkeys(str(word) for word in told if word))

    def kill(self, step: Step, load: Load) -> None:
        """SIGKILL for the primary's postmaster, under the load; then every acknowledged write is looked for."""
        before = self.orders.primary
        fault = FAULTS["postmaster-kill"]
        with struck(fault, Victim(self.orders, before, self.ground.nodes)) as blow:
            step.note = f"the postmaster of {before} was killed with -9"
            load.flowing(more=400, timeout=60)
        self.orders.wait_ready(timeout=180)
        load.flowing(more=200, timeout=60)
        load.stop()
        self.seen = seen = load.figures(blow)
        if seen.lost:
            raise DevError(
                f"{len(seen.lost)} acknowledged writes are missing: this must never happen; please report it"
            )
        step.result = (
            f"longest time without an acknowledged write: {seen.gap.seconds:.2f} s;"
            f" acknowledged writes missing: {len(seen.lost)} of {seen.acknowledged:,}\n"
            f"primary before {before}, after {self.orders.primary}; all three instances are whole again"
        )

    def restore(self, step: Step) -> None:
        """That backup into a second cluster."""
        spec = {
            "source": {"backup": {"name": BACKUP}},
            "target": {"cluster": COPY, "overrides": {"instances": 1}},
        }
        manifest = resource("Restore", COPY, spec)
        found = one_shot(self.kubectl, manifest, NAMESPACE, timeout=300, tick=lambda _: self._note(step, manifest))
        self.copy.wait_ready(timeout=120)
        told = found["status"].get("verification", {})
        step.result = (
            f"into {COPY}: {told.get('tables')} tables, {told.get('rows', 0):,} rows, amcheck {told.get('amcheck')}"
        )

    def comparison(self, step: Step) -> None:
        """Every table of the second cluster against the backup's manifest, counted and hashed anew by this program."""
        backup = self.kubectl.need("backup", BACKUP, NAMESPACE)
        key = self.kubectl.secret(f"{CLUSTER}-backup-key", NAMESPACE)["key"]
        seen: list[Compared] = compare(self.s3.client(), BUCKET, backup["status"], key, self.copy.database())
        differing = [one for one in seen if not one.equal]
        if differing:
            raise DevError(
                "these tables differ from the backup's manifest: " + ", ".join(str(one) for one in differing)
            )
        width = max(len(one.table) for one in seen)
        lines = [
            f"{len(seen)} tables, {sum(one.rows for one in seen):,} rows: every count and every hash is the manifest's"
        ]
        lines += [f"  {one.table:<{width}} {one.rows:>8,} rows  {one.hash}" for one in seen]
        step.result = "\n".join(lines)


def _size(count: int | None) -> str:
    return "?" if count is None else f"{count / 1e6:.1f} MB"

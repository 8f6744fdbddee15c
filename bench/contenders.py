"""Where the bench runs, and the two clusters that it can put there: ours and the peer's."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit, urlunsplit

from bench.patroni.cluster import Patroni, load_image
from bench.runs import WHOLE
from dev import cluster as grounds
from dev import install
from dev.host import PROJECT, run, say, succeeds
from dev.kubebox import cluster as lifecycle
from dev.kubebox import names
from dev.kubectl import Kubectl, wait
from dev.product import Cluster, Database

if TYPE_CHECKING:
    from bench.patroni.manifests import Settings
    from dev.cluster import Ground

DEMO, OWN = "demo", "failover"


def cluster_name(given: str | None, *, demo_is_up: bool) -> str:
    """Which local Kubernetes: the one that was named, the demo's when it is up, else one of the bench's own."""
    return given or (DEMO if demo_is_up else OWN)


def kubernetes(given: str | None) -> Ground:
    """A working Kubernetes: one that is up, or a new one, which stays up for the next run."""
    demo = names.registered().get(DEMO)
    name = cluster_name(given, demo_is_up=demo is not None and lifecycle.healthy(demo))
    if name == DEMO and demo is not None and not given:
        return grounds.find(DEMO)  # `up` would replace one that answers late: it is not ours to replace
    ground = grounds.up(name)
    if name != DEMO:
        say(f"Kubernetes `{name}` stays up for the next run; `make cluster-down NAME={name}` takes it away")
    return ground


def revision() -> str:
    """The last commit that changed what is measured, with "+" when more is not committed; "" without git."""
    if not succeeds("git", "-C", PROJECT, "rev-parse"):
        return ""
    what = ("--", "operator", "images")
    dirty = "" if succeeds("git", "-C", PROJECT, "diff", "--quiet", "HEAD", *what) else "+"
    return run("git", "-C", PROJECT, "log", "-1", "--format=%h", *what).strip() + dirty


def machine() -> str:
    """The machine in one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [text.split(":", 1)[1].strip() for text in lines if text.startswith("model name")]
    memory = Path("/proc/meminfo").read_text().split()[1]
    processor = models[0] if models else platform.machine()
    return f"{len(models)} × {processor}, {int(memory) / 2**20:.0f} GiB, {platform.system()} {platform.release()}"


@dataclass(slots=True)
class Matriarch:
    """A DatabaseCluster of three under the operator of the present sources."""

    ground: Ground
    namespace: str
    name: str
    pooler: bool = False
    images: dict[str, str] = field(default_factory=dict)

    @property
    def kubectl(self) -> Kubectl:
        return Kubectl(self.ground.kubeconfig)

    @property
    def cluster(self) -> Cluster:
        return Cluster(self.kubectl, self.namespace, self.name)

    def prepare(self) -> None:
        """Installs the operator and waits until every instance runs the present sources' image and is ready."""
        self.images = self.ground.load_images()
        install.Helm(self.ground.kubeconfig).install(install.values(self.images))
        if self.cluster.get() is None:
            if self.kubectl.get("namespace", self.namespace) is None:
                self.kubectl.run("create", "namespace", self.namespace)
            say(f"making the DatabaseCluster {self.namespace}/{self.name}")
        self.cluster.apply(**self._spec())
        wait("every instance on the present image", self._current, timeout=WHOLE, show=self.cluster.describe)
        self.cluster.wait_ready(timeout=WHOLE)

    def _spec(self) -> dict[str, Any]:
        # Each promotion leaves a segment of WAL until the log has gone on by as much as is kept: a run is many of them.
        return {"storage": {"size": "4Gi"}, **({"pooler": {}} if self.pooler else {})}

    def _current(self) -> bool:
        instances = self.cluster.instances()
        pods = [self.kubectl.get("pod", name, self.namespace) for name in instances]  # None: it is being replaced
        used = {pod and pod["spec"]["containers"][0]["image"] for pod in pods}
        return len(instances) == 3 and used == {self.images["postgres"]}

    def renew(self) -> None:
        """A new cluster in place of one that did not become whole again."""
        self.kubectl.delete("databasecluster", self.name, self.namespace)
        chosen = f"matriarch.dev/cluster={self.name}"
        for kind in ("pod", "persistentvolumeclaim", "lease"):
            self.kubectl.run("delete", kind, "-n", self.namespace, "-l", chosen, "--ignore-not-found", timeout=120)
        self.prepare()

    def database(self) -> Database:
        """As clients reach it: by the Secret's `uri`, or by its `pooler-uri`."""
        if not self.pooler:
            return self.cluster.database()
        what = f"`pooler-uri` in the Secret of {self.name}"
        uri = wait(what, lambda: self.cluster.credentials().get("pooler-uri"), timeout=60)
        return Database(uri, self.kubectl.resolve(uri))


def replaced(uri: str, service: str) -> str:
    """The same uri with another Service of the same namespace as its host."""
    parts = urlsplit(uri)
    host = parts.hostname or ""
    rest = host.partition(".")[2]
    return urlunsplit(parts._replace(netloc=parts.netloc.replace(f"@{host}", f"@{service}.{rest}")))


@dataclass(slots=True)
class Peer:
    """Patroni with one of its settings."""

    ground: Ground
    namespace: str
    settings: str

    @property
    def cluster(self) -> Patroni:
        return Patroni(Kubectl(self.ground.kubeconfig), self.namespace)

    def renew(self) -> None:
        """A new cluster of three."""
        image = load_image(self.ground)
        say(f"making Patroni's cluster in {self.namespace}, settings {self.settings}")
        self.cluster.create(image, cast("Settings", self.settings))
        self.cluster.wait_ready(timeout=WHOLE)

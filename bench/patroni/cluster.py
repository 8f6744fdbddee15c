"""The peer's cluster as a contender: made, watched and handed over by what Patroni itself offers for that."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.patroni.manifests import LABELS, NAME, VOLUME, Settings, objects
from dev import images
from dev.cluster import Ground
from dev.host import DevError
from dev.kubebox import nodeimages
from dev.kubectl import Kubectl, KubectlError, Object, condition, wait
from dev.product import Database, cluster_manifest

CONTAINERFILE = Path(__file__).with_name("Containerfile")
REST = "http://127.0.0.1:8008"


def load_image(ground: Ground) -> str:
    """The peer's image, built when it is not there, on every node; its name."""
    if ground.nodes is None:
        raise DevError("the peer is measured on the local Kubernetes alone (CLUSTER=kubebox)")
    image = images.build_file("patroni", CONTAINERFILE)
    nodeimages.load(ground.nodes.cluster, [image.archive])
    return image.name


@dataclass(frozen=True, slots=True)
class Patroni:
    """Three instances in one namespace."""

    kubectl: Kubectl
    namespace: str

    @property
    def agent(self) -> str:
        return "bin/patroni"

    @property
    def volume(self) -> str:
        return VOLUME

    @property
    def primary(self) -> str:
        found = self.kubectl.get("endpoints", NAME, self.namespace) or {}
        leader = found.get("metadata", {}).get("annotations", {}).get("leader")
        if not leader:
            raise DevError("Patroni has no leader")
        return str(leader)

    def instances(self) -> Sequence[str]:
        return [f"{NAME}-{number}" for number in range(3)]

    def pod(self, instance: str) -> Object:
        return self.kubectl.need("pod", instance, self.namespace)

    def node_of(self, instance: str) -> str:
        return str(self.pod(instance)["spec"]["nodeName"])

    def database(self) -> Database:
        uri = self.kubectl.secret(NAME, self.namespace)["uri"]
        return Database(uri, self.kubectl.resolve(uri))

    def create(self, image: str, settings: Settings) -> None:
        """A new cluster with these settings; one that is there goes first, with its volumes."""
        self.remove()
        if self.kubectl.get("namespace", self.namespace) is None:
            self.kubectl.run("create", "namespace", self.namespace)
        small = cluster_manifest("any")["spec"]  # what ours asks for
        passwords = {name: secrets.token_hex(16) for name in ("superuser", "replication", "password")}
        made = objects(
            image=image,
            namespace=self.namespace,
            settings=settings,
            passwords=passwords,
            requests=small["resources"]["requests"],
            size=small["storage"]["size"],
        )
        self.kubectl.apply(*made, namespace=self.namespace)

    def remove(self) -> None:
        """All that belongs to it."""
        if self.kubectl.get("namespace", self.namespace) is None:
            return
        chosen = ",".join(f"{key}={value}" for key, value in LABELS.items())
        where = ("-n", self.namespace, "-l", chosen, "--ignore-not-found")
        self.kubectl.run("delete", "statefulset", *where, timeout=120)
        self.kubectl.run("delete", "pod", *where, "--grace-period=0", "--force", timeout=120)
        kinds = "persistentvolumeclaim,service,endpoints,configmap,secret,role,rolebinding,serviceaccount"
        self.kubectl.run("delete", kinds, *where, timeout=120)

    def members(self) -> list[dict[str, Any]]:
        """What Patroni says of its members, asked of the first pod that answers."""
        last: Exception | None = None
        for instance in self.instances():
            try:
                text = self._inside(instance, "curl", "-sf", "--max-time", "3", f"{REST}/cluster")
                found: list[dict[str, Any]] = json.loads(text)["members"]
            except (KubectlError, ValueError, KeyError) as e:
                last = e
            else:
                return found
        raise DevError(f"no member of Patroni answers: {last}")

    def _inside(self, instance: str, *command: str) -> str:
        return self.kubectl.run("exec", instance, "-n", self.namespace, "--", *command, timeout=15)

    def wait_ready(self, *, timeout: float = 180) -> Object:
        def seen() -> Object | None:
            pods = [self.kubectl.get("pod", name, self.namespace) for name in self.instances()]
            if not all(pod and condition(pod, "Ready").get("status") == "True" for pod in pods):
                return None
            try:
                members = self.members()
            except DevError:
                return None
            return {"members": members} if whole(members) else None

        return wait("Patroni with all members streaming", seen, timeout=timeout, poll=1.0, show=self.describe)

    def hand_over(self, instance: str) -> None:
        wish = json.dumps({"leader": self.primary, "candidate": instance})
        # Patroni answers when it is over: nobody here waits for that.
        call = f"curl -s -X POST -d '{wish}' {REST}/switchover >/dev/null 2>&1 &"
        self._inside(self.primary, "sh", "-c", call)

    def wait_primary(self, instance: str, *, timeout: float = 60) -> None:
        wait(f"{instance} as primary", lambda: self.primary == instance or None, timeout=timeout, show=self.describe)

    def describe(self) -> str:
        try:
            return "\n".join(json.dumps(member) for member in self.members())
        except DevError as e:
            return str(e)


def whole(members: Sequence[dict[str, Any]]) -> bool:
    """Whether there is one running leader, and two standbys that stream on its timeline and count for commits."""
    leaders = [m for m in members if m.get("role") == "leader" and m.get("state") == "running"]
    standbys = [
        m
        for m in members
        if m.get("role") in {"quorum_standby", "sync_standby"}
        and m.get("state") == "streaming"
        and leaders
        and m.get("timeline") == leaders[0].get("timeline")
    ]
    return len(leaders) == 1 and len(standbys) == 2

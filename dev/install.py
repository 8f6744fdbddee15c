"""Installs the operator by its chart, as a user would, and waits until it is ready to work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.host import CACHE, PROJECT, run
from dev.kubectl import Kubectl

CHART = PROJECT / "helm" / "matriarch"
NAMESPACE = "matriarch-system"
RELEASE = "matriarch"


@dataclass(frozen=True, slots=True)
class Helm:
    """Helm against one cluster."""

    kubeconfig: Path

    def run(self, *arguments: object, timeout: float = 300) -> str:
        helm = shutil.which("helm") or str(CACHE / "bin" / "helm")
        return run(helm, "--kubeconfig", self.kubeconfig, *arguments, timeout=timeout)

    def install(self, values: Mapping[str, Any], *, namespace: str = NAMESPACE, wait: int = 180) -> None:
        """`helm upgrade --install`, so that a second call changes only what differs; `wait` in seconds."""
        self.run(
            *("upgrade", "--install", RELEASE, CHART, "--namespace", namespace, "--create-namespace"),
            *("--set-json", ",".join(f"{key}={json.dumps(value)}" for key, value in values.items())),
            *("--wait", "--timeout", f"{wait}s"),
            timeout=wait + 60,
        )


def values(images: Mapping[str, str]) -> dict[str, Any]:
    """The chart's values for images that lie on the nodes, by the names that `Ground.load_images` gives."""
    repository, _, tag = images["operator"].rpartition(":")
    return {"image": {"repository": repository, "tag": tag}, "postgres": {"images": {"17": images["postgres"]}}}


def active_operator(kubectl: Kubectl, namespace: str = NAMESPACE) -> str:
    """The pod that holds the operator's Lease, "" when none does."""
    leases = kubectl.list("lease", namespace)
    holders = [lease.get("spec", {}).get("holderIdentity") or "" for lease in leases]
    pods = {pod["metadata"]["name"] for pod in kubectl.list("pod", namespace)}
    return next((pod for pod in pods for holder in holders if holder.startswith(pod)), "")

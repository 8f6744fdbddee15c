"""What is written of a cluster for the person who reads a failure: resources, events, Pods and their logs.

Secrets are never written, only their names.
"""

from __future__ import annotations

import json
from pathlib import Path

from dev.kubectl import Kubectl, KubectlError

KINDS = (
    *("databasecluster", "backup", "backupschedule", "restore"),
    *("pod", "persistentvolumeclaim", "lease", "endpointslice", "job", "service", "configmap", "poddisruptionbudget"),
)


def dump(kubectl: Kubectl, namespaces: list[str], folder: Path) -> None:
    """Writes everything of these namespaces below `folder`; what cannot be read is noted in its place."""
    for namespace in namespaces:
        where = folder / namespace
        where.mkdir(parents=True, exist_ok=True)
        for kind in KINDS:
            _write(where / f"{kind}.yaml", kubectl, "get", kind, "-n", namespace, "-o", "yaml")
        _write(where / "secrets.txt", kubectl, "get", "secret", "-n", namespace, "-o", "name")
        _write(
            where / "events.txt", kubectl, "get", "events", "-n", namespace, "--sort-by=.lastTimestamp", "-o", "wide"
        )
        for pod in _pods(kubectl, namespace):
            _write(where / f"{pod}.describe.txt", kubectl, "describe", "pod", pod, "-n", namespace)
            logs = ("logs", pod, "-n", namespace, "--all-containers", "--timestamps")
            _write(where / f"{pod}.log", kubectl, *logs)
            _write(where / f"{pod}.previous.log", kubectl, *logs, "--previous")
    _write(folder / "nodes.txt", kubectl, "describe", "nodes")


def _pods(kubectl: Kubectl, namespace: str) -> list[str]:
    try:
        found = json.loads(kubectl.run("get", "pod", "-n", namespace, "-o", "json"))["items"]
    except KubectlError:
        return []
    return [pod["metadata"]["name"] for pod in found]


def _write(path: Path, kubectl: Kubectl, *arguments: str) -> None:
    try:
        text = kubectl.run(*arguments, timeout=30)
    except KubectlError as e:
        if path.name.endswith(".previous.log"):
            return
        text = f"{e}\n"
    path.write_text(text)

"""The user's hands on a cluster: kubectl, and waits that end and say what they saw last.

The demo, the benchmarks and the end-to-end tests use the product through this and nothing else, as a person would:
they apply manifests, read objects and Secrets, and connect to what a Secret names.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from dev.host import CACHE, DevError

Object = dict[str, Any]
POLL = 0.25  # seconds
T = TypeVar("T")


class KubectlError(DevError):
    """kubectl ended with an error; `said` is what it wrote."""

    def __init__(self, message: str, said: str) -> None:
        super().__init__(message)
        self.said = said


def kubectl_command() -> list[str]:
    """The machine's kubectl, else the one inside the local Kubernetes' binary."""
    found = shutil.which("kubectl")
    return [found] if found else [str(CACHE / "bin" / "kubebox"), "kubectl"]


@dataclass(frozen=True, slots=True)
class Kubectl:
    """One cluster, seen through a kubeconfig."""

    kubeconfig: Path

    def run(self, *arguments: object, stdin: str | None = None, timeout: float = 60.0) -> str:
        """What kubectl printed. Raises KubectlError when it failed or took longer than `timeout` seconds."""
        words = [str(a) for a in arguments]
        command = [*kubectl_command(), "--kubeconfig", str(self.kubeconfig), *words]
        shown = f"kubectl {' '.join(words)}"
        try:
            done = subprocess.run(command, input=stdin, text=True, capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as e:
            raise KubectlError(f"`{shown}` has not ended after {timeout:.0f} s", "") from e
        if done.returncode:
            said = done.stderr.strip()
            raise KubectlError(f"`{shown}` failed: {said[-2000:]}", said)
        return done.stdout

    def get(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """The object, or None when it is not there."""
        text = self.run("get", kind, name, *_scope(namespace), "--ignore-not-found", "-o", "json")
        found: Object | None = json.loads(text) if text.strip() else None
        return found

    def need(self, kind: str, name: str, namespace: str | None = None) -> Object:
        """The object; raises DevError when it is not there."""
        found = self.get(kind, name, namespace)
        if found is None:
            raise DevError(f"{kind}/{name} is not there{f' in namespace {namespace}' if namespace else ''}")
        return found

    def list(self, kind: str, namespace: str | None = None, labels: str = "") -> list[Object]:
        """All objects of a kind, in one namespace or in all."""
        where = _scope(namespace) or ["--all-namespaces"]
        chosen = ["-l", labels] if labels else []
        items: list[Object] = json.loads(self.run("get", kind, *where, *chosen, "-o", "json"))["items"]
        return items

    def apply(self, *objects: Object | Path, namespace: str | None = None, dry_run: bool = False) -> str:
        """`kubectl apply` of manifests or files; what the API server refuses comes back as KubectlError."""
        said = []
        flags = ["--dry-run=server"] if dry_run else []
        files = [o for o in objects if isinstance(o, Path)]
        plain = [o for o in objects if not isinstance(o, Path)]
        if plain:
            text = json.dumps({"apiVersion": "v1", "kind": "List", "items": plain})
            said.append(self.run("apply", *_scope(namespace), *flags, "-f", "-", stdin=text))
        said.extend(self.run("apply", *_scope(namespace), *flags, "-f", f) for f in files)
        return "".join(said)

    def patch(self, kind: str, name: str, namespace: str, change: Object) -> None:
        """A merge patch of the main resource."""
        self.run("patch", kind, name, "-n", namespace, "--type", "merge", "-p", json.dumps(change))

    def delete(self, kind: str, name: str, namespace: str | None = None, *flags: str, timeout: float = 120.0) -> None:
        """Deletes and waits until it is gone; no error when it was not there."""
        self.run("delete", kind, name, *_scope(namespace), "--ignore-not-found", *flags, timeout=timeout)

    def secret(self, name: str, namespace: str) -> Mapping[str, str]:
        """A Secret's values as text."""
        data = self.need("secret", name, namespace).get("data", {})
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def resolve(self, uri: str) -> dict[str, str]:
        """Names that the cluster's DNS knows and this machine may not: the uri's host and its Service's address."""
        host = urlsplit(uri).hostname or ""
        service, _, rest = host.partition(".")
        namespace = rest.partition(".")[0]
        found = self.need("service", service, namespace)
        return {host: found["spec"]["clusterIP"]}


def _scope(namespace: str | None) -> list[str]:
    return ["-n", namespace] if namespace else []


def wait(
    what: str,
    seen: Callable[[], T | None],
    *,
    timeout: float,
    poll: float = POLL,
    show: Callable[[], str] | None = None,
    tick: Callable[[float], None] | None = None,
) -> T:
    """Calls `seen` until it returns something true, and returns that.

    A KubectlError is a "not yet". Raises DevError after `timeout` seconds with the last error, and with what `show`
    says of the state. `tick` is called with the seconds waited, for progress.
    """
    started = time.monotonic()
    last = ""
    while True:
        try:
            found = seen()
            last = ""
        except KubectlError as e:
            found = None
            last = f"; last error: {e}"
        if found:
            return found
        waited = time.monotonic() - started
        if waited > timeout:
            raise DevError(f"{what}: not after {timeout:.0f} s{last}{_shown(show)}")
        if tick:
            tick(waited)
        time.sleep(poll)


def _shown(show: Callable[[], str] | None) -> str:
    if show is None:
        return ""
    try:
        return f"\n{show()}"
    except KubectlError as e:
        return f"; {e}"


def condition(found: Object | None, kind: str) -> Object:
    """A condition of an object's status, {} when it has none of that type."""
    conditions: Iterable[Object] = (found or {}).get("status", {}).get("conditions", [])
    return next((c for c in conditions if c.get("type") == kind), {})


def holds(found: Object | None, kind: str, status: str = "True") -> bool:
    """Whether a condition has a status, and speaks of the newest spec."""
    current = condition(found, kind)
    generation = (found or {}).get("metadata", {}).get("generation")
    return current.get("status") == status and current.get("observedGeneration", generation) == generation

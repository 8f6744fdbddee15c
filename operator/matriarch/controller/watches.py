"""The only place where Kopf's events arrive, and all they do is put keys into the queue.

No create, update, delete or timer handlers: they keep state in annotations, add finalizers and cause a storm of
patches at every start. Kopf lists and watches; the level-triggered work is in `reconcile.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import kopf

from matriarch.controller.metrics import METRICS
from matriarch.controller.queue import Key
from matriarch.decide.leasetext import ANNOTATION, decode, encode
from matriarch.kube.kinds import GROUP, KINDS
from matriarch.resources.names import CLUSTER_LABEL, MANAGED_BY

OWNED = (
    "Pod",
    "PersistentVolumeClaim",
    "Service",
    "Secret",
    "ConfigMap",
    "EndpointSlice",
    "Lease",
    "Job",
    "PodDisruptionBudget",
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "Deployment",
)


CLIENTS_FIRST = 0.75
"""Seconds that news of a Lease or a Pod waits for its cluster's turn. A failover is the agents' work and makes many of
them within half a second: looking at each would take processor time from those who let the clients in. What is asked
of an election goes out at once."""


class Watched:
    """What the watch has shown of the controller's own Lease: the proof that events still arrive."""

    def __init__(self) -> None:
        self.own_renewal = ""  # spec.renewTime as it came back
        self.seen_at = time.monotonic()


class Feed:
    """Turns events into keys. `put` is called on Kopf's own thread, with the seconds that the key may wait."""

    def __init__(self, put: Callable[[Key, float], None], roots: Iterable[str], own_lease: tuple[str, str]) -> None:
        self.watched = Watched()
        self._put = put
        self._roots = frozenset(roots)
        self._own_lease = own_lease
        self._seen: dict[tuple[str, str, str], str] = {}  # of quiet kinds and resources: what mattered, last time

    def register(self, registry: kopf.OperatorRegistry, settings: kopf.OperatorSettings) -> None:
        """Watch the resources, and everything labelled as ours."""
        for kind in sorted(self._roots):
            _on_event(registry, kind, self._resource)
        for kind in OWNED:
            row = KINDS[kind]
            settings.watching.label_selectors[row.group, row.version, row.plural] = MANAGED_BY
            _on_event(registry, kind, self._owned)

    async def _resource(self, event: Mapping[str, Any], body: Mapping[str, Any], **_: Any) -> None:
        kind, metadata = body["kind"], body["metadata"]
        METRICS.events[kind] += 1
        # our own writes of the status come back too; they are no news
        if self._news(event, body, "generation", "labels", "annotations", "deletionTimestamp", "finalizers"):
            self._put(Key(kind, metadata["namespace"], metadata["name"]), 0)

    async def _owned(self, event: Mapping[str, Any], body: Mapping[str, Any], **_: Any) -> None:
        kind, metadata = body["kind"], body["metadata"]
        METRICS.events[kind] += 1
        if kind == "Lease":
            if (metadata.get("namespace"), metadata["name"]) == self._own_lease:
                self.watched.own_renewal = (body.get("spec") or {}).get("renewTime") or ""
                self.watched.seen_at = time.monotonic()
                return
            # holders renew every few seconds; a new epoch or another state is news
            if not self._news(event, _without_renewal(body), "annotations", "deletionTimestamp"):
                return
        elif kind == "EndpointSlice" and not self._news(event, body, "labels", "ownerReferences"):
            return  # the agents' business
        if kind == "Pod" and (cluster := (metadata.get("labels") or {}).get(CLUSTER_LABEL)):
            self._put(Key("Election", metadata["namespace"], cluster), 0)
        for key in owners(body, self._roots):
            self._put(key, CLIENTS_FIRST if kind in ("Lease", "Pod") and key.kind == "DatabaseCluster" else 0)

    def _news(self, event: Mapping[str, Any], body: Mapping[str, Any], *fields: str) -> bool:
        metadata = body["metadata"]
        key = (body["kind"], metadata.get("namespace", ""), metadata["name"])
        if event.get("type") == "DELETED":
            self._seen.pop(key, None)
            return True
        content = repr([metadata.get("uid"), *(metadata.get(f) for f in fields)])
        if self._seen.get(key) == content:
            return False
        self._seen[key] = content
        return True


def _without_renewal(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """A Lease without what each renewal changes: in mode async that is the end of the holder's WAL."""
    metadata = body["metadata"]
    annotations = metadata.get("annotations") or {}
    try:
        text = encode(replace(decode(annotations[ANNOTATION]), wal=None))
    except (KeyError, ValueError):
        return body  # that it cannot be read is news
    return {**body, "metadata": {**metadata, "annotations": {**annotations, ANNOTATION: text}}}


def _on_event(registry: kopf.OperatorRegistry, kind: str, fn: Callable[..., Any]) -> None:
    row = KINDS[kind]
    kopf.on.event(row.group, row.version, row.plural, registry=registry, id=f"{row.plural}-to-queue")(fn)


def owners(body: Mapping[str, Any], roots: Iterable[str]) -> set[Key]:
    """Which resources an owned object belongs to: by label (outlives the owner) and by owner reference."""
    metadata = body["metadata"]
    namespace = metadata.get("namespace", "")
    found = {
        Key(ref["kind"], namespace, ref["name"])
        for ref in metadata.get("ownerReferences") or ()
        if ref.get("kind") in roots and str(ref.get("apiVersion", "")).startswith(f"{GROUP}/")
    }
    cluster = (metadata.get("labels") or {}).get(CLUSTER_LABEL)
    if cluster:
        found.add(Key("DatabaseCluster", namespace, cluster))
    return found

"""The volume of one instance. No owner reference: data outlives the resource."""

from __future__ import annotations

from matriarch.resources import names
from matriarch.resources.blueprint import Blueprint, Object

VERSION = "matriarch.dev/postgres-version"


def claim(b: Blueprint, instance: str) -> Object:
    """The claim as it is created."""
    storage = b.cluster.spec.storage
    spec: Object = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": storage.size}}}
    if storage.storage_class_name is not None:
        spec["storageClassName"] = storage.storage_class_name
    return {**claim_notes(b, instance), "spec": spec}


def claim_notes(b: Blueprint, instance: str) -> Object:
    """What is kept up to date on an existing claim: what a sweep must know once the resource is gone."""
    metadata = b.metadata(instance, instance=instance, owned=False)
    metadata["annotations"] = {names.DELETION_POLICY: b.defaults.deletion_policy, VERSION: b.defaults.version}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata}


def disruption_budget(b: Blueprint) -> Object | None:
    """Lets a drain take one instance at a time; a single instance has none, or its node could never be drained."""
    if len(b.instances) < 2:
        return None
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": b.metadata(b.name),
        "spec": {"minAvailable": len(b.instances) - 1, "selector": {"matchLabels": names.selector(b.name)}},
    }

"""What all objects of one cluster are drawn from: the resource, its defaults filled in, and the operator's choices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matriarch.api.database_cluster import DatabaseCluster
from matriarch.api.defaults import ClusterDefaults
from matriarch.resources import names

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Blueprint:
    """Pure input of every function in this package."""

    cluster: DatabaseCluster
    defaults: ClusterDefaults
    image: str
    slice_family: str = "IPv4"
    pooler_image: str = ""
    """The operator's own image, also where the cluster runs one of the user's."""
    test_mutant: str = ""  # the operator's setting; empty but in the project's own fault tests

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.cluster.metadata.name

    @property
    def namespace(self) -> str:
        """Where all of it lives."""
        return self.cluster.metadata.namespace

    @property
    def instances(self) -> tuple[str, ...]:
        """The wanted instances."""
        return names.instances(self.name, self.defaults.instances)

    def metadata(self, name: str, *, instance: str | None = None, owned: bool = True) -> Object:
        """Name, labels and, for what may go with the resource, the owner reference."""
        found: Object = {
            "name": name,
            "namespace": self.namespace,
            "labels": names.labels(self.name, instance),
        }
        if owned:
            meta = self.cluster.metadata
            owner = {
                "apiVersion": self.cluster.api_version,
                "kind": "DatabaseCluster",
                "name": meta.name,
                "uid": meta.uid,
            }
            found["ownerReferences"] = names.owned_by(owner)
        return found

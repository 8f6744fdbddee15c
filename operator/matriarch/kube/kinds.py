"""The kinds that Matriarch touches, by name: where the API server keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

GROUP = "matriarch.dev"
VERSION = "v1alpha1"


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table. `group` is empty for the core API."""

    name: str
    group: str
    version: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """The value of `apiVersion` in a manifest."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """URL path; no namespace on a namespaced kind means all namespaces (lists and watches only)."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        elif self.namespaced and name is not None:
            raise ValueError(f"{self.name} {name} needs a namespace")
        parts.append(self.plural)
        parts += [p for p in (name, subresource) if p is not None]
        return "/" + "/".join(quote(p, safe="") for p in parts)


def _table(*kinds: Kind) -> Mapping[str, Kind]:
    return {k.name: k for k in kinds}


KINDS: Mapping[str, Kind] = _table(
    Kind("Pod", "", "v1", "pods"),
    Kind("PersistentVolumeClaim", "", "v1", "persistentvolumeclaims"),
    Kind("PersistentVolume", "", "v1", "persistentvolumes", namespaced=False),
    Kind("Service", "", "v1", "services"),
    Kind("ConfigMap", "", "v1", "configmaps"),
    Kind("Secret", "", "v1", "secrets"),
    Kind("ServiceAccount", "", "v1", "serviceaccounts"),
    Kind("Event", "", "v1", "events"),
    Kind("Namespace", "", "v1", "namespaces", namespaced=False),
    Kind("Node", "", "v1", "nodes", namespaced=False),
    Kind("Deployment", "apps", "v1", "deployments"),
    Kind("StatefulSet", "apps", "v1", "statefulsets"),
    Kind("Job", "batch", "v1", "jobs"),
    Kind("Lease", "coordination.k8s.io", "v1", "leases"),
    Kind("EndpointSlice", "discovery.k8s.io", "v1", "endpointslices"),
    Kind("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets"),
    Kind("Role", "rbac.authorization.k8s.io", "v1", "roles"),
    Kind("RoleBinding", "rbac.authorization.k8s.io", "v1", "rolebindings"),
    Kind("ClusterRole", "rbac.authorization.k8s.io", "v1", "clusterroles", namespaced=False),
    Kind("ClusterRoleBinding", "rbac.authorization.k8s.io", "v1", "clusterrolebindings", namespaced=False),
    Kind("StorageClass", "storage.k8s.io", "v1", "storageclasses", namespaced=False),
    Kind("CustomResourceDefinition", "apiextensions.k8s.io", "v1", "customresourcedefinitions", namespaced=False),
    Kind("TokenReview", "authentication.k8s.io", "v1", "tokenreviews", namespaced=False),
    Kind("SubjectAccessReview", "authorization.k8s.io", "v1", "subjectaccessreviews", namespaced=False),
    Kind("DatabaseCluster", GROUP, VERSION, "databaseclusters"),
    Kind("Backup", GROUP, VERSION, "backups"),
    Kind("BackupSchedule", GROUP, VERSION, "backupschedules"),
    Kind("Restore", GROUP, VERSION, "restores"),
)


def kind_named(name: str) -> Kind:
    """The row of a kind. Raises ValueError for one that the table lacks: add it there."""
    try:
        return KINDS[name]
    except KeyError:
        raise ValueError(f"unknown kind {name}: add it to matriarch/kube/kinds.py") from None

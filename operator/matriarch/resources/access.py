"""What agents and Jobs may do in the Kubernetes API: this cluster's own objects, and no Secret."""

from __future__ import annotations

from matriarch.resources import names
from matriarch.resources.blueprint import Blueprint, Object
from matriarch.resources.services import DOORS


def access(b: Blueprint, instances: tuple[str, ...]) -> list[Object]:
    """ServiceAccounts, Roles and RoleBindings. `instances` are those that exist or are wanted."""
    return [*_granted(b, b.name, _agent_rules(b, instances)), *_granted(b, names.backup_account(b.name), _JOB_RULES)]


def _agent_rules(b: Blueprint, instances: tuple[str, ...]) -> list[Object]:
    slices = [*(f"{b.name}-{door}" for door in DOORS), *instances]
    return [
        # list and watch are granted for one name, so agents select by metadata.name
        _rule("coordination.k8s.io", "leases", ["get", "list", "watch", "update", "patch"], [b.name]),
        _rule("", "configmaps", ["get", "list", "watch"], [names.config(b.name)]),
        _rule("discovery.k8s.io", "endpointslices", ["list", "watch"]),
        _rule("discovery.k8s.io", "endpointslices", ["get", "update", "patch"], slices),
        _rule("", "pods", ["get", "patch"], list(instances)),
        _rule("", "events", ["create", "patch"]),
    ]


_JOB_RULES: list[Object] = [
    {"apiGroups": ["matriarch.dev"], "resources": ["backups", "restores"], "verbs": ["get"]},
    {"apiGroups": ["matriarch.dev"], "resources": ["backups/status", "restores/status"], "verbs": ["get", "patch"]},
]


def _rule(group: str, resource: str, verbs: list[str], only: list[str] | None = None) -> Object:
    rule: Object = {"apiGroups": [group], "resources": [resource], "verbs": verbs}
    if only is not None:
        rule["resourceNames"] = only
    return rule


def _granted(b: Blueprint, name: str, rules: list[Object]) -> list[Object]:
    rbac = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": b.metadata(name)},
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": b.metadata(name), "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": b.metadata(name),
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": b.namespace}],
        },
    ]

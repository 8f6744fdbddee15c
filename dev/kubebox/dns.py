"""The cluster's DNS server: CoreDNS on this machine, so that no node's loss takes it away.

A Service without a selector and its EndpointSlice give it the cluster's DNS address.
"""

from __future__ import annotations

from pathlib import Path

from dev.kubebox.api import Api, Object
from dev.kubebox.names import DOMAIN, Cluster
from dev.kubebox.processes import Processes

NAME = "coredns"


def _objects(cluster: Cluster) -> list[tuple[str, Object]]:
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    meta = {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}}
    rbac = "rbac.authorization.k8s.io"
    read = ["list", "watch"]
    return [
        (
            "/api/v1/namespaces/kube-system/services/kube-dns",
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": meta,
                "spec": {"clusterIP": cluster.dns_service, "ports": ports},
            },
        ),
        (
            "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/kube-dns",
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {**meta, "labels": {**meta["labels"], "kubernetes.io/service-name": "kube-dns"}},  # type: ignore[dict-item]  # labels is the dict above
                "addressType": "IPv4",
                "endpoints": [{"addresses": [cluster.machine], "conditions": {"ready": True}}],
                "ports": ports,
            },
        ),
        (
            f"/apis/{rbac}/v1/clusterroles/matriarch-dev:dns",
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "ClusterRole",
                "metadata": {"name": "matriarch-dev:dns"},
                "rules": [
                    {"apiGroups": [""], "resources": ["services", "namespaces", "pods"], "verbs": read},
                    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
                ],
            },
        ),
        (
            f"/apis/{rbac}/v1/clusterrolebindings/matriarch-dev:dns",
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": "matriarch-dev:dns"},
                "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "matriarch-dev:dns"},
                "subjects": [{"apiGroup": rbac, "kind": "User", "name": "matriarch-dev:dns"}],
            },
        ),
    ]


def start(cluster: Cluster, processes: Processes, binary: Path, api: Api) -> None:
    """Give the server its Service and rights, then start it."""
    for path, body in _objects(cluster):
        api.apply(path, body)
    corefile = cluster.folder / "Corefile"
    corefile.write_text(
        f""".:53 {{
  bind {cluster.machine}
  errors
  kubernetes {DOMAIN} in-addr.arpa {{
    kubeconfig {cluster.folder}/dns.kubeconfig
    ttl 1
  }}
  forward . {cluster.folder}/resolv.conf
  cache 1
}}
"""
    )
    processes.start(NAME, [binary, "-conf", corefile])

"""etcd, the API server, the controller manager and the scheduler of a local cluster, with Kubernetes' own defaults.

Only what a cluster of several processes on one machine needs is set. Time limits such as the grace period of nodes
stay as they are: they are part of what is measured here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dev.host import succeeds
from dev.kubebox import pki
from dev.kubebox.api import Api
from dev.kubebox.names import DOMAIN, Cluster
from dev.kubebox.processes import Processes

ETCD, API_SERVER, MANAGER, SCHEDULER = "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"


def etcd_command(
    binary: Path, data: Path, address: str, client_port: int = 2379, peer_port: int = 2380
) -> list[object]:
    """etcd that forgets with the machine: nothing of a throw-away cluster's state is worth a disk flush."""
    client, peer = f"http://{address}:{client_port}", f"http://{address}:{peer_port}"
    return [
        *(binary, "etcd", "--data-dir", data, "--unsafe-no-fsync", "--log-level", "warn"),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"),
    ]


def api_server_command(
    binary: Path, folder: Path, *, etcd: str, address: str, port: int, services: str, more: Sequence[str] = ()
) -> list[object]:
    """An API server with RBAC and every default admission plugin; `folder` is the certificates'."""
    return [
        *(binary, "kube-apiserver", f"--etcd-servers={etcd}"),
        *(f"--bind-address={address}", f"--advertise-address={address}", f"--secure-port={port}"),
        *(f"--service-cluster-ip-range={services}", "--authorization-mode=Node,RBAC", "--allow-privileged=true"),
        *(f"--client-ca-file={folder}/ca.crt", "--profiling=false"),
        *(f"--tls-cert-file={folder}/apiserver.crt", f"--tls-private-key-file={folder}/apiserver.key"),
        *(f"--service-account-key-file={folder}/sa.pub", f"--service-account-signing-key-file={folder}/sa.key"),
        f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
        *more,
    ]


def certificates(cluster: Cluster) -> pki.Authority:
    """The cluster's authority and every certificate of the control plane."""
    authority = pki.Authority.create(cluster.pki, f"matriarch-{cluster.name}")
    pki.service_account_keys(cluster.pki)
    inside = [f"kubernetes{s}" for s in ("", ".default", ".default.svc", f".default.svc.{DOMAIN}")]
    authority.issue(
        "apiserver", "kube-apiserver", names=[cluster.machine, cluster.api_service, "127.0.0.1", "localhost", *inside]
    )
    for stem, common_name, groups in (
        ("admin", "admin", ["system:masters"]),
        ("kubelet-client", "kube-apiserver-kubelet-client", ["system:masters"]),
        ("controller-manager", "system:kube-controller-manager", []),
        ("scheduler", "system:kube-scheduler", []),
        ("proxy", "system:kube-proxy", []),
        ("front-proxy", "front-proxy-client", []),
        ("dns", "matriarch-dev:dns", []),
        ("provisioner", "matriarch-dev:provisioner", ["system:masters"]),
    ):
        authority.issue(stem, common_name, groups)
    for stem in ("admin", "controller-manager", "scheduler", "proxy", "dns"):
        pki.kubeconfig(
            cluster.pki, stem, cluster.api, f"matriarch-{cluster.name}", cluster.folder / f"{stem}.kubeconfig"
        )
    return authority


def start(cluster: Cluster, processes: Processes, binary: Path) -> None:
    """Start the control plane and wait until the API server is ready."""
    folder = cluster.pki
    processes.start(ETCD, etcd_command(binary, cluster.folder / "etcd", cluster.etcd))
    more = [
        f"--kubelet-client-certificate={folder}/kubelet-client.crt",
        f"--kubelet-client-key={folder}/kubelet-client.key",
        f"--kubelet-certificate-authority={folder}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",  # nodes' names are not in the machine's DNS
        "--enable-admission-plugins=NodeRestriction",
        f"--requestheader-client-ca-file={folder}/ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={folder}/front-proxy.crt",
        f"--proxy-client-key-file={folder}/front-proxy.key",
    ]
    processes.start(
        API_SERVER,
        api_server_command(
            binary,
            folder,
            etcd=f"http://{cluster.etcd}:2379",
            address=cluster.machine,
            port=6443,
            services=cluster.services,
            more=more,
        ),
    )
    api = Api(cluster)
    processes.wait(API_SERVER, api.ready, 120, "the API server's readiness")
    api.close()
    config = cluster.folder / "controller-manager.kubeconfig"
    processes.start(
        MANAGER,
        [
            *(binary, "kube-controller-manager", f"--kubeconfig={config}", f"--authentication-kubeconfig={config}"),
            *(f"--authorization-kubeconfig={config}", f"--bind-address={cluster.machine}", "--leader-elect=false"),
            *("--use-service-account-credentials=true", f"--service-account-private-key-file={folder}/sa.key"),
            *(f"--root-ca-file={folder}/ca.crt", f"--cluster-name=matriarch-{cluster.name}"),
            *(f"--cluster-signing-cert-file={folder}/ca.crt", f"--cluster-signing-key-file={folder}/ca.key"),
            *("--profiling=false",),
        ],
    )
    config = cluster.folder / "scheduler.kubeconfig"
    processes.start(
        SCHEDULER,
        [
            *(binary, "kube-scheduler", f"--kubeconfig={config}", f"--authentication-kubeconfig={config}"),
            *(f"--authorization-kubeconfig={config}", f"--bind-address={cluster.machine}", "--leader-elect=false"),
            *("--profiling=false",),
        ],
    )


def reachable(cluster: Cluster) -> bool:
    """Whether the API server of a cluster that may be gone answers."""
    if not (cluster.pki / "admin.crt").exists() or not succeeds("ip", "link", "show", cluster.bridge):
        return False
    api = Api(cluster, timeout=3.0)
    try:
        return api.ready()
    finally:
        api.close()

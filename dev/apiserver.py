"""A bare API server: etcd and kube-apiserver on the loopback interface, no nodes. Ready in seconds, needs no root.

    python -m dev.apiserver          runs one until it is interrupted; prints the kubeconfig's path

For tests of what the API server itself does: schemas, CEL rules, defaults, server-side apply, watches, leases.
"""

from __future__ import annotations

import contextlib
import shutil
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dev import programs
from dev.kubebox import pki
from dev.kubebox.controlplane import API_SERVER, ETCD, api_server_command, etcd_command
from dev.kubebox.processes import Processes
from dev.ports import free_port

ADDRESS = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class ApiServer:
    """A running API server; `kubeconfig` logs in as an administrator."""

    folder: Path
    port: int

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.kubeconfig"

    @property
    def url(self) -> str:
        return f"https://{ADDRESS}:{self.port}"

    def stop(self) -> None:
        """Kill the API server; etcd keeps its data."""
        Processes(self.folder).stop(API_SERVER)

    def start(self) -> None:
        """Start the API server again and wait until it is ready."""
        processes = Processes(self.folder)
        processes.restart(API_SERVER)
        processes.wait(API_SERVER, self.ready, 120, "the API server's readiness")

    def ready(self) -> bool:
        """Whether it answers and calls itself ready."""
        context = ssl.create_default_context(cafile=str(self.folder / "pki" / "ca.crt"))
        context.load_cert_chain(self.folder / "pki" / "admin.crt", self.folder / "pki" / "admin.key")
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2, context=context) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@contextlib.contextmanager
def running(folder: Path) -> Iterator[ApiServer]:
    """An API server with its own etcd and ports for as long as the block lasts."""
    binary = programs.ensure("kubebox")
    processes = Processes(folder)
    server = ApiServer(folder, free_port(ADDRESS))
    certificates = folder / "pki"
    authority = pki.Authority.create(certificates, "matriarch-apiserver")
    pki.service_account_keys(certificates)
    authority.issue("apiserver", "kube-apiserver", names=[ADDRESS, "localhost"])
    authority.issue("admin", "admin", ["system:masters"])
    pki.kubeconfig(certificates, "admin", server.url, "apiserver", server.kubeconfig)
    client, peer = free_port(ADDRESS), free_port(ADDRESS)
    try:
        processes.start(ETCD, etcd_command(binary, folder / "etcd", ADDRESS, client, peer))
        processes.start(
            API_SERVER,
            api_server_command(
                binary,
                certificates,
                etcd=f"http://{ADDRESS}:{client}",
                address=ADDRESS,
                port=server.port,
                services="10.255.0.0/16",
                # Nobody listens for Services here, and no controller makes the tokens that pods would need.
                more=["--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none"],
            ),
        )
        processes.wait(API_SERVER, server.ready, 120, "the API server's readiness")
        yield server
    finally:
        for name in (API_SERVER, ETCD):
            processes.stop(name)
        shutil.rmtree(folder / "etcd", ignore_errors=True)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="matriarch-apiserver-") as folder, running(Path(folder)) as server:
        print(server.kubeconfig, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


if __name__ == "__main__":
    main()

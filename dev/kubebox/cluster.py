"""Brings a local cluster up and takes it down; both can be repeated, and interrupted anywhere."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dev import programs
from dev.host import CACHE, PROJECT, DevError, lock, need_linux_root, need_tools, say
from dev.kubebox import controlplane, dns, names, network, node, nodeimages, provisioner, seed, volumes
from dev.kubebox.api import Api, ApiError
from dev.kubebox.names import Cluster
from dev.kubebox.processes import Processes, gone, in_namespace_or_cgroup, kill

TOOLS = (
    "containerd",
    "ctr",
    "runc",
    "ip",
    "iptables",
    "nft",
    "conntrack",
    "losetup",
    "mkfs.xfs",
    "xfs_growfs",
    "mount",
    "nsenter",
    "sysctl",
)
PROVISIONER = "provisioner"
LAYOUT = 1  # raise it when a cluster that is up no longer fits to the code here
_INOTIFY = {"max_user_instances": 8192, "max_user_watches": 524288}
GATEWAY = "gateway-proxy"


def need_machine() -> None:
    """Refuse before anything changes where this cannot work."""
    need_linux_root("a local Kubernetes")
    need_tools(*TOOLS)
    node.cni_folder()


def _raise_limits() -> None:
    """Every program of a node watches files; a machine's usual limit is reached by the second cluster."""
    for name, wanted in _INOTIFY.items():
        path = Path("/proc/sys/fs/inotify") / name
        if int(path.read_text()) < wanted:
            path.write_text(str(wanted))


def _lock(name: str) -> contextlib.AbstractContextManager[None]:
    return lock(names.RUN / f"{name}.lock")


def identity() -> str:
    """Tells clusters apart that must be replaced from those that can be used, also by another clone."""
    return programs.digest(str(LAYOUT), *(programs.PROGRAMS[p].key() for p in ("kubebox", "coredns", "pause")))


def healthy(cluster: Cluster) -> bool:
    """Whether everything that was started still runs and every node is Ready."""
    processes = Processes(cluster.folder)
    expected = processes.names()
    if not expected or any(processes.pid(n) is None for n in expected) or not controlplane.reachable(cluster):
        return False
    api = Api(cluster)
    try:
        return _ready_nodes(api) == {n.name for n in cluster.nodes}
    except (OSError, DevError):
        return False
    finally:
        api.close()


def up(name: str, *, nodes: int = 3, replace: bool = False) -> Cluster:
    """A cluster of this name that works: the one that is up when it is as wanted, else a new one in its place."""
    need_machine()
    names.checked(name)
    _raise_limits()
    with _lock(name):
        known = names.registered().get(name)
        if known:
            if not replace and known.size == nodes and _stamp(known) == identity() and healthy(known):
                say(f"cluster {name} is up")
                return known
            say(f"cluster {name} is replaced")
            _down(known)
        cluster = names.allocate(name, nodes)
        try:
            _up(cluster)
        except BaseException:
            say(f"cluster {name} did not come up; its logs are kept in {_keep_logs(cluster)}")
            _down(cluster)
            raise
    return cluster


def _stamp(cluster: Cluster) -> str:
    with contextlib.suppress(OSError):
        return (cluster.folder / "identity").read_text()
    return ""


def _keep_logs(cluster: Cluster) -> Path:
    kept = CACHE / "logs" / f"cluster-{cluster.name}"
    shutil.rmtree(kept, ignore_errors=True)
    with contextlib.suppress(OSError):
        shutil.copytree(cluster.folder / "logs", kept)
    return kept


def _up(cluster: Cluster) -> None:
    binary, coredns = programs.ensure("kubebox"), programs.ensure("coredns")
    pause = nodeimages.unpack(nodeimages.pause_archive(programs.ensure("pause")))
    processes = Processes(cluster.folder)
    cluster.folder.mkdir(parents=True, exist_ok=True)
    cluster.folder.chmod(0o711)  # pods' users pass through to their volumes; keys below are closed
    shutil.copy("/etc/resolv.conf", cluster.folder / "resolv.conf")
    network.make(cluster)
    authority = controlplane.certificates(cluster)
    for one in cluster.nodes:
        node.prepare(one, authority)
    with ThreadPoolExecutor() as pool:
        # Nodes wait for the API server by themselves: everything starts at once.
        waiting = [pool.submit(_start_node, cluster, n, processes, binary, pause) for n in range(len(cluster.nodes))]
        controlplane.start(cluster, processes, binary)
        api = Api(cluster)
        _retry(
            lambda: api.apply(
                f"/apis/storage.k8s.io/v1/storageclasses/{provisioner.CLASS}", provisioner.storage_class()
            )
        )
        _retry(lambda: dns.start(cluster, processes, coredns, api))
        processes.start(PROVISIONER, provisioner_command(cluster))
        for started in waiting:
            started.result()
    _wait_nodes(cluster, api, processes)
    settings = cluster.folder / "gateway-proxy.json"
    settings.write_text(json.dumps(node.proxy_settings(cluster, cluster.nodes[0].name)))
    netns = Path("/run/netns") / cluster.gateway_netns
    processes.start(GATEWAY, [binary, "kube-proxy", f"--config={settings}"], netns=netns)
    _wait_default_account(api)
    (cluster.folder / "identity").write_text(identity())
    api.close()


def provisioner_command(cluster: Cluster) -> list[object]:
    """The provisioner runs from its clone, whose folder must be on Python's path."""
    path = os.pathsep.join([str(PROJECT)])
    return [
        "env",
        f"PYTHONPATH={path}",
        f"MATRIARCH_STATE={cluster.state}",
        sys.executable,
        "-m",
        provisioner.__name__,
        cluster.name,
    ]


def _start_node(
    cluster: Cluster, number: int, processes: Processes, binary: Path, pause: list[nodeimages.Packed]
) -> None:
    one = cluster.nodes[number]
    network.plug(one)
    one.run.mkdir(parents=True, exist_ok=True)
    seed.plant(one.folder / "containerd")
    node.start_containerd(one, processes)
    nodeimages.load_into(one.containerd, pause)
    node.start(one, processes, binary)


def _retry(step: Callable[[], object], timeout: float = 30.0) -> None:
    """A fresh API server refuses some calls until its own set-up is done."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            step()
        except (ApiError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def _ready_nodes(api: Api) -> set[str]:
    return {
        n["metadata"]["name"]
        for n in api.items("/api/v1/nodes")
        if any(c["type"] == "Ready" and c["status"] == "True" for c in n["status"].get("conditions", []))
    }


def _wait_nodes(cluster: Cluster, api: Api, processes: Processes, timeout: float = 120.0) -> None:
    deadline = time.monotonic() + timeout
    wanted = {n.name for n in cluster.nodes}
    while wanted - _ready_nodes(api):
        for name in processes.names():
            if processes.pid(name) is None:
                raise DevError(f"{name} has ended; its log ends so:\n{processes.tail(name)}")
        if time.monotonic() > deadline:
            missing = sorted(wanted - _ready_nodes(api))
            raise DevError(
                f"{', '.join(missing)} did not become Ready within {timeout:.0f} s; see {cluster.folder}/logs"
            )
        time.sleep(0.2)


def _wait_default_account(api: Api, timeout: float = 30.0) -> None:
    """Pods of the namespace `default` are refused until its ServiceAccount is made."""
    _retry(lambda: api.call("GET", "/api/v1/namespaces/default/serviceaccounts/default"), timeout)


def down(name: str) -> bool:
    """Take a cluster and all that belongs to it away; False when there was none."""
    need_linux_root("taking a local Kubernetes down")
    names.checked(name)
    with _lock(name):
        cluster = names.registered().get(name)
        if cluster is None:
            return False
        _down(cluster)
    return True


def _down(cluster: Cluster) -> None:
    # Beside the cluster's own programs: servers that live in a folder of their own in it, such as S3.
    owners = [Processes(p.parent) for pattern in ("processes", "*/processes") for p in cluster.folder.glob(pattern)]
    recorded = [pid for o in owners for pid in map(o.pid, o.names()) if pid is not None]
    kill(recorded, signal.SIGKILL)
    gone(recorded, 10)
    for one in cluster.nodes:
        node.kill_all(one)
    left = in_namespace_or_cgroup(Path("/run/netns") / cluster.gateway_netns, cluster.cgroup)
    kill(left, signal.SIGKILL)
    gone(left, 10)
    for one in cluster.nodes:
        node.forget(one)
    node.unmount_below(cluster.run)
    for one in cluster.nodes:
        node.unmount_below(one.folder)
    for volume in volumes.all_below(cluster.folder / "volumes"):
        volume.remove()
    node.unmount_below(cluster.folder)
    network.remove(cluster)
    node.remove_cgroup(cluster.cgroup)
    _remove_log_links(cluster)
    shutil.rmtree(cluster.folder, ignore_errors=True)
    shutil.rmtree(cluster.run, ignore_errors=True)
    names.release(cluster.name)


def _remove_log_links(cluster: Cluster) -> None:
    """The kubelet links every container's log into one folder of the machine, whatever its settings say."""
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and link.readlink().is_relative_to(cluster.folder):
            link.unlink()

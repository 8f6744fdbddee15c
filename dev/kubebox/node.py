"""One node of a local cluster: a network namespace with containerd, a kubelet and a kube-proxy.

A node that is killed loses what a machine loses that is switched off: every process at once, and all that was under
/run. Its disk (images, volumes, the kubelet's folder) stays, and a later start finds it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
from pathlib import Path

from dev.host import DevError, run, succeeds
from dev.kubebox import network, pki
from dev.kubebox.names import DOMAIN, Cluster, Node
from dev.kubebox.processes import Processes, gone, in_namespace_or_cgroup, kill, started_at

PAUSE = "localhost/matriarch/pause:1"

# Lowering a process's score needs CAP_SYS_RESOURCE, which even root may lack: no pod would start there.
_CONTAINERD = """\
version = 2
root = "{root}/containerd"
state = "{run}/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{socket}"
[ttrpc]
  address = "{socket}.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        Root = "{run}/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "{root}/cni"
"""


def cni_folder() -> Path:
    """Where the machine's CNI plugins are."""
    for folder in (Path("/usr/lib/cni"), Path("/opt/cni/bin")):
        if (folder / "bridge").exists():
            return folder
    raise DevError("the CNI plugins are missing; run `make setup`, or `apt-get install containernetworking-plugins`")


def prepare(node: Node, authority: pki.Authority) -> None:
    """Write a node's settings and certificate; starts nothing."""
    root, cluster = node.folder, node.cluster
    (root / "cni").mkdir(parents=True, exist_ok=True)
    settings = _CONTAINERD.format(root=root, run=node.run, socket=node.containerd, pause=PAUSE, cni=cni_folder())
    (root / "containerd.toml").write_text(settings)
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(node.run / "ipam"),
            "ranges": [[{"subnet": node.pods}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
    (root / "cni" / "10-bridge.conflist").write_text(
        json.dumps({"cniVersion": "0.4.0", "name": "matriarch", "plugins": plugins})
    )
    authority.issue(node.name, f"system:node:{node.name}", ["system:nodes"], [node.name, node.address])
    pki.kubeconfig(cluster.pki, node.name, cluster.api, cluster.table, root / "kubelet.kubeconfig")
    (root / "kubelet.json").write_text(json.dumps(_kubelet(node), indent=1))
    (root / "proxy.json").write_text(json.dumps(proxy_settings(cluster, node.name), indent=1))


def _kubelet(node: Node) -> dict[str, object]:
    certificates, root = node.cluster.pki, node.folder
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "x509": {"clientCAFile": str(certificates / "ca.crt")},
            "webhook": {"enabled": True},
            "anonymous": {"enabled": False},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": node.cgroup,
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [node.cluster.dns_service],
        "clusterDomain": DOMAIN,
        "containerRuntimeEndpoint": f"unix://{node.containerd}",
        "tlsCertFile": str(certificates / f"{node.name}.crt"),
        "tlsPrivateKeyFile": str(certificates / f"{node.name}.key"),
        "podLogsDir": str(root / "podlogs"),
        "resolvConf": str(node.cluster.folder / "resolv.conf"),
        "serializeImagePulls": False,
        # The machine's disk is shared by all nodes and the person who works on it: evict only when it is really full.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "volumePluginDir": str(root / "volumeplugins"),
    }


def proxy_settings(cluster: Cluster, name: str) -> dict[str, object]:
    """kube-proxy's settings; `name` must be a node's, or it waits for such a node for ever."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": cluster.all_pods,
        "clientConnection": {"kubeconfig": str(cluster.folder / "proxy.kubeconfig")},
        "hostnameOverride": name,
        "conntrack": {"maxPerCore": 0, "min": 0},  # the table's size belongs to the machine
    }


def start(node: Node, processes: Processes, binary: Path) -> None:
    """Plug the node in and start its programs; those that run are left alone."""
    if not node.netns_path.exists():
        network.plug(node)
    node.run.mkdir(parents=True, exist_ok=True)
    _make_cgroup(node.cgroup)
    start_containerd(node, processes)
    processes.start(
        f"{node.name}-kubelet",
        [
            *(binary, "kubelet", f"--config={node.folder}/kubelet.json", f"--hostname-override={node.name}"),
            *(f"--kubeconfig={node.folder}/kubelet.kubeconfig", f"--node-ip={node.address}"),
            *(f"--root-dir={node.folder}/kubelet", f"--cert-dir={node.folder}/certs"),
            f"--node-labels=topology.kubernetes.io/zone={node.zone},topology.kubernetes.io/region=local",
        ],
        netns=node.netns_path,
    )
    proxy = [binary, "kube-proxy", f"--config={node.folder}/proxy.json"]
    processes.start(f"{node.name}-proxy", proxy, netns=node.netns_path)


def start_containerd(node: Node, processes: Processes) -> None:
    """Start containerd and wait until it answers: the kubelet gives up when it does not."""
    name = f"{node.name}-containerd"
    processes.start(name, ["containerd", "--config", node.folder / "containerd.toml"], netns=node.netns_path)
    processes.wait(name, lambda: succeeds("ctr", "-a", node.containerd, "version"), 60, "containerd's answer")


def running(node: Node) -> list[int]:
    """Every process of a node: its programs, its pods, and what they started."""
    return in_namespace_or_cgroup(node.netns_path, node.cgroup)


def kill_all(node: Node) -> None:
    """SIGKILL everything on the node, again until nothing new appears."""
    for _ in range(20):
        found = [pid for pid in running(node) if started_at(pid) is not None]
        if not found:
            return
        kill(found, signal.SIGKILL)
        gone(found, 5)
    raise DevError(f"processes of {node.netns} do not end: {found}")


def forget(node: Node) -> None:
    """After all its processes are gone: take away what a switched-off machine does not keep."""
    unmount_below(node.run)
    unmount_below(node.folder / "kubelet" / "pods")
    network.unplug(node)
    shutil.rmtree(node.run, ignore_errors=True)
    remove_cgroup(node.cgroup)


def unmount_below(folder: Path) -> None:
    """Unmount everything below a folder, the innermost first."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for path in sorted((_unescaped(m) for m in mounts), reverse=True):
        if Path(path).is_relative_to(folder):
            run("umount", "--lazy", path)


def _unescaped(path: str) -> str:
    return path.encode().decode("unicode_escape") if "\\" in path else path


def _hierarchies() -> list[Path]:
    """The one of cgroup version 2, or all of version 1 (and the one without controllers beside them)."""
    top = Path("/sys/fs/cgroup")
    if (top / "cgroup.controllers").exists():
        return [top]
    return [p for p in top.iterdir() if p.is_dir() and not p.is_symlink()]


# All pods of a cluster together weigh as much as this many programs of the machine. With the default of one, whatever
# else the machine does starves them, and databases fail over because their heartbeats get no processor.
WEIGHT = 8


def _make_cgroup(name: str) -> None:
    """The kubelet wants its root to exist in every hierarchy; version 1 also wants cpusets filled in from the top."""
    for top in _hierarchies():
        path = top
        cluster = path / name.strip("/").split("/")[0]
        cluster.mkdir(exist_ok=True)
        for file, default in (("cpu.shares", 1024), ("cpu.weight", 100)):
            if (cluster / file).exists():
                (cluster / file).write_text(str(WEIGHT * default))
        for part in name.strip("/").split("/"):
            path /= part
            path.mkdir(exist_ok=True)
            for file in ("cpuset.cpus", "cpuset.mems"):
                if (path / file).exists() and not (path / file).read_text().strip():
                    with contextlib.suppress(OSError):  # version 2 inherits, and may not allow it to be written
                        (path / file).write_text((path.parent / file).read_text())


def remove_cgroup(name: str) -> None:
    """Remove a control group and all below it from every hierarchy; they hold no process any more."""
    for top in _hierarchies():
        path = top / name.strip("/")
        folders = sorted((p for p in path.rglob("*") if p.is_dir()), reverse=True) if path.exists() else []
        for folder in [*folders, path]:
            with contextlib.suppress(OSError):  # gone, or the kernel is still emptying it: an empty group harms nobody
                folder.rmdir()

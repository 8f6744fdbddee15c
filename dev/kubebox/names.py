"""Every name, address and folder of a local cluster, computed from its name and its index.

The index is the only thing that is handed out: the lowest free one, under a lock, kept as long as the cluster exists.
All else follows from it, so two clusters can never meet. The plan of addresses, with the default network 10.88:

| range | what |
|---|---|
| 10.88.INDEX.0/24 | the bridge: .1 this machine (API server, DNS), .2 the gateway, .11 and up the nodes |
| 10.89.(16*INDEX+NODE).0/24 | pods of a node |
| 10.90.(16*INDEX).0/20 | Services; the first address is the API server's, the tenth the DNS server's |
| 127.88.INDEX.1 | etcd |
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dev.host import STATE, DevError, lock

RUN = Path("/run/matriarch-dev")
CLUSTERS = 16
NODES = 9
DOMAIN = "cluster.local"


def network_base() -> tuple[int, int]:
    """The first two numbers of the addresses; MATRIARCH_NETWORK sets them where 10.88, 10.89 and 10.90 are taken."""
    text = os.environ.get("MATRIARCH_NETWORK", "10.88")
    match = re.fullmatch(r"(\d{1,3})\.(\d{1,3})", text)
    if not match or int(match.group(1)) > 223 or int(match.group(2)) > 253:
        raise DevError(
            f"MATRIARCH_NETWORK is `{text}`; it must be two numbers such as 10.88 with the next two ranges free"
        )
    return int(match.group(1)), int(match.group(2))


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a cluster; numbers start at 1."""

    cluster: Cluster
    number: int

    @property
    def name(self) -> str:
        return f"node{self.number}"

    @property
    def netns(self) -> str:
        return f"matriarch-{self.cluster.name}-{self.name}"

    @property
    def netns_path(self) -> Path:
        return Path("/run/netns") / self.netns

    @property
    def link(self) -> str:
        """The machine's end of the node's cable."""
        return f"{self.cluster.bridge}n{self.number}"

    @property
    def address(self) -> str:
        return self.cluster.host(10 + self.number)

    @property
    def pods(self) -> str:
        first, second = self.cluster.base
        return f"{first}.{second + 1}.{16 * self.cluster.index + self.number}.0/24"

    @property
    def zone(self) -> str:
        return f"zone{self.number}"

    @property
    def folder(self) -> Path:
        return self.cluster.folder / self.name

    @property
    def run(self) -> Path:
        """What a machine would lose when it is switched off."""
        return self.cluster.run / self.name

    @property
    def containerd(self) -> Path:
        return self.run / "containerd.sock"

    @property
    def cgroup(self) -> str:
        return f"{self.cluster.cgroup}/{self.name}"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster's names and addresses; says nothing about whether it is up."""

    name: str
    index: int
    size: int = 3
    base: tuple[int, int] = (10, 88)
    state: Path = STATE

    def host(self, number: int) -> str:
        """An address on the cluster's bridge."""
        return f"{self.base[0]}.{self.base[1]}.{self.index}.{number}"

    @property
    def machine(self) -> str:
        """This machine's address on the bridge: API server and DNS; pods reach servers of this machine here too."""
        return self.host(1)

    @property
    def gateway(self) -> str:
        """Where this machine sends what goes to Services."""
        return self.host(2)

    @property
    def gateway_netns(self) -> str:
        return f"matriarch-{self.name}-gateway"

    @property
    def gateway_link(self) -> str:
        return f"{self.bridge}gw"

    @property
    def bridge(self) -> str:
        return f"mtr{self.index}"

    @property
    def all_pods(self) -> str:
        return f"{self.base[0]}.{self.base[1] + 1}.{16 * self.index}.0/20"

    @property
    def services(self) -> str:
        return f"{self.base[0]}.{self.base[1] + 2}.{16 * self.index}.0/20"

    def _service(self, number: int) -> str:
        return str(ipaddress.ip_network(self.services)[number])

    @property
    def api_service(self) -> str:
        return self._service(1)

    @property
    def dns_service(self) -> str:
        return self._service(10)

    @property
    def api(self) -> str:
        return f"https://{self.machine}:6443"

    @property
    def etcd(self) -> str:
        return f"127.88.{self.index}.1"

    @property
    def nodes(self) -> list[Node]:
        return [Node(self, i) for i in range(1, self.size + 1)]

    def node(self, name: str) -> Node:
        """The node of this name, or of this number. Raises DevError when there is none."""
        for node in self.nodes:
            if name in {node.name, str(node.number)}:
                return node
        raise DevError(f"cluster {self.name} has no node `{name}`; it has {', '.join(n.name for n in self.nodes)}")

    @property
    def folder(self) -> Path:
        return self.state / self.name

    @property
    def run(self) -> Path:
        return RUN / self.name

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.kubeconfig"

    @property
    def cgroup(self) -> str:
        return f"/matriarch-{self.name}"

    @property
    def table(self) -> str:
        """The name of the cluster's own nftables tables."""
        return f"matriarch-{self.name}"


def checked(name: str) -> str:
    """The name, when it can be one of a cluster."""
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,19}", name):
        raise DevError(f"`{name}` cannot be a cluster's name: 1 to 20 of a-z, 0-9 and -, beginning with a letter")
    return name


def lowest_free(taken: Mapping[str, int], name: str) -> int:
    """The index of `name`: the one it has, or the lowest that nobody has."""
    if name in taken:
        return taken[name]
    for index in range(CLUSTERS):
        if index not in taken.values():
            return index
    raise DevError(f"all {CLUSTERS} local clusters are in use ({', '.join(sorted(taken))}); take one down first")


def _register() -> Path:
    return RUN / "clusters.json"


def _read() -> dict[str, dict[str, object]]:
    try:
        found = json.loads(_register().read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(clusters: Mapping[str, Mapping[str, object]]) -> None:
    half = _register().with_suffix(".half")
    half.write_text(json.dumps(clusters, indent=1))
    half.rename(_register())


def registered() -> dict[str, Cluster]:
    """The machine's clusters by name, whether they are up, going up, or left behind."""
    found = {}
    for name, entry in _read().items():
        base = entry["base"]
        assert isinstance(base, list)
        found[name] = Cluster(
            name=name,
            index=int(str(entry["index"])),
            size=int(str(entry["size"])),
            base=(int(base[0]), int(base[1])),
            state=Path(str(entry["state"])),
        )
    return found


def allocate(name: str, size: int) -> Cluster:
    """Names and addresses for a cluster that is to be made."""
    checked(name)
    if not 1 <= size <= NODES:
        raise DevError(f"a local cluster has 1 to {NODES} nodes, not {size}")
    with lock(RUN / "lock", timeout=60):
        entries = _read()
        index = lowest_free({n: int(str(e["index"])) for n, e in entries.items()}, name)
        cluster = Cluster(name=name, index=index, size=size, base=network_base())
        entries[name] = {"index": index, "size": size, "base": list(cluster.base), "state": str(cluster.state)}
        _write(entries)
    return cluster


def release(name: str) -> None:
    """Give a cluster's index back, after nothing of it is left."""
    with lock(RUN / "lock", timeout=60):
        entries = _read()
        if entries.pop(name, None) is not None:
            _write(entries)


def find(name: str) -> Cluster:
    """The cluster of this name. Raises DevError when there is none."""
    clusters = registered()
    if checked(name) not in clusters:
        others = f"; there are {', '.join(sorted(clusters))}" if clusters else ""
        raise DevError(f"there is no cluster `{name}`{others}; `make cluster NAME={name}` makes it")
    return clusters[name]

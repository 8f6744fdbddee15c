"""The Kubernetes that tests and the demo stand on, whichever there is.

    python -m dev.cluster up [--name dev]        prints the kubeconfig's path
    python -m dev.cluster down [--name dev]

| chosen when | what |
|---|---|
| CLUSTER=existing | the cluster that KUBECONFIG names, as it is; images go to IMAGE_REGISTRY |
| CLUSTER=kind, or a container engine answers and `kind` is installed | kind with kind-config.yaml |
| CLUSTER=kubebox, or otherwise | `dev/kubebox`: no engine needed, several nodes, faults |

The kind way is written to kind's documentation and has not been run by the project's tests.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dev import gcs, images, s3
from dev.host import PROJECT, STATE, DevError, lock, run, say, succeeds
from dev.kubebox import cluster as lifecycle
from dev.kubebox import faults, names, nodeimages, seed
from dev.kubebox.network import Direction

Kind = Literal["existing", "kind", "kubebox"]


@dataclass(frozen=True, slots=True)
class Nodes:
    """What can be done to the machines of a local cluster; nodes by their Kubernetes names."""

    cluster: names.Cluster

    def cut(self, node: str, direction: Literal["both", "in", "out"] = "both") -> None:
        """Drop silently what the node sends (out), what is sent to it (in), or both."""
        faults.cut_link(self.cluster, node, Direction(direction))

    def refuse(self, node: str) -> None:
        """Reset and refuse all that goes to or from the node's pods; `heal` ends it."""
        faults.refuse_link(self.cluster, node)

    def heal(self, node: str) -> None:
        faults.heal_link(self.cluster, node)

    def kill_node(self, node: str) -> None:
        """Switch the node off: silent, no process survives."""
        faults.kill_node(self.cluster, node)

    def start_node(self, node: str) -> None:
        faults.start_node(self.cluster, node)

    def stop_api(self) -> None:
        faults.stop_api_server(self.cluster)

    def freeze_api(self) -> None:
        """Calls hang instead of being refused; `start_api` thaws."""
        faults.stop_api_server(self.cluster, freeze=True)

    def start_api(self) -> None:
        faults.start_api_server(self.cluster)


@dataclass(frozen=True, slots=True)
class Ground:
    """A cluster that is up: how to reach it and what it can do. `nodes` is None where faults are not to be had."""

    kind: Kind
    name: str
    kubeconfig: Path
    nodes: Nodes | None = None

    def load_images(self) -> dict[str, str]:
        """The names of the present sources' images (`postgres`, `operator`), built and on every node."""
        built = {name: images.build(recipe) for name, recipe in images.RECIPES.items()}
        archives = [image.archive for image in built.values()]
        if self.nodes:
            nodeimages.load(self.nodes.cluster, archives)
            seed.ensure(images.dependencies(), archives)
        elif self.kind == "kind":
            for archive in archives:
                run("kind", "load", "image-archive", archive, "--name", _kind_name(self.name), timeout=900)
        else:
            return {name: _push(image) for name, image in built.items()}
        return {name: image.name for name, image in built.items()}

    def s3(self) -> s3.S3Server:
        """A real S3 server that pods and this machine reach at the same address; the cluster's end is its end."""
        if self.nodes:
            cluster = self.nodes.cluster
            return s3.ensure(cluster.folder / "s3", address=cluster.machine, port=7070)
        return s3.ensure(STATE / f"s3-{self.name}", address=_address_for_pods(self.kind), port=7070)

    def gcs(self) -> gcs.GcsServer:
        """An emulator of Google Cloud Storage, reached as the S3 server is."""
        if self.nodes:
            cluster = self.nodes.cluster
            return gcs.ensure(cluster.folder / "gcs", address=cluster.machine, port=7071)
        return gcs.ensure(STATE / f"gcs-{self.name}", address=_address_for_pods(self.kind), port=7071)


def _push(image: images.Image) -> str:
    registry = os.environ.get("IMAGE_REGISTRY")
    if not registry:
        raise DevError(
            "with CLUSTER=existing the nodes must get the images from a registry; "
            "set IMAGE_REGISTRY to one that you are logged in to, such as registry.example.com/team"
        )
    target = f"{registry.rstrip('/')}/{image.name.removeprefix('localhost/')}"
    if images.engine() == "docker":
        run("docker", "tag", image.name, target)
        run("docker", "push", target, timeout=1800)
    else:
        run("buildah", "push", image.name, f"docker://{target}", timeout=1800)
    return target


def _address_for_pods(kind: Kind) -> str:
    """This machine's address as pods see it."""
    given = os.environ.get("HOST_ADDRESS")
    if given:
        return given
    if kind == "kind":
        networks = json.loads(run("docker", "network", "inspect", "kind"))[0]["IPAM"]["Config"]
        for network in networks:
            if "." in network.get("Gateway", ""):
                return str(network["Gateway"])
    raise DevError("set HOST_ADDRESS to the address of this machine that the cluster's pods can reach")


def _kind_name(name: str) -> str:
    return f"matriarch-{name}"


def chosen(environment: Mapping[str, str], *, engine: bool) -> Kind:
    """Which way is taken; `engine` says whether a container engine answers and kind is installed."""
    wanted = environment.get("CLUSTER", "")
    if wanted in {"existing", "kind", "kubebox"}:
        return wanted  # type: ignore[return-value]  # one of the three, as just seen
    if wanted:
        raise DevError(f"CLUSTER is `{wanted}`; it can be existing, kind or kubebox")
    return "kind" if engine else "kubebox"


def _engine() -> bool:
    return shutil.which("kind") is not None and succeeds("timeout", "10", "docker", "version")


def up(name: str = "dev", *, nodes: int = 3) -> Ground:
    """A working cluster of this name: the one that is up, or a new one."""
    kind = chosen(os.environ, engine=not os.environ.get("CLUSTER") and _engine())
    if kind == "existing":
        return Ground(kind, name, _existing())
    if kind == "kind":
        return Ground(kind, name, _kind_up(name))
    cluster = lifecycle.up(name, nodes=nodes)
    return Ground(kind, name, cluster.kubeconfig, Nodes(cluster))


def find(name: str = "dev") -> Ground:
    """The cluster of this name that is up. Raises DevError when there is none."""
    if os.environ.get("CLUSTER") == "existing":
        return Ground("existing", name, _existing())
    if name in names.registered():
        cluster = names.find(name)
        return Ground("kubebox", name, cluster.kubeconfig, Nodes(cluster))
    kubeconfig = STATE / f"kind-{name}.kubeconfig"
    if kubeconfig.exists():
        return Ground("kind", name, kubeconfig)
    raise DevError(f"there is no cluster `{name}`; `make cluster NAME={name}` makes it")


def _existing() -> Path:
    first = os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
    path = Path(first) if first else Path.home() / ".kube" / "config"
    if not path.is_file():
        raise DevError(f"CLUSTER=existing needs a kubeconfig, and {path} is not there; set KUBECONFIG")
    return path


def _kind_up(name: str) -> Path:
    kubeconfig = STATE / f"kind-{name}.kubeconfig"
    with lock(STATE / f"kind-{name}.lock"):
        if _kind_name(name) not in run("kind", "get", "clusters").split():
            say(f"kind makes the cluster {_kind_name(name)}")
            config = PROJECT / "kind-config.yaml"
            run(
                *("kind", "create", "cluster", "--name", _kind_name(name), "--config", config),
                *("--kubeconfig", kubeconfig, "--wait", "180s"),
                timeout=900,
            )
        elif not kubeconfig.exists():
            run("kind", "export", "kubeconfig", "--name", _kind_name(name), "--kubeconfig", kubeconfig)
    return kubeconfig


def down(name: str = "dev") -> None:
    """Take the cluster of this name away; an existing one of the user's is never touched."""
    if os.environ.get("CLUSTER") == "existing":
        return
    kubeconfig = STATE / f"kind-{name}.kubeconfig"
    if kubeconfig.exists():
        run("kind", "delete", "cluster", "--name", _kind_name(name))
        kubeconfig.unlink()
    elif sys.platform == "linux":
        lifecycle.down(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("up", "down"))
    parser.add_argument("--name", default=os.environ.get("NAME") or "dev")
    args = parser.parse_args()
    try:
        if args.verb == "up":
            print(up(args.name).kubeconfig)
        else:
            down(args.name)
    except DevError as e:
        sys.exit(f"cluster: {e}")


if __name__ == "__main__":
    main()

"""The command line of the local Kubernetes: `python -m dev.kubebox VERB --name NAME`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from dev import programs
from dev.cluster import find
from dev.host import DevError
from dev.kubebox import cluster as lifecycle
from dev.kubebox import faults, names, nodeimages
from dev.kubebox.network import Direction
from dev.kubebox.node import running
from dev.kubebox.processes import Processes


def _up(args: argparse.Namespace) -> None:
    cluster = lifecycle.up(args.name, nodes=args.nodes, replace=args.replace)
    print(cluster.kubeconfig)


def _down(args: argparse.Namespace) -> None:
    print(f"cluster {args.name} is gone" if lifecycle.down(args.name) else f"there was no cluster {args.name}")


def _status(args: argparse.Namespace) -> None:
    cluster = names.find(args.name)
    processes = Processes(cluster.folder)
    print(
        json.dumps(
            {
                "name": cluster.name,
                "healthy": lifecycle.healthy(cluster),
                "kubeconfig": str(cluster.kubeconfig),
                "logs": str(cluster.folder / "logs"),
                "machine": cluster.machine,
                "services": cluster.services,
                "programs": {n: processes.pid(n) for n in processes.names()},
                "nodes": {n.name: {"address": n.address, "processes": len(running(n))} for n in cluster.nodes},
            },
            indent=2,
        )
    )


def _list(_args: argparse.Namespace) -> None:
    for name, cluster in sorted(names.registered().items()):
        print(f"{name}\t{cluster.kubeconfig}")


def _load(args: argparse.Namespace) -> None:
    cluster = names.find(args.name)
    if args.archive:
        print(f"{nodeimages.load(cluster, args.archive)} imports")
    else:
        for name in find(args.name).load_images().values():
            print(name)


def _kubectl(args: argparse.Namespace) -> None:
    binary = programs.ensure("kubebox")
    environment = {**os.environ, "KUBECONFIG": str(names.find(args.name).kubeconfig)}
    os.execve(binary, [str(binary), "kubectl", *args.words], environment)


FAULTS: dict[str, tuple[str, Callable[[argparse.Namespace], None]]] = {
    "kill-node": (
        "switch a node off: silent, nothing survives",
        lambda a: faults.kill_node(names.find(a.name), a.node),
    ),
    "start-node": ("switch it on again", lambda a: faults.start_node(names.find(a.name), a.node)),
    "cut": ("cut a node's cable", lambda a: faults.cut_link(names.find(a.name), a.node, Direction(a.direction))),
    "heal": ("make it whole again", lambda a: faults.heal_link(names.find(a.name), a.node)),
    "stop-apiserver": ("kill the API server", lambda a: faults.stop_api_server(names.find(a.name), freeze=a.freeze)),
    "start-apiserver": ("start it again, or thaw it", lambda a: faults.start_api_server(names.find(a.name))),
}


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--name", default=os.environ.get("NAME") or "dev", help="the cluster's name (default: dev)")
    parser = argparse.ArgumentParser(
        prog="python -m dev.kubebox", description="A real Kubernetes of several nodes on this machine."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, text: str, act: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text, parents=[common])
        sub.set_defaults(act=act)
        return sub

    up = verb("up", "make a cluster, or use the one that is up; prints the kubeconfig's path", _up)
    up.add_argument("--nodes", type=int, default=3, help=f"1 to {names.NODES} (default: 3)")
    up.add_argument("--replace", action="store_true", help="a new cluster even when a good one is up")
    verb("down", "take a cluster and all that belongs to it away", _down)
    verb("status", "what is up, as JSON", _status)
    verb("list", "every cluster of this machine with its kubeconfig", _list)
    load = verb("load", "put the images of the present sources, or image archives, on every node", _load)
    load.add_argument("archive", nargs="*", type=Path, help="default: the project's images, built when they changed")
    kubectl = verb("kubectl", "kubectl against this cluster", _kubectl)
    kubectl.add_argument("words", nargs=argparse.REMAINDER)
    for name, (text, act) in FAULTS.items():
        fault = verb(name, text, act)
        if name == "stop-apiserver":
            fault.add_argument("--freeze", action="store_true", help="let calls hang instead of being refused")
        elif name != "start-apiserver":
            fault.add_argument("node", help="node1, node2, … or its number")
        if name == "cut":
            fault.add_argument(
                "--direction", choices=list(Direction), default=Direction.BOTH, help="as the node sees it"
            )
    return parser


def main() -> None:
    args = _parser().parse_args()
    try:
        args.act(args)
    except DevError as e:
        sys.exit(f"kubebox: {e}")


if __name__ == "__main__":
    main()

"""The wires of a local cluster: a bridge, a cable to every node, the gateway, and the faults of cables.

All nodes hang on one bridge of the machine. Pods are routed, not tunnelled: every node knows which node has which pods.

The gateway is a network namespace with nothing but a kube-proxy in it. The machine routes the range of Services
there, so Services can be reached from the machine whichever node is lost. It is a namespace of its own because two
kube-proxies in one namespace would take each other's rules away, and several clusters share the machine.

Cables are cut with nftables on the bridge: frames vanish, nobody is told, as when a switch dies. Taking the link
down instead would tell the node's kernel.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path

from dev.host import DevError, run, succeeds
from dev.kubebox.names import Cluster, Node


class Direction(StrEnum):
    """Which way a cable is cut, as the node sees it."""

    BOTH = "both"
    IN = "in"  # nothing reaches the node; what it sends arrives
    OUT = "out"  # nothing leaves the node; it still hears everybody


def make(cluster: Cluster) -> None:
    """Bridge, gateway, routes and address translation; nodes are plugged in one by one."""
    _refuse_taken_ranges(cluster)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    run("ip", "link", "add", cluster.bridge, "type", "bridge", "forward_delay", "0")
    run("ip", "address", "add", f"{cluster.machine}/24", "dev", cluster.bridge)
    run("ip", "link", "set", cluster.bridge, "up")
    _cable(cluster, cluster.gateway_netns, cluster.gateway_link, cluster.gateway)
    run("ip", "route", "replace", cluster.services, "via", cluster.gateway)
    for node in cluster.nodes:
        run("ip", "route", "replace", node.pods, "via", node.address)
        run("ip", "-n", cluster.gateway_netns, "route", "replace", node.pods, "via", node.address)
    _rules(cluster)


def _refuse_taken_ranges(cluster: Cluster) -> None:
    for wanted in (f"{cluster.host(0)}/24", cluster.all_pods, cluster.services):
        for route in json.loads(run("ip", "-json", "route", "show", "root", wanted)):
            if route["dst"] != "default" and not str(route.get("dev", "")).startswith("mtr"):
                raise DevError(
                    f"the addresses {wanted} are already routed to {route.get('dev')} on this machine; "
                    "set MATRIARCH_NETWORK to two numbers whose ranges are free, such as 10.120"
                )


def plug(node: Node) -> None:
    """A network namespace for a node and its cable."""
    cluster = node.cluster
    _cable(cluster, node.netns, node.link, node.address)
    for other in cluster.nodes:
        if other != node:
            run("ip", "-n", node.netns, "route", "replace", other.pods, "via", other.address)


def _cable(cluster: Cluster, netns: str, link: str, address: str) -> None:
    run("ip", "netns", "add", netns)
    run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", netns)
    run("ip", "link", "set", link, "master", cluster.bridge, "up")
    inside = ("ip", "-n", netns)
    run(*inside, "link", "set", "lo", "up")
    run(*inside, "address", "add", f"{address}/24", "dev", "eth0")
    run(*inside, "link", "set", "eth0", "up")
    run(*inside, "route", "add", "default", "via", cluster.machine)
    settings = {
        "net.ipv4.ip_forward": 1,
        "net.ipv4.conf.all.route_localnet": 1,
        "net.ipv4.conf.all.rp_filter": 0,
        "net.ipv4.conf.eth0.rp_filter": 0,
        # The gateway sends packets back over the cable they came by: that must not teach the machine another way.
        "net.ipv4.conf.all.send_redirects": 0,
        "net.ipv4.conf.eth0.send_redirects": 0,
        "net.bridge.bridge-nf-call-iptables": 1,
    }
    words = [f"{key}={value}" for key, value in settings.items()]
    # A kernel without br_netfilter lacks the last; then bridged packets are left alone anyway.
    succeeds("nsenter", f"--net=/run/netns/{netns}", "sysctl", "-qew", *words)


def unplug(node: Node) -> None:
    """Take a node's cable and namespace away; its processes must be gone."""
    succeeds("ip", "link", "delete", node.link)
    succeeds("ip", "netns", "delete", node.netns)


def _rules(cluster: Cluster) -> None:
    """One table for the way out to the world, one on the bridge for cut cables; both are the cluster's own."""
    run(
        "nft",
        "-f",
        "-",
        stdin=f"""
        table ip {cluster.table} {{
          chain out {{
            type nat hook postrouting priority srcnat;
            ip saddr {{ {cluster.host(0)}/24, {cluster.all_pods} }} oifname != "{cluster.bridge}" masquerade
          }}
        }}
        table bridge {cluster.table} {{
          set from_cut {{ type ifname; }}
          set to_cut {{ type ifname; }}
          chain sent {{ type filter hook prerouting priority -300; iifname @from_cut drop; }}
          chain received {{ type filter hook postrouting priority 300; oifname @to_cut drop; }}
        }}
        """,
    )
    # Where the firewall forbids forwarding (Docker does), the cluster's packets must pass. Rules are marked by name.
    if "-P FORWARD DROP" in run("iptables", "-S", "FORWARD"):
        for side in ("-i", "-o"):
            run(
                "iptables",
                "-I",
                "FORWARD",
                side,
                cluster.bridge,
                "-m",
                "comment",
                "--comment",
                cluster.table,
                "-j",
                "ACCEPT",
            )


def cut(node: Node, direction: Direction = Direction.BOTH) -> None:
    """Silently drop what a node sends, what is sent to it, or both. What was cut before and is not named is healed."""
    ways = {
        "from_cut": direction in {Direction.BOTH, Direction.OUT},
        "to_cut": direction in {Direction.BOTH, Direction.IN},
    }
    lines = []
    for name, wanted in ways.items():
        # Added first, so that deleting what is not there is no error; one transaction, so nobody sees between.
        lines.append(f"add element bridge {node.cluster.table} {name} {{ {node.link} }}")
        if not wanted:
            lines.append(f"delete element bridge {node.cluster.table} {name} {{ {node.link} }}")
    run("nft", "-f", "-", stdin="\n".join(lines) + "\n")


REFUSAL = "matriarch_refusal"


def refuse(node: Node) -> None:
    """Answer all that goes to or from the node's pods with a reset or a refusal, as a firewall does that rejects.

    The node itself keeps talking to the API server: it stays Ready, and only its pods are alone.
    """
    tcp, rest = "meta l4proto tcp reject with tcp reset", "reject"
    sides = "".join(f'{side} "eth0" {tcp}\n{side} "eth0" {rest}\n' for side in ("iifname", "oifname"))
    rules = f"table inet {REFUSAL} {{\nchain passing {{\ntype filter hook forward priority -10;\n{sides}}}\n}}\n"
    run("nsenter", f"--net={node.netns_path}", "nft", "-f", "-", stdin=f"{_no_refusal()}\n{rules}")


def _no_refusal() -> str:
    # Added first, so that deleting what is not there is no error.
    return f"add table inet {REFUSAL}\ndelete table inet {REFUSAL}"


def heal(node: Node) -> None:
    """Undo every cut of a node's cable, and every refusal."""
    if node.netns_path.exists():
        run("nsenter", f"--net={node.netns_path}", "nft", "-f", "-", stdin=f"{_no_refusal()}\n")
    table = node.cluster.table
    lines = []
    for name in ("from_cut", "to_cut"):
        lines += [f"{verb} element bridge {table} {name} {{ {node.link} }}" for verb in ("add", "delete")]
    run("nft", "-f", "-", stdin="\n".join(lines) + "\n")


def remove(cluster: Cluster) -> None:
    """Take away all that `make` and `plug` made; what is not there doesn't matter."""
    for node in cluster.nodes:
        unplug(node)
    succeeds("ip", "link", "delete", cluster.gateway_link)
    succeeds("ip", "netns", "delete", cluster.gateway_netns)
    succeeds("ip", "link", "delete", cluster.bridge)
    for family in ("ip", "bridge"):
        succeeds("nft", "delete", "table", family, cluster.table)
    for side in ("-i", "-o"):
        rule = (side, cluster.bridge, "-m", "comment", "--comment", cluster.table, "-j", "ACCEPT")
        while succeeds("iptables", "-D", "FORWARD", *rule):
            pass

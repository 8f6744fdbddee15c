"""Clusters side by side never share a name or an address."""

from __future__ import annotations

import ipaddress
from itertools import combinations
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dev.host import DevError
from dev.kubebox import names
from dev.kubebox.names import CLUSTERS, NODES, Cluster

if TYPE_CHECKING:
    from pathlib import Path

ALL = [Cluster(f"c{i}", i, size=NODES) for i in range(CLUSTERS)]


def _networks(cluster: Cluster) -> list[ipaddress.IPv4Network]:
    ranges = [f"{cluster.host(0)}/24", cluster.all_pods, cluster.services]
    return [ipaddress.IPv4Network(r) for r in ranges]


def test_no_two_ranges_of_any_clusters_overlap() -> None:
    everything = [n for cluster in ALL for n in _networks(cluster)]
    assert not [(a, b) for a, b in combinations(everything, 2) if a.overlaps(b)]


def test_nodes_have_their_own_pods_within_the_clusters() -> None:
    for cluster in ALL:
        pods = [ipaddress.IPv4Network(n.pods) for n in cluster.nodes]
        assert not [(a, b) for a, b in combinations(pods, 2) if a.overlaps(b)]
        assert all(p.subnet_of(ipaddress.IPv4Network(cluster.all_pods)) for p in pods)
        assert all(
            ipaddress.ip_address(n.address) in ipaddress.IPv4Network(f"{cluster.host(0)}/24") for n in cluster.nodes
        )


def test_the_services_of_api_and_dns_are_the_first_and_the_tenth() -> None:
    cluster = Cluster("c", 3)
    assert cluster.services == "10.90.48.0/20"
    assert cluster.api_service == "10.90.48.1"
    assert cluster.dns_service == "10.90.48.10"


def test_links_have_names_that_the_kernel_takes_and_nobody_else_has() -> None:
    links = [link for c in ALL for link in (c.bridge, c.gateway_link, *(n.link for n in c.nodes))]
    assert len(set(links)) == len(links)
    assert all(len(link) <= 15 for link in links)


def test_sockets_have_paths_that_the_kernel_takes() -> None:
    longest = Cluster("a" * 20, 15, size=NODES).nodes[-1]
    assert len(f"{longest.containerd}.ttrpc") < 100


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, CLUSTERS - 1), max_size=10))
def test_an_index_is_free_and_the_lowest(taken: dict[str, int]) -> None:
    index = names.lowest_free(taken, "new")
    assert index not in taken.values()
    assert all(i in taken.values() for i in range(index))
    assert all(names.lowest_free(taken, n) == i for n, i in taken.items())


def test_no_index_is_left_when_all_are_taken() -> None:
    with pytest.raises(DevError, match="all 16 local clusters are in use"):
        names.lowest_free({f"c{i}": i for i in range(CLUSTERS)}, "new")


@pytest.mark.parametrize("name", ["", "A", "1a", "a_b", "a" * 21, "a/b", "../a"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(DevError, match="cannot be a cluster's name"):
        names.checked(name)


def test_a_cluster_keeps_its_index_until_it_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "RUN", tmp_path)
    first, second = names.allocate("a", 3), names.allocate("b", 1)
    assert (first.index, second.index) == (0, 1)
    assert names.allocate("b", 2).index == 1
    names.release("a")
    names.release("a")
    assert names.allocate("c", 3).index == 0
    assert {n: (c.index, c.size) for n, c in names.registered().items()} == {"b": (1, 2), "c": (0, 3)}
    with pytest.raises(DevError, match="there is no cluster `a`; there are b, c"):
        names.find("a")


def test_a_torn_register_is_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "RUN", tmp_path)
    (tmp_path / "clusters.json").write_text('{"a": {"ind')
    assert names.registered() == {}


@pytest.mark.parametrize("name", ["node2", "2"])
def test_a_node_is_found_by_name_and_number(name: str) -> None:
    assert Cluster("c", 0).node(name).number == 2


def test_an_unknown_node_is_refused() -> None:
    with pytest.raises(DevError, match="it has node1, node2, node3"):
        Cluster("c", 0).node("node4")


@pytest.mark.parametrize("text", ["10", "10.254", "300.1", "10.88.0", "a.b"])
def test_a_bad_network_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATRIARCH_NETWORK", text)
    with pytest.raises(DevError, match="MATRIARCH_NETWORK"):
        names.network_base()

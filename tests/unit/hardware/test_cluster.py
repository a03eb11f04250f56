"""The graph of a cluster, counted by hand and against networkx."""

from __future__ import annotations

from itertools import combinations

import networkx as nx
import numpy as np
import pytest

from clustersim.errors import CapacityError, PlacementError
from clustersim.hardware.cluster import LinkKind, VertexKind, build_cluster
from clustersim.hardware.graph import bisection_bytes_per_s, summarise, to_networkx
from clustersim.hardware.paths import pair_path
from clustersim.hardware.routes import route, switches_crossed
from tests.hardware_clusters import cluster_of, megascale

GB = 1e9


def test_a_unit_of_twenty_dgx_a100_has_the_parts_of_the_data_sheet():
    cluster = build_cluster(cluster_of(20))
    count = {kind: cluster.count(kind) for kind in VertexKind}
    assert count[VertexKind.GPU] == count[VertexKind.NIC] == 160
    assert count[VertexKind.SCALE_UP_SWITCH] == 20
    assert count[VertexKind.PCIE_SWITCH] == count[VertexKind.NVME] == 80
    assert count[VertexKind.CPU] == count[VertexKind.DRAM] == 40
    assert (count[VertexKind.LEAF], count[VertexKind.SPINE]) == (8, 0)
    # a node: 8 NVLink, 8 GPU-PCIe, 8 NIC-PCIe, 4 PCIe-socket, 2 memory, 1 socket, 4 drives, 8 NICs
    assert cluster.links == 2 * 20 * (8 + 8 + 8 + 4 + 2 + 1 + 4 + 8)


def test_seven_units_have_the_switches_of_the_reference_design():
    summary = summarise(build_cluster(cluster_of(140, tiers=3)))
    assert summary.switches == {"leaf": 56, "spine": 80, "core": 28}
    assert summary.cables == {"below_leaf": 1120, "below_spine": 1120, "below_core": 1120}
    assert summary.oversubscription == {"leaf": 1.0, "spine": 1.0}
    assert summary.bisection_bytes_per_s == pytest.approx(70 * 8 * 25 * GB)


def test_a_small_clos_is_wired_as_drawn_by_hand():
    # 4-port switches: 2 nodes a pod, 2 leaves a pod; 2 tiers: 4 leaves, 2 spines of 4 cables
    cluster = build_cluster(cluster_of(4, tiers=2, ports=4, gpus=2, nics=2))
    assert (cluster.plan.pods, cluster.plan.leaves, cluster.plan.spines) == (2, 4, 2)
    first = cluster.first(VertexKind.LEAF)
    assert cluster.ports_used().tolist() == [4, 4, 4, 4, 4, 4]
    nics = cluster.first(VertexKind.NIC)
    assert cluster.neighbours(first).tolist() == [nics, nics + 2, first + 4, first + 5]


CLUSTERS = [
    cluster_of(1, kind="single_node"),
    cluster_of(3, tiers=1),
    cluster_of(6, tiers=2, ports=8, gpus=2, nics=2),
    cluster_of(8, tiers=3, ports=4, gpus=2, nics=2),
    cluster_of(10, tiers=3, ports=8, port_gbits=400, gpus=4, nics=2, scale_up="mesh"),
    cluster_of(8, kind="fat_tree", tiers=3, ports=6, oversubscription=2.0, gpus=4, nics=1),
    cluster_of(7, kind="fat_tree", tiers=2, ports=8, oversubscription=1.7, gpus=4, nics=2),
    cluster_of(4, tiers=2, ports=16, scale_up="pcie", domain_gpus=1, bandwidth=32 * GB),
    cluster_of(3, tiers=2, ports=24, scale_up="mesh", link="xgmi", nics=4, pcie_switches=0),
    cluster_of(2, domain_gpus=4, drives=0),
    cluster_of(36, tiers=2, gpus=4, nics=4, domain_gpus=72),
]


@pytest.mark.parametrize("topology", CLUSTERS)
def test_every_link_has_its_reverse_and_no_switch_has_too_many_cables(topology):
    cluster = build_cluster(topology)
    back = cluster.reverse
    assert (cluster.source[back] == cluster.target).all()
    assert (cluster.target[back] == cluster.source).all()
    same = cluster.link_kind != LinkKind.NVME
    rates = cluster.capacity_bytes_per_s
    assert (rates[back][same] == rates[same]).all()
    assert (rates > 0).all()
    ports = topology.fabric.switch.ports if topology.fabric.switch else 0
    assert cluster.ports_used().max(initial=0) <= ports


@pytest.mark.parametrize("topology", CLUSTERS)
def test_routes_are_connected_and_cross_as_many_switches_as_the_path_says(topology):
    cluster = build_cluster(topology)
    gpus = cluster.count(VertexKind.GPU)
    for a in range(0, gpus, 3):
        for b in range(gpus):
            links = route(cluster, a, b, flow=a)
            ends = [a, *cluster.target[links].tolist()]
            assert ends[:-1] == cluster.source[links].tolist()
            assert ends[-1] == b
            if a != b:
                hops = pair_path(topology, a, b).switch_hops
                assert switches_crossed(cluster, links) == hops


@pytest.mark.parametrize("topology", CLUSTERS)
def test_the_diameter_is_that_of_networkx(topology):
    cluster = build_cluster(topology)
    gpus = cluster.count(VertexKind.GPU)
    graph = to_networkx(cluster)
    assert graph.number_of_edges() == cluster.links
    lengths = [nx.single_source_shortest_path_length(graph, rank) for rank in range(gpus)]
    farthest = max(length[b] for length in lengths for b in range(gpus))
    assert summarise(cluster).diameter_hops == farthest


def least_cut(topology) -> float:
    """Narrowest cut over all ways to part the nodes in two halves, by maximum flow."""
    cluster = build_cluster(topology)
    graph = nx.DiGraph()
    for link in np.flatnonzero(cluster.link_kind == LinkKind.NETWORK):
        ends = int(cluster.source[link]), int(cluster.target[link])
        graph.add_edge(*ends, capacity=round(cluster.capacity_bytes_per_s[link]))
    nics, first = topology.node.nics.count, cluster.first(VertexKind.NIC)
    half = topology.nodes // 2
    flows = []
    for chosen in combinations(range(topology.nodes), half):
        if topology.nodes % 2 == 0 and 0 not in chosen:
            continue
        cut = graph.copy()
        for node in range(topology.nodes):
            for nic in range(first + node * nics, first + (node + 1) * nics):
                cut.add_edge(*(("from", nic) if node in chosen else (nic, "to")))
        flows.append(nx.maximum_flow_value(cut, "from", "to"))
    return float(min(flows))


@pytest.mark.parametrize(
    "topology",
    [
        cluster_of(5, tiers=1),
        cluster_of(6, tiers=2, ports=8, gpus=2, nics=2),
        cluster_of(6, tiers=3, ports=4, gpus=2, nics=2),
        cluster_of(6, kind="fat_tree", tiers=2, ports=6, oversubscription=2.0, gpus=4, nics=2),
        cluster_of(7, kind="fat_tree", tiers=2, ports=8, oversubscription=3.0, gpus=4, nics=2),
        cluster_of(8, kind="fat_tree", tiers=3, ports=6, oversubscription=2.0, gpus=4, nics=1),
        cluster_of(5, tiers=2, ports=12, oversubscription=5.0, gpus=2, nics=2),
    ],
)
def test_bisection_is_the_least_balanced_cut(topology):
    plan = build_cluster(topology).plan
    assert bisection_bytes_per_s(topology, plan) == pytest.approx(least_cut(topology))


def test_bisection_inside_a_node_is_that_of_its_scale_up_links():
    def inside(**changes) -> float:
        cluster = build_cluster(cluster_of(1, kind="single_node", **changes))
        return bisection_bytes_per_s(cluster.topology, cluster.plan)

    assert inside() == 4 * 300 * GB
    assert inside(gpus=4, nics=4, scale_up="mesh") == pytest.approx(4 * 100 * GB)
    # the hybrid cube mesh of V100: four pairs joined by 2, 2, 1 and 1 links of 25 GB/s
    cube = inside(scale_up="mesh", link="nvlink2", bandwidth=150 * GB)
    assert cube == pytest.approx(6 * 25 * GB)
    # four PCIe switches on two sockets: two switches' ways up are the narrowest
    assert inside(scale_up="pcie", domain_gpus=1) == pytest.approx(2 * 32 * GB)


def test_flows_spread_over_all_spines():
    cluster = build_cluster(megascale(128))
    spines = {int(cluster.target[route(cluster, 0, 8 * 100, flow)[3]]) for flow in range(400)}
    assert len(spines) == cluster.plan.group_spines


def test_rails_change_over_nvlink_before_the_fabric():
    cluster = build_cluster(cluster_of(10))
    links = route(cluster, 0, 8 + 5)
    assert cluster.link_kind[links[:2]].tolist() == [LinkKind.SCALE_UP, LinkKind.SCALE_UP]
    assert cluster.latency_s[links].sum() == pytest.approx(130e-9)


def test_ranks_and_nodes_out_of_range_are_refused():
    cluster = build_cluster(cluster_of(8), nodes=2)
    assert cluster.count(VertexKind.GPU) == 16
    with pytest.raises(PlacementError, match="rank 16"):
        route(cluster, 0, 16)
    with pytest.raises(CapacityError, match="0 nodes"):
        build_cluster(cluster_of(8), nodes=0)


def test_one_hundred_thousand_gpus_fit_in_sixty_megabytes():
    cluster = build_cluster(megascale(12500))
    assert cluster.count(VertexKind.GPU) == 100_000
    arrays = [value for value in vars(cluster).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) < 60e6
    assert cluster.ports_used().max() <= 64

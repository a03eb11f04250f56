"""Laws of clusters: symmetry, ports, shares, routes."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from clustersim.errors import CapacityError
from clustersim.hardware.cluster import LinkKind, VertexKind, build_cluster
from clustersim.hardware.fabric import plan_fabric
from clustersim.hardware.graph import bisection_bytes_per_s
from clustersim.hardware.paths import group_path, nic_of, pair_path
from clustersim.hardware.routes import route, switches_crossed
from tests.hardware_clusters import cluster_of


@st.composite
def topologies(draw):
    """Small clusters of any shape whose ports suffice."""
    gpus = draw(st.sampled_from([1, 2, 4, 8]))
    scale_up = draw(st.sampled_from(["switch", "mesh", "pcie"]))
    topology = cluster_of(
        draw(st.integers(1, 24)),
        kind=draw(st.sampled_from(["rail_clos", "fat_tree"])),
        tiers=draw(st.integers(0, 3)),
        ports=draw(st.integers(2, 40)),
        port_gbits=draw(st.sampled_from([100, 200, 400, 800])),
        oversubscription=draw(st.sampled_from([1.0, 1.5, 2.0, 3.0])),
        gpus=gpus,
        nics=draw(st.integers(1, gpus)),
        nic_gbits=draw(st.sampled_from([100, 200, 400])),
        scale_up=scale_up,
        domain_gpus=1 if scale_up == "pcie" else draw(st.sampled_from([gpus, max(1, gpus // 2)])),
        pcie_switches=draw(st.integers(0, 4)),
    )
    try:
        plan_fabric(topology)
    except CapacityError:
        assume(False)
    return topology


@given(topology=topologies())
@settings(max_examples=80, deadline=None)
def test_links_come_in_pairs_and_ports_are_respected(topology):
    cluster = build_cluster(topology)
    rates, back = cluster.capacity_bytes_per_s, cluster.reverse
    assert (cluster.source[back] == cluster.target).all()
    assert (back[back] == np.arange(cluster.links)).all()
    same = cluster.link_kind != LinkKind.NVME
    assert (rates[back][same] == rates[same]).all()
    assert cluster.ports_used().max() <= topology.fabric.switch.ports + 1e-9


@given(topology=topologies(), data=st.data())
@settings(max_examples=80, deadline=None)
def test_a_route_crosses_the_switches_that_the_path_says(topology, data):
    cluster = build_cluster(topology)
    gpus = cluster.count(VertexKind.GPU)
    assume(gpus > 1)
    a, b = data.draw(st.lists(st.integers(0, gpus - 1), min_size=2, max_size=2, unique=True))
    links = route(cluster, a, b, data.draw(st.integers(0, 99)))
    assert cluster.source[links[0]] == a
    assert cluster.target[links[-1]] == b
    assert (cluster.target[links[:-1]] == cluster.source[links[1:]]).all()
    assert switches_crossed(cluster, links) == pair_path(topology, a, b).switch_hops


@given(topology=topologies(), data=st.data())
@settings(max_examples=80, deadline=None)
def test_a_larger_group_is_never_better_off_outside(topology, data):
    gpus = topology.nodes * topology.node.gpus
    ranks = data.draw(st.lists(st.integers(0, gpus - 1), min_size=1, max_size=12, unique=True))
    whole, part = group_path(topology, ranks), group_path(topology, ranks[: len(ranks) // 2 + 1])
    assert part.switch_hops <= whole.switch_hops
    assert part.nic_bytes_per_s >= whole.nic_bytes_per_s
    assert part.domains <= whole.domains
    assert whole.ranks <= whole.nodes * whole.ranks_per_node


@given(topology=topologies())
@settings(max_examples=80, deadline=None)
def test_the_shares_of_all_gpus_fit_their_nics(topology):
    ranks = np.arange(topology.node.gpus)
    shares = [group_path(topology, [rank]).nic_bytes_per_s for rank in ranks]
    used = np.bincount(nic_of(topology, ranks), weights=shares)
    assert (used <= topology.node.nics.bandwidth * (1 + 1e-9)).all()


@given(topology=topologies())
@settings(max_examples=80, deadline=None)
def test_bisection_is_at_most_the_nics_of_half_the_nodes(topology):
    assume(topology.nodes > 1)
    nics = topology.node.nics
    most = topology.nodes // 2 * nics.count * nics.bandwidth
    least = bisection_bytes_per_s(topology, plan_fabric(topology))
    assert 0 < least <= most * (1 + 1e-9)

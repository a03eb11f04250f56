"""What a group of ranks meets on its way."""

from __future__ import annotations

import time

import numpy as np
import pytest

from clustersim.errors import CapacityError, PlacementError, SpecError
from clustersim.hardware.fabric import plan_fabric
from clustersim.hardware.paths import group_path, pair_path
from clustersim.hardware.scale_up import mesh_links, mesh_rings
from tests.hardware_clusters import GBIT, cluster_of, megascale


def test_a_tensor_parallel_group_stays_on_nvswitch():
    path = group_path(cluster_of(), range(8))
    assert (path.ranks, path.nodes, path.ranks_per_node, path.domains) == (8, 1, 8, 1)
    assert path.scale_up_bytes_per_s == 300e9
    assert path.switch_hops == 0


def test_a_data_parallel_group_has_one_nic_a_rank_and_stays_on_its_rail():
    path = group_path(megascale(), np.arange(64) * 8 + 3)
    assert (path.nodes, path.ranks_per_node, path.domains) == (64, 1, 64)
    assert path.nic_bytes_per_s == 200 * GBIT
    assert path.switch_hops == 1
    assert path.fabric_efficiency == 0.9
    assert path.switch_latency_s == 130e-9


@pytest.mark.parametrize(("far_node", "hops"), [(1, 1), (63, 1), (64, 3), (1791, 3), (1792, 5)])
def test_hops_grow_from_leaf_to_spine_to_core(far_node, hops):
    assert pair_path(megascale(12500), 0, far_node * 8).switch_hops == hops


def test_other_rails_cost_no_more_where_nvlink_covers_the_node():
    assert pair_path(cluster_of(), 0, 8 + 5).switch_hops == 1


def test_other_rails_cross_a_spine_where_nothing_covers_the_node():
    topology = cluster_of(30, scale_up="pcie", domain_gpus=1, bandwidth=32e9)
    assert pair_path(topology, 0, 8).switch_hops == 1
    assert pair_path(topology, 0, 8 + 5).switch_hops == 3


@pytest.mark.parametrize(
    ("nics", "gbits", "share"),
    [(8, 200, 200), (4, 100, 50), (1, 100, 12.5), (16, 100, 100), (3, 90, 30)],
)
def test_gpus_of_one_nic_share_it(nics, gbits, share):
    topology = cluster_of(4, kind="fat_tree", nics=nics, nic_gbits=gbits)
    assert pair_path(topology, 0, 8).nic_bytes_per_s == pytest.approx(share * GBIT)


def test_idle_gpus_leave_their_share():
    topology = cluster_of(4, nics=4)
    assert group_path(topology, [0, 1]).nic_bytes_per_s == 100 * GBIT
    assert group_path(topology, [0], gpus_in_use=1).nic_bytes_per_s == 200 * GBIT


def test_oversubscription_is_paid_only_beyond_the_leaf():
    topology = cluster_of(12, kind="fat_tree", tiers=2, ports=48, oversubscription=2.0)
    assert plan_fabric(topology).pod_nodes == 4
    assert pair_path(topology, 0, 8).nic_bytes_per_s == 200 * GBIT
    assert pair_path(topology, 0, 4 * 8).nic_bytes_per_s == pytest.approx(100 * GBIT)


def test_half_node_domains_meet_over_pcie():
    topology = cluster_of(2, domain_gpus=4)
    assert group_path(topology, range(4)).scale_up_bytes_per_s == 300e9
    whole = group_path(topology, range(8))
    assert (whole.domains, whole.nodes) == (2, 1)
    assert whole.scale_up_bytes_per_s == 32e9


def test_a_domain_of_eighteen_nodes_needs_no_fabric():
    topology = cluster_of(18, kind="single_node", gpus=4, nics=4, domain_gpus=72)
    path = group_path(topology, range(72))
    assert (path.nodes, path.domains, path.switch_hops) == (18, 1, 0)


def test_a_mesh_gives_a_group_only_the_links_among_its_members():
    quad = cluster_of(2, gpus=4, nics=4, scale_up="mesh")
    assert group_path(quad, range(4)).scale_up_bytes_per_s == 300e9
    assert group_path(quad, [0, 3]).scale_up_bytes_per_s == pytest.approx(100e9)
    cube = cluster_of(1, scale_up="mesh", link="nvlink2", bandwidth=150e9)
    assert group_path(cube, range(8)).scale_up_bytes_per_s == 150e9
    assert group_path(cube, [0, 3]).scale_up_bytes_per_s == pytest.approx(50e9)
    assert group_path(cube, [0, 7]).scale_up_bytes_per_s == 32e9  # no link: PCIe
    dies = cluster_of(1, scale_up="mesh", link="xgmi", bandwidth=350e9)
    assert group_path(dies, [2, 3]).scale_up_bytes_per_s == pytest.approx(200e9)


@pytest.mark.parametrize(("link", "most"), [("nvlink2", {6}), ("xgmi3", {6, 7})])
def test_meshes_of_eight_have_the_links_of_the_data_sheet(link, most):
    links = mesh_links(8, link)
    assert (links == links.T).all()
    assert set(links.sum(axis=1).tolist()) == most


@pytest.mark.parametrize(
    ("ranks", "words"),
    [([0, 32], "hold ranks 0 to 31"), ([-1], "-1"), ([5, 5], "rank 5"), ([], "no ranks")],
)
def test_ranks_that_do_not_fit_are_refused(ranks, words):
    with pytest.raises(PlacementError, match=words):
        group_path(cluster_of(4), ranks)


def test_ports_that_do_not_suffice_are_named_with_what_would():
    with pytest.raises(CapacityError) as caught:
        plan_fabric(cluster_of(200, tiers=2))
    text = str(caught.value)
    assert "200 nodes" in text
    assert "fit 100" in text
    assert "tiers: 3 fits 2000 nodes" in text
    assert "58-port switches" in text
    with pytest.raises(CapacityError, match="single_node joins 1"):
        plan_fabric(cluster_of(2, kind="single_node"))
    with pytest.raises(SpecError, match="0 NICs"):
        plan_fabric(cluster_of(2, nics=0))


def test_megascale_holds_one_hundred_thousand_gpus_in_pods_of_sixty_four_servers():
    plan = plan_fabric(megascale(12500))
    assert (plan.pod_nodes, plan.pod_leaves, plan.leaf_up_ports) == (64, 8, 32)


def test_a_group_of_12500_ranks_is_cheap():
    topology, ranks = megascale(12500), np.arange(12500) * 8
    times = []
    for _ in range(5):
        start = time.perf_counter()
        group_path(topology, ranks)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.01


@pytest.mark.parametrize(
    ("gpus", "rings"), [(2, 1), (3, 2), (4, 4), (5, 0), (6, 2), (7, 4), (8, 6)]
)
def test_the_first_gpus_of_a_cube_mesh_are_passed_by_as_many_rings_as_were_measured(gpus, rings):
    """22.5 GB/s of bus bandwidth a ring: 23, 45, 85, -, 46, 87 GB/s over 2 to 7 V100 (vTrain)."""
    assert mesh_rings(8, "nvlink2", tuple(range(gpus))) == rings
    cube = cluster_of(1, scale_up="mesh", link="nvlink2", bandwidth=150e9)
    if rings > 1:  # a pair of one link takes PCIe where that is faster
        assert group_path(cube, range(gpus)).scale_up_bytes_per_s == rings * 25e9


def test_rings_are_counted_only_where_the_mesh_is_wired_link_by_link():
    assert mesh_rings(4, "nvlink3", (0, 1, 2, 3)) == 0
    assert mesh_rings(8, "xgmi2", tuple(range(8))) == 0

"""Where groups sit decides what they pay, and a power limit what products sustain."""

from __future__ import annotations

import pytest

from clustersim.cost.platform import build_platform, check_links, communication_paths
from clustersim.cost.power import limit_factor, product_headroom
from clustersim.errors import SpecError
from clustersim.parallel.mesh import Mesh
from clustersim.spec.resolve import load_scenario, load_topology


def dgx(nodes: int):
    return load_topology("dgx_a100").model_copy(update={"nodes": nodes})


def test_groups_that_cross_nodes_in_some_replicas_are_priced_across() -> None:
    alone = communication_paths(dgx(2), Mesh(6, 1, 1, 8), None)["tp"]
    several = communication_paths(dgx(2), Mesh(6, 2, 1, 8), None)["tp"]
    assert (alone.nodes, several.nodes) == (1, 2)


def test_stage_transfers_are_priced_at_the_replica_that_leaves_its_node() -> None:
    paths = communication_paths(dgx(2), Mesh(1, 6, 2, 8), None)
    assert paths["pp0"].nodes == 2


def test_a_shard_group_that_divides_a_node_stays_inside_it() -> None:
    paths = communication_paths(dgx(8), Mesh(1, 64, 1, 8), 8)
    assert (paths["shard"].nodes, paths["dp"].nodes) == (1, 8)


def test_a_network_link_between_gpus_of_a_node_is_refused() -> None:
    topology = dgx(1)
    scale_up = topology.node.scale_up.model_copy(update={"link": "infiniband"})
    node = topology.node.model_copy(update={"scale_up": scale_up})
    with pytest.raises(SpecError, match="infiniband is of kind rdma"):
        check_links(topology.model_copy(update={"node": node}))


def test_an_unbroken_stream_of_products_has_no_headroom() -> None:
    assert product_headroom(1.0, 0.0, 0.0) == 1.0
    assert product_headroom(0.0, 1.0, 1.0) == 1.0


def test_headroom_of_a_mix_is_the_cubic_law_of_what_the_rest_leaves() -> None:
    # Half products, half memory-bound: products may draw 2 - 0.62 = 1.38 of the limit.
    expected = ((1.38 - 0.2) / 0.8) ** (1 / 3)
    assert product_headroom(1.0, 1.0, 0.0) == pytest.approx(expected)


def test_a_lower_power_limit_slows_products_by_the_cube_root_of_dynamic_power() -> None:
    assert limit_factor(700.0, 700.0) == 1.0
    assert limit_factor(500.0, 700.0) == pytest.approx(((5 / 7 - 0.2) / 0.8) ** (1 / 3))
    assert 0.0 < limit_factor(1.0, 700.0) < 0.1


def test_a_device_on_anothers_profile_knows_the_limit_that_it_was_fitted_at() -> None:
    scenario = load_scenario("smallest", ["cluster.node.device={extends: h200_sxm_141gb}"])
    platform = build_platform(scenario, Mesh(1, 1, 1, scenario.cluster.node.gpus))
    assert platform.device.name == "h200_sxm_141gb"
    assert platform.reference_power_w == 700.0

"""Collectives: known answers, the choice of algorithm, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clustersim.cost.collectives import (
    COLLECTIVES,
    bus_factor,
    candidates,
    collective_s,
    explain_collective,
    line_table,
    price_calls,
)
from clustersim.errors import ModelDomainError
from clustersim.hardware.paths import GroupPath
from tests.collective_cases import group, shipped_links

LINKS = shipped_links()
MIB = 2.0**20


def busbw(collective: str, size_bytes: float, path: object) -> float:
    """Bus bandwidth of one call. [GB/s]"""
    return explain_collective(collective, size_bytes, path, LINKS).bus_bandwidth_bytes_per_s / 1e9  # type: ignore[arg-type]


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_a_group_of_one_is_free(collective: str) -> None:
    assert collective_s(collective, [1e9, 0.0], group(1), LINKS).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_nothing_to_send_is_free_and_a_byte_is_not(collective: str) -> None:
    none, one = collective_s(collective, [0.0, 1.0], group(2), LINKS)
    assert none == 0.0
    assert one > 1e-6


@pytest.mark.parametrize(
    ("collective", "width", "size_bytes", "measured_s"),
    [
        ("all_reduce", 8, 128 * MIB, 1169e-6),
        ("all_reduce", 8, 512, 22.6e-6),
        ("all_reduce", 4, 16 * MIB, 183.5e-6),
        ("all_gather", 8, 64 * MIB, 351.6e-6),
        ("all_gather", 8, 8 * MIB, 73.5e-6),
        ("reduce_scatter", 4, 128 * MIB, 538.7e-6),
        ("all_to_all", 8, 64 * MIB, 347.6e-6),
    ],
)
def test_eight_a100_take_what_nccl_tests_measured(
    collective: str, width: int, size_bytes: float, measured_s: float
) -> None:
    """NCCL 2.27.3 on one node of A100 SXM, out of place."""
    time_s = collective_s(collective, size_bytes, group(width), LINKS)[0]
    assert time_s == pytest.approx(measured_s, rel=0.15)


def test_a_long_reduce_scatter_between_nodes_runs_near_line_rate() -> None:
    path = group(1, 192, fabric_efficiency=0.95)
    share = busbw("reduce_scatter", 10.9e9, path) * 1e9 / path.nic_bytes_per_s
    assert 0.85 < share < 0.93


def test_small_all_reduces_of_many_nodes_take_a_tree_and_large_ones_a_ring() -> None:
    path = group(1, 1024)
    small = explain_collective("all_reduce", 1e6, path, LINKS)
    large = explain_collective("all_reduce", 10e9, path, LINKS)
    assert (small.algorithm, large.algorithm) == ("tree", "ring")
    assert small.total_s < 1e-3


@pytest.mark.parametrize("collective", ["all_gather", "reduce_scatter"])
def test_one_rank_a_node_gathers_in_log_steps_until_the_ring_has_filled(collective: str) -> None:
    """256 nodes: 8 steps against 255, until the ring's higher rate decides."""
    path = group(1, 256)
    chosen = [explain_collective(collective, size, path, LINKS) for size in (64e6, 10e9)]
    assert [found.algorithm for found in chosen] == ["pat", "ring"]
    assert chosen[0].protocol == "simple"
    ring_s = min(s for name, _, s in chosen[0].rejected if name == "ring")
    assert chosen[0].total_s < 0.8 * ring_s


def test_aggregated_trees_pay_a_step_for_each_doubling_and_pack_each_shard() -> None:
    """InfiniBand over one switch: 9.96 us launch, 40 us setup, hops of 14/3.5 + 0.4 us."""
    one, two = (
        next(c for c in candidates("all_gather", path, LINKS) if c.algorithm == "pat")
        for path in (group(1, 64, hops=1), group(1, 128, hops=1))
    )
    assert two.latency_s - one.latency_s == pytest.approx(4.4e-6 + 64 * 2.8e-6)
    assert two.latency_s == pytest.approx(9.96e-6 + 40e-6 + 7 * 4.4e-6 + 128 * 2.8e-6)
    assert one.seconds_per_byte == pytest.approx(63 / 64 / (0.75 * 0.97 * 25e9))


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (group(8), "one node"),
        (group(2, 64), "two ranks a node"),
        (group(1, 64, nic="ethernet"), "a transport with device offload"),
        (replace(group(1, 64), scale_up_link="xgmi2"), "RCCL"),
        (replace(group(4, 4, link="nvlink5"), domains=1, switch_hops=0), "one domain of 4 nodes"),
    ],
)
def test_the_library_has_no_aggregated_trees_for(path: GroupPath, why: str) -> None:
    for collective in ("all_gather", "reduce_scatter"):
        found = {c.algorithm for c in candidates(collective, path, LINKS)}
        assert found == {"ring"}, why


@pytest.mark.parametrize("collective", sorted({*COLLECTIVES} - {"all_gather", "reduce_scatter"}))
def test_aggregated_trees_only_gather_and_scatter(collective: str) -> None:
    assert "pat" not in {c.algorithm for c in candidates(collective, group(1, 64), LINKS)}


def test_protocols_go_from_ll_to_simple_as_messages_grow() -> None:
    chosen = [
        explain_collective("all_gather", size, group(8), LINKS).protocol
        for size in (1e3, 3e6, 256e6)
    ]
    assert chosen == ["ll", "ll128", "simple"]


def test_the_switch_reduces_on_nvlink_4_and_not_on_nvlink_3() -> None:
    def algorithm(link: str) -> str:
        return explain_collective("all_reduce", 1e9, group(8, link=link), LINKS).algorithm

    assert algorithm("nvlink4") == "nvls"
    assert algorithm("nvlink3") == "ring"
    assert busbw("all_reduce", 2e9, group(8, link="nvlink4")) == pytest.approx(459, rel=0.05)


@pytest.mark.parametrize(
    ("link", "rate", "ranks", "measured"),
    [
        ("pcie4", 32e9, 2, 20.0),
        ("pcie4_host", 32e9, 4, 5.1),
        ("pcie5", 64e9, 2, 36.5),
        ("pcie5", 64e9, 4, 48.2),
        ("pcie5_host", 64e9, 4, 25.0),
        ("pcie5_host", 64e9, 8, 24.0),
    ],
)
def test_pcie_is_as_fast_as_the_way_through_the_host_allows(
    link: str, rate: float, ranks: int, measured: float
) -> None:
    """Bus bandwidth of a 64 MB all_reduce: L40S, RTX PRO 6000, and H100 in pairs (48 GB/s)."""
    path = replace(group(ranks, link="pcie4"), scale_up_link=link, scale_up_bytes_per_s=rate)
    assert busbw("all_reduce", 64e6, path) == pytest.approx(measured, rel=0.08)


def test_rails_of_a_node_add_up() -> None:
    one = busbw("all_gather", 4e9, group(1, 4, node_bytes_per_s=100e9))
    eight = busbw("all_gather", 4e9, group(8, 4, node_bytes_per_s=100e9))
    assert eight == pytest.approx(8 * one, rel=0.1)


def test_two_nodes_halve_the_network_traffic_of_a_tree() -> None:
    path = group(8, 2, node_bytes_per_s=50e9)
    best = explain_collective("all_reduce", 4e9, path, LINKS)
    assert best.algorithm == "tree"
    assert best.bus_bandwidth_bytes_per_s > 50e9


def test_a_domain_that_spans_nodes_needs_no_network() -> None:
    rack = replace(group(4, 4, link="nvlink5"), domains=1, switch_hops=0)
    assert collective_s("all_gather", 1e9, rack, LINKS) == pytest.approx(
        collective_s("all_gather", 1e9, replace(group(8, link="nvlink5"), ranks=16), LINKS)
    )


def test_an_explanation_adds_up_and_lists_what_lost() -> None:
    found = explain_collective("all_reduce", 30e6, group(8, 4), LINKS)
    assert found.latency_s + found.bandwidth_s == pytest.approx(found.total_s)
    assert all(time_s >= found.total_s for _, _, time_s in found.rejected)
    assert {name for name, _, _ in found.rejected} | {found.algorithm} == {"ring", "tree"}
    assert explain_collective("all_reduce", 30e6, group(1), LINKS).total_s == 0


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_the_largest_groups_have_a_finite_time(collective: str) -> None:
    times = collective_s(collective, [1.0, 1e12], group(8, 12_500), LINKS)
    assert np.isfinite(times).all()
    assert (times > 0).all()


def test_what_is_not_modelled_is_refused_by_name() -> None:
    with pytest.raises(ModelDomainError, match="gather_all"):
        collective_s("gather_all", 1.0, group(2), LINKS)
    with pytest.raises(ModelDomainError, match=r"-3.*>= 0"):
        collective_s("all_reduce", -3.0, group(2), LINKS)
    with pytest.raises(ModelDomainError, match="size_bytes holds inf"):
        collective_s("all_reduce", [1.0, np.inf], group(2), LINKS)
    with pytest.raises(ModelDomainError, match=r"carrier_pigeon.*infiniband"):
        collective_s("all_reduce", 1.0, group(1, 2, nic="carrier_pigeon"), LINKS)


def test_bus_factors_are_those_of_nccl_tests() -> None:
    assert bus_factor("all_reduce", 8) == 1.75
    assert bus_factor("all_gather", 8) == bus_factor("all_to_all", 8) == 0.875
    assert bus_factor("send_recv", 2) == bus_factor("broadcast", 8) == 1.0
    with pytest.raises(ModelDomainError, match=r"gather_all.*all_gather"):
        bus_factor("gather_all", 8)


def test_a_table_refuses_rows_it_does_not_hold() -> None:
    table = line_table([("all_reduce", group(8))], LINKS)
    with pytest.raises(ModelDomainError, match="outside a table of 1"):
        price_calls(table, [1], [1.0])
    with pytest.raises(ModelDomainError, match="group -2 is outside"):
        price_calls(table, [0, -2], [1.0, 1.0])
    with pytest.raises(ModelDomainError, match="shape"):
        price_calls(table, [0, 0], [1.0])
    with pytest.raises(ModelDomainError, match="finite"):
        price_calls(table, [0], [np.nan])


@pytest.mark.parametrize("name", sorted(LINKS))
def test_every_shipped_link_says_where_its_numbers_come_from(name: str) -> None:
    link = LINKS[name]
    assert link.name == name
    assert link.pedigree.fitted_to
    assert link.sources
    assert (link.pedigree.error is not None) == (link.pedigree.basis == "fitted")
    assert ("ll128" in link.protocols) == (link.kind != "pcie")
    protocols = [link.protocols[p] for p in ("ll", "ll128", "simple") if p in link.protocols]
    shares = [protocol.efficiency for protocol in protocols]
    assert shares == sorted(shares)
    hops = [protocol.hop for protocol in protocols]
    assert hops == sorted(hops)

"""Laws of collectives over any group: bounds, monotony, composition."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.cost.collectives import COLLECTIVES, bus_factor, collective_s
from clustersim.hardware.paths import GroupPath
from tests.collective_cases import RATES, group, shipped_links

LINKS = shipped_links()
SIZES = st.floats(1.0, 1e11)


@st.composite
def groups(draw: st.DrawFn) -> GroupPath:
    """Groups of 2 to 100,000 ranks over any shipped links."""
    nodes = draw(st.sampled_from([1, 2, 3, 4, 17, 192, 12_500]))
    width = draw(st.integers(1 if nodes > 1 else 2, 8))
    return group(
        width,
        nodes,
        link=draw(st.sampled_from(sorted(RATES))),
        nic=draw(st.sampled_from(["infiniband", "roce", "omni_path", "slingshot", "ethernet"])),
        node_bytes_per_s=draw(st.sampled_from([12.5e9, 50e9, 400e9])),
        hops=draw(st.sampled_from([1, 3, 5])),
        fabric_efficiency=draw(st.floats(0.5, 1.0)),
    )


def least_s(collective: str, size_bytes: float, path: GroupPath) -> float:
    """No algorithm moves fewer bytes than this through the links of a rank or node. [s]

    In-switch reduction sends S (1 + 1/n) where a ring sends 2 S (n-1)/n, so all_reduce is held to
    the lesser; over the network a node must send and receive the share of the others.
    """
    n, w, nodes = path.ranks, path.ranks_per_node, path.nodes
    inner = min(bus_factor(collective, n), 1.0) * size_bytes / path.scale_up_bytes_per_s
    if nodes == 1:
        return inner
    rate = w * path.nic_bytes_per_s * path.fabric_efficiency
    if collective in ("all_reduce", "all_gather", "reduce_scatter"):
        factor = bus_factor("all_gather", nodes) * (2 if collective == "all_reduce" else 1)
        return factor * size_bytes / rate
    if collective == "all_to_all":
        return w * (n - w) / n * size_bytes / rate
    return size_bytes / rate


@given(st.sampled_from(COLLECTIVES), SIZES, groups())
def test_no_collective_beats_the_bandwidth_bound(
    collective: str, size_bytes: float, path: GroupPath
) -> None:
    time_s = collective_s(collective, size_bytes, path, LINKS)[0]
    assert time_s >= least_s(collective, size_bytes, path) * (1 - 1e-9)
    assert np.isfinite(time_s)


@given(st.sampled_from(COLLECTIVES), st.lists(SIZES, min_size=2, max_size=9), groups())
def test_more_bytes_are_never_faster(collective: str, sizes: list[float], path: GroupPath) -> None:
    times = collective_s(collective, np.sort(sizes), path, LINKS)
    assert (np.diff(times) >= 0).all()


@given(st.sampled_from(COLLECTIVES), SIZES, st.floats(1.0, 10.0), groups())
def test_a_message_in_two_halves_is_never_faster(
    collective: str, size_bytes: float, share: float, path: GroupPath
) -> None:
    part = size_bytes / (1 + share)
    whole, first, second = collective_s(
        collective, [size_bytes, part, size_bytes - part], path, LINKS
    )
    assert whole <= (first + second) * (1 + 1e-9)


@given(st.integers(2, 2000), st.sampled_from(["infiniband", "roce"]))
def test_a_large_all_reduce_is_a_reduce_scatter_and_an_all_gather(nodes: int, nic: str) -> None:
    path = group(1, nodes, nic=nic)
    size = nodes * 1e9
    reduce_s, scatter_s, gather_s = (
        collective_s(name, size, path, LINKS)[0]
        for name in ("all_reduce", "reduce_scatter", "all_gather")
    )
    assert scatter_s == gather_s
    if nodes > 2:  # between two nodes a tree sends half of what a ring sends
        assert abs(reduce_s / (scatter_s + gather_s) - 1) < 0.1


@given(st.integers(2, 5000), st.integers(1, 500), st.floats(1e6, 1e9))
def test_more_ranks_at_the_same_shard_are_never_faster(
    nodes: int, more: int, shard_bytes: float
) -> None:
    fewer, others = group(1, nodes), group(1, nodes + more)
    for collective in ("all_gather", "reduce_scatter"):
        one = collective_s(collective, nodes * shard_bytes, fewer, LINKS)[0]
        two = collective_s(collective, (nodes + more) * shard_bytes, others, LINKS)[0]
        assert two >= one


@given(st.sampled_from(COLLECTIVES), SIZES, groups())
def test_aggregated_trees_run_only_where_they_win_and_on_one_rank_a_node(
    collective: str, size_bytes: float, path: GroupPath
) -> None:
    without = {
        name: link.model_copy(update={"aggregated_trees": False}) for name, link in LINKS.items()
    }
    time_s = collective_s(collective, size_bytes, path, LINKS)[0]
    other_s = collective_s(collective, size_bytes, path, without)[0]
    assert time_s <= other_s
    if path.ranks_per_node > 1 or collective not in ("all_gather", "reduce_scatter"):
        assert time_s == other_s


@settings(max_examples=30)
@given(st.sampled_from(COLLECTIVES), SIZES, groups(), st.floats(1.0, 4.0))
def test_a_faster_fabric_is_never_slower(
    collective: str, size_bytes: float, path: GroupPath, gain: float
) -> None:
    from dataclasses import replace

    better = replace(
        path,
        scale_up_bytes_per_s=gain * path.scale_up_bytes_per_s,
        nic_bytes_per_s=gain * path.nic_bytes_per_s,
    )
    slow = collective_s(collective, size_bytes, path, LINKS)[0]
    assert collective_s(collective, size_bytes, better, LINKS)[0] <= slow * (1 + 1e-9)

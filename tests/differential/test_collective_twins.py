"""Lines against algorithms run step by step, the kernel against numpy and its plain twin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.cost.collectives import COLLECTIVES, collective_s, line_table, price_calls
from clustersim.cost.collectives import reference as plain
from clustersim.cost.collectives.algorithms import (
    Wire,
    aggregated_trees,
    direct,
    ring,
    tree,
)
from tests.collective_cases import group, shipped_links

LINKS = shipped_links()
SIZES = st.floats(0.0, 1e11)
SECONDS = st.floats(0.0, 1e-3)
RATES = st.one_of(st.floats(1e8, 1e12), st.just(float("inf")))


@st.composite
def wires(draw: st.DrawFn) -> Wire:
    """Any two-level group; at least one level has a finite rate."""
    islands, width = draw(st.integers(1, 40)), draw(st.integers(1, 9))
    if islands * width == 1:
        width = 2
    return Wire(
        ranks=islands * width,
        islands=islands,
        width=width,
        base_s=draw(SECONDS),
        setup_s=draw(SECONDS),
        message_hop_s=draw(SECONDS),
        exchange_hop_s=draw(SECONDS),
        peer_s=draw(SECONDS),
        message_share=draw(st.floats(0.1, 1.0)),
        pair_share=draw(st.floats(0.1, 1.0)),
        inner_hop_s=draw(SECONDS),
        outer_hop_s=draw(SECONDS),
        aggregated_hop_s=draw(SECONDS),
        inner_bytes_per_s=draw(st.floats(1e8, 1e12)),
        outer_bytes_per_s=draw(RATES),
        copy_bytes_per_s=draw(RATES),
    )


def on_line(line: tuple[float, float], size_bytes: float) -> float:
    return line[0] + line[1] * size_bytes


@given(SIZES, wires(), st.integers(1, 2))
def test_a_ring_is_the_sum_of_its_steps(size_bytes: float, wire: Wire, passes: int) -> None:
    assert on_line(ring(wire, passes), size_bytes) == pytest.approx(
        plain.ring_by_steps(size_bytes, wire, passes), rel=1e-9
    )


@given(SIZES, wires())
def test_a_tree_is_the_sum_of_its_levels(size_bytes: float, wire: Wire) -> None:
    assert on_line(tree(wire), size_bytes) == pytest.approx(
        plain.tree_by_levels(size_bytes, wire), rel=1e-9
    )


@given(SIZES, wires())
def test_aggregated_trees_are_the_sum_of_their_steps(size_bytes: float, wire: Wire) -> None:
    """One rank an island; the twin also finds that every rank ends with every shard."""
    assert on_line(aggregated_trees(wire), size_bytes) == pytest.approx(
        plain.aggregated_trees_by_steps(size_bytes, wire), rel=1e-9
    )


@given(SIZES, wires())
def test_an_exchange_is_the_sum_over_its_peers(size_bytes: float, wire: Wire) -> None:
    assert on_line(direct(wire), size_bytes) == pytest.approx(
        plain.exchange_by_peers(size_bytes, wire), rel=1e-9
    )


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_kernel_numpy_and_twin_price_alike(data: st.DataObject) -> None:
    paths = [group(8), group(1), group(8, 4, link="nvlink4"), group(1, 192, nic="roce")]
    calls = [(name, path) for name in COLLECTIVES for path in paths]
    table = line_table(calls, LINKS)
    count = data.draw(st.integers(1, 60))
    rows = data.draw(st.lists(st.integers(0, len(calls) - 1), min_size=count, max_size=count))
    sizes = data.draw(st.lists(SIZES, min_size=count, max_size=count))
    twin = plain.price_lines(
        sizes,
        rows,
        table.start.tolist(),
        table.latency_s.tolist(),
        table.seconds_per_byte.tolist(),
    )
    np.testing.assert_allclose(price_calls(table, rows, sizes, compiled=False), twin, rtol=1e-12)
    np.testing.assert_allclose(price_calls(table, rows, sizes, compiled=True), twin, rtol=1e-12)
    one_by_one = [
        collective_s(*calls[row][:1], size, calls[row][1], LINKS)[0]
        for row, size in zip(rows, sizes, strict=True)
    ]
    np.testing.assert_allclose(one_by_one, twin, rtol=1e-12)

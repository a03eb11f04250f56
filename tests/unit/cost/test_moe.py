"""Routing, expert layers and their exchange: what must hold whatever the coefficients are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.cost.collectives.expert import Exchange, exchange_s
from clustersim.cost.compute.moe import ExpertShape, moe_s
from clustersim.cost.compute.routing import HEIGHTS, _skewed, expert_loads, loads_from_spread
from clustersim.cost.measured import moe, moe_all_to_all, moe_subops
from clustersim.errors import ModelDomainError
from clustersim.spec.profile_moe import ExchangeCoefficients
from clustersim.spec.resolve import load_device

PEAK, BANDWIDTH = 989e12, 3.35e12
ROW = np.array(
    [132, PEAK / 132, BANDWIDTH, BANDWIDTH, 2.0, 2.0, 5e7, 1.0, 1e12, 1e-7, 0.0, 0.0, 0.0, 1e-6]
)
EXCHANGE = ExchangeCoefficients(
    base_s=2e-5,
    expert_s=1e-9,
    node_s=3e-5,
    chunk_bandwidth=2e9,
    chunk_tokens=6.0,
    token_s=2e-7,
    copy_s=1e-7,
    sm_bandwidth=3e10,
    link_efficiency=0.75,
    nic_efficiency=0.95,
    forward_ratio=1.5,
)


def one(value: float) -> np.ndarray:
    """A column of one row."""
    return np.array([float(value)])


def routed(tokens=256, experts=128, top_k=8, ranks=8, exponent=0.0, computed="own"):
    """Loads of one call."""
    columns = [one(v) for v in (tokens, experts, top_k, ranks, exponent)]
    return expert_loads(*columns, computed)


def layer_s(tokens=256, hidden=4096, intermediate=1536, experts=128, top_k=8, ranks=8):
    """Time of one balanced layer on a machine with perfect coefficients."""
    shape = ExpertShape(one(hidden), one(intermediate), one(experts / ranks), np.array([True]))
    return float(moe_s(shape, routed(tokens, experts, top_k, ranks), ROW)[0][0])


def phase_s(tokens=1024, nodes=1, per_expert=False, sms=20, size=7392.0):
    """Time of one exchange between 8 ranks a node."""
    call = Exchange(
        tokens=one(tokens),
        token_bytes=one(size),
        experts=one(256),
        top_k=one(8),
        ranks=one(8 * nodes),
        nodes=one(nodes),
        sms=one(sms),
        nic_bytes_per_s=one(50e9),
        per_expert=np.array([per_expert]),
        spread=np.array([False]),
    )
    return float(exchange_s(call, load_device("h100_sxm"), EXCHANGE)[0])


def test_a_few_balanced_tokens_touch_one_expert_a_pair():
    loads = routed(tokens=8, experts=128, top_k=8, ranks=1)
    assert loads.active[0] == 64
    assert loads.row_tiles[0].tolist() == [64] * 5


def test_a_skewed_routing_loads_its_fullest_rank_more():
    assert routed(4096, exponent=1.2).routed[0] > 1.2 * routed(4096).routed[0]


def test_a_skewed_routing_leaves_experts_idle():
    assert 95 <= routed(32, ranks=1, exponent=1.01).active[0] <= 112


def test_a_kernel_of_whole_tokens_multiplies_all_their_pairs():
    own = routed(4096, ranks=16).routed[0]
    assert routed(4096, ranks=16, computed="reached").routed[0] == 8 * own
    assert routed(4096, ranks=4, computed="reached").routed[0] == 8 * 4096
    assert routed(4096, ranks=128, exponent=1.2, computed="all").routed[0] == pytest.approx(32768)


def test_one_rank_of_a_skewed_routing_holds_all_pairs():
    assert routed(500, ranks=1, exponent=1.01).routed[0] == pytest.approx(4000)


@pytest.mark.parametrize("exponent", [0.0, 1.2])
def test_experts_that_do_not_divide_are_refused(exponent):
    with pytest.raises(ModelDomainError, match="128 experts do not divide over 7 ranks"):
        routed(ranks=7, exponent=exponent)


@pytest.mark.parametrize("tokens", [0, np.nan])
def test_a_routing_of_nothing_is_refused(tokens):
    with pytest.raises(ModelDomainError, match=f"must be at least 1, not {tokens:g}"):
        routed(tokens)


def test_a_routing_is_drawn_once_and_stays_what_it_was():
    _skewed.cache_clear()
    first, again = (routed(777, exponent=1.2) for _ in range(2))
    assert (_skewed.cache_info().misses, _skewed.cache_info().hits) == (1, 1)
    first.row_tiles[:] = 0.0  # the caller's own copy
    np.testing.assert_array_equal(routed(777, exponent=1.2).row_tiles, again.row_tiles)


@settings(deadline=None, max_examples=60)
@given(
    tokens=st.integers(1, 30_000),
    local=st.sampled_from([1, 3, 8, 32]),
    ranks=st.sampled_from([1, 2, 8]),
    top_k=st.integers(1, 8),
    exponent=st.sampled_from([0.0, 0.6, 1.0, 1.2, 2.0]),
)
def test_no_pair_is_lost_and_the_fullest_rank_has_its_share(tokens, local, ranks, top_k, exponent):
    experts = local * ranks
    top_k = min(top_k, experts)
    pairs = tokens * top_k
    loads = routed(tokens, experts, top_k, ranks, exponent)
    assert pairs / ranks * (1 - 1e-12) <= loads.routed[0] <= max(pairs, 1.0) * (1 + 1e-12)
    if ranks == 1:
        assert loads.routed[0] == pytest.approx(pairs)
    assert 0 < loads.active[0] <= min(local, max(pairs, 1)) + 1e-9
    assert (loads.row_tiles[0] * HEIGHTS >= loads.routed[0] * (1 - 1e-9)).all()
    assert (loads.row_tiles[0] >= loads.active[0] * (1 - 1e-9)).all()
    assert (np.diff(loads.row_tiles[0]) <= 0).all()


def test_even_spread_keeps_all_experts_active():
    loads = loads_from_spread(one(256), one(8), one(2048), one(128), one(0.0))
    assert loads.active[0] == 128
    sparse = loads_from_spread(one(2), one(8), one(16), one(128), one(7.0**0.5))
    assert sparse.active[0] == pytest.approx(16)


@settings(deadline=None, max_examples=60)
@given(
    tokens=st.integers(1, 50_000),
    hidden=st.integers(1, 64).map(lambda n: 128 * n),
    intermediate=st.integers(1, 64).map(lambda n: 64 * n),
    grow=st.sampled_from(["tokens", "hidden", "intermediate"]),
)
def test_a_larger_layer_is_never_cheaper_nor_below_the_roofline(tokens, hidden, intermediate, grow):
    sizes = {"tokens": tokens, "hidden": hidden, "intermediate": intermediate}
    base_s = layer_s(**sizes)
    flop = 6.0 * tokens * hidden * intermediate
    assert np.isfinite(base_s)
    assert base_s >= flop / PEAK * (1 - 1e-9)
    weights = min(16.0, np.ceil(tokens)) * 3 * hidden * intermediate * 2.0
    assert base_s >= weights / BANDWIDTH * (1 - 1e-9)
    assert layer_s(**{**sizes, grow: 2 * sizes[grow]}) >= base_s * (1 - 1e-12)


@settings(deadline=None, max_examples=60)
@given(tokens=st.integers(1, 60_000), nodes=st.sampled_from([1, 2, 4]), per_expert=st.booleans())
def test_more_tokens_or_bytes_never_travel_faster(tokens, nodes, per_expert):
    base_s = phase_s(tokens, nodes, per_expert)
    assert phase_s(tokens + 1, nodes, per_expert) >= base_s
    assert phase_s(tokens, nodes, per_expert, size=9000.0) >= base_s
    assert phase_s(tokens, nodes, per_expert, sms=24) <= base_s


def test_adapters_bound_a_large_exchange_between_nodes():
    sent = 32768 * 7392.0 * 4 * (1 - 0.75**8) * 0.75
    assert phase_s(32768, nodes=4, sms=132) >= sent / (0.95 * 50e9) * 0.99


def test_rows_outside_the_domain_have_no_section():
    columns = {
        "dtype": np.array(["bf16", "bf16", "odd", "bf16"]),
        "tokens": np.array([8] * 4),
        "hidden": np.array([2048] * 4),
        "intermediate": np.array([768] * 4),
        "experts": np.array([128, 60, 128, 128]),
        "topk": np.array([8] * 4),
        "tp": np.array([1, 1, 1, 5]),
        "ep": np.array([8] * 4),
        "routing": np.array(["balanced"] * 4),
        "gated": np.array([True] * 4),
    }
    assert moe.sections(columns).tolist() == ["moe/bf16", "", "", ""]


def test_adapters_are_read_from_the_topology():
    columns = {
        "mode": np.array(["normal", "normal"]),
        "phase": np.array(["dispatch", "combine"]),
        "dtype": np.array(["fp8", "bf16"]),
        "topology": np.array(["nvswitch+infiniband_8x400g", "nvswitch"]),
        **{
            name: np.array([value] * 2)
            for name, value in {
                "tokens_per_rank": 64, "hidden": 7168, "topk": 8, "experts": 256,
                "ranks": 16, "nodes": 2, "sms": 20,
            }.items()
        },
    }  # fmt: skip
    assert moe_all_to_all.sections(columns).tolist() == ["expert_exchange/normal_dispatch", ""]
    first = {name: column[:1] for name, column in columns.items()}
    assert moe_all_to_all.exchange(first).nic_bytes_per_s[0] == pytest.approx(50e9)


def test_grouped_products_have_only_their_host_to_fit():
    names = [c.name for c in moe_subops.coefficients("expert_steps/grouped_gemm")]
    assert names == ["host_s"]

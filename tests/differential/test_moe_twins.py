"""The vectorised models of expert layers against their plain twins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.cost.collectives.expert import distinct_groups
from clustersim.cost.compute import reference_moe as plain
from clustersim.cost.compute.moe import ExpertShape, moe_s
from clustersim.cost.compute.routing import HEIGHTS, ExpertLoads

MACHINE = plain.ExpertMachine(
    sms=132,
    sm_flop_per_s=989e12 * 0.7 / 132,
    weight_bytes_per_s=2.8e12,
    pass_bytes_per_s=1.5e12,
    weight_bytes=1.0,
    activation_bytes=1.0,
    l2_bytes=50e6,
    cache_ratio=3.0,
    sm_bytes_per_s=2e11,
    tile_fill_s=1e-6,
    pair_s=1e-10,
    sort_s=5e-6,
    expert_s=4e-8,
    kernel_floor_s=2e-5,
)


def loads_of(layer: plain.ExpertLayer) -> ExpertLoads:
    """What the vectorised model needs to know of one layer."""
    each = np.array(layer.expert_tokens, dtype=np.float64)
    return ExpertLoads(
        tokens=np.array([float(layer.tokens)]),
        pairs=np.array([float(layer.tokens * layer.top_k)]),
        routed=np.array([each.sum()]),
        active=np.array([float((each > 0).sum())]),
        row_tiles=np.ceil(each[:, None] / HEIGHTS).sum(axis=0)[None, :],
        padding=np.array([float(layer.padding)]) if layer.padding else None,
    )


def vectorised_s(layer: plain.ExpertLayer) -> float:
    """Time of one layer by the vectorised model."""
    shape = ExpertShape(
        hidden=np.array([float(layer.hidden)]),
        intermediate=np.array([float(layer.intermediate)]),
        experts=np.array([float(len(layer.expert_tokens))]),
        gated=np.array([layer.gated]),
    )
    row = np.array(list(vars(MACHINE).values()))
    return float(moe_s(shape, loads_of(layer), row)[0][0])


layers = st.builds(
    plain.ExpertLayer,
    hidden=st.integers(1, 64).map(lambda n: 64 * n),
    intermediate=st.integers(1, 64).map(lambda n: 32 * n),
    gated=st.booleans(),
    tokens=st.integers(1, 20_000),
    top_k=st.integers(1, 10),
    expert_tokens=st.lists(st.integers(0, 2_000), min_size=1, max_size=24).map(tuple),
    padding=st.sampled_from([0, 0, 1, 128, 20_000]),
)


@settings(deadline=None, max_examples=60)
@given(layer=layers)
def test_the_layer_agrees_with_one_expert_at_a_time(layer):
    assert vectorised_s(layer) == pytest.approx(plain.moe_s(layer, MACHINE), rel=1e-9)


@settings(deadline=None, max_examples=60)
@given(layer=layers, place=st.integers(0, 23), more=st.integers(1, 500))
def test_tokens_for_an_expert_are_never_free(layer, place, more):
    tokens = list(layer.expert_tokens)
    tokens[place % len(tokens)] += more
    fuller = replace(layer, expert_tokens=tuple(tokens))
    assert vectorised_s(fuller) >= vectorised_s(layer) * (1 - 1e-12)


@settings(deadline=None, max_examples=30)
@given(groups=st.sampled_from([1, 2, 3, 4, 6, 12]), top_k=st.integers(1, 6))
def test_distinct_groups_count_all_choices_of_experts(groups, top_k):
    found = distinct_groups(np.array([float(groups)]), np.array([12.0]), np.array([float(top_k)]))
    assert found[0] == pytest.approx(float(plain.distinct_groups(groups, 12, top_k)), rel=1e-12)

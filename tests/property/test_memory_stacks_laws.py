"""Laws of stack buffers: a feature never saves memory, and the two moments of a step never add."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.parallel.memory import TERMS, WORKING_TERMS, memory_of
from tests.training_scenarios import scenario_of


@st.composite
def plans(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """Arguments of `scenario_of`, features left out."""
    interleaved = draw(st.booleans())
    return {
        "model": {"layers": 16},
        "parallelism": {
            "tensor_parallel": draw(st.sampled_from([1, 2, 4])),
            "pipeline_parallel": draw(st.sampled_from([2, 4] if interleaved else [1, 2, 4])),
            "data_parallel": draw(st.sampled_from([1, 2, 8])),
            "virtual_stages": 2 if interleaved else 1,
            "schedule": "interleaved" if interleaved else "1f1b",
            "sequence_parallel": draw(st.booleans()),
            "zero_stage": draw(st.sampled_from([0, 1])),
        },
        "training": {
            "micro_batch": draw(st.sampled_from([1, 4])),
            "global_batch": 256,
            "recompute": draw(st.sampled_from(["none", "selective", "full"])),
            "grad_dtype": draw(st.sampled_from(["bf16", "fp32"])),
        },
    }


@settings(max_examples=60, deadline=None)
@given(plans(), st.sampled_from(["gradient_copies", "keep_stage_outputs"]))
def test_a_feature_that_keeps_more_never_holds_less(
    plan: dict[str, dict[str, Any]], feature: str
) -> None:
    off, on = (memory_of(scenario_of(**plan, features={feature: value})) for value in (False, True))
    assert (on.live_bytes + on.cached_blocks >= off.live_bytes).all()


@settings(max_examples=60, deadline=None)
@given(plans(), st.booleans())
def test_step_and_cache_split_what_the_step_needs(
    plan: dict[str, dict[str, Any]], copies: bool
) -> None:
    memory = memory_of(scenario_of(**plan, features={"gradient_copies": copies}))
    by_stage, cached = memory.by_stage, memory.cached_blocks
    working = np.sum([by_stage[term] for term in WORKING_TERMS], axis=0)
    assert all((by_stage[term] >= 0).all() for term in TERMS)
    assert (cached <= working).all()
    full = by_stage["step_buffers"] > 0  # then the activations' room is used up
    assert np.allclose(cached[full], working[full])

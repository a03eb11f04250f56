"""Laws of memory: sharing more never needs more, larger micro-batches never need less."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.parallel.memory import memory_of
from clustersim.spec.scenario import Scenario
from tests.training_scenarios import SMALL_GPT, SMALL_LLAMA, scenario_of

STATES = ("parameters", "gradients", "optimizer")


@st.composite
def plans(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """Arguments of `scenario_of` with room to double tensor and pipeline parallelism."""
    interleaved = draw(st.booleans())
    stages = draw(st.sampled_from([2, 4] if interleaved else [1, 2, 4]))
    shape = draw(st.sampled_from([SMALL_GPT, SMALL_LLAMA]))
    return {
        "model": {**shape, "layers": 32, "parallel_block": draw(st.booleans())},
        "parallelism": {
            "tensor_parallel": draw(st.sampled_from([1, 2, 4])),
            "pipeline_parallel": stages,
            "data_parallel": draw(st.sampled_from([1, 2, 8])),
            "virtual_stages": 2 if interleaved else 1,
            "schedule": "interleaved" if interleaved else draw(st.sampled_from(["gpipe", "1f1b"])),
            "sequence_parallel": draw(st.booleans()),
        },
        "training": {
            "micro_batch": draw(st.sampled_from([1, 2])),
            "global_batch": 256,
            "recompute": draw(st.sampled_from(["none", "selective", "full"])),
            "dropout": draw(st.booleans()),
            "grad_dtype": draw(st.sampled_from(["bf16", "fp32"])),
        },
        "features": {"attention": draw(st.sampled_from(["unfused", "fused_softmax", "flash_2"]))},
    }


def changed(plan: dict[str, dict[str, Any]], part: str, **update: Any) -> Scenario:
    return scenario_of(**{**plan, part: plan[part] | update})


def states_bytes(scenario: Scenario) -> float:
    by_stage = memory_of(scenario).by_stage
    return float(np.sum([by_stage[name] for name in STATES], axis=0).max())


def activation_bytes(scenario: Scenario) -> float:
    by_stage = memory_of(scenario).by_stage
    return float((by_stage["activations"] + by_stage["logits"]).max())


@settings(max_examples=60, deadline=None)
@given(plans(), st.sampled_from(["tensor_parallel", "pipeline_parallel"]))
def test_dividing_the_model_further_never_needs_more_for_its_states(
    plan: dict[str, dict[str, Any]], axis: str
) -> None:
    more = changed(plan, "parallelism", **{axis: 2 * plan["parallelism"][axis]})
    assert states_bytes(more) < states_bytes(scenario_of(**plan))


@settings(max_examples=60, deadline=None)
@given(plans())
def test_sharing_out_the_optimizer_never_needs_more(plan: dict[str, dict[str, Any]]) -> None:
    shared = states_bytes(changed(plan, "parallelism", zero_stage=1))
    whole = states_bytes(scenario_of(**plan))
    assert shared < whole if plan["parallelism"]["data_parallel"] > 1 else shared == whole


@settings(max_examples=60, deadline=None)
@given(plans())
def test_a_larger_micro_batch_never_needs_less_for_activations(
    plan: dict[str, dict[str, Any]],
) -> None:
    larger = changed(plan, "training", micro_batch=2 * plan["training"]["micro_batch"])
    assert activation_bytes(larger) >= activation_bytes(scenario_of(**plan))


@settings(max_examples=60, deadline=None)
@given(plans())
def test_recomputing_more_never_keeps_more(plan: dict[str, dict[str, Any]]) -> None:
    kinds = ("none", "selective", "full")
    kept = [
        memory_of(changed(plan, "training", recompute=kind)).by_stage["activations"].max()
        for kind in kinds
    ]
    assert kept == sorted(kept, reverse=True)


@settings(max_examples=60, deadline=None)
@given(plans())
def test_sequence_parallelism_never_keeps_more(plan: dict[str, dict[str, Any]]) -> None:
    without, with_it = (
        memory_of(changed(plan, "parallelism", sequence_parallel=on)).by_stage["activations"].max()
        for on in (False, True)
    )
    assert with_it <= without

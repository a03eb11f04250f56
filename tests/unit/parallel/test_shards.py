"""Parameters that a rank holds."""

from __future__ import annotations

from typing import Any

import pytest

from clustersim.model import transformer
from clustersim.parallel.layers import split_layers
from clustersim.parallel.shape import rank_shape
from clustersim.parallel.shards import chunk_parameters, rank_layer_parameters
from clustersim.workload.layer import layer_forward
from tests.training_scenarios import SMALL_LLAMA, model_of, scenario_of


def held_by(model: dict[str, Any], **plan: Any) -> list[list[float]]:
    scenario = scenario_of(model, plan)
    held: list[list[float]] = chunk_parameters(scenario, split_layers(scenario)).tolist()
    return held


@pytest.mark.parametrize("model", [{}, SMALL_LLAMA, {"parallel_block": True}])
def test_one_rank_holds_the_whole_model(model: dict[str, Any]) -> None:
    assert held_by(model) == [[transformer.total_parameters(model_of(**model))]]


def test_norms_and_biases_of_row_parallel_products_are_on_every_rank() -> None:
    model, tp = model_of(), 8
    copied = 2 * 2 * 1024 + 2 * 1024  # two layer norms; biases of attention_out and mlp_down
    whole = transformer.layer_parameters(model)
    assert rank_layer_parameters(model, tp) == (whole - copied) / tp + copied


def test_without_biases_only_norms_are_on_every_rank() -> None:
    model, tp = model_of(**SMALL_LLAMA), 8
    whole, copied = transformer.layer_parameters(model), 2 * 1024
    assert rank_layer_parameters(model, tp) == (whole - copied) / tp + copied


@pytest.mark.parametrize("tp", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("bias", [False, True])
def test_a_rank_holds_the_weights_that_it_multiplies(tp: int, bias: bool) -> None:
    """Key and value heads too: with 4 of them, 8 ranks hold each twice."""
    model = model_of(**SMALL_LLAMA | {"kv_heads": 4, "bias": bias})
    shape = rank_shape(scenario_of(model, {"tensor_parallel": tp}))
    products = [k for part in layer_forward(shape) for k in part.kernels if k.variant == "fwd"]
    held = sum(
        k.n * k.k for k in products if k.name in {"qkv", "attention_out", "mlp_up", "mlp_down"}
    )
    vectors = 2 * model.hidden  # norms
    if bias:  # of the qkv and first MLP products a share, of the others all
        vectors += sum(k.n for k in products if k.name in {"qkv", "mlp_up"}) + 2 * model.hidden
    assert rank_layer_parameters(model, tp) == held + vectors


def test_llama_2_70b_on_16_ranks_holds_its_8_kv_heads_twice() -> None:
    model = model_of(**SMALL_LLAMA | {
        "hidden": 8192, "ffn": 28672, "attention_heads": 64, "kv_heads": 8, "layers": 80,
    })  # fmt: skip
    norms = 2 * 8192
    queries_and_output, mlp = 2 * 8192 * 8192 / 16, 3 * 8192 * 28672 / 16
    assert rank_layer_parameters(model, 16) == queries_and_output + 2 * 8192 * 128 + mlp + norms


def test_a_tied_table_is_on_the_first_and_the_last_stage() -> None:
    held = held_by({}, pipeline_parallel=4)
    layers = 2 * transformer.layer_parameters(model_of())
    table, positions = 8192 * 1024, 512 * 1024
    assert held == [[layers + table + positions], [layers], [layers], [layers + table + 2048]]


def test_an_untied_model_is_divided_over_stages_without_a_copy() -> None:
    held = held_by(SMALL_LLAMA, pipeline_parallel=4)
    total = transformer.total_parameters(model_of(**SMALL_LLAMA))
    assert sum(chunk for (chunk,) in held) == total


def test_interleaving_puts_the_ends_of_the_model_on_the_first_and_the_last_chunk() -> None:
    plan = {"pipeline_parallel": 2, "virtual_stages": 2, "schedule": "interleaved"}
    held = held_by(SMALL_LLAMA, **plan)
    layers, table = 2 * transformer.layer_parameters(model_of(**SMALL_LLAMA)), 8192 * 1024
    assert held == [[layers + table, layers], [layers, layers + table + 1024]]

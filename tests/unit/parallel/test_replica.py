"""What a GPU of a serving replica holds: weights, and the blocks of a sequence by kind of layer."""

from __future__ import annotations

import pytest

from clustersim.parallel.replica import (
    CacheLayout,
    cache_layout,
    kv_dtype,
    memory_of_replica,
    shards_of,
    weight_bytes,
)
from clustersim.spec.resolve import load_scenario
from clustersim.spec.serving import ServingScenario

NODE = "cluster={extends: hgx_h200, nodes: 1}"


def scenario_of(model: str, *sets: str) -> ServingScenario:
    scenario = load_scenario("serve_llama70b_8xh100", [NODE, f"model={model}", *sets])
    assert isinstance(scenario, ServingScenario)
    return scenario


def layout_of(model: str, tp: int = 8, dtype: str = "bf16") -> CacheLayout:
    scenario = scenario_of(model, f"parallelism={{tensor_parallel: {tp}, replicas: 1}}")
    return cache_layout(scenario.model, shards_of(scenario), dtype, 16)


def weights_of(scenario: ServingScenario) -> float:
    return weight_bytes(scenario.model, shards_of(scenario), scenario.precision)


def test_eight_gpus_share_the_weights_of_llama_70b() -> None:
    scenario = scenario_of("llama3_1_70b", "parallelism={tensor_parallel: 8, replicas: 1}")
    # 70.55e9 parameters of 16 bits; norms are on every GPU
    assert weights_of(scenario) == pytest.approx(2 * 70.554e9 / 8, rel=2e-3)


def test_narrow_weights_leave_the_tables_wide() -> None:
    wide = scenario_of("llama3_1_70b", "parallelism={tensor_parallel: 8, replicas: 1}")
    narrow = scenario_of(
        "llama3_1_70b",
        "parallelism={tensor_parallel: 8, replicas: 1}",
        "precision={weights: fp8}",
    )
    tables = 2 * 128_256 * 8192 / 8 * 2
    assert weights_of(narrow) == pytest.approx((weights_of(wide) + tables) / 2, rel=2e-3)


def test_deepseek_v3_spreads_its_experts_and_copies_attention() -> None:
    both = ("parallelism={expert_parallel: 8, replicas: 1}", "precision={weights: fp8_block}")
    ranks = "parallelism={tensor_parallel: 1, attention_data_parallel: 8}"
    copied = scenario_of("deepseek_v3", *both, ranks)
    split = scenario_of("deepseek_v3", *both, "parallelism={tensor_parallel: 8}")
    # 671e9 parameters of 8 bits, tables of 16
    tables = 2 * 129_280 * 7168
    assert 8 * weights_of(split) == pytest.approx(671e9 + tables, rel=0.01)
    # 61 blocks of latent attention of 187e6 parameters, shared experts, dense layers and tables
    attention, shared, dense = 61 * 187.1e6, 58 * 44.0e6, 3 * 396.4e6
    on_each = attention + shared + dense + 2 * tables
    more = 7 / 8 * on_each
    assert weights_of(copied) - weights_of(split) == pytest.approx(more, rel=0.02)


def test_heads_of_keys_and_values_are_split_until_each_gpu_has_one() -> None:
    # 80 layers, 8 heads of 128, keys and values of 16 bits, blocks of 16 tokens
    whole = 80 * 2 * 8 * 128 * 2 * 16
    for tp in (1, 2, 4, 8):
        assert layout_of("llama3_1_70b", tp).block_bytes == whole / tp
    qwen = layout_of("qwen3_235b_a22b", 8)  # four heads
    assert qwen.block_bytes == 94 * 2 * 1 * 128 * 2 * 16


def test_a_latent_is_copied_on_every_gpu() -> None:
    for tp in (1, 8):
        assert layout_of("deepseek_v3", tp).block_bytes == 61 * (512 + 64) * 2 * 16


def test_layers_with_a_window_keep_their_last_tokens() -> None:
    layout = layout_of("gemma3_27b", 1)
    assert layout.full == 1.0
    assert layout.window == pytest.approx(52 / 10)
    assert layout.window_tokens == 1024
    assert layout.state == 0.0
    assert layout.block_bytes == 10 * 2 * 16 * 128 * 2 * 16


def test_chunked_layers_keep_a_chunk() -> None:
    layout = layout_of("llama4_scout")
    assert (layout.full, layout.window, layout.window_tokens) == (1.0, 3.0, 8192)


def test_where_all_layers_have_a_window_it_is_the_unit() -> None:
    layout = layout_of("mistral_7b", 1)
    assert (layout.full, layout.window, layout.state) == (0.0, 1.0, 0.0)


def test_linear_layers_keep_a_state_that_does_not_grow() -> None:
    layout = layout_of("minimax_m1")
    assert (layout.full, layout.window) == (1.0, 0.0)
    state = 70 * 64 / 8 * 128**2 * 4.0
    assert layout.state * layout.block_bytes == pytest.approx(state)


def test_eight_bits_halve_the_cache() -> None:
    wide, narrow = layout_of("llama3_1_70b"), layout_of("llama3_1_70b", dtype="fp8")
    assert narrow.block_bytes == wide.block_bytes / 2


@pytest.mark.parametrize(
    ("engine", "weights", "asked", "expected"),
    [
        ("vllm-0.19", "bf16", "null", "bf16"),
        ("vllm-0.19", "fp8", "null", "bf16"),
        ("vllm-0.19", "fp8", "fp8", "fp8"),
        ("tensorrt_llm-1.0", "bf16", "null", "bf16"),
        ("tensorrt_llm-1.0", "fp8", "null", "fp8"),
        ("tensorrt_llm-1.0", "fp8", "bf16", "bf16"),
    ],
)
def test_the_cache_has_the_type_asked_for_or_the_engine_s(
    engine: str, weights: str, asked: str, expected: str
) -> None:
    precision = f"precision={{weights: {weights}, kv_cache: {asked}}}"
    assert kv_dtype(scenario_of("llama3_1_70b", f"engine={engine}", precision)) == expected


def test_memory_that_is_left_is_cache() -> None:
    memory = memory_of_replica(scenario_of("llama3_1_70b"))
    terms = memory.terms()
    assert memory.fits
    assert terms["total"] <= memory.budget + memory.graphs
    assert memory.budget - memory.fixed - terms["kv_cache"] < memory.layout.block_bytes

"""What a layer computes and communicates on one rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from clustersim.model.transformer import attention_context, attention_weights, mlp_weights
from clustersim.parallel.shape import RankShape, rank_shape
from clustersim.workload.layer import Segments, layer_backward, layer_forward
from clustersim.workload.operators import Category, Collective, Kernel, KernelKind
from tests.training_scenarios import SMALL_LLAMA, scenario_of

TOKENS, HIDDEN, HEADS = 2 * 512, 1024, 16
STREAM_BYTES = TOKENS * HIDDEN * 2


def shape_of(
    tp: int = 1, sp: bool = False, model: dict[str, Any] | None = None, **features: Any
) -> RankShape:
    dropout = features.pop("dropout", False)
    return rank_shape(
        scenario_of(
            model,
            {"tensor_parallel": tp, "sequence_parallel": sp},
            {"micro_batch": 2, "dropout": dropout},
            {"attention": "fused_softmax", **features},
        )
    )


def kernels(segments: Segments) -> list[Kernel]:
    return [kernel for segment in segments for kernel in segment.kernels * segment.repeat]


def collectives(segments: Segments) -> list[Collective]:
    return [message for segment in segments for message in segment.collectives * segment.repeat]


def flop(some: Iterable[Kernel], *categories: Category) -> float:
    return sum(k.flop * k.launches for k in some if not categories or k.category in categories)


def moved(segments: Segments, name: str) -> float:
    return sum(k.bytes * k.launches for k in kernels(segments) if k.name == name)


def counted(segments: Segments) -> Counter[tuple[str, float]]:
    return Counter((message.collective, message.bytes) for message in collectives(segments))


MODELS = pytest.mark.parametrize(
    "model", [{}, SMALL_LLAMA, {"parallel_block": True}, {"head_dim": 128}]
)


# ------------------------------------------------------------------ arithmetic


@MODELS
@pytest.mark.parametrize("tp", [1, 2, 8])
def test_products_of_the_group_multiply_every_weight_with_every_token(
    tp: int, model: dict[str, Any]
) -> None:
    shape = shape_of(tp, model=model)
    weights = attention_weights(shape.model) + mlp_weights(shape.model)
    done = flop(kernels(layer_forward(shape)), Category.MATMUL)
    assert tp * done == 2.0 * weights * TOKENS


@MODELS
@pytest.mark.parametrize("attention", ["fused_softmax", "unfused", "flash_2"])
def test_backward_products_do_twice_the_arithmetic_of_forward(
    attention: str, model: dict[str, Any]
) -> None:
    shape = shape_of(2, model=model, attention=attention)
    forward, backward = layer_forward(shape), layer_backward(shape, "none")
    expected = 2 * flop(kernels(forward), Category.MATMUL)
    assert flop(kernels(backward), Category.MATMUL) == expected


@pytest.mark.parametrize("tp", [1, 8])
def test_the_unfused_core_computes_the_whole_attention_matrix(tp: int) -> None:
    done = flop(kernels(layer_forward(shape_of(tp))), Category.ATTENTION)
    assert tp * done == 4.0 * TOKENS * 512 * HIDDEN


def test_the_unfused_core_does_twice_as_much_backward() -> None:
    forward, backward = layer_forward(shape_of()), layer_backward(shape_of(), "none")
    expected = 2 * flop(kernels(forward), Category.ATTENTION)
    assert flop(kernels(backward), Category.ATTENTION) == expected


def test_flash_attention_skips_what_the_causal_mask_hides() -> None:
    shape = shape_of(attention="flash_2")
    done = flop(kernels(layer_forward(shape)), Category.ATTENTION)
    assert done == 4.0 * TOKENS * attention_context(shape.model, 512) * HIDDEN


def test_flash_attention_does_five_products_backward_where_forward_does_two() -> None:
    # Dao 2023, section 3.1: the backward pass recomputes the scores.
    shape = shape_of(attention="flash_2")
    forward, backward = layer_forward(shape), layer_backward(shape, "none")
    expected = 2.5 * flop(kernels(forward), Category.ATTENTION)
    assert flop(kernels(backward), Category.ATTENTION) == expected


def test_every_product_of_the_layer_has_a_dgrad_and_a_wgrad_of_its_own_dims() -> None:
    shape = shape_of(2, model=SMALL_LLAMA)
    dims = {}
    for kernel in kernels(layer_forward(shape)) + kernels(layer_backward(shape, "none")):
        if kernel.kind is KernelKind.GEMM and kernel.category is Category.MATMUL:
            dims[kernel.name] = (kernel.m, kernel.n, kernel.k)
    for name in ("qkv", "attention_out", "mlp_up", "mlp_down"):
        m, n, k = dims[name]
        assert dims[f"{name}_dgrad"] == (m, k, n)
        assert dims[f"{name}_wgrad"] == (n, k, m)


# ------------------------------------------------------------------ recomputation


@MODELS
def test_full_recomputation_does_the_whole_forward_pass_again_and_books_it_apart(
    model: dict[str, Any],
) -> None:
    shape = shape_of(2, model=model)
    again = [k for k in kernels(layer_backward(shape, "full")) if k.category is Category.RECOMPUTE]
    forward = [replace(k, category=Category.RECOMPUTE) for k in kernels(layer_forward(shape))]
    assert again == forward


def test_full_recomputation_leaves_the_backward_pass_itself_as_it_is() -> None:
    shape = shape_of(2)
    whole = [k for k in kernels(layer_backward(shape, "full")) if k.category.value != "recompute"]
    assert whole == kernels(layer_backward(shape, "none"))


def test_full_recomputation_repeats_the_collectives_of_the_forward_pass() -> None:
    shape = shape_of(8, sp=True)
    extra = counted(layer_backward(shape, "full")) - counted(layer_backward(shape, "none"))
    assert extra == counted(layer_forward(shape))


def test_selective_recomputation_does_the_core_again() -> None:
    shape = shape_of(2)
    core = [
        replace(k, category=Category.RECOMPUTE)
        for k in kernels(layer_forward(shape))
        if k.category is Category.ATTENTION
    ]
    again = [
        k for k in kernels(layer_backward(shape, "selective")) if k.category is Category.RECOMPUTE
    ]
    assert again == core


def test_selective_recomputation_communicates_nothing_more() -> None:
    shape = shape_of(8)
    assert counted(layer_backward(shape, "selective")) == counted(layer_backward(shape, "none"))


def test_selective_recomputation_adds_nothing_to_flash_attention() -> None:
    shape = shape_of(attention="flash_2")
    assert layer_backward(shape, "selective") == layer_backward(shape, "none")


# ------------------------------------------------------------------ communication


@pytest.mark.parametrize("recompute", ["none", "selective"])
def test_a_lonely_rank_communicates_nothing(recompute: str) -> None:
    shape = shape_of(1, sp=True)
    assert not collectives(layer_forward(shape))
    assert not collectives(layer_backward(shape, recompute))


def test_tensor_parallelism_reduces_the_stream_twice_each_way() -> None:
    # Shoeybi et al. 2019, section 3: two all-reduces forward, two backward.
    shape = shape_of(8)
    twice = Counter({("all_reduce", STREAM_BYTES): 2})
    assert counted(layer_forward(shape)) == twice
    assert counted(layer_backward(shape, "none")) == twice


def test_sequence_parallelism_gathers_and_scatters_twice_forward() -> None:
    # Korthikanti et al. 2022, section 4.2.2.
    pairs = Counter({("all_gather", STREAM_BYTES): 2, ("reduce_scatter", STREAM_BYTES): 2})
    assert counted(layer_forward(shape_of(8, sp=True))) == pairs


def test_sequence_parallelism_gathers_inputs_once_more_backward() -> None:
    # Korthikanti et al. 2022, section 4.2.2: the sharded input is gathered again for the weight
    # gradient of each column-parallel product.
    expected = Counter({("all_gather", STREAM_BYTES): 4, ("reduce_scatter", STREAM_BYTES): 2})
    assert counted(layer_backward(shape_of(8, sp=True), "none")) == expected


@pytest.mark.parametrize("sp", [False, True])
def test_a_parallel_block_communicates_half_as_much(sp: bool) -> None:
    serial, parallel = (shape_of(8, sp, {"parallel_block": block}) for block in (False, True))
    for passed in (layer_forward, lambda shape: layer_backward(shape, "none")):
        half = counted(passed(parallel))
        assert half + half == counted(passed(serial))


def test_all_collectives_of_a_layer_are_of_the_tensor_group() -> None:
    segments = (*layer_forward(shape_of(8)), *layer_backward(shape_of(8), "full"))
    assert {(m.group, m.category) for m in collectives(segments)} == {("tp", Category.TP_COMM)}


def overlaps(segments: Segments) -> list[str]:
    return [segment.overlap for segment in segments if segment.collectives]


def test_the_input_gradient_is_reduced_beside_the_weight_gradient_where_the_software_can() -> None:
    shape = shape_of(8, wgrad_overlap=True)
    beside = [s for s in layer_backward(shape, "none") if s.overlap == "beside"]
    assert [s.collectives[0].name for s in beside] == ["reduce_gradient"] * 2
    assert all(k.name.endswith("_wgrad") for s in beside for k in s.kernels)


def test_without_overlap_every_collective_of_a_layer_is_exposed() -> None:
    shape = shape_of(8, sp=True, wgrad_overlap=False)
    segments = (*layer_forward(shape), *layer_backward(shape, "none"))
    assert set(overlaps(segments)) == {"none"}


def test_tensor_parallel_overlap_hides_forward_collectives_behind_their_products() -> None:
    assert overlaps(layer_forward(shape_of(8, sp=True, tp_overlap=True))) == ["pipelined"] * 4


def test_tensor_parallel_overlap_needs_sequence_parallelism() -> None:
    assert overlaps(layer_forward(shape_of(8, tp_overlap=True))) == ["none"] * 2


def test_a_forward_reduction_is_never_hidden_without_tensor_parallel_overlap() -> None:
    assert overlaps(layer_forward(shape_of(8, wgrad_overlap=True))) == ["none"] * 2


# ------------------------------------------------------------------ memory-bound passes


@pytest.mark.parametrize("backward", [False, True])
def test_sequence_parallelism_shares_out_norms_and_dropout(backward: bool) -> None:
    without, with_it = (shape_of(8, sp, dropout=True) for sp in (False, True))
    for name in (
        ("norm_backward", "residual_backward") if backward else ("norm", "bias_dropout_add")
    ):
        bytes_ = [
            moved(layer_backward(s, "none") if backward else layer_forward(s), name)
            for s in (without, with_it)
        ]
        assert bytes_[0] == 8 * bytes_[1] > 0


def test_fusing_the_tail_of_a_product_reads_and_writes_the_stream_once() -> None:
    fused = moved(layer_forward(shape_of(fused_kernels=True, dropout=True)), "bias_dropout_add")
    assert fused == 2 * (3 * STREAM_BYTES + TOKENS * HIDDEN)


def test_without_fusion_there_are_more_bytes_and_more_launches() -> None:
    fused, apart = (
        kernels(layer_forward(shape_of(fused_kernels=on, dropout=True))) for on in (True, False)
    )
    assert sum(k.launches for k in apart) > sum(k.launches for k in fused)
    assert sum(k.bytes * k.launches for k in apart) > sum(k.bytes * k.launches for k in fused)


def test_dropout_moves_more_bytes_but_computes_no_more() -> None:
    without, with_it = (kernels(layer_forward(shape_of(dropout=on))) for on in (False, True))
    assert flop(with_it) == flop(without)
    assert sum(k.bytes * k.launches for k in with_it) > sum(k.bytes * k.launches for k in without)


def test_fused_softmax_reads_the_causal_half_of_the_scores_and_writes_all_of_them() -> None:
    scores_bytes = 2 * HEADS * 512 * 512 * 2
    assert moved(layer_forward(shape_of()), "softmax") == 1.5 * scores_bytes


def test_unfused_scale_mask_and_softmax_each_read_and_write_every_score() -> None:
    scores_bytes = 2 * HEADS * 512 * 512 * 2
    assert moved(layer_forward(shape_of(attention="unfused")), "softmax") == 6 * scores_bytes


def test_the_fused_softmax_falls_back_to_fp32_where_its_kernel_takes_no_such_shape() -> None:
    fours, threes = shape_of(), replace(shape_of(), sequences=1, tensor_parallel=8)
    assert (threes.sequences * threes.heads) % 4
    assert fours.attention == "fused_softmax"
    assert threes.attention == "fp32_softmax"
    assert replace(fours, sequence_length=8192).attention == "fp32_softmax"


def test_rotary_positions_turn_queries_and_keys_each_way() -> None:
    shape = shape_of(2, model=SMALL_LLAMA)
    width = (16 + 8) * 64 // 2
    for segments in (layer_forward(shape), layer_backward(shape, "none")):
        assert moved(segments, "rotary") == 2 * TOKENS * width * 2


def test_learned_positions_cost_nothing_in_a_layer() -> None:
    assert moved(layer_forward(shape_of()), "rotary") == 0


def test_a_fused_weight_gradient_reads_and_writes_the_accumulated_gradient() -> None:
    wgrad = next(k for k in kernels(layer_backward(shape_of(), "none")) if k.name == "mlp_up_wgrad")
    assert wgrad.bytes == 2 * TOKENS * (1024 + 4096) + 2 * 4 * 1024 * 4096


def test_without_fused_accumulation_every_weight_gradient_is_added_by_a_pass_of_its_own() -> None:
    shape = shape_of(fused_grad_accumulation=False)
    segments = layer_backward(shape, "none")
    weights = attention_weights(shape.model) + mlp_weights(shape.model)
    added = sum(k.bytes * k.launches for k in kernels(segments) if k.name.endswith("_accumulate"))
    assert added == weights * (2 + 2 * 4)

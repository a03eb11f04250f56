"""Embedding, logits, loss and optimizer on one rank."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from clustersim.parallel.shape import RankShape, rank_shape
from clustersim.workload import ends
from clustersim.workload.layer import Segments
from clustersim.workload.operators import Category
from tests.training_scenarios import scenario_of

TOKENS, HIDDEN, VOCAB = 2 * 512, 1024, 8192
STREAM_BYTES = TOKENS * HIDDEN * 2


def shape_of(tp: int = 1, sp: bool = False, **features: Any) -> RankShape:
    plan = {"tensor_parallel": tp, "sequence_parallel": sp}
    return rank_shape(scenario_of({}, plan, {"micro_batch": 2}, features))


def flop(segments: Segments) -> float:
    return sum(k.flop * k.launches for s in segments for k in s.kernels)


def moved(segments: Segments, name: str) -> float:
    return sum(k.bytes * k.launches for s in segments for k in s.kernels if k.name == name)


def messages(segments: Segments) -> list[tuple[str, float]]:
    return [(m.collective, m.bytes) for s in segments for m in s.collectives]


@pytest.mark.parametrize("tp", [1, 8])
def test_logits_of_the_group_multiply_the_table_with_every_token(tp: int) -> None:
    assert tp * flop(ends.head_forward(shape_of(tp))) == 2.0 * TOKENS * VOCAB * HIDDEN


@pytest.mark.parametrize("tp", [1, 8])
def test_logits_do_twice_the_arithmetic_backward(tp: int) -> None:
    shape = shape_of(tp)
    assert flop(ends.head_backward(shape)) == 2 * flop(ends.head_forward(shape))


def test_the_loss_is_reduced_three_times_one_fp32_number_a_token() -> None:
    # Shoeybi et al. 2019, section 3: maximum, logit of the target, sum of exponents.
    assert messages(ends.head_forward(shape_of(8))) == [("all_reduce", 4.0 * TOKENS)] * 3


def test_a_lonely_rank_reduces_nothing_at_the_ends() -> None:
    shape = shape_of(1)
    parts = (
        ends.embedding_forward(shape),
        ends.embedding_backward(shape),
        ends.head_forward(shape),
        ends.head_backward(shape),
    )
    assert [messages(part) for part in parts] == [[], [], [], []]


def test_vocabulary_shards_of_the_embedding_are_summed() -> None:
    assert messages(ends.embedding_forward(shape_of(8))) == [("all_reduce", STREAM_BYTES)]
    assert messages(ends.embedding_forward(shape_of(8, sp=True))) == [
        ("reduce_scatter", STREAM_BYTES)
    ]


@pytest.mark.parametrize(("tp", "sp", "share"), [(1, False, 1), (8, False, 1), (8, True, 8)])
def test_dropout_after_the_embedding_passes_over_the_rows_of_the_rank(tp, sp, share) -> None:
    # 16-bit data read and written, one byte of mask an element: 5/2 of the stream.
    for dropout, passes in ((True, 2.5), (False, 0.0)):
        shape = replace(shape_of(tp, sp), dropout=dropout)
        for name, part in (
            ("embedding_dropout", ends.embedding_forward(shape)),
            ("embedding_dropout_backward", ends.embedding_backward(shape)),
        ):
            assert moved(part, name) == passes * STREAM_BYTES / share


def test_the_gradient_of_the_embedding_is_gathered_only_under_sequence_parallelism() -> None:
    assert messages(ends.embedding_backward(shape_of(8))) == []
    assert messages(ends.embedding_backward(shape_of(8, sp=True))) == [("all_gather", STREAM_BYTES)]


def test_the_input_gradient_of_the_logits_is_reduced() -> None:
    assert messages(ends.head_backward(shape_of(8))) == [("all_reduce", STREAM_BYTES)]
    assert ("reduce_scatter", STREAM_BYTES) in messages(ends.head_backward(shape_of(8, sp=True)))


def test_a_fused_loss_passes_over_the_logits_fewer_times() -> None:
    for part, name in ((ends.head_forward, "loss"), (ends.head_backward, "loss_backward")):
        fused, apart = (
            moved(part(shape_of(8, fused_cross_entropy=on)), name) for on in (True, False)
        )
        assert 0 < fused < apart


def test_the_gradient_of_the_table_is_written_whole_and_added_to_the_accumulated_one() -> None:
    # Zero fill and read in 16 bits, read and write of the fp32 gradient; and three of the stream.
    table = VOCAB // 8 * HIDDEN
    expected = 3 * STREAM_BYTES + table * (2 * 2 + 2 * 4)
    assert moved(ends.embedding_backward(shape_of(8)), "embedding_backward") == expected


def optimizer(dtype: str, grad_bytes: int) -> dict[str, float]:
    """Bytes of each optimizer kernel for 1,000 owned of 4,000 held parameters."""
    shape = replace(shape_of(), dtype=dtype, grad_bytes=grad_bytes)
    kernels = ends.optimizer_kernels(shape, 1000.0, 4000.0, averaged=True)
    assert {k.category for k in kernels} == {Category.OPTIMIZER}
    return {k.name: k.bytes for k in kernels}


def test_adam_reads_the_gradient_once_and_three_states_twice_where_it_owns_them() -> None:
    assert optimizer("bf16", 4)["adam"] == 28 * 1000.0


def test_only_16_bit_gradients_are_cast_and_only_fp16_is_unscaled() -> None:
    assert {"cast_gradients", "unscale"}.isdisjoint(optimizer("bf16", 4))
    assert optimizer("fp16", 2)["cast_gradients"] == 6 * 1000.0
    assert optimizer("fp16", 4)["unscale"] == 8 * 1000.0


def test_every_held_gradient_is_averaged_and_cleared() -> None:
    kernels = optimizer("bf16", 4)
    assert (kernels["average"], kernels["clear_gradients"]) == (8 * 4000.0, 4 * 4000.0)

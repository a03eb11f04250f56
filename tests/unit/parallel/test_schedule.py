"""Orders of passes, as the papers draw them."""

from __future__ import annotations

import pytest

from clustersim.errors import PlacementError
from clustersim.parallel.schedule import StageOrder, peak_in_flight, stage_order


def warm_up(order: StageOrder) -> int:
    """Forward passes before the first backward pass, less the one of the steady state."""
    return int(order.backward.argmax()) - 1


def drawn(order: StageOrder) -> str:
    """Micro-batches in order, forward 0 1 2, backward in brackets."""
    passes = zip(order.backward.tolist(), order.micro_batch.tolist(), strict=True)
    return " ".join(f"({batch})" if backward else str(batch) for backward, batch in passes)


def test_1f1b_is_drawn_as_in_the_paper() -> None:
    # Narayanan et al. 2021, figure 4 top, four stages and eight micro-batches.
    assert drawn(stage_order("1f1b", 3, 4, 1, 4)) == "0 (0) 1 (1) 2 (2) 3 (3)"
    assert drawn(stage_order("1f1b", 1, 4, 1, 5)) == "0 1 2 (0) 3 (1) 4 (2) (3) (4)"


def test_gpipe_runs_all_forward_passes_and_then_backward_from_the_last() -> None:
    assert drawn(stage_order("gpipe", 2, 4, 1, 3)) == "0 1 2 (2) (1) (0)"


def test_interleaved_chunks_take_as_many_micro_batches_in_turn_as_there_are_stages() -> None:
    # Narayanan et al. 2021, figure 4 bottom: 1 2 3 4 of chunk 0, 1 2 3 4 of chunk 1, 5 6 7 8 ...
    order = stage_order("interleaved", 0, 4, 2, 8)
    forward = ~order.backward
    assert order.micro_batch[forward].tolist() == [*range(4), *range(4), *range(4, 8), *range(4, 8)]
    assert order.chunk[forward].tolist() == [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4


def test_interleaved_backward_passes_start_with_the_last_chunk() -> None:
    order = stage_order("interleaved", 0, 2, 3, 4)
    assert order.chunk[order.backward].tolist() == [2, 2, 1, 1, 0, 0] * 2


@pytest.mark.parametrize("stage", range(4))
def test_1f1b_warms_up_with_as_many_passes_as_stages_follow(stage: int) -> None:
    assert warm_up(stage_order("1f1b", stage, 4, 1, 16)) == 4 - stage - 1


@pytest.mark.parametrize("stage", range(4))
def test_interleaving_warms_up_as_megatron_does(stage: int) -> None:
    # Megatron-LM: 2 (p - rank - 1) + (v - 1) p.
    stages, chunks = 4, 3
    expected = 2 * (stages - stage - 1) + (chunks - 1) * stages
    assert warm_up(stage_order("interleaved", stage, stages, chunks, 16)) == expected


def test_interleaving_with_one_group_of_micro_batches_has_no_steady_state() -> None:
    # Megatron-LM runs all forward passes first where micro-batches equal stages.
    order = stage_order("interleaved", 3, 4, 2, 4)
    assert not order.backward[:8].any()
    assert order.backward[8:].all()


def test_a_short_step_never_reaches_the_steady_state() -> None:
    assert drawn(stage_order("1f1b", 0, 8, 1, 2)) == "0 1 (0) (1)"


@pytest.mark.parametrize("stage", range(8))
def test_1f1b_holds_as_many_micro_batches_as_stages_remain(stage: int) -> None:
    assert peak_in_flight(stage_order("1f1b", stage, 8, 1, 32), 1).tolist() == [8 - stage]


@pytest.mark.parametrize(("stages", "chunks"), [(8, 3), (35, 3), (4, 2), (2, 5)])
def test_interleaving_holds_the_extra_share_of_korthikanti(stages: int, chunks: int) -> None:
    # Korthikanti et al. 2022, section 4.2.3: L (1 + (p - 1)/(p m)) layers on the first stage, with
    # L/(p m) layers a chunk that is p m + p - 1 chunks in flight.
    order = stage_order("interleaved", 0, stages, chunks, 8 * stages)
    held = int(peak_in_flight(order, chunks).sum())
    assert held / (stages * chunks) == pytest.approx(1 + (stages - 1) / (stages * chunks))


def test_interleaving_holds_more_of_the_early_chunks() -> None:
    held = peak_in_flight(stage_order("interleaved", 0, 4, 2, 16), 2)
    assert held.tolist() == [7, 4]


@pytest.mark.parametrize("stage", range(4))
def test_gpipe_holds_all_micro_batches_on_every_stage(stage: int) -> None:
    assert peak_in_flight(stage_order("gpipe", stage, 4, 1, 12), 1).tolist() == [12]


def test_interleaving_refuses_micro_batches_that_stages_do_not_divide() -> None:
    with pytest.raises(PlacementError, match=r"micro-batches \(6\).*multiple.*\(4\)"):
        stage_order("interleaved", 0, 4, 2, 6)

"""Which layers a stage holds, and which of them it recomputes."""

from __future__ import annotations

from typing import Any

import pytest

from clustersim.errors import PlacementError
from clustersim.parallel.layers import Layers, split_layers
from tests.training_scenarios import scenario_of


def split(
    layers: int, stages: int, chunks: int = 1, recompute: Any = "none", **plan: Any
) -> Layers:
    schedule = "interleaved" if chunks > 1 else "1f1b"
    plan |= {"pipeline_parallel": stages, "virtual_stages": chunks, "schedule": schedule}
    training = {"recompute": recompute}
    return split_layers(scenario_of({"layers": layers}, plan, training))


def test_layers_divide_evenly_where_nothing_else_is_said() -> None:
    assert split(12, stages=4).count.tolist() == [[3], [3], [3], [3]]


def test_listed_layers_are_dealt_to_stages_in_model_order() -> None:
    layers = split(10, stages=2, chunks=2, layers_per_chunk=(1, 2, 3, 4))
    assert layers.count.tolist() == [[1, 3], [2, 4]]


def test_a_chunk_may_hold_no_layer() -> None:
    assert split(6, stages=3, layers_per_chunk=(3, 3, 0)).count.tolist() == [[3], [3], [0]]


def test_layers_that_do_not_divide_are_refused() -> None:
    with pytest.raises(PlacementError, match="10 layers do not divide into 4 chunks"):
        split(10, stages=4)


@pytest.mark.parametrize("listed", [(4, 4, 4), (4, 5), (9, 1, 0)])
def test_a_list_that_does_not_fit_the_model_is_refused(listed: tuple[int, ...]) -> None:
    with pytest.raises(PlacementError, match=f"has {len(listed)} entries of {sum(listed)} layers"):
        split(10, stages=2, layers_per_chunk=listed)


def test_full_recomputation_takes_every_layer() -> None:
    layers = split(12, stages=2, chunks=3, recompute="full")
    assert layers.recomputed.tolist() == layers.count.tolist()


def test_selective_recomputation_takes_no_whole_layer() -> None:
    assert split(12, stages=2, recompute="selective").recomputed.tolist() == [[0], [0]]


def test_some_recomputed_layers_are_spread_over_chunks_earliest_first() -> None:
    layers = split(24, stages=2, chunks=3, recompute={"kind": "full", "layers": 5})
    assert layers.recomputed.tolist() == [[2, 2, 1], [2, 2, 1]]


def test_a_chunk_is_never_asked_to_recompute_more_than_it_has() -> None:
    layers = split(12, 2, 2, {"kind": "full", "layers": 5}, layers_per_chunk=(1, 2, 5, 4))
    assert layers.recomputed.tolist() == [[1, 4], [2, 3]]


def test_asking_for_more_layers_than_there_are_recomputes_all() -> None:
    layers = split(4, stages=2, recompute={"kind": "full", "layers": 9})
    assert layers.recomputed.tolist() == [[2], [2]]

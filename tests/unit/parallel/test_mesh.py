"""Where ranks sit."""

from __future__ import annotations

import numpy as np
import pytest

from clustersim.errors import PlacementError
from clustersim.parallel.mesh import Mesh, build_mesh
from tests.training_scenarios import scenario_of

MESH = Mesh(tensor_parallel=4, data_parallel=3, pipeline_parallel=2, gpus_per_node=8)


def test_tensor_parallel_ranks_are_neighbours() -> None:
    assert MESH.tensor_group(stage=0, replica=1).tolist() == [4, 5, 6, 7]


def test_replicas_of_a_stage_are_one_tensor_group_apart() -> None:
    assert MESH.data_group(stage=0, member=1).tolist() == [1, 5, 9]


def test_pipeline_stages_are_farthest_apart() -> None:
    assert MESH.stage_pair(0, 1, replica=2) == (8, 20)


def test_the_grid_counts_stages_then_replicas_then_members() -> None:
    grid = MESH.rank_grid()
    assert grid.shape == (2, 3, 4)
    assert np.array_equal(grid[1, 2], MESH.tensor_group(stage=1, replica=2))


def test_a_scenario_fills_its_mesh() -> None:
    plan = {"tensor_parallel": 2, "pipeline_parallel": 4, "data_parallel": 3}
    mesh = build_mesh(scenario_of(parallelism=plan))
    assert mesh == Mesh(2, 3, 4, gpus_per_node=8)
    assert mesh.ranks == 24


def test_a_job_larger_than_its_cluster_is_refused_with_both_numbers() -> None:
    scenario = scenario_of(parallelism={"tensor_parallel": 8, "data_parallel": 2})
    larger = scenario.parallelism.model_copy(update={"data_parallel": 3})
    with pytest.raises(PlacementError, match="needs 24 GPUs, the cluster has 16"):
        build_mesh(scenario.model_copy(update={"parallelism": larger}))

"""Slow hosts, spread of speeds, and folding of replicas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from clustersim.parallel.mesh import Mesh
from clustersim.parallel.speeds import Speeds, draw_speeds, fold_replicas, largest_of_normals
from clustersim.spec.fleet import Fleet

MESH = Mesh(tensor_parallel=4, data_parallel=250, pipeline_parallel=4, gpus_per_node=8)


def drawn(seed: int = 0, mesh: Mesh = MESH, **fleet: Any) -> Speeds:
    return draw_speeds(Fleet(**fleet), mesh, np.random.default_rng(seed))


def test_one_normal_is_its_own_largest() -> None:
    assert largest_of_normals(1) == pytest.approx((0.0, 1.0), abs=1e-9)


def test_the_larger_of_two_normals_is_known_in_closed_form() -> None:
    mean, deviation = 1 / math.sqrt(math.pi), math.sqrt(1 - 1 / math.pi)
    assert largest_of_normals(2) == pytest.approx((mean, deviation), rel=1e-9)


@pytest.mark.parametrize(
    ("count", "mean"),
    # David and Nagaraja, "Order statistics", 3rd ed.; Teichroew 1956, table 1.
    [(3, 0.8462843753), (4, 1.0293753730), (8, 1.4236003060), (16, 1.7659913931)],
)
def test_the_largest_of_a_few_normals_has_its_tabulated_mean(count: int, mean: float) -> None:
    assert largest_of_normals(count)[0] == pytest.approx(mean, rel=1e-8)


def test_the_largest_grows_and_narrows_with_the_number_of_normals() -> None:
    moments = [largest_of_normals(2**i) for i in range(14)]
    means, deviations = zip(*moments, strict=True)
    assert list(means) == sorted(means)
    assert list(deviations) == sorted(deviations, reverse=True)


def test_a_uniform_fleet_runs_at_nominal_speed() -> None:
    assert (drawn().rank_factor == 1.0).all()


def test_all_gpus_of_a_slow_host_are_slow_together() -> None:
    speeds = drawn(slow_host_fraction=0.3, slow_host_slowdown=0.2)
    by_host = speeds.rank_factor.reshape(-1, MESH.gpus_per_node)
    assert (by_host == by_host[:, :1]).all()
    assert set(by_host[:, 0]) == {1.0, 1.2}


def test_the_share_of_slow_hosts_is_the_fraction_asked_for() -> None:
    share = np.mean(
        [
            (drawn(seed, slow_host_fraction=0.1, slow_host_slowdown=0.2).rank_factor > 1).mean()
            for seed in range(20)
        ]
    )
    # 20 draws of 500 hosts: standard deviation sqrt(0.1 * 0.9 / 10,000) = 0.003.
    assert share == pytest.approx(0.1, abs=0.012)


def test_a_named_straggler_slows_its_own_rank_and_no_other() -> None:
    mesh = Mesh(tensor_parallel=2, data_parallel=3, pipeline_parallel=2, gpus_per_node=8)
    fleet = Fleet(slowdowns={9: 0.5})
    factor = draw_speeds(fleet, mesh, np.random.default_rng(0)).rank_factor
    assert factor[mesh.rank_grid() == 9].tolist() == [1.5]
    assert factor.sum() == pytest.approx(12.5)


def test_a_straggler_on_a_slow_host_is_slowed_twice() -> None:
    mesh = Mesh(tensor_parallel=2, data_parallel=1, pipeline_parallel=1, gpus_per_node=8)
    fleet = Fleet(slow_host_fraction=1.0, slow_host_slowdown=0.5, slowdowns={1: 0.2})
    factor = draw_speeds(fleet, mesh, np.random.default_rng(0)).rank_factor
    assert factor.ravel().tolist() == pytest.approx([1.5, 1.8])


def test_a_tensor_group_is_as_slow_as_its_slowest_member() -> None:
    speeds = Speeds(np.array([[[1.0, 1.3, 1.1], [1.2, 1.0, 1.0]]]))
    assert speeds.stage_factor.tolist() == [[1.3, 1.2]]


def test_spread_has_the_deviation_asked_for() -> None:
    logs = np.log(drawn(speed_spread=0.05).rank_factor)
    assert logs.std() == pytest.approx(0.05, rel=0.05)
    assert logs.mean() == pytest.approx(0.0, abs=0.004)


def test_more_slow_hosts_leave_the_spread_of_gpus_as_drawn() -> None:
    few = drawn(speed_spread=0.05, slow_host_fraction=0.1, slow_host_slowdown=0.0)
    many = drawn(speed_spread=0.05, slow_host_fraction=0.9, slow_host_slowdown=0.0)
    assert np.array_equal(few.rank_factor, many.rank_factor)


def test_the_same_seed_draws_the_same_speeds() -> None:
    one, other = (drawn(7, speed_spread=0.05, slow_host_fraction=0.1) for _ in range(2))
    assert np.array_equal(one.rank_factor, other.rank_factor)


def test_equal_replicas_fold_into_one_class() -> None:
    factor, multiplicity, first = fold_replicas(np.ones((4, 1000)))
    assert factor.tolist() == [[1.0]] * 4
    assert (multiplicity.tolist(), first.tolist()) == ([1000], [0])


def test_replicas_that_differ_in_one_stage_are_told_apart() -> None:
    stage_factor = np.array([[1.0, 1.0, 1.0, 1.0], [1.0, 1.1, 1.0, 1.1]])
    factor, multiplicity, first = fold_replicas(stage_factor)
    assert factor.tolist() == [[1.0, 1.0], [1.0, 1.1]]
    assert (multiplicity.tolist(), first.tolist()) == ([2, 2], [0, 1])


def test_classes_are_numbered_by_their_first_replica() -> None:
    factor, _, first = fold_replicas(np.array([[1.3, 1.0, 1.2, 1.0]]))
    assert factor.tolist() == [[1.3, 1.0, 1.2]]
    assert first.tolist() == [0, 1, 2]

"""Draws of a fleet: named streams, equal draws replayed once, percentiles by nearest rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clustersim.run.prepare import draw_fleet, durations_of, noisy_rows, prepare
from clustersim.run.replicate import Replications, run_replications
from clustersim.workload.streams import named_rng
from tests.whole_steps import small_step

SLOW_HOSTS = {"slow_host_fraction": 0.3, "slow_host_slowdown": 0.1}


def replications_of(fleet: dict[str, Any], replications: int = 16) -> Replications:
    scenario = small_step(
        None,
        {"data_parallel": 16},
        {"global_batch": 32},
        None,
        fleet,
        {"replications": replications},
    )
    return run_replications(prepare(scenario))


def test_streams_of_different_names_and_replications_differ() -> None:
    drawn = {
        named_rng(seed, name, replication).random()
        for seed in (0, 1)
        for name in ("speeds", "jitter")
        for replication in (0, 1)
    }
    assert len(drawn) == 8
    assert named_rng(7, "speeds", 3).random() == named_rng(7, "speeds", 3).random()


def test_draws_that_look_alike_are_replayed_once() -> None:
    drawn = replications_of(SLOW_HOSTS)
    ops = int(drawn.timeline.start_s.shape[0])
    assert drawn.step_time_s.size == 16
    assert len(set(drawn.step_time_s.tolist())) == 2  # of two hosts: none slow, or some
    assert drawn.engine_ops < 16 * 2 * ops


def test_more_replications_leave_the_first_draws_as_they_are() -> None:
    few, many = replications_of(SLOW_HOSTS, 8), replications_of(SLOW_HOSTS, 16)
    assert np.array_equal(many.step_time_s[:8], few.step_time_s)


@pytest.mark.parametrize(
    ("fraction", "rank"), [(0.0, 1), (0.05, 1), (0.5, 10), (0.51, 11), (0.95, 19), (1.0, 20)]
)
def test_percentiles_are_by_nearest_rank(fraction: float, rank: int) -> None:
    drawn = replications_of({}, 1)
    times = np.random.default_rng(0).permutation(np.arange(1.0, 21.0))
    many = Replications(times, drawn.draw, drawn.timeline, 0, 0.0)
    assert many.percentile_s(fraction) == float(rank)


def test_jitter_gives_every_replica_its_own_noise() -> None:
    prepared = prepare(small_step(None, {"data_parallel": 4}, fleet={"kernel_jitter": 0.05}))
    draw = draw_fleet(prepared, 0)
    assert draw.multiplicity.tolist() == [1, 1, 1, 1]
    assert draw.noise is not None
    assert draw.noise.shape == (noisy_rows(prepared).size, 4)
    alone_s = durations_of(prepared, draw).alone_s
    assert len(set(alone_s[noisy_rows(prepared)[0]].tolist())) == 4


def test_jitter_leaves_what_does_not_depend_on_a_gpu_alone() -> None:
    plan = {"pipeline_parallel": 2, "data_parallel": 2}
    prepared = prepare(small_step(None, plan, fleet={"kernel_jitter": 0.05}))
    alone_s = durations_of(prepared, draw_fleet(prepared, 0)).alone_s
    quiet = np.setdiff1d(np.arange(prepared.program.ops), noisy_rows(prepared))
    assert quiet.size
    nominal_s = prepared.costs.alone_s[prepared.program.template]
    assert np.array_equal(alone_s[quiet], np.repeat(nominal_s[quiet, None], 2, axis=1))


def test_repricing_keeps_the_order_that_was_made() -> None:
    prepared = prepare(small_step(None, {"pipeline_parallel": 2}))
    order = prepared.order
    assert prepared.repriced(prepared.platform).order is order

"""Laws of a whole step of the real program, over random small plans."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.analysis.breakdown import breakdown_s
from clustersim.analysis.critical_path import critical_path
from clustersim.engine.durations import Durations
from clustersim.engine.simulation import replay
from clustersim.parallel.speeds import largest_of_normals
from clustersim.run.prepare import Prepared, draw_fleet, durations_of, prepare
from clustersim.run.replicate import replay_draw, run_replications
from clustersim.run.simulate import simulate
from clustersim.spec.scenario import Scenario
from tests.whole_steps import one_op_step, plans, small_step, wider

few = settings(deadline=None, max_examples=40)


@few
@given(scenario=plans())
def test_breakdown_and_critical_path_sum_to_the_step(scenario: Scenario) -> None:
    prepared = prepare(scenario)
    draw = draw_fleet(prepared, 0)
    timeline = replay_draw(prepared, draw, "compiled")
    costs = prepared.costs
    parts, _ = breakdown_s(
        prepared.program,
        timeline,
        costs.by_category,
        costs.compute_s,
        costs.fixed_s,
        draw.factor,
        costs.drag,
    )
    assert sum(parts.values()) == pytest.approx(timeline.step_time_s, rel=1e-9)
    lucky = ("jitter", "straggler")  # a draw may be faster than nominal
    for key, seconds in parts.items():
        assert key in lucky or seconds >= -1e-9 * timeline.step_time_s, key
    path = critical_path(prepared.program, timeline, costs.by_category)
    assert path.length_s == pytest.approx(timeline.step_time_s, rel=1e-9)
    assert sum(path.by_category.values()) == pytest.approx(timeline.step_time_s, rel=1e-9)


@few
@given(scenario=plans(noise=False), rank=st.integers(0, 100), more=st.floats(0.0, 1.0))
def test_a_slower_gpu_never_makes_the_step_faster(
    scenario: Scenario, rank: int, more: float
) -> None:
    """Exact without drag; with it, a later collective may spare other compute its drag.

    What stays true with drag: the slower fleet is at least as slow as the faster one undragged.
    """
    rank %= scenario.gpus
    slowdowns = dict(scenario.fleet.slowdowns)
    slowdowns[rank] = slowdowns.get(rank, 0.0) + more
    fleet = scenario.fleet.model_copy(update={"slowdowns": slowdowns})
    before = prepare(scenario)
    after = replace(before, scenario=scenario.model_copy(update={"fleet": fleet}))
    undragged_s = step_s(before, drag=False)
    assert step_s(after, drag=False) >= undragged_s * (1 - 1e-12)
    assert step_s(after, drag=True) >= undragged_s * (1 - 1e-12)


def step_s(prepared: Prepared, drag: bool) -> float:
    """Step time of the first draw, with or without what communication takes from compute."""
    durations = durations_of(prepared, draw_fleet(prepared, 0))
    drags = durations.drag * float(drag)
    plain = Durations(durations.alone_s, drags, durations.multiplicity)
    return replay(prepared.program, plain, "compiled").step_time_s


@few
@given(scenario=plans(noise=False))
def test_a_uniform_fleet_is_one_class_and_one_replication(scenario: Scenario) -> None:
    fleet = scenario.fleet.model_copy(update={"slowdowns": {}})
    uniform = scenario.model_copy(update={"fleet": fleet})
    document = simulate(uniform).document
    assert document["replica_classes"] == 1
    assert document["replications"] == 1
    assert document["stragglers"]["slow_ranks"] == 0
    assert document["stragglers"]["slowdown"] == pytest.approx(1.0, rel=1e-9)


@settings(deadline=None, max_examples=15)
@given(scenario=plans())
def test_a_seed_decides_the_result(scenario: Scenario) -> None:
    first, again = (simulate(scenario).document for _ in range(2))
    assert first["result_digest"] == again["result_digest"]
    speed = {"engine_s"}
    assert {k: v for k, v in first.items() if k not in speed} == {
        k: v for k, v in again.items() if k not in speed
    }


@pytest.mark.parametrize("noise", ["kernel_jitter", "speed_spread"])
def test_another_seed_gives_another_result(noise: str) -> None:
    results = []
    for seed in range(4):
        scenario = small_step(
            None,
            {"pipeline_parallel": 2, "data_parallel": 2},
            fleet={noise: 0.05},
            run={"seed": seed, "replications": 3},
        )
        results.append(simulate(scenario))
    assert len({result.document["result_digest"] for result in results}) == len(results)
    assert len({result.step_time_s for result in results}) == len(results)


@pytest.mark.parametrize("replications", [1, 2, 3, 8])
def test_the_reported_step_is_the_median_of_its_draws(replications: int) -> None:
    scenario = small_step(
        None,
        {"data_parallel": 3},
        fleet={"kernel_jitter": 0.05},
        run={"replications": replications},
    )
    drawn = run_replications(prepare(scenario))
    median_s = np.sort(drawn.step_time_s)[(replications - 1) // 2]
    assert drawn.step_time_s.size == replications
    assert drawn.timeline.step_time_s == pytest.approx(median_s, rel=1e-12)


# ---------------------------------------------------------------- synchronisation over many ranks

JITTER: dict[str, Any] = {"kernel_jitter": 0.02}
SPREAD: dict[str, Any] = {"speed_spread": 0.02}
DRAWS = 400


def mean_s(prepared: Prepared) -> tuple[float, float]:
    """Mean step time over the draws, and the standard error of it."""
    times = run_replications(prepared).step_time_s
    return float(times.mean()), float(times.std(ddof=1) / np.sqrt(times.size))


@pytest.mark.parametrize("fleet", [JITTER, SPREAD], ids=["kernel_jitter", "speed_spread"])
@pytest.mark.parametrize(("width", "replicas"), [(2, 1), (8, 1), (1, 2), (1, 16), (4, 16)])
def test_one_op_of_many_gpus_takes_as_long_as_the_largest_of_many_normals(
    fleet: dict[str, Any], width: int, replicas: int
) -> None:
    """To three standard errors, and 6 % of the excess where two maxima are taken in turn.

    Jitter draws the largest of a tensor-parallel group from a normal with its mean and deviation,
    whose upper tail is a little thin; a log-normal speed is above a normal by half its variance.
    """
    found_s, error_s = mean_s(one_op_step(fleet, width, replicas, DRAWS))
    (spread,) = fleet.values()
    excess_s = spread * largest_of_normals(width * replicas)[0]
    slack = 0.06 if width > 1 and replicas > 1 else 0.0
    curvature_s = spread**2 * largest_of_normals(width * replicas)[0] ** 2
    assert abs(found_s - 1.0 - excess_s) < 3 * error_s + slack * excess_s + curvature_s


@pytest.mark.parametrize("syncs", [1, 4, 64])
def test_noise_averages_over_synchronisations_but_its_mean_cost_stays(syncs: int) -> None:
    times = run_replications(one_op_step(JITTER, 8, 1, DRAWS, syncs=syncs)).step_time_s
    mean, deviation = largest_of_normals(8)
    expected_s = 0.02 * deviation / np.sqrt(syncs)
    assert times.mean() == pytest.approx(1.0 + 0.02 * mean, abs=4 * expected_s / np.sqrt(DRAWS))
    assert times.std(ddof=1) == pytest.approx(expected_s, rel=0.15)


@pytest.mark.parametrize("fleet", [JITTER, SPREAD], ids=["kernel_jitter", "speed_spread"])
@pytest.mark.parametrize("axis", ["tp", "dp"])
def test_a_step_with_the_same_work_per_gpu_is_slower_over_more_ranks(
    fleet: dict[str, Any], axis: str
) -> None:
    scenario = small_step(
        None,
        {"tensor_parallel": 2, "pipeline_parallel": 2, "data_parallel": 2},
        {"global_batch": 8},
        run={"replications": 40},
    )
    base = prepare(scenario)
    ladder = [2, 8, 32]
    sizes = [(n, 2) if axis == "tp" else (2, n) for n in ladder]
    found = [mean_s(wider(base, *size, fleet)) for size in sizes]
    for (less_s, one_error_s), (more_s, other_error_s) in pairwise(found):
        assert more_s > less_s + 3 * np.hypot(one_error_s, other_error_s)
    uniform_s = run_replications(base).timeline.step_time_s
    assert found[0][0] > uniform_s
    assert found[-1][0] < uniform_s * (1 + 0.02 * 5)  # no more than five deviations

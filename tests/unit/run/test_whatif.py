"""What-ifs: a healed straggler is a uniform fleet; suggested plans need the memory they say."""

from __future__ import annotations

import pytest

from clustersim.parallel.memory import memory_of
from clustersim.run.simulate import Result, simulate
from clustersim.run.whatif import nearest_knobs
from clustersim.spec.resolve import load_scenario
from tests.whole_steps import small_step

# Scenario and overrides of jobs that need more than a GPU holds; the last fixes its replicas.
TOO_LARGE = [
    ("gpt3_ptdp_1024", ("parallelism.pipeline_parallel=4",)),
    ("gpt_22b_single_node", ("training.micro_batch=16", "training.global_batch=16")),
    ("bloom_176b", ("training.recompute=none",)),
    # Gradients in 16 bits leave cached blocks, which no verdict may count.
    ("bloom_176b", (
        "training.recompute=selective", "training.micro_batch=4", "training.grad_dtype=fp16",
    )),
]  # fmt: skip


@pytest.fixture(scope="module")
def slow() -> Result:
    return simulate(load_scenario("straggler_175b"))


@pytest.fixture(scope="module")
def uniform() -> Result:
    return simulate(load_scenario("straggler_175b", ("fleet=uniform",)))


def test_without_the_named_straggler_the_step_is_the_uniform_one(
    slow: Result, uniform: Result
) -> None:
    report = slow.document["stragglers"]
    (healed,) = report["without"]
    assert healed["step_time_s"] == pytest.approx(uniform.step_time_s, rel=1e-9)
    assert report["uniform_step_time_s"] == pytest.approx(uniform.step_time_s, rel=1e-9)
    assert report["slowdown"] == pytest.approx(slow.step_time_s / uniform.step_time_s)
    assert healed["step_time_change"] == pytest.approx(1.0 / report["slowdown"] - 1.0)


def test_the_straggler_is_named_by_host_stage_and_replica(slow: Result) -> None:
    report = slow.document["stragglers"]
    assert report["slow_ranks"] == 1
    (named,) = report["without"]
    # Rank 17 of 8 GPUs a host and tp 8: host 2, whose ranks are the third replica of stage 0.
    assert (named["host"], named["first_rank"]) == (2, 16)
    assert (named["stage"], named["replica"]) == (0, 2)
    assert named["slowdown"] == pytest.approx(0.1)


def test_one_slow_gpu_costs_the_job_less_than_its_slowdown(slow: Result, uniform: Result) -> None:
    assert 1.0 < slow.step_time_s / uniform.step_time_s < 1.1
    assert slow.document["replica_classes"] == 2
    assert uniform.document["replica_classes"] == 1
    assert slow.document["breakdown_s"]["straggler"] > 0.0


def test_a_uniform_fleet_names_nobody(uniform: Result) -> None:
    assert uniform.document["stragglers"]["without"] == []
    assert uniform.document["stragglers"]["slowdown"] == pytest.approx(1.0, rel=1e-9)


def test_slowest_host_comes_first_and_few_are_named() -> None:
    slowdowns = {rank: 0.1 + 0.01 * rank for rank in range(0, 64, 8)}
    scenario = small_step(
        None, {"data_parallel": 64}, {"micro_batch": 1, "global_batch": 64}, None,
        {"slowdowns": slowdowns},
    )  # fmt: skip
    report = simulate(scenario).document["stragglers"]
    assert report["slow_ranks"] == 8
    assert [row["host"] for row in report["without"]] == [7, 6, 5, 4, 3]


def test_more_of_a_resource_never_slows_an_undragged_step(uniform: Result) -> None:
    changes = uniform.document["sensitivities"]
    assert len(changes) == 5
    assert all(-0.1 < row["step_time_change"] <= 1e-9 for row in changes)
    ordered = [row["step_time_change"] for row in changes]
    assert ordered == sorted(ordered)


@pytest.mark.parametrize(("name", "overrides"), TOO_LARGE)
def test_nearest_knobs_are_plans_that_load_and_need_what_they_say(
    name: str, overrides: tuple[str, ...]
) -> None:
    scenario = load_scenario(name, overrides)
    now = memory_of(scenario)
    assert not now.fits
    knobs = nearest_knobs(scenario)
    assert any(knob["fits"] for knob in knobs)
    fitting = [knob["total_bytes"] for knob in knobs if knob["fits"]]
    others = [knob["total_bytes"] for knob in knobs if not knob["fits"]]
    assert [knob["total_bytes"] for knob in knobs] == fitting + others
    assert fitting == sorted(fitting, reverse=True)  # the nearest first
    assert others == sorted(others)
    assert all(size < now.terms()["total"] for size in fitting + others)
    for knob in knobs:
        sets = tuple(part.replace(": ", "=") for part in knob["change"].split(", "))
        memory = memory_of(load_scenario(name, (*overrides, *sets)))
        assert memory.terms()["total"] == knob["total_bytes"]
        assert memory.fits == knob["fits"]


def test_splitting_further_halves_replicas_that_the_plan_fixes() -> None:
    knobs = nearest_knobs(load_scenario("bloom_176b", ("training.recompute=none",)))
    assert "parallelism.tensor_parallel: 8, parallelism.data_parallel: 4" in [
        knob["change"] for knob in knobs
    ]

"""Changes that would let a model fit are possible, and told apart from those that are not."""

from __future__ import annotations

from clustersim.parallel.replica import memory_of_replica
from clustersim.run import nearest_serving_knobs
from clustersim.run.serving_costs import iteration_costs
from clustersim.spec.resolve import load_scenario
from clustersim.spec.serving import ServingScenario


def scenario_of(name: str, *sets: str) -> ServingScenario:
    scenario = load_scenario(name, sets)
    assert isinstance(scenario, ServingScenario)
    return scenario


def test_what_fits_needs_no_change():
    assert nearest_serving_knobs(scenario_of("serve_8b_small_gpu")) == []


def test_changes_that_fit_come_first_and_do_fit():
    rows = nearest_serving_knobs(scenario_of("serve_8b_small_gpu", "model=llama2_13b"))
    fits = [row["fits"] for row in rows]
    assert fits == sorted(fits, reverse=True)
    assert fits[0]
    change, _, value = rows[0]["change"].partition(": ")
    changed = scenario_of("serve_8b_small_gpu", "model=llama2_13b", f"{change}={value}")
    memory = memory_of_replica(changed)
    assert memory.fits
    assert rows[0]["kv_tokens"] == memory.kv_blocks * memory.layout.block_tokens


def test_a_change_that_the_cluster_has_no_room_for_is_not_told():
    rows = nearest_serving_knobs(scenario_of("serve_8b_small_gpu", "model=llama2_70b"))
    assert not [row for row in rows if "tensor_parallel" in row["change"]]
    many = ("parallelism={tensor_parallel: 1, replicas: 1}", "model=llama3_1_70b")
    rows = nearest_serving_knobs(scenario_of("serve_llama70b_8xh100", *many))
    assert "parallelism.tensor_parallel: 4" in [row["change"] for row in rows if row["fits"]]


def test_parts_of_an_iteration_with_experts_sum_to_it():
    rows = iteration_costs(scenario_of("serve_mixtral_8xh100"))
    for row in rows:
        parts = [value for key, value in row.items() if key.endswith("_s") and key != "step_s"]
        assert abs(sum(parts) - row["step_s"]) < 1e-12
    assert all(row["experts_s"] > 0.0 for row in rows)

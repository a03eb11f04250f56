"""The document that a run prints: its keys, its sums, and that shares are fractions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from clustersim.run.flop import step_flop
from clustersim.run.simulate import Result, simulate
from clustersim.spec.resolve import load_scenario
from tests.whole_steps import small_step

KEYS = {
    "schema_version": int, "kind": str, "step_time_s": float, "mfu": float, "hfu": float,
    "model_tflops_per_gpu": float, "tokens_per_s": float, "memory_bytes_per_gpu": dict,
    "fits": bool, "breakdown_s": dict, "interval": dict, "engine": str, "engine_ops": int,
    "engine_s": float, "gpus": int, "replications": int, "result_digest": str,
}  # fmt: skip


@pytest.fixture(scope="module", params=["uniform", "noisy", "too large"])
def result(request: pytest.FixtureRequest) -> Result:
    match request.param:
        case "uniform":
            return simulate(load_scenario("smallest"))
        case "noisy":
            plan = {"pipeline_parallel": 2, "tensor_parallel": 2, "data_parallel": 2}
            fleet = {"kernel_jitter": 0.05, "speed_spread": 0.02}
            return simulate(small_step(None, plan, fleet=fleet))
    sets = ("training.micro_batch=16", "training.global_batch=16")
    return simulate(load_scenario("gpt_22b_single_node", sets))


def test_every_promised_key_is_there(result: Result) -> None:
    for key, kind in KEYS.items():
        assert isinstance(result.document[key], kind), key
    assert result.document["kind"] == "training"
    assert result.document["engine"] in ("event", "compiled")
    assert len(result.document["result_digest"]) == 16


def test_memory_terms_sum_to_their_total(result: Result) -> None:
    terms = dict(result.document["memory_bytes_per_gpu"])
    total = terms.pop("total")
    assert sum(terms.values()) == pytest.approx(total, rel=1e-12)
    assert all(term >= 0.0 for term in terms.values())
    assert result.document["fits"] == (total <= result.document["memory_capacity_bytes"])


def test_breakdown_sums_to_the_step(result: Result) -> None:
    parts = result.document["breakdown_s"]
    assert sum(parts.values()) == pytest.approx(result.step_time_s, rel=1e-9)
    losses = result.document["waterfall"]
    assert sum(row["seconds"] for row in losses) == pytest.approx(result.step_time_s, rel=1e-9)
    assert losses[-1]["mfu_left"] == pytest.approx(result.document["mfu"], rel=1e-9)


def test_interval_contains_the_median(result: Result) -> None:
    interval = result.document["interval"]
    assert 0.0 < interval["low"] <= result.step_time_s <= interval["high"]
    assert interval["low"] < interval["high"]


def test_shares_are_fractions(result: Result) -> None:
    document = result.document
    assert 0.0 < document["mfu"] <= document["hfu"] < 1.0
    assert 0.0 < document["bound"]["share"] <= 1.0
    for row in document["waterfall"]:
        assert -0.1 < row["share"] <= 1.0
        assert 0.0 <= row["mfu_left"] <= 1.0 + 1e-9
    for row in document["sensitivities"]:
        assert -0.1 < row["step_time_change"] < 0.1
    for row in document["stragglers"]["without"]:
        assert -1.0 < row["step_time_change"] < 1.0
    assert not [key for key in keys(document) if "percent" in key or key.endswith("_pct")]


def keys(value: Any) -> Iterator[str]:
    """Every key at any depth."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield str(key)
            yield from keys(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from keys(entry)


def test_document_is_json_with_finite_numbers(result: Result) -> None:
    text = json.dumps(result.document, allow_nan=False)
    assert json.loads(text) == result.document


def test_rates_follow_from_the_step_time(result: Result) -> None:
    document, scenario = result.document, result.scenario
    training = scenario.training
    flop = step_flop(scenario)
    useful, executed = flop.model, flop.executed
    tokens = training.global_batch * training.sequence_length
    peak = scenario.cluster.node.device.matrix_peak[training.dtype]
    assert document["tokens_per_s"] * result.step_time_s == pytest.approx(tokens)
    assert document["mfu"] == pytest.approx(useful / result.step_time_s / scenario.gpus / peak)
    assert document["hfu"] / document["mfu"] == pytest.approx(executed / useful)
    assert document["model_tflops_per_gpu"] * 1e12 == pytest.approx(document["mfu"] * peak)


def test_a_token_budget_becomes_days() -> None:
    budget = {"token_budget": 1e9, "sequence_length": 512}
    document = simulate(small_step(training=budget), what_ifs=False).document
    assert document["days"] * 86400.0 * document["tokens_per_s"] == pytest.approx(1e9)
    assert document["gpu_hours"] == pytest.approx(document["days"] * 24.0 * document["gpus"])


def test_without_what_ifs_the_answer_is_the_same_and_shorter() -> None:
    scenario = small_step()
    short, full = simulate(scenario, what_ifs=False), simulate(scenario)
    assert short.step_time_s == full.step_time_s
    assert set(full.document) - set(short.document) == {"sensitivities", "stragglers"}


def test_recomputation_is_executed_but_not_useful() -> None:
    plain, again = (
        step_flop(small_step(training={"recompute": kind, "sequence_length": 512}))
        for kind in ("none", "full")
    )
    assert plain.model == plain.executed == again.model
    assert 1.2 < again.executed / again.model < 4.0 / 3.0

"""Schedulers as records of numbers, and what a replica refuses."""

from __future__ import annotations

from typing import Any

import pytest

from clustersim.engine.serving.policy import build_policy, padded_sizes
from clustersim.engine.serving.state import Policy
from clustersim.errors import CapacityError
from clustersim.parallel.replica import memory_of_replica
from clustersim.spec.resolve import load_scenario
from clustersim.spec.serving import ServingScenario
from tests.serving_cases import load_of, policy_of, replica_of


def record_of(engine: str, *sets: str) -> Policy:
    scenario = load_scenario("serve_8b_small_gpu", [f"engine={engine}", *sets])
    assert isinstance(scenario, ServingScenario)
    memory = memory_of_replica(scenario)
    return build_policy(scenario, memory, scenario.engine.token_budget, 5e-4)


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ("vllm-0.19", {"mixed": 1, "chunked": 1, "reserve_all": 0, "preempt": 1, "caching": 1}),
        ("vllm-0.4", {"mixed": 0, "chunked": 0, "reserve_all": 0, "preempt": 1}),
        ("sarathi", {"mixed": 1, "chunked": 1, "reserve_all": 0, "preempt": 1, "budget": 512}),
        ("orca", {"mixed": 1, "reserve_all": 1, "preempt": 0}),
        ("sglang-0.5", {"mixed": 0, "reserve_all": 0, "preempt": 1, "reserve_start": 0.7}),
        ("tensorrt_llm-1.0", {"mixed": 1, "reserve_all": 1, "preempt": 0}),
        ("hf-static", {"batched": 1, "chunked": 0, "reserve_all": 1}),
    ],
)
def test_an_engine_is_a_record_of_numbers(engine: str, expected: dict[str, Any]) -> None:
    record = record_of(engine)._asdict()
    assert {name: record[name] for name in expected} == expected
    assert record["batched"] == (engine == "hf-static")


def test_vllm_v0_keeps_a_hundredth_of_its_blocks_free() -> None:
    scenario = load_scenario("serve_8b_small_gpu", ["engine=vllm-0.4"])
    assert isinstance(scenario, ServingScenario)
    blocks = memory_of_replica(scenario).kv_blocks
    assert record_of("vllm-0.4").watermark == pytest.approx(0.01 * blocks)
    assert record_of("vllm-0.19").watermark == 0.0


def test_sglang_trusts_answers_to_be_short_after_600_steps() -> None:
    record = record_of("sglang-0.5")
    fallen = record.reserve_start - 600 * record.reserve_step
    assert fallen == pytest.approx(record.reserve_least) == pytest.approx(0.7 * 0.14)


def test_speculation_checks_drafts_beside_the_next_token() -> None:
    draft = "speculation={draft_tokens: 3, accept_length: 2.4}"
    record = record_of("vllm-0.19", draft)
    assert (record.drafted, record.accepted) == (3, 2.4)
    assert (record_of("vllm-0.19").drafted, record_of("vllm-0.19").accepted) == (0, 1.0)


def test_a_batch_is_padded_to_the_next_captured_graph() -> None:
    assert padded_sizes((4, 1, 2, 8)).tolist() == [1, 1, 2, 4, 4, 8, 8, 8, 8, -1]


def test_without_graphs_nothing_is_padded() -> None:
    assert padded_sizes(()).tolist() == [-1]


@pytest.mark.parametrize("name", ["vllm_v1", "vllm_v0", "sglang", "tensorrt_llm", "static"])
def test_a_request_longer_than_the_cache_is_refused_with_the_numbers(name: str) -> None:
    load = load_of([0.0, 0.0], [6, 1200], [2, 34])
    replica = replica_of(load, policy_of(name, budget=2048, sequences=1), capacity=300.0)
    with pytest.raises(CapacityError, match=r"request 1 needs a cache of 1,234 tokens.* 1,200"):
        replica.advance()
    assert replica.count("finished") == 1


def test_vllm_v1_decodes_beside_a_prompt_in_pieces() -> None:
    load = load_of([0.0, 1.0], [4, 20], [8, 1])
    replica = replica_of(load, policy_of("vllm_v1", budget=8))
    replica.advance()
    # a decode and 7 tokens of the prompt: three steps of 20 tokens
    assert replica.progress.first_s.tolist() == [1.0, 4.0]
    assert replica.progress.last_s[0] == 8.0


def test_vllm_v0_and_sglang_let_decodes_wait_for_a_prompt() -> None:
    for name in ("vllm_v0", "sglang"):
        load = load_of([0.0, 1.0], [4, 20], [8, 1])
        replica = replica_of(load, policy_of(name))
        replica.advance()
        assert replica.progress.first_s.tolist() == [1.0, 2.0]
        assert replica.progress.last_s[0] == 9.0


def test_a_prompt_beyond_the_budget_that_may_not_be_cut_runs_alone() -> None:
    load = load_of([0.0, 0.0], [100, 4], [1, 1])
    replica = replica_of(load, policy_of("vllm_v0", budget=64))
    replica.advance()
    assert replica.progress.last_s.tolist() == [1.0, 2.0]


def test_reserved_answers_are_never_evicted() -> None:
    load = load_of([0.0] * 6, [8] * 6, [30] * 6)
    for name, preempted in (("vllm_v1", True), ("tensorrt_llm", False), ("orca", False)):
        replica = replica_of(load, policy_of(name), capacity=25.0)
        replica.advance()
        assert (replica.count("preemptions") > 0) == preempted


def test_ranks_step_together_and_share_the_load() -> None:
    load = load_of([0.0] * 4, [8] * 4, [4, 4, 4, 9])
    replica = replica_of(load, policy_of("vllm_v1"), ranks=2)
    replica.advance()
    assert replica.progress.rank.tolist() == [0, 1, 0, 1]
    assert replica.count("steps") == 9


def test_accepted_drafts_shorten_an_answer() -> None:
    load = load_of([0.0], [8], [21])
    replica = replica_of(load, policy_of("vllm_v1", drafted=3, accepted=2.5))
    replica.advance()
    assert replica.count("steps") == 1 + 20 / 2.5

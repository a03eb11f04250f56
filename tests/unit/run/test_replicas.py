"""Which requests replicas take on, and what power they draw."""

from __future__ import annotations

import numpy as np
import pytest

from clustersim.cost.power import serving_power_share
from clustersim.parallel.replica import memory_of_replica
from clustersim.run.replicas import PriceBook, admissible, capacity_of, play, with_budget
from clustersim.spec.resolve import load_scenario
from clustersim.spec.serving import ServingScenario
from clustersim.workload.requests import build_requests

SMALL = "serve_8b_small_gpu"
FEW = ["workload.requests=40"]


def scenario_of(*overrides: str) -> ServingScenario:
    scenario = load_scenario(SMALL, [*FEW, *overrides])
    assert isinstance(scenario, ServingScenario)
    return scenario


def test_requests_longer_than_the_cache_are_refused_and_the_others_answered():
    scenario = scenario_of()
    requests = build_requests(scenario.workload, 0)
    long = np.array([3, 17])
    requests.input_tokens[long] = 10**6
    played = play(scenario, requests=requests)
    assert played.refused == 2
    assert played.answered.finished.sum() == 38


def test_a_conversation_ends_with_the_turn_that_does_not_fit():
    scenario = scenario_of("workload.prefixes={turns: 4}")
    requests = build_requests(scenario.workload, 0)
    layout = memory_of_replica(scenario).layout
    requests.input_tokens[1] = 10**6
    kept = admissible(requests, layout, 1000)
    assert 0 in kept
    assert not {1, 2, 3} & set(kept.tolist())
    assert 4 in kept


def test_taking_requests_keeps_their_prefixes_and_turns():
    scenario = scenario_of("workload.prefixes={turns: 2, shared: 64}")
    requests = build_requests(scenario.workload, 0)
    rows = np.arange(2, 12)
    some = requests.take(rows)
    assert (some.after[1::2] == np.arange(0, 10, 2)).all()
    for place, row in enumerate(rows):
        own = some.prefix_block[some.prefix_start[place] : some.prefix_start[place + 1]]
        whole = slice(requests.prefix_start[row], requests.prefix_start[row + 1])
        assert (own == requests.prefix_block[whole]).all()


def test_an_engine_that_does_not_cut_prompts_has_room_for_the_longest_and_a_full_batch():
    scenario = scenario_of("engine=vllm-0.1")
    requests = build_requests(scenario.workload, 0)
    requests.input_tokens[0] = 50_000
    raised = with_budget(scenario, requests).engine.token_budget
    assert raised == 50_000 + min(scenario.engine.max_sequences, 40)
    assert with_budget(scenario_of(), requests) == scenario_of()


def test_capacity_does_not_depend_on_how_few_requests_are_asked():
    book, found = PriceBook(), []
    for count in (2, 50, 1000):
        scenario = scenario_of(
            f"workload.requests={count}", "workload.lengths={input: 256, output: 64}"
        )
        found.append(capacity_of(play(scenario, None, 0, book), None, book))
    assert found == pytest.approx([found[-1]] * 3, rel=1e-12)


def test_requests_that_are_repeated_find_no_prefix_of_their_own():
    fixed = "workload.lengths={input: 256, output: 64}"
    alone = [fixed, "workload.prefixes={shared: 512, groups: 1000000}"]
    book, found = PriceBook(), []
    for count in (50, 1000):
        scenario = scenario_of(*alone, f"workload.requests={count}")
        found.append(capacity_of(play(scenario, None, 0, book), None, book))
    assert found[0] == pytest.approx(found[1], rel=0.01)


@pytest.mark.parametrize(
    ("times", "reached", "expected"),
    [
        ((1.0, 0.0, 0.0), 0.0, 0.62),
        ((1.0, 0.0, 0.0), 0.7, 1.0),
        ((0.0, 1.0, 0.0), 0.0, 0.95),
        ((0.0, 0.0, 1.0), 0.0, 0.5),
        ((0.0, 0.0, 0.0), 0.0, 0.5),
    ],
)
def test_power_is_that_of_what_runs(times, reached, expected):
    assert serving_power_share(*times, reached) == pytest.approx(expected)


def test_counts_of_the_same_name_in_two_folders_are_two_prices(tmp_path, monkeypatch):
    scenario = load_scenario(
        "serve_mixtral_8xh100", ["routing={popularity: counts, counts: counts.csv}"]
    )
    assert isinstance(scenario, ServingScenario)
    monkeypatch.setattr("clustersim.run.replicas.price_iteration", lambda *parts: parts[-1].copy())
    for folder, first in (("a", 1), ("b", 9)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "counts.csv").write_text(f"count\n{first}\n" + "1\n" * 7)
    book = PriceBook()
    read = [book.look_up(scenario, tmp_path / folder) for folder in ("a", "b", "a")]
    assert [counts[0] for counts in read] == [1.0, 9.0, 1.0]
    assert read[0] is read[2]

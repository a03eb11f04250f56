"""How fast serving runs are simulated: requests and tokens a second of one core, whole commands.

The bars are those of a laptop-sized machine. The trace is `../shared/traces`; where it is absent,
its entry is left out. Every run is warm: compiled, with its prices known or not as its line says.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from clustersim.run.replicas import PriceBook, play
from clustersim.run.serving import simulate_serving
from clustersim.spec.resolve import load_scenario
from clustersim.spec.serving import ServingScenario
from tests.benchmarks.bench_run import Entry, best_of, command, entry

BENCH = "bench_colocated_8b"
AZURE = Path(__file__).parents[2] / ".." / "shared" / "traces" / "azure2023"
CONVERSATIONS = AZURE / "AzureLLMInferenceTrace_conv.csv"
MANY = 100_000
MIB = 2**20


def scenario_of(name: str, *sets: str) -> ServingScenario:
    """A serving scenario with some fields set."""
    scenario = load_scenario(name, sets)
    assert isinstance(scenario, ServingScenario)
    return scenario


def colocated() -> list[Entry]:
    """Steps of the speed bar alone, in requests and in tokens; then the whole answer."""
    scenario, book = scenario_of(BENCH), PriceBook()
    played = play(scenario, book=book)
    requests = played.requests.count
    output = int(played.answered.made.sum())
    tokens = output + int(played.requests.input_tokens.sum())
    seconds = best_of(partial(play, scenario, book=book), 3)
    steps = sum(replica.count("steps") for replica in played.replicas)
    whole_s = best_of(partial(simulate_serving, scenario), 2)
    return [
        entry(f"{BENCH}_requests", seconds, requests, "requests", bar_rate=10_000.0, steps=steps),
        entry(f"{BENCH}_tokens", seconds, tokens, "tokens", bar_rate=10e6),
        entry(f"{BENCH}_output_tokens", seconds, output, "output tokens"),
        entry(f"{BENCH}_answer", whole_s, requests, "requests", bar_rate=10_000.0),
    ]


def commands() -> list[Entry]:
    """Whole commands: a small question, many requests, a real trace over eight replicas."""
    small = ["run", "serve_8b_small_gpu", "--json"]
    many = ["run", BENCH, "--json", "--set", f"workload.requests={MANY}"]
    found = [
        command("serve_small", small, 2_000, "requests", 3.0),
        command("serve_100k_requests", many, MANY, "requests", 15.0, 400 * MIB, times=2),
    ]
    if CONVERSATIONS.exists():
        sets = [
            "workload.arrivals.kind=trace",
            f"workload.trace={CONVERSATIONS}",
            "cluster={extends: dgx_h100, nodes: 1}",
            "parallelism.replicas=8",
        ]
        words = ["run", BENCH, "--json", "--set", "workload.requests=null"]
        for text in sets:
            words += ["--set", text]
        found.append(command("serve_azure_8_replicas", words, 19_366, "requests", 3.0))
    return found


def benchmarks() -> list[Entry]:
    """Measure; compilation is warm-up and not counted."""
    return [*colocated(), *commands()]


if __name__ == "__main__":
    print(json.dumps(benchmarks(), indent=1))

"""What single iterations of a serving replica cost, part by part: for `clustersim show`.

Batches are chosen at nodes of the price tables, so that nothing is interpolated: decoding
sequences of one context, and one chunk of a prompt. Left out: padding to the batches of graphs,
pipeline stages that share a batch, and steps that hold both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.serving.prices import PARTS, IterationPrices
from clustersim.errors import CapacityError
from clustersim.parallel.replica import memory_of_replica
from clustersim.run.replicas import PriceBook, misfit
from clustersim.spec.serving import ServingScenario

CONTEXT = 1024  # tokens that a decoding sequence has behind it
DECODES = (1, 4, 16, 64, 256, 1024)
CHUNKS = (256, 1024, 4096, 8192)


@dataclass(frozen=True)
class Batch:
    """A step of each attention rank: decoding sequences or one chunk, and their attention. [s]"""

    words: str
    sequences: int
    tokens: int
    attention_s: float


def iteration_costs(scenario: ServingScenario, base: Path | None = None) -> list[dict[str, Any]]:
    """Prices of an iteration for a few batches.

    Parameters
    ----------
    scenario : ServingScenario
    base : Path, optional
        Folder of the scenario's file.

    Returns
    -------
    list of dict
        Each has `batch` in words, `tokens` and `sequences` of an attention rank, `step_s` and the
        parts that sum to it.

    Raises
    ------
    CapacityError
        If there is no room for a cache.
    """
    memory = memory_of_replica(scenario)
    if not memory.fits:
        raise CapacityError(misfit(memory))
    prices = PriceBook().look_up(scenario, base)
    return [_row(scenario, prices, batch) for batch in _batches(scenario, prices)]


def _batches(scenario: ServingScenario, prices: IterationPrices) -> list[Batch]:
    tables, engine = prices.attention, scenario.engine
    found = []
    for sequences in (n for n in DECODES if n <= engine.max_sequences):
        at = (_node(tables.sequences, sequences), _node(tables.contexts, CONTEXT), 0)
        words = f"decode {sequences:,} x {CONTEXT:,}"
        found.append(
            Batch(words, sequences, _rows(scenario, sequences), float(tables.decode_s[at]))
        )
    for tokens in (t for t in CHUNKS if t <= engine.token_budget):
        attention_s = float(tables.alone_s[_node(tables.chunk, tokens), 0])
        found.append(Batch(f"prompt of {tokens:,}", 1, tokens, attention_s))
    return found


def _node(axis: NDArray[np.float64], value: int) -> int:
    return int(np.argmin(np.abs(axis - value)))


def _rows(scenario: ServingScenario, sequences: int) -> int:
    """Tokens that so many decoding sequences compute in a step, drafts included."""
    drafted = scenario.speculation.draft_tokens if scenario.speculation else 0
    return sequences * (1 + drafted)


def _row(scenario: ServingScenario, prices: IterationPrices, batch: Batch) -> dict[str, Any]:
    ranks, engine = scenario.parallelism.attention_data_parallel, scenario.engine
    all_s = prices.all_token_s.mean(axis=0)
    sampled = batch.tokens if batch.words.startswith("decode") else 1
    parts_s = prices.token_s[:, min(batch.tokens, prices.token_s.shape[1] - 1)]
    parts_s = parts_s + all_s[:, min(batch.tokens * ranks, all_s.shape[1] - 1)]
    parts_s = parts_s + prices.sequence_s[:, min(sampled, prices.sequence_s.shape[1] - 1)]
    parts = {"attention": batch.attention_s, **dict(zip(PARTS, parts_s.tolist(), strict=True))}
    gpu_s = sum(parts.values())
    has_graph = bool(engine.graph_sizes) and batch.tokens <= engine.graph_sizes[-1]
    if batch.words.startswith("prompt"):
        has_graph = has_graph and engine.graphs_of_prompts
    parts["launch"] = 0.0 if has_graph else max(0.0, prices.launch_s - gpu_s)
    host_s = engine.host.step + engine.host.sequence * batch.sequences
    if engine.async_scheduling:
        host_s = max(0.0, host_s - gpu_s - parts["launch"])
    parts["host"] = host_s
    return {
        "batch": batch.words,
        "tokens": batch.tokens,
        "sequences": batch.sequences,
        "step_s": sum(parts.values()),
        **{f"{name}_s": seconds for name, seconds in parts.items()},
    }

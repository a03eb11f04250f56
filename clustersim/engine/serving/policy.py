"""Schedulers of serving engines as one record of numbers: what may share a step, what is kept free.

References
----------
.. [1] vLLM, v1/core/sched/scheduler.py (running requests first, then the queue, one token budget;
   the last running request gives way) and core/scheduler.py of v0 (prompts first, watermark),
   https://github.com/vllm-project/vllm
.. [2] A. Agrawal et al., "Taming throughput-latency tradeoff in LLM inference with
   Sarathi-Serve," OSDI 2024, https://arxiv.org/abs/2403.02310
.. [3] G.-I. Yu et al., "Orca: a distributed serving system for transformer-based generative
   models," OSDI 2022 (iteration-level scheduling, room for the whole answer).
.. [4] SGLang, managers/schedule_policy.py and scheduler.py (prompts first; a share of unfinished
   answers is kept free: 0.7, falling to a seventh of it in 600 steps),
   https://github.com/sgl-project/sglang
.. [5] NVIDIA, TensorRT-LLM documentation, "Useful runtime options" (GUARANTEED_NO_EVICT).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from clustersim.engine.serving.state import Ints, Policy
from clustersim.parallel.replica import ReplicaMemory
from clustersim.spec.serving import ServingScenario

WATERMARK = 0.01  # of the blocks, left free by admission in vLLM v0 [1]
RESERVE_START, RESERVE_LEAST, RESERVE_STEPS = 0.7, 0.098, 600.0  # [4]


def build_policy(
    scenario: ServingScenario, memory: ReplicaMemory, budget: int, launch_s: float
) -> Policy:
    """The scheduler of a scenario's engine as numbers.

    Parameters
    ----------
    scenario : ServingScenario
    memory : ReplicaMemory
        Its blocks, for the watermark.
    budget : int
        Most tokens of a step. [tokens]
    launch_s : float
        Host time to issue an iteration without a graph. [s]

    Returns
    -------
    Policy
    """
    engine, speculation, layout = scenario.engine, scenario.speculation, memory.layout
    flags: dict[str, Any] = {
        "mixed": 1,
        "chunked": int(engine.chunked_prefill),
        "reserve_all": 0,
        "batched": 0,
        "preempt": 1,
        "watermark": 0.0,
        "reserve_start": 0.0,
    }
    match engine.policy:
        case "vllm_v1":
            flags["chunked"] = 1
        case "sarathi":  # built on the block manager of vLLM v0
            flags |= {"chunked": 1, "watermark": WATERMARK * memory.kv_blocks}
        case "vllm_v0":
            flags["mixed"] = int(engine.chunked_prefill)
            flags["watermark"] = WATERMARK * memory.kv_blocks
        case "sglang":
            flags |= {"mixed": 0, "reserve_start": RESERVE_START}
        case "tensorrt_llm" | "orca":
            flags |= {"reserve_all": 1, "preempt": 0}
        case "static":
            flags |= {"reserve_all": 1, "preempt": 0, "batched": 1, "chunked": 0}
    return Policy(
        **flags,
        caching=int(engine.prefix_caching),
        budget=budget,
        sequences=engine.max_sequences,
        block_tokens=layout.block_tokens,
        window_tokens=layout.window_tokens,
        full=layout.full,
        window=layout.window,
        state=layout.state,
        reserve_least=RESERVE_LEAST if flags["reserve_start"] else 0.0,
        reserve_step=(RESERVE_START - RESERVE_LEAST) / RESERVE_STEPS,
        drafted=speculation.draft_tokens if speculation else 0,
        accepted=speculation.accept_length if speculation else 1.0,
        graph_mixed=int(engine.graphs_of_prompts),
        asynchronous=int(engine.async_scheduling),
        step_s=engine.host.step,
        gap_s=engine.host.gap,
        sequence_s=engine.host.sequence,
        launch_s=launch_s,
        stages=scenario.parallelism.pipeline_parallel,
        drift_s=scenario.routing.drift or 0.0,
        sampled=int(scenario.routing.sample_every_step),
    )


def padded_sizes(sizes: tuple[int, ...]) -> Ints:
    """Tokens that a graph computes for 0, 1, 2, ... tokens; the last entry, -1, is beyond all.

    Parameters
    ----------
    sizes : tuple of int
        Tokens of the captured graphs, in any order; empty where there are none.

    Returns
    -------
    ndarray of int64 (largest + 2,)
        Entry n is the smallest size of at least n. Without graphs, (1,).
    """
    if not sizes:
        return np.array([-1], dtype=np.int64)
    rising = np.unique(np.asarray(sizes, dtype=np.int64))
    at = np.searchsorted(rising, np.arange(rising[-1] + 1))
    return np.append(rising[at], -1)

"""Small replicas for tests: loads, schedulers by name, and prices that are plain tables."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from clustersim.engine.serving.replica import Replica, build_replica
from clustersim.engine.serving.state import Floats, Ints, Load, Policy, Prices

FLAGS: dict[str, dict[str, Any]] = {
    "vllm_v1": {},
    "sarathi": {"watermark": 1.0},
    "vllm_v0": {"mixed": 0, "chunked": 0, "watermark": 1.0},
    "sglang": {"mixed": 0, "reserve_start": 0.7, "reserve_least": 0.098},
    "tensorrt_llm": {"reserve_all": 1, "preempt": 0},
    "orca": {"reserve_all": 1, "preempt": 0, "chunked": 0, "budget": 2**40},
    "static": {"reserve_all": 1, "preempt": 0, "batched": 1, "chunked": 0},
}


def policy_of(name: str, **changed: Any) -> Policy:
    """A scheduler by its name, with limits that tests change."""
    fields: dict[str, Any] = {
        "mixed": 1,
        "chunked": 1,
        "reserve_all": 0,
        "batched": 0,
        "preempt": 1,
        "caching": 0,
        "budget": 64,
        "sequences": 8,
        "block_tokens": 4,
        "window_tokens": 0,
        "full": 1.0,
        "window": 0.0,
        "state": 0.0,
        "watermark": 0.0,
        "reserve_start": 0.0,
        "reserve_least": 0.0,
        "reserve_step": 0.001,
        "drafted": 0,
        "accepted": 1.0,
        "graph_mixed": 0,
        "asynchronous": 0,
        "step_s": 0.0,
        "gap_s": 0.0,
        "sequence_s": 0.0,
        "launch_s": 0.0,
        "stages": 1,
        "drift_s": 0.0,
        "sampled": 0,
    }
    return Policy(**{**fields, **FLAGS[name], **changed})


def load_of(
    arrival_s: Any,
    input_tokens: Any,
    output_tokens: Any,
    blocks: list[list[int]] | None = None,
    prefix_tokens: int = 4,
    after: Any = None,
    think_s: float = 0.0,
    concurrency: int = 0,
) -> Load:
    """Requests from plain lists; `blocks` are the blocks of text that each may share."""
    arrivals: Floats = np.asarray(arrival_s, dtype=np.float64)
    n = arrivals.size
    lists = blocks if blocks is not None else [[] for _ in range(n)]
    start = np.append(0, np.cumsum([len(one) for one in lists]))
    following: Ints = np.full(n, -1) if after is None else np.asarray(after, dtype=np.int64)
    return Load(
        arrival_s=arrivals,
        input_tokens=np.asarray(input_tokens, dtype=np.int64),
        output_tokens=np.asarray(output_tokens, dtype=np.int64),
        prefix_start=start.astype(np.int64),
        prefix_block=np.array([b for one in lists for b in one], dtype=np.int64),
        prefix_tokens=prefix_tokens,
        after=following.astype(np.int64),
        think_s=np.where(following >= 0, think_s, 0.0),
        concurrency=concurrency,
    )


def constant_prices(step_s: float, tokens: int = 4096) -> Prices:
    """Every step takes the same time, whatever is in it."""
    flat = np.zeros(2)
    return Prices(
        token_s=np.full(tokens, step_s),
        all_token_s=np.zeros((1, tokens)),
        sequence_s=np.zeros(tokens),
        decode_n=np.array([1.0, 2.0]),
        decode_context=np.array([1.0, 2.0]),
        decode_ratio=np.array([1.0, 2.0]),
        decode_s=np.zeros((2, 2, 2)),
        chunk=np.array([1.0, 2.0]),
        before=flat + np.array([0.0, 1.0]),
        alone_s=np.zeros((2, 2)),
        added_s=np.zeros((2, 2)),
        padded=np.array([-1], dtype=np.int64),
    )


def uneven_prices(seed: int = 0, tokens: int = 600, draws: int = 1) -> Prices:
    """Prices in which every number of every table matters."""
    rng = np.random.default_rng(seed)
    axis = np.array([1.0, 2.0, 4.0, 8.0, 32.0])
    contexts = np.array([1.0, 16.0, 64.0, 512.0])
    ratios = np.array([1.0, 1.5, 3.0, 10.0])
    chunk = np.array([1.0, 8.0, 64.0, 512.0])
    before = np.array([0.0, 16.0, 256.0])
    alone_s = np.sort(rng.uniform(1e-5, 1e-3, (chunk.size, before.size)), axis=0)
    return Prices(
        token_s=np.cumsum(rng.uniform(0.0, 1e-5, tokens)) + 1e-3,
        all_token_s=np.cumsum(rng.uniform(0.0, 1e-5, (draws, tokens)), axis=1),
        sequence_s=np.cumsum(rng.uniform(0.0, 1e-5, tokens)),
        decode_n=axis,
        decode_context=contexts,
        decode_ratio=ratios,
        decode_s=rng.uniform(1e-5, 1e-3, (axis.size, contexts.size, ratios.size)),
        chunk=chunk,
        before=before,
        alone_s=alone_s,
        added_s=alone_s * rng.uniform(0.1, 1.0, alone_s.shape),
        padded=np.array([0, 1, 2, 4, 4, 8, 8, 8, 8, -1], dtype=np.int64),
    )


def replica_of(
    load: Load,
    policy: Policy,
    capacity: float = 1e6,
    ranks: int = 1,
    prices: Prices | None = None,
) -> Replica:
    """A replica at rest; a step takes 1 s unless prices are given."""
    tables = prices if prices is not None else constant_prices(1.0)
    return build_replica(load, capacity, ranks, tables, policy)


@st.composite
def loads(draw, most=14):
    """Few requests: open or closed, alone or in turns, with or without common beginnings."""
    n = draw(st.integers(1, most))
    longest = draw(st.sampled_from([8, 60]))
    prompts = [draw(st.integers(1, longest)) for _ in range(n)]
    answers = [draw(st.integers(1, 68 - longest)) for _ in range(n)]
    gaps_s = draw(st.sampled_from([[0.0], [0.0, 0.001], [0.0, 0.004, 0.03, 0.3]]))
    arrivals = np.cumsum([draw(st.sampled_from(gaps_s)) for _ in range(n)])
    closed = draw(st.integers(0, 4))
    after = np.full(n, -1)
    if draw(st.booleans()):
        turns = draw(st.integers(2, 4))
        after = np.where(np.arange(n) % turns > 0, np.arange(n) - 1, -1)
        for i in np.flatnonzero(after >= 0):
            prompts[i] += prompts[i - 1] + answers[i - 1]
            arrivals[i] = arrivals[i - 1]
    blocks = [[] for _ in range(n)]
    if draw(st.booleans()):
        for i in range(n):
            blocks[i] = _text(draw, i, (prompts[i] + answers[i]) // 4, blocks, int(after[i]))
    return load_of(
        np.zeros(n) if closed else arrivals,
        prompts,
        answers,
        blocks=blocks,
        after=after,
        think_s=draw(st.sampled_from([0.0, 0.01234567])),
        concurrency=closed,
    )


def _text(draw, i, count, blocks, after):
    """Blocks of one text: those of the turn before or of some other text, then its own."""
    if draw(st.integers(0, 4)) == 0:
        return []
    source = after if after >= 0 else draw(st.integers(0, i))
    common = blocks[source][: draw(st.integers(0, 12))] if source < i else []
    own = [1000 * (i + 1) + place for place in range(len(common), min(count, 15))]
    return common[:count] + own


def numbered(load):
    """The same load with its blocks numbered from 0, as the replica wants them."""
    _, number = np.unique(load.prefix_block, return_inverse=True)
    return load._replace(prefix_block=number.astype(np.int64))


@st.composite
def policies(draw):
    """A scheduler's name and its numbers."""
    name = draw(st.sampled_from(sorted(FLAGS)))
    changed = {
        "caching": draw(st.integers(0, 1)),
        "sequences": draw(st.integers(1, 8)),
        "graph_mixed": draw(st.integers(0, 1)),
        "asynchronous": draw(st.integers(0, 1)),
        "step_s": draw(st.sampled_from([0.0, 0.00203717])),
        "gap_s": draw(st.sampled_from([0.0, 0.00041771])),
        "sequence_s": draw(st.sampled_from([0.0, 0.00031313])),
        "launch_s": draw(st.sampled_from([0.0, 0.00302929])),
        "stages": draw(st.sampled_from([1, 1, 2])),
        "drift_s": draw(st.sampled_from([0.0, 0.01])),
        "sampled": draw(st.integers(0, 1)),
    }
    if "budget" not in FLAGS[name]:
        changed["budget"] = draw(st.sampled_from([5, 16, 64, 300]))
    if name in ("vllm_v0", "sglang", "tensorrt_llm"):
        changed["chunked"] = draw(st.integers(0, 1))
        if name == "vllm_v0":
            changed["mixed"] = changed["chunked"]
    if name == "sglang":
        changed["reserve_start"] = draw(st.sampled_from([0.7, 0.1]))
        changed["reserve_step"] = draw(st.sampled_from([0.001, 0.03]))
    if name != "static" and draw(st.integers(0, 3)) == 0:
        changed["drafted"] = draw(st.integers(1, 3))
        changed["accepted"] = 1.0 + draw(st.sampled_from([0.0, 0.3, 0.75, 1.0]))
    if draw(st.integers(0, 3)) == 0:
        changed |= {"window_tokens": 10, "window": 0.5, "state": draw(st.sampled_from([0.0, 1.5]))}
    return name, policy_of(name, **changed)


def least_capacity(load, policy):
    """Units of the longest request, so that nearly every load runs and few fit together."""
    longest = int((load.input_tokens + load.output_tokens).max())
    return (policy.full + policy.window) * (longest // policy.block_tokens + 1) + policy.state

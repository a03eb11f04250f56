"""What a replica knows: requests, their progress, ranks, cache, prices and policy, all as arrays.

Named tuples, so that kernels and their plain twin take the same records. Times are seconds, lengths
tokens; a unit of cache is one block of layers that keep every token.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

GAP_BINS = 4_000  # of the histogram of gaps between tokens
GAP_LEAST = 1e-5  # lower end of the first bin [s]
GAP_STEP = 0.005  # logarithm of the ratio of two ends of bins
SERIES = 2048  # samples of the time series; every second one is dropped when it is full


class Load(NamedTuple):
    """Requests, in order of arrival; see `clustersim.workload.requests`."""

    arrival_s: Floats
    input_tokens: Ints
    output_tokens: Ints
    prefix_start: Ints
    prefix_block: Ints
    prefix_tokens: int
    after: Ints
    think_s: Floats
    concurrency: int


class Progress(NamedTuple):
    """How far each request is.

    `done` tokens are in the cache, of which `shared` blocks of prefixes belong to all; `made` were
    generated; `held` units of cache are its own. `owed` is the fraction of an accepted token that
    speculation carries over. A preempted request remembers its blocks (`ghost`) and how much was
    free and had been allocated then (`stamp`).
    """

    rank: Ints
    done: Ints
    made: Ints
    shared: Ints
    held: Floats
    owed: Floats
    queued_s: Floats
    scheduled_s: Floats
    first_s: Floats
    last_s: Floats
    preempted: Ints
    hit_tokens: Ints
    ghost: Floats
    stamp: Floats
    next: Ints


class Ranks(NamedTuple):
    """Attention ranks: running requests in order, tokens given in this step, queue, free units."""

    running: Ints  # (ranks, most sequences)
    give: Ints
    active: Ints  # running requests
    head: Ints
    tail: Ints
    waiting: Ints
    free: Floats
    allocated: Floats
    open_tokens: Ints
    reserve: Floats  # share of unfinished answers that admission keeps free (SGLang)


class Cache(NamedTuple):
    """Prefix blocks of each rank: references (-1 is absent) and the order of their last use."""

    refs: Ints  # (ranks, blocks)
    older: Ints
    newer: Ints
    oldest: Ints
    newest: Ints
    idle: Ints  # blocks without a reference: they can be dropped


class Prices(NamedTuple):
    """Seconds of an iteration; see `clustersim.cost.serving.prices`."""

    token_s: Floats  # (tokens,)
    all_token_s: Floats  # (draws, tokens)
    sequence_s: Floats  # (sequences,)
    decode_n: Floats
    decode_context: Floats
    decode_ratio: Floats
    decode_s: Floats
    chunk: Floats
    before: Floats
    alone_s: Floats
    added_s: Floats
    padded: Ints  # tokens that a graph computes for so many; -1 where none was captured


class Policy(NamedTuple):
    """A scheduler and its limits; see `clustersim.engine.serving.policy`."""

    mixed: int  # prompts and decoding share a step
    chunked: int  # prompts may be cut at the budget
    reserve_all: int  # blocks of the whole answer are taken on admission
    batched: int  # a batch starts together and ends together, padded
    preempt: int  # a running request may lose its blocks
    caching: int
    budget: int
    sequences: int
    block_tokens: int
    window_tokens: int
    full: float
    window: float
    state: float
    watermark: float  # units that admission leaves free
    reserve_start: float
    reserve_least: float
    reserve_step: float
    drafted: int
    accepted: float
    graph_mixed: int
    asynchronous: int
    step_s: float
    gap_s: float
    sequence_s: float
    launch_s: float  # all launches of an iteration without a graph
    stages: int
    drift_s: float
    sampled: int


class Tally(NamedTuple):
    """What a run counted."""

    token_steps: Ints  # steps by tokens of the fullest rank
    all_steps: Ints
    sequence_steps: Ints
    totals: Floats  # see `TOTALS`
    gaps: Ints  # gaps between tokens, by bins
    gap_axis: Floats  # end of the first bin [s], and logarithm of the ratio of further ends
    series: Floats  # (SERIES, columns of `SERIES_COLUMNS`)
    clock: Floats  # see `CLOCK`
    counters: Ints  # see `COUNTERS`
    heap_s: Floats  # arrivals of later turns
    heap: Ints


TOTALS = (
    "attention_s",
    "host_s",
    "launch_s",
    "lockstep_s",
    "busy_s",
    "decode_tokens",
    "chunk_tokens",
    "running_s",
    "kv_s",
)
SERIES_COLUMNS = ("time_s", "running", "waiting", "kv_fraction", "tokens", "step_s")
CLOCK = ("now_s", "limit_s")
COUNTERS = (
    "arrived",
    "finished",
    "steps",
    "preemptions",
    "released",
    "heap",
    "samples",
    "stride",
    "hit_tokens",
    "stuck",
)

"""Requests through the replicas of a serving scenario: prices, loads, and what was answered."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustersim.analysis.serving import Answered
from clustersim.cost.serving.prices import IterationPrices, most_tokens, price_iteration
from clustersim.cost.serving.site import replica_site
from clustersim.engine.serving.policy import build_policy, padded_sizes
from clustersim.engine.serving.replica import Replica, build_replica
from clustersim.engine.serving.state import Load, Prices
from clustersim.errors import CapacityError
from clustersim.parallel.replica import CacheLayout, ReplicaMemory, memory_of_replica
from clustersim.spec.serving import ServingScenario
from clustersim.workload.expert_counts import read_expert_counts
from clustersim.workload.files import find_file
from clustersim.workload.iteration import iteration_of
from clustersim.workload.requests import Requests, build_requests

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
CAPACITY_REQUESTS = 1000  # that a full batch is judged by


@dataclass
class PriceBook:
    """Prices of iterations by what they depend on, so that runs of one configuration share them."""

    known: dict[str, IterationPrices] = field(default_factory=dict)

    def look_up(self, scenario: ServingScenario, base: Path | None) -> IterationPrices:
        """Prices of a scenario's replica, computed once.

        Parameters
        ----------
        scenario : ServingScenario
        base : Path or None
            Folder of the scenario's file, where `routing.counts` is looked for first.

        Returns
        -------
        IterationPrices
            The same object for scenarios that differ only in what prices do not depend on, such as
            arrivals, lengths or the SLO.

        Raises
        ------
        SpecError
            The file of expert counts is missing or wrong.
        """
        parts = ("model", "parallelism", "precision", "routing", "speculation")
        words = [
            getattr(scenario, name).model_dump_json() for name in parts if getattr(scenario, name)
        ]
        engine = scenario.engine
        words += [engine.model_dump_json(exclude={"host", "sources"}), str(scenario.run.seed)]
        words += [str(engine.host.launch), scenario.workload.sampling]
        words.append(scenario.cluster.model_dump_json())
        counts_file = None
        if scenario.routing.counts is not None:
            counts_file = find_file(scenario.routing.counts, base, "routing.counts")
            words.append(str(counts_file.absolute()))  # scenarios of two folders name two files
        key = "\n".join(words)
        if key not in self.known:
            iteration = iteration_of(scenario)
            site = replica_site(scenario, iteration)
            counts = np.ones(1) if counts_file is None else read_expert_counts(counts_file)
            self.known[key] = price_iteration(scenario, iteration, site, counts)
        return self.known[key]


@dataclass(frozen=True)
class Played:
    """All replicas of one replication, run to their end."""

    scenario: ServingScenario
    memory: ReplicaMemory
    prices: IterationPrices
    requests: Requests
    replicas: tuple[Replica, ...]
    answered: Answered
    refused: int  # requests longer than the cache


def with_budget(scenario: ServingScenario, requests: Requests) -> ServingScenario:
    """Raise the token budget where an engine that does not cut prompts has to.

    The longest prompt then fits beside a token of every running sequence.

    Parameters
    ----------
    scenario : ServingScenario
    requests : Requests
        At least one.

    Returns
    -------
    ServingScenario
        The same one where prompts are cut or the budget suffices.

    Notes
    -----
    Where the engine plans for the whole context (`token_budget_at_least`), the model's longest
    position counts as a prompt.
    """
    engine = scenario.engine
    if engine.chunked_prefill or engine.policy in ("vllm_v1", "sarathi"):
        return scenario
    longest = int(requests.input_tokens.max())
    if engine.token_budget_at_least == "context":
        longest = max(longest, scenario.model.max_positions)
    longest += min(engine.max_sequences, requests.concurrency or requests.count)
    if longest <= engine.token_budget:
        return scenario
    raised = engine.model_copy(update={"token_budget": longest})
    return scenario.model_copy(update={"engine": raised})


def play(
    scenario: ServingScenario,
    base: Path | None = None,
    replication: int = 0,
    book: PriceBook | None = None,
    requests: Requests | None = None,
    cache_scale: float = 1.0,
) -> Played:
    """Run all requests of one replication through the replicas of a scenario.

    Parameters
    ----------
    scenario : ServingScenario
    base : Path, optional
        Folder of the scenario's file, where its traces are looked for first.
    replication : int
        Number of the draw.
    book : PriceBook, optional
        Prices shared with other runs.
    requests : Requests, optional
        Given instead of drawn.
    cache_scale : float
        Factor on the blocks of the cache, for intervals.

    Returns
    -------
    Played

    Raises
    ------
    CapacityError
        If weights leave no room for a cache, or every request exceeds it.
    """
    memory = memory_of_replica(scenario)
    if requests is None:
        requests = draw_requests(scenario, memory, base, replication)
    scenario = with_budget(scenario, requests)
    memory = memory_of_replica(scenario)
    if not memory.fits:
        raise CapacityError(misfit(memory))
    capacity = math.floor(memory.kv_blocks * cache_scale)
    kept = admissible(requests, memory.layout, capacity)
    if not kept.size:
        raise CapacityError(too_long(requests, memory))
    refused, requests = requests.count - kept.size, requests.take(kept)
    prices = (book or PriceBook()).look_up(scenario, base)
    tables = _tables(scenario, prices)
    policy = build_policy(scenario, memory, scenario.engine.token_budget, prices.launch_s)
    copies = scenario.parallelism.replicas
    ranks = scenario.parallelism.attention_data_parallel
    limit_s = scenario.run.time_limit or np.inf
    replicas = []
    for load in _shared(requests, copies):
        replica = build_replica(load, float(capacity), ranks, tables, policy)
        replica.advance(limit_s)
        replicas.append(replica)
    answered = _joined(requests, replicas)
    return Played(scenario, memory, prices, requests, tuple(replicas), answered, refused)


def admissible(requests: Requests, layout: CacheLayout, capacity: int) -> Ints:
    """Requests whose whole context fits in the cache of a rank; engines refuse the others.

    A conversation ends with the first turn that does not fit.

    Parameters
    ----------
    requests : Requests
    layout : CacheLayout
    capacity : int
        Blocks of one attention rank.

    Returns
    -------
    ndarray of int64
        Rows of the requests, ascending; empty where none fits.
    """
    context = requests.input_tokens + requests.output_tokens
    blocks = -(-context // layout.block_tokens)
    kept = -(-np.minimum(context, layout.window_tokens) // layout.block_tokens)
    fits = layout.full * blocks + layout.window * kept + layout.state <= capacity
    for row in np.flatnonzero(requests.after >= 0) if not fits.all() else ():
        fits[row] &= fits[requests.after[row]]
    return np.flatnonzero(fits)


def too_long(requests: Requests, memory: ReplicaMemory) -> str:
    """Why no request can run, and what would help.

    Parameters
    ----------
    requests : Requests
        None of which fits.
    memory : ReplicaMemory

    Returns
    -------
    str
        Two lines: what is wrong, and a fix.
    """
    shortest = int((requests.input_tokens + requests.output_tokens).min())
    room = memory.kv_blocks * memory.layout.block_tokens
    return (
        f"the shortest request has {shortest:,} tokens, and the cache of a rank holds {room:,}\n"
        "  fix: more GPUs a replica, an 8-bit KV cache, or shorter requests"
    )


def draw_requests(
    scenario: ServingScenario, memory: ReplicaMemory, base: Path | None, replication: int
) -> Requests:
    """The requests of one replication; a saturated run takes what memory admits.

    Parameters
    ----------
    scenario : ServingScenario
    memory : ReplicaMemory
        Sets the concurrency of a saturated run that states none.
    base : Path or None
        Folder of the scenario's file, where its traces are looked for first.
    replication : int
        Number of the draw.

    Returns
    -------
    Requests

    Raises
    ------
    SpecError
        A file is missing or wrong, or a number that the arrivals need is missing.
    """
    workload = scenario.workload
    wanted = None
    if workload.arrivals.kind == "saturated" and workload.arrivals.concurrency is None:
        wanted = admitted(scenario, memory)
    return build_requests(
        workload,
        scenario.run.seed,
        base,
        scenario.run.skip_bad,
        wanted,
        replication,
        scenario.engine.block_tokens,
    )


def admitted(scenario: ServingScenario, memory: ReplicaMemory) -> int:
    """Sequences that memory and the engine's limits let run at once, over all replicas.

    Parameters
    ----------
    scenario : ServingScenario
    memory : ReplicaMemory

    Returns
    -------
    int
        At least one sequence a rank, at most the engine's `max_sequences` a rank.

    Notes
    -----
    A sequence is counted with its mean prompt and answer; assumed are 512 tokens for a side without
    a mean, and 2,048 where no lengths are stated.
    """
    lengths = scenario.workload.lengths
    tokens = 2048.0
    if lengths is not None:
        sides = (lengths.input, lengths.output)
        means = (lengths.input_mean, lengths.output_mean)
        known = [side.mean if side else mean for side, mean in zip(sides, means, strict=True)]
        tokens = sum(value or 512.0 for value in known)
    rank = max(1.0, memory.kv_blocks * scenario.engine.block_tokens / tokens)
    each = min(scenario.engine.max_sequences, int(rank))
    p = scenario.parallelism
    return each * p.attention_data_parallel * p.replicas


def misfit(memory: ReplicaMemory) -> str:
    """Why nothing fits, and what would need less.

    Parameters
    ----------
    memory : ReplicaMemory

    Returns
    -------
    str
        Two lines: the terms of the sum, largest first, and a fix.
    """
    terms = sorted(memory.terms().items(), key=lambda item: -item[1])
    held = [(name, size) for name, size in terms if size > 0.0 and name != "total"]
    words = ", ".join(f"{name.replace('_', ' ')} {size / 2**30:.1f} GiB" for name, size in held)
    return (
        f"no room for a KV cache: the engine takes {memory.budget / 2**30:.1f} GiB of "
        f"{memory.capacity / 2**30:.1f} GiB, and needs {words}\n"
        "  fix: a higher tensor_parallel, narrower weights (precision.weights: fp8), "
        "or fewer tokens an iteration (engine.token_budget)"
    )


def _tables(scenario: ServingScenario, prices: IterationPrices) -> Prices:
    """Prices summed over their parts, as the replica reads them."""
    attention, drafts = prices.attention, 1.0
    if (speculation := scenario.speculation) is not None:  # drafting attends in its own layers
        drafts += speculation.draft_tokens * speculation.draft_layers / scenario.model.layers
    return Prices(
        token_s=prices.token_s.sum(axis=0),
        all_token_s=np.ascontiguousarray(prices.all_token_s.sum(axis=1)),
        sequence_s=prices.sequence_s.sum(axis=0),
        decode_n=attention.sequences,
        decode_context=attention.contexts,
        decode_ratio=attention.ratios,
        decode_s=attention.decode_s * drafts,
        chunk=attention.chunk,
        before=attention.before,
        alone_s=attention.alone_s,
        added_s=attention.added_s,
        padded=np.minimum(padded_sizes(scenario.engine.graph_sizes), most_tokens(scenario)),
    )


def _shared(requests: Requests, copies: int) -> Iterator[Load]:
    """The load of each replica: requests in turn, conversations kept together."""
    owner = np.arange(requests.count) % copies
    for row in np.flatnonzero(requests.after >= 0):
        owner[row] = owner[requests.after[row]]
    for copy in range(copies):
        own = requests.take(np.flatnonzero(owner == copy))
        share = requests.concurrency // copies + (copy < requests.concurrency % copies)
        yield Load(
            arrival_s=own.arrival_s,
            input_tokens=own.input_tokens,
            output_tokens=own.output_tokens,
            prefix_start=own.prefix_start,
            prefix_block=own.prefix_block,
            prefix_tokens=max(1, own.prefix_block_tokens),
            after=own.after,
            think_s=own.think_s,
            concurrency=max(1, share) if requests.concurrency else 0,
        )


def _joined(requests: Requests, replicas: list[Replica]) -> Answered:
    """Requests of all replicas in their order of arrival."""
    copies = len(replicas)
    owner = np.arange(requests.count) % copies
    for row in np.flatnonzero(requests.after >= 0):
        owner[row] = owner[requests.after[row]]
    names = ("queued_s", "scheduled_s", "first_s", "last_s", "made", "preempted", "hit_tokens")
    columns: dict[str, NDArray[Any]] = {}
    for name in names:
        parts = [getattr(replica.progress, name) for replica in replicas]
        whole = np.empty(requests.count, dtype=parts[0].dtype)
        for copy, part in enumerate(parts):
            whole[owner == copy] = part
        columns[name] = whole
    return Answered(
        input_tokens=requests.input_tokens,
        output_tokens=requests.output_tokens,
        replica=owner,
        **columns,
    )


def capacity_of(played: Played, base: Path | None, book: PriceBook) -> float:
    """Requests a second that the replicas answer when their queues are never empty.

    Parameters
    ----------
    played : Played
        Its first `CAPACITY_REQUESTS` are run again, all of them there from the start; fewer are
        repeated to as many, so that they fill the batch.
    base : Path or None
        Folder of the scenario's file.
    book : PriceBook
        Has the prices already.

    Returns
    -------
    float
        Rate until 90 % of them are answered, so that the emptying batch does not count; infinite
        where that takes no time. [1/s]

    Notes
    -----
    Turns of conversations are not made to wait for each other. Repeated requests share no prefix
    with those that they repeat.
    """
    count = CAPACITY_REQUESTS
    repeats, keep = np.divmod(np.arange(count), played.requests.count)
    requests = played.requests.take(keep)
    blocks = np.repeat(repeats, np.diff(requests.prefix_start))
    most = int(requests.prefix_block.max(initial=-1))
    all_now = replace(
        requests,
        arrival_s=np.zeros(count),
        prefix_block=requests.prefix_block + blocks * (most + 1),
        after=np.full(count, -1, dtype=np.int64),
        think_s=np.zeros(count),
    )
    whole = played.scenario.run.model_copy(update={"time_limit": None})
    scenario = played.scenario.model_copy(update={"run": whole})
    busy = play(scenario, base, 0, book, all_now).answered
    # the tail, when the batch empties, is not capacity: until 90 % are answered
    ends_s = np.sort(busy.last_s)
    place = max(0, int(0.9 * count) - 1)
    return (place + 1) / float(ends_s[place]) if ends_s[place] > 0 else math.inf

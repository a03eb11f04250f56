"""A replica advanced step by step: schedule every rank, price the step, hand out its tokens.

A step is one iteration of the engine. Ranks of attention data parallelism schedule alone and step
together. Nothing here knows a device or a policy's name: tables and numbers decide. Handing over
records of arrays costs more than what a small function does: those of the hot path are inlined.

References
----------
.. [1] G.-I. Yu et al., "Orca: a distributed serving system for transformer-based generative
   models," OSDI 2022: batches change at every iteration.
.. [2] Y. Leviathan, M. Kalman and Y. Matias, "Fast inference from transformers via speculative
   decoding," ICML 2023, https://arxiv.org/abs/2211.17192
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from clustersim.engine.serving.scheduling.kernels import (
    admit_arrivals,
    next_arrival,
    publish_prefix,
    push_turn,
    release,
    schedule,
    units,
)
from clustersim.engine.serving.state import (
    Cache,
    Floats,
    Load,
    Policy,
    Prices,
    Progress,
    Ranks,
    Tally,
)


@njit(cache=True)
def bracket(axis: Floats, value: float) -> tuple[int, float]:
    """The node below a value and its share of the way to the next; clipped to the axis."""
    low, high = 0, axis.size - 1
    if value <= axis[0]:
        return 0, 0.0
    if value >= axis[high]:
        return high - 1, 1.0
    while high - low > 1:
        middle = (low + high) // 2
        if axis[middle] <= value:
            low = middle
        else:
            high = middle
    return low, (value - axis[low]) / (axis[high] - axis[low])


@njit(cache=True)
def decode_attention_s(n: int, total: float, longest: float, prices: Prices) -> float:
    """Attention of one new token a sequence, interpolated.

    Parameters
    ----------
    n : int
        Sequences; 0 costs nothing.
    total, longest : float
        Sum of their contexts, and the longest of them. [tokens]
    prices : Prices
        Its table is over n, mean context, and longest over mean; flat beyond its ends.

    Returns
    -------
    float
        [s]
    """
    if n == 0:
        return 0.0
    i, u = bracket(prices.decode_n, float(n))
    j, v = bracket(prices.decode_context, total / n)
    k, w = bracket(prices.decode_ratio, longest * n / total)
    table, out = prices.decode_s, 0.0
    for a in range(2):
        for b in range(2):
            for c in range(2):
                share = (u if a else 1.0 - u) * (v if b else 1.0 - v) * (w if c else 1.0 - w)
                if share > 0.0:
                    out += share * table[i + a, j + b, k + c]
    return out


@njit(cache=True)
def chunk_attention_s(new: int, before: int, prices: Prices) -> tuple[float, float]:
    """Attention of a chunk of a prompt, interpolated.

    Parameters
    ----------
    new, before : int
        Tokens of the chunk, and those that are in the cache already. [tokens]
    prices : Prices

    Returns
    -------
    alone, added : float
        Time of the chunk alone, and what it adds to many like it. [s]
    """
    i, u = bracket(prices.chunk, float(new))
    j, v = bracket(prices.before, float(before))
    alone, added = 0.0, 0.0
    for a in range(2):
        for b in range(2):
            share = (u if a else 1.0 - u) * (v if b else 1.0 - v)
            if share > 0.0:
                alone += share * prices.alone_s[i + a, j + b]
                added += share * prices.added_s[i + a, j + b]
    return alone, added


@njit(cache=True)
def rank_work(
    rank: int, load: Load, progress: Progress, ranks: Ranks, prices: Prices, policy: Policy
) -> tuple[int, int, float, int]:
    """Tokens, sampled rows, attention time and decoding sequences of one rank's step."""
    tokens, sampled, decodes = 0, 0, 0
    total, longest, added_s, beyond_s, padding, prompts = 0.0, 0.0, 0.0, 0.0, 0, 0
    for place in range(ranks.active[rank]):
        given = ranks.give[rank, place]
        if given == 0:
            continue
        request = ranks.running[rank, place]
        known = load.input_tokens[request] + progress.made[request]
        if given == 1 and progress.made[request] > 0 and progress.done[request] + 1 == known:
            decodes += 1
            tokens += 1 + policy.drafted
            sampled += 1 + policy.drafted
            total += known
            longest = max(longest, float(known))
            continue
        tokens += given
        padding = max(padding, given)
        prompts += 1
        sampled += 1 if progress.done[request] + given == known else 0
        alone, added = chunk_attention_s(given, progress.done[request], prices)
        added_s += added
        beyond_s = max(beyond_s, alone - added)
    if policy.batched:
        total = longest * decodes
        if padding > 0:
            tokens = padding * prompts
    lanes = policy.stages
    decoding_s = decode_attention_s((decodes + lanes - 1) // lanes, total / lanes, longest, prices)
    return tokens, sampled, decoding_s + added_s / lanes + beyond_s, decodes


@njit(cache=True)
def step_time(
    load: Load,
    progress: Progress,
    ranks: Ranks,
    prices: Prices,
    policy: Policy,
    tally: Tally,
) -> float:
    """Time of the step that has been scheduled. [s]"""
    most, everyone, sampled, decodes, sequences = 0, 0, 0, 0, 0
    attention_s, sum_s = 0.0, 0.0
    only_decodes = True
    for rank in range(ranks.active.size):
        tokens, rows, core_s, own = rank_work(rank, load, progress, ranks, prices, policy)
        most, everyone = max(most, tokens), everyone + tokens
        sampled = max(sampled, rows)
        attention_s, sum_s = max(attention_s, core_s), sum_s + core_s
        decodes += own
        sequences = max(sequences, ranks.active[rank])
        only_decodes = only_decodes and tokens == own * (1 + policy.drafted)
    tally.totals[3] += attention_s - sum_s / ranks.active.size
    return book_step(
        most,
        everyone,
        sampled,
        decodes,
        sequences,
        only_decodes,
        attention_s,
        ranks.active.size,
        prices,
        policy,
        tally,
    )


@njit(cache=True)
def book_step(
    most: int,
    everyone: int,
    sampled: int,
    decodes: int,
    sequences: int,
    only_decodes: bool,
    attention_s: float,
    ranks: int,
    prices: Prices,
    policy: Policy,
    tally: Tally,
) -> float:
    """Price a step from its numbers of rows, and count it. [s]"""
    tally.totals[5] += decodes
    tally.totals[6] += everyone - decodes * (1 + policy.drafted)
    lanes = policy.stages
    most, everyone = (most + lanes - 1) // lanes, (everyone + lanes - 1) // lanes
    sampled = (sampled + lanes - 1) // lanes
    graph = -1
    if only_decodes or policy.graph_mixed:
        graph = prices.padded[min(most, prices.padded.size - 1)]
    if graph > 0:
        everyone = graph if ranks == 1 else everyone
        most = graph
    most = min(most, prices.token_s.size - 1)
    everyone = min(everyone, prices.all_token_s.shape[1] - 1)
    sampled = min(sampled, prices.sequence_s.size - 1)
    draw = 0
    if policy.drift_s > 0.0:
        draw = int(tally.clock[0] / policy.drift_s) % prices.all_token_s.shape[0]
    elif policy.sampled:
        draw = int((tally.counters[2] * 40503) % prices.all_token_s.shape[0])
    gpu_s = prices.token_s[most] + prices.all_token_s[draw, everyone] + attention_s
    gpu_s += prices.sequence_s[sampled]
    launch_s = 0.0
    if graph <= 0 and policy.launch_s > gpu_s:
        launch_s = policy.launch_s - gpu_s
    host_s = policy.step_s + policy.sequence_s * sequences
    if policy.asynchronous:
        host_s = policy.gap_s + max(0.0, host_s - gpu_s - launch_s)
    totals = tally.totals
    tally.token_steps[most] += 1
    tally.all_steps[everyone] += 1
    tally.sequence_steps[sampled] += 1
    totals[0] += attention_s
    totals[1] += host_s
    totals[2] += launch_s
    return float(gpu_s + launch_s + host_s)


@njit(cache=True, inline="always")
def _queue_moves(rank: int, load: Load, progress: Progress, ranks: Ranks, policy: Policy) -> bool:
    """Whether the head of a queue could be let in later though it was not in the last step."""
    if ranks.waiting[rank] == 0 or policy.reserve_start > 0.0 or not policy.caching:
        return bool(ranks.waiting[rank] > 0 and policy.reserve_start > 0.0)
    head = ranks.head[rank]
    known = load.input_tokens[head] + progress.made[head]
    # what it finds of its own shrinks, and with it what its first chunk asks for
    return bool(progress.ghost[head] > 0.0 and known > policy.budget - ranks.active[rank])


@njit(cache=True, inline="always")
def _steps_left(rank: int, load: Load, progress: Progress, ranks: Ranks) -> int:
    """Steps until the first sequence of a rank ends; none where one does more than decode."""
    least = 2**40
    for place in range(ranks.active[rank]):
        request = ranks.running[rank, place]
        known = load.input_tokens[request] + progress.made[request]
        if progress.made[request] == 0 or progress.done[request] + 1 != known:
            return 0
        if ranks.give[rank, place] == 0:  # it has only just been moved here
            return 0
        least = min(least, load.output_tokens[request] - progress.made[request] - 1)
    return int(least)


@njit(cache=True)
def quiet_steps(load: Load, progress: Progress, ranks: Ranks, policy: Policy) -> int:
    """Steps that are sure to decode every running sequence, and to finish none of them.

    None where a queue could be admitted from, where blocks are counted in another way than one for
    so many tokens, or where a rank would run out of free blocks.
    """
    if policy.drafted or policy.batched or policy.window > 0.0 or policy.state > 0.0:
        return 0
    steps, growing = 2**40, policy.full > 0.0 and not policy.reserve_all
    for rank in range(ranks.active.size):
        if ranks.active[rank] > policy.budget or _queue_moves(rank, load, progress, ranks, policy):
            return 0
        steps = min(steps, _steps_left(rank, load, progress, ranks))
        if growing and ranks.active[rank] > 0:
            room = int(ranks.free[rank] / (policy.full * ranks.active[rank]))
            steps = min(steps, room * policy.block_tokens)
    return int(steps)


@njit(cache=True)
def settle_window(
    taken: int, growing: bool, progress: Progress, ranks: Ranks, policy: Policy, tally: Tally
) -> None:
    """Book the tokens of a window of quiet steps to its sequences."""
    for rank in range(ranks.active.size):
        for place in range(ranks.active[rank]):
            request = ranks.running[rank, place]
            if growing:
                before = units(progress.done[request], policy)
                progress.held[request] += units(progress.done[request] + taken, policy) - before
            progress.done[request] += taken
            progress.made[request] += taken
            progress.last_s[request] = tally.clock[0]


@njit(cache=True)
def advance_quietly(
    most_steps: int,
    until_s: float,
    capacity: float,
    load: Load,
    progress: Progress,
    ranks: Ranks,
    prices: Prices,
    policy: Policy,
    tally: Tally,
) -> int:
    """A window of steps in which only contexts grow: their sums are advanced, not each sequence.

    The same additions in the same order as single steps. Returns the steps taken.
    """
    count, clock = ranks.active.size, tally.clock
    totals, longest = np.zeros(count), np.zeros(count)
    crossing = np.zeros((count, policy.block_tokens), np.int64)
    sequences, decodes, most = 0, 0, 0
    for rank in range(count):
        for place in range(ranks.active[rank]):
            request = ranks.running[rank, place]
            known = load.input_tokens[request] + progress.made[request]
            totals[rank] += known
            longest[rank] = max(longest[rank], float(known))
            crossing[rank, -progress.done[request] % policy.block_tokens] += 1
        decodes += ranks.active[rank]
        most = max(most, ranks.active[rank])
    sequences = most
    growing = policy.full > 0.0 and not policy.reserve_all
    arrival_s, taken, lanes = next_arrival(load, tally), 0, policy.stages
    while taken < most_steps and clock[0] < until_s and clock[0] < arrival_s:
        attention_s, sum_s = 0.0, 0.0
        for rank in range(count):
            n = ranks.active[rank]
            own_s = decode_attention_s(
                (n + lanes - 1) // lanes, totals[rank] / lanes, longest[rank], prices
            )
            attention_s, sum_s = max(attention_s, own_s), sum_s + own_s
            totals[rank] += n
            longest[rank] += 1.0
            if growing:
                new = policy.full * crossing[rank, taken % policy.block_tokens]
                ranks.free[rank] -= new
                ranks.allocated[rank] += new
            if not policy.mixed and n > 0:
                lower = ranks.reserve[rank] - policy.reserve_step
                ranks.reserve[rank] = max(policy.reserve_least, lower)
        tally.totals[3] += attention_s - sum_s / count
        step_s = book_step(
            most, decodes, most, decodes, sequences, True, attention_s, count, prices, policy, tally
        )
        sample(ranks, capacity, decodes, step_s, tally)
        before_s = clock[0]
        clock[0] += step_s
        tally.totals[4] += step_s
        tally.counters[2] += 1
        taken += 1
        tally.gaps[gap_bin(clock[0] - before_s, tally)] += decodes
    settle_window(taken, growing, progress, ranks, policy, tally)
    return taken


@njit(cache=True)
def gap_bin(gap_s: float, tally: Tally) -> int:
    """The bin of a gap between two tokens of a request."""
    first_s, step = tally.gap_axis[0], tally.gap_axis[1]
    if gap_s <= first_s:
        return 0
    return min(tally.gaps.size - 1, 1 + int(math.log(gap_s / first_s) / step))


@njit(cache=True, inline="always")
def _accept_drafts(
    request: int, wanted: int, progress: Progress, policy: Policy, tally: Tally
) -> int:
    """Drafted tokens that a decode keeps: as many on average as are accepted."""
    progress.owed[request] += policy.accepted - 1.0
    extra = int(progress.owed[request])
    progress.owed[request] -= extra
    extra = min(extra, wanted - progress.made[request] - 1)
    tally.gaps[0] += extra
    progress.done[request] += extra
    return int(extra)


@njit(cache=True, inline="always")
def _answer_batch(
    rank: int,
    end_s: float,
    load: Load,
    progress: Progress,
    ranks: Ranks,
    cache: Cache,
    policy: Policy,
    tally: Tally,
) -> None:
    """Let go of a static batch: nobody is answered before all are."""
    for place in range(ranks.active[rank]):
        progress.last_s[ranks.running[rank, place]] = end_s
        finish(ranks.running[rank, place], end_s, load, progress, ranks, cache, policy, tally)
    ranks.active[rank] = 0


@njit(cache=True)
def hand_out(
    rank: int,
    end_s: float,
    load: Load,
    progress: Progress,
    ranks: Ranks,
    cache: Cache,
    policy: Policy,
    tally: Tally,
) -> None:
    """Book the tokens of a rank's step, and let go of the requests that are finished."""
    last_gap_s, last_bin, kept = -1.0, 0, 0
    finished_all = True
    for place in range(ranks.active[rank]):
        request = ranks.running[rank, place]
        given = ranks.give[rank, place]
        known = load.input_tokens[request] + progress.made[request]
        wanted = load.output_tokens[request]
        over = progress.made[request] >= wanted
        if given > 0 and not over:
            decoding = progress.made[request] > 0 and progress.done[request] + 1 == known
            progress.done[request] += given
            if not decoding:
                publish_prefix(request, load, progress, ranks, cache, policy)
            if progress.done[request] == known:
                if progress.made[request] == 0:
                    progress.first_s[request] = end_s
                    progress.made[request] = 1
                else:
                    extra = 0
                    if decoding and policy.accepted > 1.0:
                        extra = _accept_drafts(request, wanted, progress, policy, tally)
                    gap_s = end_s - progress.last_s[request]
                    if gap_s != last_gap_s:
                        last_gap_s, last_bin = gap_s, gap_bin(gap_s, tally)
                    tally.gaps[last_bin] += 1
                    progress.made[request] += 1 + extra
                progress.last_s[request] = end_s
            over = progress.made[request] >= wanted
        if over and not policy.batched:
            finish(request, end_s, load, progress, ranks, cache, policy, tally)
            continue
        finished_all &= over
        ranks.running[rank, kept] = request
        kept += 1
    ranks.active[rank] = kept
    if policy.batched and finished_all:
        _answer_batch(rank, end_s, load, progress, ranks, cache, policy, tally)


@njit(cache=True)
def finish(
    request: int,
    end_s: float,
    load: Load,
    progress: Progress,
    ranks: Ranks,
    cache: Cache,
    policy: Policy,
    tally: Tally,
) -> None:
    """A request is answered: free its blocks, and let its next turn arrive."""
    publish_prefix(request, load, progress, ranks, cache, policy)
    release(request, load, progress, ranks, cache)
    rank = progress.rank[request]
    ranks.open_tokens[rank] -= load.input_tokens[request] + load.output_tokens[request]
    tally.counters[1] += 1
    following = request + 1
    if following < load.after.size and load.after[following] == request:
        push_turn(end_s + load.think_s[following], following, tally)


@njit(cache=True)
def sample(ranks: Ranks, capacity: float, given: int, step_s: float, tally: Tally) -> None:
    """Keep every `stride`-th step in the series; thin it out when it is full."""
    counters, series = tally.counters, tally.series
    running, waiting, free = 0, 0, 0.0
    for rank in range(ranks.active.size):
        running += ranks.active[rank]
        waiting += ranks.waiting[rank]
        free += ranks.free[rank]
    used = 1.0 - free / (capacity * ranks.active.size)
    tally.totals[7] += running * step_s
    tally.totals[8] += used * step_s
    if counters[2] % counters[7] != 0:
        return
    half = series.shape[0] // 2
    if counters[6] == 2 * half:
        for row in range(half):
            series[row] = series[2 * row]
        counters[6] = half
        counters[7] *= 2
        if counters[2] % counters[7] != 0:
            return
    row = series[counters[6]]
    row[0], row[1], row[2] = tally.clock[0], running, waiting
    row[3], row[4], row[5] = used, given, step_s
    counters[6] += 1


@njit(cache=True)
def decoding_sequences(ranks: Ranks) -> int:
    """Running sequences of all ranks."""
    total = 0
    for rank in range(ranks.active.size):
        total += ranks.active[rank]
    return total


@njit(cache=True, inline="always")
def _wait_for_arrival(until_s: float, load: Load, tally: Tally) -> bool:
    """Nothing could be scheduled: go on to the next arrival, if there is one before a time."""
    clock, counters, soonest = tally.clock, tally.counters, next_arrival(load, tally)
    if counters[0] > counters[1]:
        counters[9] = 1
        return False
    if soonest < np.inf:
        clock[0] = min(until_s, max(clock[0], soonest))
    return bool(soonest < until_s)


@njit(cache=True)
def advance(
    until_s: float,
    most_steps: int,
    capacity: float,
    load: Load,
    progress: Progress,
    ranks: Ranks,
    cache: Cache,
    prices: Prices,
    policy: Policy,
    tally: Tally,
) -> None:
    """Run steps until a time, a number of steps, or until nothing is left to do.

    A step that begins before `until_s` is finished. `counters[9]` is set where the first request of
    a queue can never run: its prompt does not fit in the cache.

    Parameters
    ----------
    until_s : float
        No step begins at or after it. [s]
    most_steps : int
    capacity : float
        Units of cache of one rank, for the samples of its use.
    load, progress, ranks, cache, prices, policy, tally
        See `clustersim.engine.serving.state`; all but load, prices and policy are written.
    """
    clock, counters, taken = tally.clock, tally.counters, 0
    while taken < most_steps and clock[0] < until_s:
        admit_arrivals(load, progress, ranks, tally)
        given, preempted, running = 0, counters[3], decoding_sequences(ranks)
        for rank in range(ranks.active.size):
            schedule(rank, load, progress, ranks, cache, policy, tally)
            for place in range(ranks.active[rank]):
                given += ranks.give[rank, place]
        if given == 0:
            if not _wait_for_arrival(until_s, load, tally):
                return
            continue
        step_s = step_time(load, progress, ranks, prices, policy, tally)
        sample(ranks, capacity, given, step_s, tally)
        clock[0] += step_s
        tally.totals[4] += step_s
        counters[2] += 1
        taken += 1
        finished = counters[1]
        for rank in range(ranks.active.size):
            hand_out(rank, clock[0], load, progress, ranks, cache, policy, tally)
        calm = finished == counters[1] and preempted == counters[3]
        if calm and given == running and running == decoding_sequences(ranks):
            quiet = min(quiet_steps(load, progress, ranks, policy), most_steps - taken)
            if quiet > 0:
                taken += advance_quietly(
                    quiet, until_s, capacity, load, progress, ranks, prices, policy, tally
                )

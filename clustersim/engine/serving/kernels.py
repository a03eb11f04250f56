"""A replica advanced step by step: schedule every rank, price the step, hand out its tokens.

A step is one iteration of the engine. Ranks of attention data parallelism schedule alone and step
together. Nothing here knows a device or a policy's name: tables and numbers decide.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

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
def units(tokens: int, policy: Policy) -> float:
    """Units of cache that a sequence of so many tokens takes."""
    blocks = (tokens + policy.block_tokens - 1) // policy.block_tokens
    total = policy.full * blocks + policy.state
    if policy.window > 0.0:
        kept = min(tokens, policy.window_tokens)
        total += policy.window * ((kept + policy.block_tokens - 1) // policy.block_tokens)
    return total


@njit(cache=True)
def prefix_units(load: Load, policy: Policy) -> float:
    """Units of one prefix block in layers that keep every token."""
    return policy.full * load.prefix_tokens / policy.block_tokens


@njit(cache=True)
def shared_units(request: int, load: Load, progress: Progress, policy: Policy) -> float:
    """Units of the prefix blocks that a request holds together with others; windows are its own."""
    return float(prefix_units(load, policy) * progress.shared[request])


@njit(cache=True)
def unlink(rank: int, block: int, cache: Cache) -> None:
    """Take an idle prefix block out of the order of use."""
    older, newer = cache.older[rank, block], cache.newer[rank, block]
    if older >= 0:
        cache.newer[rank, older] = newer
    else:
        cache.oldest[rank] = newer
    if newer >= 0:
        cache.older[rank, newer] = older
    else:
        cache.newest[rank] = older
    cache.idle[rank] -= 1


@njit(cache=True)
def append(rank: int, block: int, cache: Cache) -> None:
    """Put a prefix block at the young end of the order of use."""
    last = cache.newest[rank]
    cache.older[rank, block] = last
    cache.newer[rank, block] = -1
    if last >= 0:
        cache.newer[rank, last] = block
    else:
        cache.oldest[rank] = block
    cache.newest[rank] = block
    cache.idle[rank] += 1


@njit(cache=True)
def available(rank: int, ranks: Ranks, cache: Cache, each: float) -> float:
    """Units that are free or can be freed."""
    return float(ranks.free[rank] + each * cache.idle[rank])


@njit(cache=True)
def take(rank: int, wanted: float, ranks: Ranks, cache: Cache, each: float) -> bool:
    """Allocate units, dropping the prefix blocks that were used longest ago; all or nothing."""
    if available(rank, ranks, cache, each) < wanted - 1e-9:
        return False
    while ranks.free[rank] < wanted - 1e-9:
        block = cache.oldest[rank]
        unlink(rank, block, cache)
        cache.refs[rank, block] = -1
        ranks.free[rank] += each
    ranks.free[rank] -= wanted
    ranks.allocated[rank] += wanted
    return True


@njit(cache=True)
def grow(
    request: int,
    tokens: int,
    load: Load,
    progress: Progress,
    ranks: Ranks,
    cache: Cache,
    policy: Policy,
) -> bool:
    """Give a request the units that a context of so many tokens takes."""
    wanted = units(tokens, policy) - shared_units(request, load, progress, policy)
    missing = wanted - progress.held[request]
    if missing <= 1e-9:
        return True
    each = prefix_units(load, policy)
    if not take(progress.rank[request], missing, ranks, cache, each):
        return False
    progress.held[request] = wanted
    return True


@njit(cache=True)
def release(request: int, load: Load, progress: Progress, ranks: Ranks, cache: Cache) -> None:
    """Free what a request holds; prefix blocks that nobody else uses stay until they are needed."""
    rank = progress.rank[request]
    ranks.free[rank] += progress.held[request]
    progress.held[request] = 0.0
    start = load.prefix_start[request]
    for place in range(progress.shared[request] - 1, -1, -1):
        block = load.prefix_block[start + place]
        cache.refs[rank, block] -= 1
        if cache.refs[rank, block] == 0:
            append(rank, block, cache)
    progress.shared[request] = 0


@njit(cache=True)
def find_prefix(
    request: int, load: Load, progress: Progress, ranks: Ranks, cache: Cache, policy: Policy
) -> None:
    """Take over the leading blocks that are in the cache: shared ones, or its own of before."""
    if not policy.caching:
        return
    rank, total = progress.rank[request], load.input_tokens[request] + progress.made[request]
    start, end = load.prefix_start[request], load.prefix_start[request + 1]
    if end > start:
        most = min(end - start, (total - 1) // load.prefix_tokens)
        for place in range(most):
            block = load.prefix_block[start + place]
            if cache.refs[rank, block] < 0:
                break
            if cache.refs[rank, block] == 0:
                unlink(rank, block, cache)
            cache.refs[rank, block] += 1
            progress.shared[request] += 1
        progress.done[request] = progress.shared[request] * load.prefix_tokens
    elif progress.ghost[request] > 0.0:
        lost = max(0.0, ranks.allocated[rank] - progress.stamp[request])
        left = math.floor(max(0.0, progress.ghost[request] - lost))
        progress.done[request] = min(int(left) * policy.block_tokens, total - 1)


@njit(cache=True)
def publish_prefix(
    request: int, load: Load, progress: Progress, ranks: Ranks, cache: Cache, policy: Policy
) -> None:
    """Let others use the leading blocks that a request has computed; a second copy is dropped."""
    start, end = load.prefix_start[request], load.prefix_start[request + 1]
    if not policy.caching or end == start:
        return
    rank, each = progress.rank[request], prefix_units(load, policy)
    whole = min(end - start, progress.done[request] // load.prefix_tokens)
    for place in range(progress.shared[request], whole):
        block = load.prefix_block[start + place]
        if progress.held[request] < each - 1e-9:
            break
        if cache.refs[rank, block] < 0:
            cache.refs[rank, block] = 1
        else:
            if cache.refs[rank, block] == 0:
                unlink(rank, block, cache)
            cache.refs[rank, block] += 1
            ranks.free[rank] += each
        progress.held[request] -= each
        progress.shared[request] += 1


@njit(cache=True)
def enqueue(request: int, rank: int, front: bool, progress: Progress, ranks: Ranks) -> None:
    """Put a request at an end of a rank's queue."""
    if ranks.waiting[rank] == 0:
        progress.next[request] = -1
        ranks.head[rank] = request
        ranks.tail[rank] = request
    elif front:
        progress.next[request] = ranks.head[rank]
        ranks.head[rank] = request
    else:
        progress.next[request] = -1
        progress.next[ranks.tail[rank]] = request
        ranks.tail[rank] = request
    ranks.waiting[rank] += 1


@njit(cache=True)
def dequeue(rank: int, progress: Progress, ranks: Ranks) -> None:
    """Take the first request out of a rank's queue."""
    ranks.head[rank] = progress.next[ranks.head[rank]]
    ranks.waiting[rank] -= 1


@njit(cache=True)
def arrive(
    request: int, now_s: float, load: Load, progress: Progress, ranks: Ranks, tally: Tally
) -> None:
    """Queue a request on the rank with the fewest open tokens."""
    rank = 0
    for other in range(1, ranks.active.size):
        if ranks.open_tokens[other] < ranks.open_tokens[rank]:
            rank = other
    ranks.open_tokens[rank] += load.input_tokens[request] + load.output_tokens[request]
    progress.rank[request] = rank
    progress.queued_s[request] = now_s
    enqueue(request, rank, False, progress, ranks)
    tally.counters[0] += 1


@njit(cache=True)
def push_turn(time_s: float, request: int, tally: Tally) -> None:
    """Remember the arrival of a later turn, in a binary heap by time and number."""
    heap_s, heap = tally.heap_s, tally.heap
    at = tally.counters[5]
    tally.counters[5] += 1
    while at > 0:
        up = (at - 1) // 2
        if (heap_s[up], heap[up]) <= (time_s, request):
            break
        heap_s[at], heap[at] = heap_s[up], heap[up]
        at = up
    heap_s[at], heap[at] = time_s, request


@njit(cache=True)
def pop_turn(tally: Tally) -> int:
    """The next of the later turns."""
    heap_s, heap = tally.heap_s, tally.heap
    first = heap[0]
    tally.counters[5] -= 1
    size = tally.counters[5]
    time_s, request = heap_s[size], heap[size]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and (heap_s[child + 1], heap[child + 1]) < (heap_s[child], heap[child]):
            child += 1
        if (time_s, request) <= (heap_s[child], heap[child]):
            break
        heap_s[at], heap[at] = heap_s[child], heap[child]
        at = child
    heap_s[at], heap[at] = time_s, request
    return int(first)


@njit(cache=True)
def next_arrival(load: Load, tally: Tally) -> float:
    """When the next request arrives by the clock; infinity where none does. [s]"""
    place, soonest = tally.counters[4], np.inf
    if load.concurrency == 0 and place < load.arrival_s.size:
        soonest = load.arrival_s[place]
    if tally.counters[5] > 0:
        soonest = min(soonest, tally.heap_s[0])
    return soonest


@njit(cache=True)
def admit_arrivals(load: Load, progress: Progress, ranks: Ranks, tally: Tally) -> None:
    """Queue what has arrived by now, in order of time."""
    now_s, counters = tally.clock[0], tally.counters
    closed = load.concurrency > 0
    while next_arrival(load, tally) <= now_s:
        place = counters[4]
        in_order = not closed and place < load.arrival_s.size
        if counters[5] > 0 and (not in_order or tally.heap_s[0] < load.arrival_s[place]):
            time_s = tally.heap_s[0]
            arrive(pop_turn(tally), time_s, load, progress, ranks, tally)
        else:
            counters[4] += 1
            if load.after[place] < 0:
                arrive(place, load.arrival_s[place], load, progress, ranks, tally)
    if not closed:
        return
    # a conversation is open while one of its turns is, or is still to come
    open_now = counters[0] - counters[1] + counters[5]
    while open_now < load.concurrency and counters[4] < load.arrival_s.size:
        place = counters[4]
        counters[4] += 1
        if load.after[place] < 0:
            arrive(place, now_s, load, progress, ranks, tally)
            open_now += 1


@njit(cache=True)
def preempt_last(
    rank: int,
    load: Load,
    progress: Progress,
    ranks: Ranks,
    cache: Cache,
    policy: Policy,
    tally: Tally,
) -> int:
    """Send the last running request back to the queue; its tokens are computed again."""
    ranks.active[rank] -= 1
    request = ranks.running[rank, ranks.active[rank]]
    has_prefix = load.prefix_start[request + 1] > load.prefix_start[request]
    if not has_prefix:
        progress.ghost[request] = math.floor(progress.done[request] / policy.block_tokens)
        free = available(rank, ranks, cache, prefix_units(load, policy))
        progress.stamp[request] = ranks.allocated[rank] + free
    release(request, load, progress, ranks, cache)
    progress.done[request] = 0
    progress.preempted[request] += 1
    tally.counters[3] += 1
    enqueue(request, rank, True, progress, ranks)
    return int(request)


@njit(cache=True)
def schedule_running(
    rank: int,
    budget: int,
    prompts: bool,
    decodes: bool,
    load: Load,
    progress: Progress,
    ranks: Ranks,
    cache: Cache,
    policy: Policy,
    tally: Tally,
) -> int:
    """Give tokens to running requests in their order; the last ones give way where blocks end."""
    left, place = budget, 0
    while place < ranks.active[rank]:
        request = ranks.running[rank, place]
        known = load.input_tokens[request] + progress.made[request]
        need = known - progress.done[request]
        decoding = need == 1 and progress.made[request] > 0
        place += 1
        if (decoding and not decodes) or (not decoding and not prompts):
            continue
        given = min(need, left)
        if given <= 0:
            continue
        ahead = policy.drafted if decoding else 0
        # a block begins with every block_tokens-th token: most of the time there is room
        kept = decoding and ahead == 0 and progress.done[request] % policy.block_tokens != 0
        while not kept:
            context = progress.done[request] + given + ahead
            if grow(request, context, load, progress, ranks, cache, policy):
                kept = True
                break
            if not policy.preempt or ranks.active[rank] <= 1:
                break
            victim = preempt_last(rank, load, progress, ranks, cache, policy, tally)
            if victim == request:
                break
            if ranks.give[rank, ranks.active[rank]] > 0:  # it had been given tokens already
                left += ranks.give[rank, ranks.active[rank]]
                ranks.give[rank, ranks.active[rank]] = 0
        if kept:
            ranks.give[rank, place - 1] = given
            left -= given + ahead
    return left


@njit(cache=True)
def reserved(rank: int, load: Load, progress: Progress, ranks: Ranks, policy: Policy) -> float:
    """Units that the unfinished answers of running requests are expected to take."""
    if policy.reserve_start <= 0.0:
        return 0.0
    total = 0
    for place in range(ranks.active[rank]):
        request = ranks.running[rank, place]
        total += load.output_tokens[request] - progress.made[request]
    return float(ranks.reserve[rank] * policy.full * total / policy.block_tokens)


@njit(cache=True)
def schedule_waiting(
    rank: int,
    budget: int,
    load: Load,
    progress: Progress,
    ranks: Ranks,
    cache: Cache,
    policy: Policy,
    tally: Tally,
) -> int:
    """Admit requests from the queue, first come first served, while budget and blocks last."""
    left, each, first = budget, prefix_units(load, policy), True
    kept_free = policy.watermark + reserved(rank, load, progress, ranks, policy)
    while ranks.waiting[rank] > 0 and ranks.active[rank] < policy.sequences and left > 0:
        request = ranks.head[rank]
        known = load.input_tokens[request] + progress.made[request]
        find_prefix(request, load, progress, ranks, cache, policy)
        need = known - progress.done[request]
        given = min(need, left)
        context = progress.done[request] + given
        answer = load.output_tokens[request] - progress.made[request]
        if policy.reserve_all:
            context = known + answer + policy.drafted
        elif policy.reserve_start > 0.0:
            context = known
            kept_free += policy.full * answer / policy.block_tokens
        elif policy.watermark > 0.0:  # the block manager of vLLM v0 takes the whole prompt
            context = known
        wanted = units(context, policy) - shared_units(request, load, progress, policy)
        whole = policy.chunked or given == need or (first and need > policy.budget)
        free = available(rank, ranks, cache, each)
        alone = ranks.active[rank] == 0  # a lone request may use what is kept free
        if not whole or (free - wanted < kept_free - 1e-9 and not (alone and free >= wanted)):
            release(request, load, progress, ranks, cache)
            progress.done[request] = 0
            break
        given = given if policy.chunked else need
        grow(request, context, load, progress, ranks, cache, policy)
        if progress.ghost[request] > 0.0:  # blocks found again were not the next ones to go
            ranks.allocated[rank] -= units(progress.done[request], policy) - policy.state
            progress.ghost[request] = 0.0
        dequeue(rank, progress, ranks)
        if progress.scheduled_s[request] < 0.0:
            progress.scheduled_s[request] = tally.clock[0]
            progress.hit_tokens[request] = progress.done[request]
        tally.counters[8] += progress.done[request]
        place = ranks.active[rank]
        ranks.running[rank, place] = request
        ranks.give[rank, place] = given
        ranks.active[rank] += 1
        left -= given
        first = False
    return left


@njit(cache=True)
def schedule(
    rank: int,
    load: Load,
    progress: Progress,
    ranks: Ranks,
    cache: Cache,
    policy: Policy,
    tally: Tally,
) -> None:
    """One rank's part of the next step, in `ranks.give`."""
    ranks.give[rank, : ranks.running.shape[1]] = 0
    before, state = tally.counters[3], (load, progress, ranks, cache, policy, tally)
    if policy.batched:
        if ranks.active[rank] == 0:
            schedule_waiting(rank, 2**62, *state)
        else:
            schedule_running(rank, 2**62, True, True, *state)
        return
    if policy.mixed:
        left = schedule_running(rank, policy.budget, True, True, *state)
        if tally.counters[3] == before:
            schedule_waiting(rank, left, *state)
        return
    left = schedule_running(rank, policy.budget, True, False, *state)
    left = schedule_waiting(rank, left, *state)
    if left == policy.budget:
        schedule_running(rank, 2**62, False, True, *state)
        if tally.counters[3] > before or ranks.active[rank] == 0:
            ranks.reserve[rank] = policy.reserve_start
        else:
            reserve = ranks.reserve[rank] - policy.reserve_step
            ranks.reserve[rank] = max(policy.reserve_least, reserve)


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
    """Attention of one new token a sequence, interpolated. [s]"""
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
    """Attention of a chunk alone, and what it adds to many like it, interpolated. [s]"""
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
    total, longest, added_s, beyond_s, padding = 0.0, 0.0, 0.0, 0.0, 0
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
        sampled += 1 if progress.done[request] + given == known else 0
        alone, added = chunk_attention_s(given, progress.done[request], prices)
        added_s += added
        beyond_s = max(beyond_s, alone - added)
    if policy.batched:
        total = longest * decodes
        if padding > 0:
            tokens = padding * ranks.active[rank]
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
        host_s = max(0.0, host_s - gpu_s - launch_s)
    totals = tally.totals
    tally.token_steps[most] += 1
    tally.all_steps[everyone] += 1
    tally.sequence_steps[sampled] += 1
    totals[0] += attention_s
    totals[1] += host_s
    totals[2] += launch_s
    return float(gpu_s + launch_s + host_s)


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
        if ranks.waiting[rank] > 0 and policy.reserve_start > 0.0:
            return 0
        if ranks.active[rank] > policy.budget:
            return 0
        for place in range(ranks.active[rank]):
            request = ranks.running[rank, place]
            known = load.input_tokens[request] + progress.made[request]
            if progress.made[request] == 0 or progress.done[request] + 1 != known:
                return 0
            if ranks.give[rank, place] == 0:  # it has only just been moved here
                return 0
            left = load.output_tokens[request] - progress.made[request] - 1
            steps = min(steps, left)
        if growing and ranks.active[rank] > 0:
            room = int(ranks.free[rank] / (policy.full * ranks.active[rank]))
            steps = min(steps, room * policy.block_tokens)
    return int(steps)


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
            if not policy.mixed:
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
    for rank in range(count):
        for place in range(ranks.active[rank]):
            request = ranks.running[rank, place]
            if growing:
                before = units(progress.done[request], policy)
                progress.held[request] += units(progress.done[request] + taken, policy) - before
            progress.done[request] += taken
            progress.made[request] += taken
            progress.last_s[request] = clock[0]
    return taken


@njit(cache=True)
def gap_bin(gap_s: float, tally: Tally) -> int:
    """The bin of a gap between two tokens of a request."""
    first_s, step = tally.gap_axis[0], tally.gap_axis[1]
    if gap_s <= first_s:
        return 0
    return min(tally.gaps.size - 1, 1 + int(math.log(gap_s / first_s) / step))


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
                        progress.owed[request] += policy.accepted - 1.0
                        extra = int(progress.owed[request])
                        progress.owed[request] -= extra
                        extra = min(extra, wanted - progress.made[request] - 1)
                        tally.gaps[0] += extra
                        progress.done[request] += extra
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
        finished_all = finished_all and over
        ranks.running[rank, kept] = request
        kept += 1
    if policy.batched and finished_all:
        for place in range(kept):
            finish(ranks.running[rank, place], end_s, load, progress, ranks, cache, policy, tally)
        kept = 0
    ranks.active[rank] = kept


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
    """
    clock, counters, taken = tally.clock, tally.counters, 0
    while taken < most_steps and clock[0] < until_s:
        admit_arrivals(load, progress, ranks, tally)
        given, preempted = 0, counters[3]
        for rank in range(ranks.active.size):
            schedule(rank, load, progress, ranks, cache, policy, tally)
            for place in range(ranks.active[rank]):
                given += ranks.give[rank, place]
        if given == 0:
            soonest = next_arrival(load, tally)
            if counters[0] > counters[1]:
                counters[9] = 1
                return
            if soonest == np.inf or soonest >= until_s:
                clock[0] = min(until_s, max(clock[0], soonest)) if soonest < np.inf else clock[0]
                return
            clock[0] = max(clock[0], soonest)
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
        if calm and given == decoding_sequences(ranks):
            quiet = min(quiet_steps(load, progress, ranks, policy), most_steps - taken)
            if quiet > 0:
                taken += advance_quietly(
                    quiet, until_s, capacity, load, progress, ranks, prices, policy, tally
                )

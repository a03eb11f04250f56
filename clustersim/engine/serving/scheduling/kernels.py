"""What a step computes: blocks of the cache, queues of requests, and the schedulers over both.

Ranks of attention data parallelism schedule alone. Nothing here knows a policy's name: the numbers
of `Policy` decide. Parts of the hot path are inlined: handing over records of arrays costs more
than what they do.

References
----------
.. [1] W. Kwon et al., "Efficient memory management for large language model serving with
   PagedAttention," SOSP 2023, https://arxiv.org/abs/2309.06180 (blocks, recomputation)
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from clustersim.engine.serving.state import Cache, Load, Policy, Progress, Ranks, Tally


@njit(cache=True)
def units(tokens: int, policy: Policy) -> float:
    """Units of cache that a sequence of so many tokens takes.

    Parameters
    ----------
    tokens : int
        Tokens in the cache, at least 0.
    policy : Policy

    Returns
    -------
    float
        A unit is a block of layers that keep every token. Layers with a window keep the last
        `window_tokens`, and states do not grow.
    """
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
    """Allocate units, dropping the prefix blocks that were used longest ago; all or nothing.

    Parameters
    ----------
    rank : int
    wanted : float
        Units of cache.
    ranks, cache
        Written where there is room.
    each : float
        Units of one prefix block.

    Returns
    -------
    bool
        False, and nothing is changed, where free and idle units do not suffice.
    """
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
    """Give a request the units that a context of so many tokens takes.

    Parameters
    ----------
    request, tokens : int
        The request, and its context; prefix blocks that it shares are not counted again.
    load, progress, ranks, cache, policy
        See `clustersim.engine.serving.state`.

    Returns
    -------
    bool
        False, and nothing is changed, where there is no room.
    """
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


@njit(cache=True, inline="always")
def _make_room(
    rank: int,
    request: int,
    context: int,
    load: Load,
    progress: Progress,
    ranks: Ranks,
    cache: Cache,
    policy: Policy,
    tally: Tally,
) -> tuple[bool, int]:
    """Let a running request grow, the last ones giving way: done or not, and tokens given back."""
    back = 0
    while not grow(request, context, load, progress, ranks, cache, policy):
        if not policy.preempt or ranks.active[rank] <= 1:
            return False, back
        victim = preempt_last(rank, load, progress, ranks, cache, policy, tally)
        if victim == request:
            return False, back
        back += ranks.give[rank, ranks.active[rank]]  # what it had been given already
        ranks.give[rank, ranks.active[rank]] = 0
    return True, back


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
    """Give tokens to running requests in their order; the last ones give way where blocks end.

    Parameters
    ----------
    rank, budget : int
        The rank, and the most tokens of its step.
    prompts, decodes : bool
        Whether requests with a prompt to compute, and those that decode, take part.
    load, progress, ranks, cache, policy, tally
        See `clustersim.engine.serving.state`; `ranks.give` gets the tokens.

    Returns
    -------
    int
        Tokens left; drafts count.
    """
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
        context = progress.done[request] + given + ahead
        # a block begins with every block_tokens-th token: most of the time there is room
        kept = decoding and ahead == 0 and progress.done[request] % policy.block_tokens != 0
        if not kept:
            kept, back = _make_room(
                rank, request, context, load, progress, ranks, cache, policy, tally
            )
            left += back
        if kept:
            ranks.give[rank, place - 1] = given
            left -= given + ahead
    return left


@njit(cache=True)
def reserved(rank: int, load: Load, progress: Progress, ranks: Ranks, policy: Policy) -> float:
    """Units that the unfinished answers of running requests are expected to take.

    Parameters
    ----------
    rank : int
    load, progress, ranks, policy
        See `clustersim.engine.serving.state`.

    Returns
    -------
    float
        Units of cache for the rank's share of the tokens to come; 0 where a policy keeps none free.
    """
    if policy.reserve_start <= 0.0:
        return 0.0
    total = 0
    for place in range(ranks.active[rank]):
        request = ranks.running[rank, place]
        total += load.output_tokens[request] - progress.made[request]
    return float(ranks.reserve[rank] * policy.full * total / policy.block_tokens)


@njit(cache=True, inline="always")
def _context_taken(known: int, answer: int, computed: int, policy: Policy) -> int:
    """Tokens that a request takes units for when it is let in."""
    if policy.reserve_all:
        return known + answer + policy.drafted
    if policy.reserve_start > 0.0 or policy.watermark > 0.0:
        return known  # the whole prompt, as the block manager of vLLM v0 does
    return computed


@njit(cache=True, inline="always")
def _let_in(
    rank: int, request: int, given: int, progress: Progress, ranks: Ranks, tally: Tally
) -> None:
    """Move the head of the queue to the running requests."""
    dequeue(rank, progress, ranks)
    if progress.scheduled_s[request] < 0.0:
        progress.scheduled_s[request] = tally.clock[0]
        progress.hit_tokens[request] = progress.done[request]
    tally.counters[8] += progress.done[request]
    place = ranks.active[rank]
    ranks.running[rank, place] = request
    ranks.give[rank, place] = given
    ranks.active[rank] += 1


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
    """Admit requests from the queue, first come first served, while budget and blocks last.

    Parameters
    ----------
    rank, budget : int
        The rank, and the tokens that are left of its step.
    load, progress, ranks, cache, policy, tally
        See `clustersim.engine.serving.state`; `ranks.give` gets the tokens.

    Returns
    -------
    int
        Tokens left; below 0 where a first prompt that may not be cut exceeds the whole budget.
    """
    left, each, first = budget, prefix_units(load, policy), True
    kept_free = policy.watermark + reserved(rank, load, progress, ranks, policy)
    while ranks.waiting[rank] > 0 and ranks.active[rank] < policy.sequences and left > 0:
        request = ranks.head[rank]
        known = load.input_tokens[request] + progress.made[request]
        find_prefix(request, load, progress, ranks, cache, policy)
        need = known - progress.done[request]
        given = min(need, left)
        answer = load.output_tokens[request] - progress.made[request]
        context = _context_taken(known, answer, progress.done[request] + given, policy)
        if policy.reserve_start > 0.0:
            kept_free += policy.full * answer / policy.block_tokens
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
        _let_in(rank, request, given, progress, ranks, tally)
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
    if policy.batched:  # prompts first, as many at once as the budget holds
        left, begun = policy.budget, False
        for place in range(ranks.active[rank]):
            begun = begun or progress.made[ranks.running[rank, place]] > 1
        if not begun:
            left = schedule_waiting(rank, left, *state)
        if left == policy.budget:
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

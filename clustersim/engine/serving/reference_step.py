"""A plain twin of the replica: one step of all ranks a function call, its price looked up by hand.

Schedulers are in `reference`. Slow; tests hold the compiled replica to it.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clustersim.engine.serving.reference import SCHEDULERS, Plan, Pool, Rank, Request
from clustersim.engine.serving.state import Floats, Load, Policy, Prices
from clustersim.errors import CapacityError


def table_at(axes: Sequence[Floats], table: Floats, point: Sequence[float]) -> float:
    """A table at a point, linear along one axis after the other, flat beyond its ends.

    Parameters
    ----------
    axes : sequence of ndarray of float64
        Rising nodes of each dimension.
    table : ndarray of float64
        One dimension an axis.
    point : sequence of float
        One coordinate an axis.

    Returns
    -------
    float
    """
    values = table
    if len(axes) > 1:
        values = np.array([table_at(axes[1:], part, point[1:]) for part in table])
    return float(np.interp(point[0], axes[0], values))


@dataclass(frozen=True)
class Work:
    """What one rank computes in a step."""

    tokens: int
    rows: int  # whose next token is sampled
    decodes: int
    attention_s: float


def work_of(rank: Rank, plan: Plan, prices: Prices) -> Work:
    """Add up a plan: decodes are one kernel over all contexts, chunks fill each other's gaps.

    Parameters
    ----------
    rank : Rank
        Its batch, before the tokens of the step are computed.
    plan : dict of int to int
        Tokens by number of the request.
    prices : Prices

    Returns
    -------
    Work
        A static batch is padded: decodes to the longest context, prompts to the longest chunk.
    """
    policy, contexts, chunks, rows = rank.policy, [], [], 0
    for request in rank.running:
        tokens = plan.get(request.number, 0)
        if tokens and request.decoding:
            contexts.append(request.known)
            rows += 1 + policy.drafted
        elif tokens:
            chunks.append((tokens, request.computed))
            rows += request.computed + tokens == request.known
    tokens = len(contexts) * (1 + policy.drafted) + sum(new for new, _ in chunks)
    if policy.batched and contexts:
        contexts = [max(contexts)] * len(contexts)
    if policy.batched and chunks:
        tokens = max(new for new, _ in chunks) * len(chunks)
    attention_s = _decode_s(contexts, policy.stages, prices) + _chunks_s(chunks, policy, prices)
    return Work(tokens, rows, len(contexts), attention_s)


def _decode_s(contexts: list[int], stages: int, prices: Prices) -> float:
    """Attention of decodes; micro-batches of a pipeline have their share of them. [s]"""
    if not contexts:
        return 0.0
    n = math.ceil(len(contexts) / stages)
    mean = sum(contexts) / stages / n
    axes = (prices.decode_n, prices.decode_context, prices.decode_ratio)
    return table_at(axes, prices.decode_s, (n, mean, max(contexts) / mean))


def _chunks_s(chunks: list[tuple[int, int]], policy: Policy, prices: Prices) -> float:
    """Attention of chunks: what each adds, and what the longest one cannot hide. [s]"""
    axes = (prices.chunk, prices.before)
    alone_s = [table_at(axes, prices.alone_s, chunk) for chunk in chunks]
    added_s = [table_at(axes, prices.added_s, chunk) for chunk in chunks]
    beyond_s = [one - added for one, added in zip(alone_s, added_s, strict=True)]
    return sum(added_s) / policy.stages + max([0.0, *beyond_s])


class Twin:
    """A replica in plain Python.

    Parameters
    ----------
    scheduler : str
        A name of `SCHEDULERS`.
    load, capacity, ranks, prices, policy
        As `build_replica`; of the policy, limits and costs are read, and no choice of scheduler.
    """

    def __init__(
        self,
        scheduler: str,
        load: Load,
        capacity: float,
        ranks: int,
        prices: Prices,
        policy: Policy,
    ) -> None:
        self.schedule, self.load = SCHEDULERS[scheduler], load
        self.prices, self.policy = prices, policy
        self.now_s, self.busy_s, self.steps, self.finished = 0.0, 0.0, 0, 0
        self.ranks = [
            Rank(Pool(capacity, policy, load.prefix_tokens), policy, share=policy.reserve_start)
            for _ in range(ranks)
        ]
        self.requests = [
            Request(
                number=i,
                prompt=int(load.input_tokens[i]),
                answer=int(load.output_tokens[i]),
                text=load.prefix_block[load.prefix_start[i] : load.prefix_start[i + 1]].tolist(),
            )
            for i in range(load.arrival_s.size)
        ]
        self.rank_of: dict[int, Rank] = {}
        starts = [i for i in range(len(self.requests)) if load.after[i] < 0]
        closed = load.concurrency > 0
        self.next_talks = deque(starts if closed else [])
        self.open_talks = 0
        # by time; of two at once the first turn of a conversation comes before a later one
        self.coming = [] if closed else [(float(load.arrival_s[i]), 0, i) for i in starts]

    @property
    def preemptions(self) -> int:
        """How often a request gave way."""
        return sum(rank.preemptions for rank in self.ranks)

    def run(self) -> None:
        """Step until all requests are answered."""
        while self.step():
            pass

    def step(self) -> bool:
        """One iteration of all ranks in lock-step; False when nothing is left to do.

        Raises
        ------
        CapacityError
            If a request does not fit in the cache.
        """
        self._let_in()
        plans = [self.schedule(rank, self.now_s) for rank in self.ranks]
        if not any(plans):
            if any(rank.queue or rank.running for rank in self.ranks):
                raise CapacityError("a request exceeds the cache")
            if not self.coming:
                return False
            self.now_s = max(self.now_s, self.coming[0][0])
            return True
        step_s = self._step_s(plans)
        self.now_s += step_s
        self.busy_s += step_s
        self.steps += 1
        for rank, plan in zip(self.ranks, plans, strict=True):
            self._hand_out(rank, plan)
        return True

    def _let_in(self) -> None:
        while self.coming and self.coming[0][0] <= self.now_s:
            time_s, _, number = heapq.heappop(self.coming)
            self._enqueue(self.requests[number], time_s)
        while self.next_talks and self.open_talks < self.load.concurrency:
            self._enqueue(self.requests[self.next_talks.popleft()], self.now_s)
            self.open_talks += 1

    def _enqueue(self, request: Request, time_s: float) -> None:
        rank = min(self.ranks, key=lambda one: one.open_tokens)
        rank.open_tokens += request.prompt + request.answer
        rank.queue.append(request)
        request.queued_s = time_s
        self.rank_of[request.number] = rank

    def _step_s(self, plans: list[Plan]) -> float:
        """A step lasts as long as its slowest rank; experts see the tokens of all. [s]"""
        policy, prices = self.policy, self.prices
        works = [work_of(*one, prices) for one in zip(self.ranks, plans, strict=True)]
        lanes, checked = policy.stages, 1 + policy.drafted
        most = math.ceil(max(work.tokens for work in works) / lanes)
        everyone = math.ceil(sum(work.tokens for work in works) / lanes)
        rows = math.ceil(max(work.rows for work in works) / lanes)
        captured = policy.graph_mixed or all(w.tokens == w.decodes * checked for w in works)
        graph = prices.padded[min(most, prices.padded.size - 1)] if captured else -1
        if graph > 0:
            most = graph
            everyone = graph if len(works) == 1 else everyone
        device_s = max(work.attention_s for work in works)
        device_s += prices.token_s[min(most, prices.token_s.size - 1)]
        of_all_s = prices.all_token_s[self._draw()]
        device_s += of_all_s[min(everyone, of_all_s.size - 1)]
        device_s += prices.sequence_s[min(rows, prices.sequence_s.size - 1)]
        if graph <= 0:  # kernels are launched one by one
            device_s = max(device_s, policy.launch_s)
        batch = max(len(rank.running) for rank in self.ranks)
        host_s = policy.step_s + policy.sequence_s * batch
        if policy.asynchronous:  # the host is a step ahead, but for a gap
            return float(max(device_s, host_s) + policy.gap_s)
        return float(device_s + host_s)

    def _draw(self) -> int:
        draws = int(self.prices.all_token_s.shape[0])
        if self.policy.drift_s > 0.0:
            return int(self.now_s / self.policy.drift_s) % draws
        return (self.steps * 40503) % int(draws) if self.policy.sampled else 0

    def _hand_out(self, rank: Rank, plan: Plan) -> None:
        for request in list(rank.running):
            if request.number in plan and not request.finished:
                self._compute(rank, request, plan[request.number])
            if request.finished and not self.policy.batched:
                self._finish(rank, request)
        if self.policy.batched and all(request.finished for request in rank.running):
            for request in list(rank.running):
                request.last_s = self.now_s  # answers are returned together
                self._finish(rank, request)

    def _compute(self, rank: Rank, request: Request, tokens: int) -> None:
        decoding = request.decoding
        request.computed += tokens
        if not decoding:
            rank.pool.publish(request)
        if request.computed < request.known:
            return
        if request.made == 0:
            request.first_s = self.now_s
        accepted = 0
        if decoding:  # of the drafts, a fixed number on average
            request.owed += self.policy.accepted - 1.0
            accepted = int(request.owed)
            request.owed -= accepted
            accepted = min(accepted, request.answer - request.made - 1)
        request.computed += accepted
        request.made += 1 + accepted
        request.last_s = self.now_s

    def _finish(self, rank: Rank, request: Request) -> None:
        rank.pool.publish(request)
        rank.pool.release(request)
        rank.running.remove(request)
        rank.open_tokens -= request.prompt + request.answer
        self.finished += 1
        turn = request.number + 1
        if turn < len(self.requests) and self.load.after[turn] == request.number:
            time_s = self.now_s + float(self.load.think_s[turn])
            heapq.heappush(self.coming, (time_s, 1, turn))
        else:
            self.open_talks -= 1

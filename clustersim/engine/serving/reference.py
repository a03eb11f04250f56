"""Plain twins of the schedulers: a queue is a deque, a request an object, a policy one function.

Slow, and meant to be read beside the engines' sources; `reference_step` makes a replica of them,
and tests hold the compiled one to it. Where both disagree, what the engine documents decides.

References
----------
.. [1] vLLM, vllm/v1/core/sched/scheduler.py and vllm/v1/core/kv_cache_manager.py; vLLM 0.6,
   vllm/core/scheduler.py (`_schedule_default`, `_schedule_chunked_prefill`) and
   vllm/core/block_manager.py, https://github.com/vllm-project/vllm
.. [2] A. Agrawal et al., "Taming throughput-latency tradeoff in LLM inference with Sarathi-Serve,"
   OSDI 2024, algorithm 3, https://arxiv.org/abs/2403.02310
.. [3] G.-I. Yu et al., "Orca: a distributed serving system for transformer-based generative
   models," OSDI 2022, algorithm 1
.. [4] SGLang, python/sglang/srt/managers/schedule_policy.py (`PrefillAdder`), scheduler.py and
   mem_cache/radix_cache.py, https://github.com/sgl-project/sglang
.. [5] NVIDIA, TensorRT-LLM documentation, "KV cache system" and "Scheduler"
   (GUARANTEED_NO_EVICT)
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from clustersim.engine.serving.state import Policy

SLACK = 1e-9  # units of cache are sums of fractions
Plan = dict[int, int]  # tokens of a step, by number of the request


@dataclass
class Request:
    """A prompt, its answer, and how far both are."""

    number: int
    prompt: int
    answer: int
    text: Sequence[int]  # leading blocks of text, by number
    computed: int = 0  # tokens in the cache
    made: int = 0
    joined: list[int] = field(default_factory=list)  # blocks held together with others
    own: float = 0.0  # units of cache held alone
    owed: float = 0.0  # of a token, from speculation
    remembered: int = 0  # blocks that a preempted request left in the free queue
    gone_at: float = 0.0  # how far the free queue has moved when they begin to go
    queued_s: float = -1.0
    scheduled_s: float = -1.0
    first_s: float = -1.0
    last_s: float = -1.0
    preempted: int = 0
    hit_tokens: int = 0

    @property
    def known(self) -> int:
        """Tokens whose text is known: what has to be in the cache before the next one comes."""
        return self.prompt + self.made

    @property
    def decoding(self) -> bool:
        """Whether only its newest token is missing."""
        return self.made > 0 and self.known - self.computed == 1

    @property
    def finished(self) -> bool:
        """Whether the answer is complete."""
        return self.made >= self.answer


class Pool:
    """The KV cache of one rank: units that are free, and prefix blocks with their users.

    A prefix block without users is idle: it stays until its room is needed, the one used longest
    ago first. Freed units queue up: what was freed first is overwritten first.
    """

    def __init__(self, capacity: float, policy: Policy, prefix_tokens: int) -> None:
        self.free, self.policy, self.prefix_tokens = capacity, policy, prefix_tokens
        self.each = policy.full * prefix_tokens / policy.block_tokens
        self.users: dict[int, int] = {}
        self.idle: OrderedDict[int, None] = OrderedDict()
        self.moved = 0.0  # units that have left the head of the queue

    @property
    def room(self) -> float:
        """Units that are free or can be made so."""
        return self.free + self.each * len(self.idle)

    def units(self, tokens: int) -> float:
        """What a sequence takes: layers that keep all, those with a window, and states.

        Parameters
        ----------
        tokens : int
            Context of the sequence.

        Returns
        -------
        float
            Units of cache.
        """
        policy = self.policy
        whole = math.ceil(tokens / policy.block_tokens)
        last = math.ceil(min(tokens, policy.window_tokens) / policy.block_tokens)
        return policy.full * whole + policy.window * last + policy.state

    def alone(self, request: Request, tokens: int) -> float:
        """Units of its own that a request needs for a context.

        Parameters
        ----------
        request : Request
            Prefix blocks that it has joined are not its own.
        tokens : int
            Its whole context.

        Returns
        -------
        float
            Units of cache.
        """
        return self.units(tokens) - self.each * len(request.joined)

    def grow(self, request: Request, tokens: int) -> bool:
        """Hold a context of so many tokens; False, and nothing happens, where there is no room.

        Parameters
        ----------
        request : Request
        tokens : int
            Its whole context.

        Returns
        -------
        bool
            Whether it holds the context now. Idle prefix blocks go first, the one used longest ago
            ahead.
        """
        missing = self.alone(request, tokens) - request.own
        if missing <= SLACK:
            return True
        if self.room < missing - SLACK:
            return False
        while self.free < missing - SLACK:
            oldest, _ = self.idle.popitem(last=False)
            del self.users[oldest]
            self.free += self.each
        self.free -= missing
        self.moved += missing
        request.own += missing
        return True

    def find(self, request: Request) -> None:
        """Start from the leading blocks that are there; one token is always left to compute.

        Parameters
        ----------
        request : Request
            Holds nothing; `joined` and `computed` are set. Without shared text it finds what is
            left of its own blocks from before it gave way.
        """
        if not self.policy.caching:
            return
        if request.text:
            most = (request.known - 1) // self.prefix_tokens
            for block in request.text[:most]:
                if block not in self.users:
                    break
                self._use(block)
                request.joined.append(block)
            request.computed = len(request.joined) * self.prefix_tokens
            return
        lost = max(0.0, self.moved - request.gone_at)
        left = math.floor(max(0.0, request.remembered - lost))
        request.computed = left * self.policy.block_tokens

    def admit(self, request: Request, tokens: int) -> None:
        """Hold a context; own blocks found again were not those at the head of the queue.

        Parameters
        ----------
        request : Request
            There has to be room for it; it forgets what it left in the queue.
        tokens : int
            The context to hold.
        """
        self.grow(request, tokens)
        if not request.text:
            self.moved -= self.units(request.computed) - self.policy.state
        request.remembered = 0

    def publish(self, request: Request) -> None:
        """Let others find the blocks of text that are computed; of two copies one is kept.

        Parameters
        ----------
        request : Request
            Whole blocks up to `computed` move from its own units to those held together.
        """
        if not self.policy.caching:
            return
        for block in request.text[len(request.joined) : request.computed // self.prefix_tokens]:
            request.own -= self.each
            request.joined.append(block)
            if block in self.users:
                self._use(block)
                self.free += self.each
            else:
                self.users[block] = 1

    def _use(self, block: int) -> None:
        self.idle.pop(block, None)
        self.users[block] += 1

    def release(self, request: Request) -> None:
        """Free what a request holds; the tail of a prefix is given up before its beginning.

        Parameters
        ----------
        request : Request
            Holds nothing afterwards; blocks without another user become idle.
        """
        self.free += request.own
        request.own = 0.0
        for block in reversed(request.joined):
            self.users[block] -= 1
            if not self.users[block]:
                self.idle[block] = None
        request.joined.clear()

    def remember(self, request: Request) -> None:
        """Note where the blocks of a request that gives way stand in the free queue.

        Parameters
        ----------
        request : Request
            Still holds its blocks. One with shared text is looked up by its text instead.
        """
        if not request.text:
            request.remembered = request.computed // self.policy.block_tokens
            request.gone_at = self.moved + self.room


@dataclass
class Rank:
    """One attention rank: a queue, a batch and a cache."""

    pool: Pool
    policy: Policy
    queue: deque[Request] = field(default_factory=deque)
    running: list[Request] = field(default_factory=list)
    share: float = 0.0  # of unfinished answers, kept free (SGLang)
    open_tokens: int = 0
    preemptions: int = 0
    hit_tokens: int = 0

    def give_way(self) -> Request:
        """Preempt the request that came last; it goes back to the head of the queue."""
        victim = self.running.pop()
        self.pool.remember(victim)
        self.pool.release(victim)
        victim.computed = 0
        victim.preempted += 1
        self.preemptions += 1
        self.queue.appendleft(victim)
        return victim

    def keep_running(self, chosen: list[Request], budget: int, plan: Plan) -> int:
        """Tokens for requests of the batch, in order; where blocks end, the last one gives way.

        Parameters
        ----------
        chosen : list of Request
            Running requests, in the order in which they are served.
        budget : int
            Tokens of the step that are left.
        plan : dict of int to int
            Tokens by number of the request; filled.

        Returns
        -------
        int
            Tokens left; drafts count.
        """
        for request in chosen:
            if request not in self.running:
                break  # it has given way, and so have all behind it
            tokens = min(request.known - request.computed, budget)
            if tokens <= 0:
                continue
            drafts = self.policy.drafted if request.decoding else 0
            if self._make_room(request, request.computed + tokens + drafts):
                plan[request.number] = tokens
                budget -= tokens + drafts
        return budget

    def _make_room(self, request: Request, context: int) -> bool:
        while not self.pool.grow(request, context):
            if not self.policy.preempt or self.running == [request]:
                return False
            if self.give_way() is request:
                return False
        return True

    def admit(self, now_s: float, budget: int, plan: Plan, needs: Needs) -> int:
        """Requests from the queue, first come first served, until one does not fit.

        Parameters
        ----------
        now_s : float
            Noted for requests that are computed for the first time. [s]
        budget : int
            Tokens of the step that are left.
        plan : dict of int to int
            Tokens by number of the request; filled.
        needs : Needs
            What admission takes and keeps free.

        Returns
        -------
        int
            Tokens left; below 0 where a prompt that may not be cut exceeds the whole budget.
        """
        kept_free, first = self.policy.watermark, True
        kept_free += sum(needs.unfinished(self, request) for request in self.running)
        while self.queue and len(self.running) < self.policy.sequences and budget > 0:
            request = self.queue[0]
            self.pool.find(request)
            prompt = request.known - request.computed
            tokens = min(prompt, budget)
            too_long = first and prompt > self.policy.budget  # runs although it exceeds the budget
            if not self.policy.chunked and tokens < prompt and not too_long:
                self._leave(request)
                break
            if not self.policy.chunked:
                tokens = prompt
            kept_free += needs.answer(self, request)
            context = needs.context(self, request, tokens)
            left = self.pool.room - self.pool.alone(request, context)
            if left < (kept_free - SLACK if self.running else 0.0):
                self._leave(request)
                break
            self.pool.admit(request, context)
            self.running.append(self.queue.popleft())
            self.hit_tokens += request.computed
            if request.scheduled_s < 0.0:
                request.scheduled_s, request.hit_tokens = now_s, request.computed
            plan[request.number] = tokens
            budget -= tokens
            first = False
        return budget

    def _leave(self, request: Request) -> None:
        self.pool.release(request)
        request.computed = 0


class Needs:
    """What admission takes and keeps free in vLLM v1: blocks of the first chunk, and no more."""

    def context(self, rank: Rank, request: Request, tokens: int) -> int:
        """Tokens that get blocks on admission.

        Parameters
        ----------
        rank : Rank
        request : Request
            Head of the queue, its leading blocks found.
        tokens : int
            Of its first chunk.

        Returns
        -------
        int
        """
        return request.computed + tokens

    def answer(self, rank: Rank, request: Request) -> float:
        """Units that a new request wants to be free for its answer.

        Parameters
        ----------
        rank : Rank
        request : Request
            Head of the queue.

        Returns
        -------
        float
            Not taken, only kept free. [units]
        """
        return 0.0

    def unfinished(self, rank: Rank, request: Request) -> float:
        """Units that a running request is expected to take yet.

        Parameters
        ----------
        rank : Rank
        request : Request
            In the batch.

        Returns
        -------
        float
            Not taken, only kept free. [units]
        """
        return 0.0


class PromptNeeds(Needs):
    """vLLM v0 and Sarathi: `can_allocate` asks for blocks of the whole prompt."""

    def context(self, rank: Rank, request: Request, tokens: int) -> int:
        """Tokens that get blocks on admission."""
        return request.known


class CompletionNeeds(Needs):
    """Orca and TensorRT-LLM: room up to the last token of the answer, drafts included."""

    def context(self, rank: Rank, request: Request, tokens: int) -> int:
        """Tokens that get blocks on admission."""
        return request.prompt + request.answer + rank.policy.drafted


class RatioNeeds(PromptNeeds):
    """SGLang: a new answer fits as a whole, running ones by a share of what they may still make."""

    def answer(self, rank: Rank, request: Request) -> float:
        """Units that a new request wants to be free for its answer."""
        to_come = request.answer - request.made
        return rank.policy.full * to_come / rank.policy.block_tokens

    def unfinished(self, rank: Rank, request: Request) -> float:
        """Units that a running request is expected to take yet."""
        return rank.share * self.answer(rank, request)


def vllm_v1(rank: Rank, now_s: float) -> Plan:
    """Running requests first, whatever they need; then the queue, unless somebody gave way [1].

    Parameters
    ----------
    rank : Rank
        Its queue, batch and cache change.
    now_s : float
        Begin of the step. [s]

    Returns
    -------
    dict of int to int
        Tokens of the step, by number of the request; as of all schedulers here.
    """
    plan: Plan = {}
    before = rank.preemptions
    left = rank.keep_running(list(rank.running), rank.policy.budget, plan)
    if rank.preemptions == before:
        rank.admit(now_s, left, plan, Needs())
    return plan


def vllm_v0(rank: Rank, now_s: float) -> Plan:
    """New prompts alone; where there are none, a token for everybody [1].

    With chunks of prompts: running ones, then the queue.
    """
    plan: Plan = {}
    if rank.policy.chunked:
        return sarathi(rank, now_s)
    rank.admit(now_s, rank.policy.budget, plan, PromptNeeds())
    if not plan:
        rank.keep_running(list(rank.running), 2**62, plan)
    return plan


def sarathi(rank: Rank, now_s: float) -> Plan:
    """All decodes, then the prompt that has begun, then new ones, up to the budget [2]."""
    plan: Plan = {}
    before = rank.preemptions
    decodes = [request for request in rank.running if request.decoding]
    begun = [request for request in rank.running if not request.decoding]
    left = rank.keep_running(decodes + begun, rank.policy.budget, plan)
    if rank.preemptions == before:
        rank.admit(now_s, left, plan, PromptNeeds())
    return plan


def sglang(rank: Rank, now_s: float) -> Plan:
    """Prompts while any fit, the one in pieces first; else a token for everybody [4].

    The share of answers kept free falls with every step of decoding, and starts anew after a
    retraction and on an idle rank.
    """
    plan: Plan = {}
    policy = rank.policy
    begun = [request for request in rank.running if not request.decoding]
    left = rank.keep_running(begun, policy.budget, plan)
    rank.admit(now_s, left, plan, RatioNeeds())
    if plan:
        return plan
    before = rank.preemptions
    rank.keep_running(list(rank.running), 2**62, plan)
    if rank.preemptions > before or not rank.running:
        rank.share = policy.reserve_start
    else:
        rank.share = max(policy.reserve_least, rank.share - policy.reserve_step)
    return plan


def orca(rank: Rank, now_s: float) -> Plan:
    """Every iteration takes all running requests, and new ones with room for their answers [3]."""
    plan: Plan = {}
    left = rank.keep_running(list(rank.running), rank.policy.budget, plan)
    rank.admit(now_s, left, plan, CompletionNeeds())
    return plan


def tensorrt_llm(rank: Rank, now_s: float) -> Plan:
    """In-flight batching as Orca's, within a budget of tokens; nobody is evicted [5]."""
    return orca(rank, now_s)


def static(rank: Rank, now_s: float) -> Plan:
    """A batch that starts together and is answered when its longest answer is complete [3].

    Its prompts are computed first, as many at once as the budget holds.
    """
    plan: Plan = {}
    if all(request.made <= 1 for request in rank.running):
        rank.admit(now_s, rank.policy.budget, plan, CompletionNeeds())
    if not plan:
        rank.keep_running(list(rank.running), 2**62, plan)
    return plan


SCHEDULERS: dict[str, Callable[[Rank, float], Plan]] = {
    "vllm_v1": vllm_v1,
    "vllm_v0": vllm_v0,
    "sarathi": sarathi,
    "sglang": sglang,
    "orca": orca,
    "tensorrt_llm": tensorrt_llm,
    "static": static,
}

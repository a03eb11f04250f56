"""A replica of a serving engine: state made of a load, advanced by compiled steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clustersim.engine.serving.state import (
    CLOCK,
    COUNTERS,
    GAP_BINS,
    GAP_LEAST,
    GAP_STEP,
    SERIES,
    SERIES_COLUMNS,
    TOTALS,
    Cache,
    Floats,
    Ints,
    Load,
    Policy,
    Prices,
    Progress,
    Ranks,
    Tally,
)
from clustersim.errors import CapacityError
from clustersim.kernel_cache import prepare_numba_cache

ALL_STEPS = 2**62


@dataclass(frozen=True)
class Replica:
    """One replica and everything that it has done so far.

    Attributes
    ----------
    capacity : float
        Units of cache of one attention rank.
    load, progress, ranks, cache, prices, policy, tally
        See `clustersim.engine.serving.state`.
    """

    capacity: float
    load: Load
    progress: Progress
    ranks: Ranks
    cache: Cache
    prices: Prices
    policy: Policy
    tally: Tally

    @property
    def now_s(self) -> float:
        """The replica's clock. [s]"""
        return float(self.tally.clock[0])

    def count(self, name: str) -> int:
        """A counter of `COUNTERS`."""
        return int(self.tally.counters[COUNTERS.index(name)])

    def total(self, name: str) -> float:
        """A sum of `TOTALS`."""
        return float(self.tally.totals[TOTALS.index(name)])

    def series(self) -> Floats:
        """Samples of the run, (samples, columns of `SERIES_COLUMNS`)."""
        return self.tally.series[: self.count("samples")]

    def advance(self, until_s: float = np.inf, steps: int = ALL_STEPS) -> None:
        """Run until a time, for a number of steps, or until all is done.

        Parameters
        ----------
        until_s : float
            No step begins at or after it. [s]
        steps : int
            Most steps; one by one gives the same bits as all at once.

        Raises
        ------
        CapacityError
            If a request can never run because its context exceeds the cache.
        """
        prepare_numba_cache()
        from clustersim.engine.serving.kernels import advance

        advance(
            until_s,
            steps,
            self.capacity,
            self.load,
            self.progress,
            self.ranks,
            self.cache,
            self.prices,
            self.policy,
            self.tally,
        )
        if self.count("stuck"):
            raise CapacityError(self._stuck())

    def _stuck(self) -> str:
        heads = [int(self.ranks.head[i]) for i in np.flatnonzero(self.ranks.waiting > 0)]
        heads += [int(self.ranks.running[i, 0]) for i in np.flatnonzero(self.ranks.active > 0)]
        request = max(heads, key=lambda one: int(self.load.input_tokens[one]))
        wanted = int(self.load.input_tokens[request] + self.load.output_tokens[request])
        room = int(self.capacity * self.policy.block_tokens)
        return (
            f"request {request} needs a cache of {wanted:,} tokens, and a rank holds {room:,}\n"
            "  fix: more GPUs a replica, an 8-bit KV cache, or shorter requests"
        )


def build_replica(
    load: Load, capacity: float, ranks: int, prices: Prices, policy: Policy
) -> Replica:
    """A replica with nothing done yet.

    Parameters
    ----------
    load : Load
        Its requests.
    capacity : float
        Units of cache of one attention rank.
    ranks : int
        Attention ranks in lock-step.
    prices, policy
        Of an iteration, and how it is scheduled.
    """
    blocks = int(load.prefix_block.max()) + 1 if load.prefix_block.size else 0
    state = Ranks(
        running=_ints(ranks, policy.sequences),
        give=_ints(ranks, policy.sequences),
        active=_ints(ranks),
        head=_ints(ranks, fill=-1),
        tail=_ints(ranks, fill=-1),
        waiting=_ints(ranks),
        free=_floats(ranks, fill=capacity),
        allocated=_floats(ranks),
        open_tokens=_ints(ranks),
        reserve=_floats(ranks, fill=policy.reserve_start),
    )
    cache = Cache(
        refs=_ints(ranks, blocks, fill=-1),
        older=_ints(ranks, blocks, fill=-1),
        newer=_ints(ranks, blocks, fill=-1),
        oldest=_ints(ranks, fill=-1),
        newest=_ints(ranks, fill=-1),
        idle=_ints(ranks),
    )
    tally = _tally(prices, turns=int((load.after >= 0).sum()) + 1)
    progress = _progress(load.arrival_s.size)
    return Replica(capacity, load, progress, state, cache, prices, policy, tally)


def _floats(*shape: int, fill: float = 0.0) -> Floats:
    """An array of one number."""
    return np.full(shape, fill, dtype=np.float64)


def _ints(*shape: int, fill: int = 0) -> Ints:
    """An array of one whole number."""
    return np.full(shape, fill, dtype=np.int64)


def _progress(n: int) -> Progress:
    """Of `n` requests, none of which has begun."""
    return Progress(
        rank=_ints(n),
        done=_ints(n),
        made=_ints(n),
        shared=_ints(n),
        held=_floats(n),
        owed=_floats(n),
        queued_s=_floats(n, fill=-1.0),
        scheduled_s=_floats(n, fill=-1.0),
        first_s=_floats(n, fill=-1.0),
        last_s=_floats(n, fill=-1.0),
        preempted=_ints(n),
        hit_tokens=_ints(n),
        ghost=_floats(n),
        stamp=_floats(n),
        next=_ints(n, fill=-1),
    )


def _tally(prices: Prices, turns: int) -> Tally:
    """Sums over steps, all zero, and room for `turns` requests that follow others."""
    counters = _ints(len(COUNTERS))
    counters[COUNTERS.index("stride")] = 1
    return Tally(
        token_steps=_ints(prices.token_s.size),
        all_steps=_ints(prices.all_token_s.shape[1]),
        sequence_steps=_ints(prices.sequence_s.size),
        totals=_floats(len(TOTALS)),
        gaps=_ints(GAP_BINS),
        gap_axis=np.array([GAP_LEAST, GAP_STEP]),
        series=_floats(SERIES, len(SERIES_COLUMNS)),
        clock=_floats(len(CLOCK)),
        counters=counters,
        heap_s=_floats(turns),
        heap=_ints(turns),
    )

"""The requests of one serving run as arrays: when they arrive, how long they are, what they share.

Left out: what the text says. Requests differ by their lengths, their times and the blocks of text
that their prompts have in common; how long an answer is, is known beforehand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clustersim.errors import Problem, SpecError
from clustersim.spec.workload import OPEN, Prefixes, Workload
from clustersim.workload.arrivals import draw_arrivals_s
from clustersim.workload.files import find_file
from clustersim.workload.lengths import Drawn, draw_lengths
from clustersim.workload.prefixes import conversations
from clustersim.workload.streams import named_rng
from clustersim.workload.traces import read_trace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEAST_REQUESTS, LEAST_S = 2_000, 60.0  # of an open loop
CLOSED_ROUNDS, SATURATED_ROUNDS = 10, 20  # requests over concurrency
OFFLINE_REQUESTS = 1_000
MOST_REQUESTS = 50_000_000
NO_PREFIXES = Prefixes()


@dataclass(frozen=True)
class Requests:
    """Requests of one run, in order of arrival; turns of a conversation follow its first one.

    Attributes
    ----------
    arrival_s : ndarray of float64 (n,)
        Rising, the first at 0 or later. In a closed loop all are 0: completions release them in
        this order. Where `after` is set, that of the conversation: the answer comes later. [s]
    input_tokens, output_tokens : ndarray of int64 (n,)
        Lengths of whole prompts and of answers, at least 1.
    concurrency : int
        Closed loop: most conversations in flight, which are requests where there are no turns; the
        last turn of one lets the next one in. 0 in an open loop.
    prefix_start : ndarray of int64 (n + 1,)
        Where the blocks of each request begin in `prefix_block`.
    prefix_block : ndarray of int64 (m,)
        Leading blocks of text that another request may share, numbered from 0; equal numbers are
        equal text. Where a later turn begins with the answer too, blocks of the answer follow those
        of the prompt: a look-up ends with the prompt. The last block of a Mooncake prompt may be
        partly filled.
    prefix_block_tokens : int
        Tokens of such a block; 0 where nothing is shared.
    after : ndarray of int64 (n,)
        The request whose answer has to be there first: the one before, or -1 for none.
    think_s : ndarray of float64 (n,)
        From that answer to the arrival. [s]
    skipped : int
        Bad lines and failed requests of a file that were left out.
    """

    arrival_s: Floats
    input_tokens: Ints
    output_tokens: Ints
    concurrency: int
    prefix_start: Ints
    prefix_block: Ints
    prefix_block_tokens: int
    after: Ints
    think_s: Floats
    skipped: int

    @property
    def count(self) -> int:
        """How many requests there are."""
        return self.arrival_s.size

    def take(self, rows: Ints) -> Requests:
        """Some of the requests in their order, conversations from their first turn on.

        Parameters
        ----------
        rows : ndarray of int64
            Ascending; with a turn also the one before. In any order, and repeated, where `after` is
            not used.

        Returns
        -------
        Requests
            `concurrency` and `skipped` are those of the whole.
        """
        place = np.full(self.count + 1, -1, dtype=np.int64)
        place[rows] = np.arange(rows.size)
        lengths = np.diff(self.prefix_start)[rows]
        start = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(lengths)))
        shift = np.repeat(self.prefix_start[rows] - start[:-1], lengths)
        return replace(
            self,
            arrival_s=self.arrival_s[rows],
            input_tokens=self.input_tokens[rows],
            output_tokens=self.output_tokens[rows],
            prefix_start=start,
            prefix_block=self.prefix_block[np.arange(start[-1]) + shift],
            after=place[self.after[rows]],
            think_s=self.think_s[rows],
        )


def build_requests(
    workload: Workload,
    seed: int,
    base: Path | None = None,
    skip_bad: bool = False,
    closed_concurrency: int | None = None,
    replication: int = 0,
    block_tokens: int = 16,
) -> Requests:
    """Draw or read the requests of one run.

    Parameters
    ----------
    workload : Workload
        What is asked.
    seed, replication : int
        Of the random streams: a name, a seed and a replication make a stream.
    base : Path, optional
        Folder of the scenario, where its files are looked for first.
    skip_bad : bool
        Bad lines of files are skipped and counted.
    closed_concurrency : int, optional
        Concurrency of `saturated` where the workload states none.
    block_tokens : int
        Tokens of a block of drawn prefixes, best the block of the engine; a trace has its own.

    Returns
    -------
    Requests

    Raises
    ------
    SpecError
        A file is missing or wrong, with every bad line; or a number that the kind of arrivals
        needs is missing.
    """
    if workload.trace is not None:
        return _from_trace(workload, base, skip_bad)
    concurrency = _concurrency(workload, closed_concurrency)
    count = _count(workload, concurrency)
    assert workload.lengths is not None
    drawn = draw_lengths(workload.lengths, count, seed, replication, base, skip_bad)
    starts = -(-count // workload.prefixes.turns)
    start_s = np.zeros(starts)
    if workload.arrivals.kind in OPEN:
        assert workload.arrivals.rate is not None
        rate = workload.arrivals.rate / workload.prefixes.turns
        rng = named_rng(seed, "arrivals", replication)
        start_s = draw_arrivals_s(workload.arrivals, starts, rate, rng)
    if workload.prefixes == NO_PREFIXES:
        return _alone(start_s, *_sides(drawn), concurrency, skipped=drawn.skipped)
    rng = named_rng(seed, "prefix groups", replication)
    return _talking(workload.prefixes, start_s, drawn, concurrency, block_tokens, rng)


def _sides(drawn: Drawn) -> tuple[Ints, Ints]:
    return drawn.input_tokens, drawn.output_tokens


def _talking(
    prefixes: Prefixes,
    start_s: Floats,
    drawn: Drawn,
    concurrency: int,
    block_tokens: int,
    rng: np.random.Generator,
) -> Requests:
    """Requests that share beginnings and follow each other."""
    talks = conversations(prefixes, *_sides(drawn), block_tokens, rng)
    follows = talks.turn > 0
    return Requests(
        arrival_s=start_s[talks.conversation],
        input_tokens=talks.input_tokens,
        output_tokens=drawn.output_tokens,
        concurrency=concurrency,
        prefix_start=talks.block_start,
        prefix_block=talks.block,
        prefix_block_tokens=block_tokens if talks.block.size else 0,
        after=np.where(follows, np.arange(follows.size) - 1, -1),
        think_s=np.where(follows, prefixes.think, 0.0),
        skipped=drawn.skipped,
    )


def _concurrency(workload: Workload, given: int | None) -> int:
    """Most requests in flight; 0 where arrivals do not depend on completions."""
    kind, concurrency = workload.arrivals.kind, workload.arrivals.concurrency
    if kind == "closed_loop":
        assert concurrency is not None
        return concurrency
    if kind != "saturated":
        return 0
    concurrency = concurrency or given
    if concurrency is None:
        message, field = "a saturated loop needs a concurrency", "workload.arrivals.concurrency"
        raise SpecError(Problem(message, "add concurrency: 256", field=field))
    return concurrency


def _count(workload: Workload, concurrency: int) -> int:
    """How many requests there are."""
    arrivals, count = workload.arrivals, workload.requests
    if count is None:
        match arrivals.kind:
            case "closed_loop":
                count = CLOSED_ROUNDS * concurrency
            case "saturated":
                count = SATURATED_ROUNDS * concurrency
            case "offline":
                count = OFFLINE_REQUESTS
            case "static":
                message, fix = "a static batch needs its size", "add requests: 32"
                raise SpecError(Problem(message, fix, field="workload.requests"))
            case _:
                assert arrivals.rate is not None
                count = max(LEAST_REQUESTS, math.ceil(min(arrivals.rate, 1e12) * LEAST_S))
    if count > MOST_REQUESTS:
        message = f"{count:,} requests are more than fit in a run ({MOST_REQUESTS:,})"
        raise SpecError(Problem(message, "state fewer requests", field="workload.requests"))
    return count


def _from_trace(workload: Workload, base: Path | None, skip_bad: bool) -> Requests:
    assert workload.trace is not None
    path = find_file(workload.trace, base, "workload.trace")
    trace = read_trace(path, workload.format, workload.requests, skip_bad)
    return _alone(
        trace.arrival_s / workload.arrivals.speed_up,
        trace.input_tokens,
        trace.output_tokens,
        0,
        prefix=(trace.block_start, trace.block, trace.block_tokens),
        skipped=trace.skipped,
    )


def _alone(
    arrival_s: Floats,
    input_tokens: Ints,
    output_tokens: Ints,
    concurrency: int,
    prefix: tuple[Ints, Ints, int] | None = None,
    skipped: int = 0,
) -> Requests:
    """Requests that wait for no other request."""
    count = arrival_s.size
    if prefix is None:
        prefix = (np.zeros(count + 1, dtype=np.int64), np.empty(0, dtype=np.int64), 0)
    return Requests(
        arrival_s=arrival_s,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        concurrency=concurrency,
        prefix_start=prefix[0],
        prefix_block=prefix[1],
        prefix_block_tokens=prefix[2],
        after=np.full(count, -1, dtype=np.int64),
        think_s=np.zeros(count),
        skipped=skipped,
    )

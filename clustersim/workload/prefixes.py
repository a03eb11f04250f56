"""What drawn prompts have in common: a system prompt, and the earlier turns of a conversation.

A request adds its own words; its prompt is the shared beginning, everything that was said before in
its conversation, and these words. Left out: text that conversations share further on, turns that
are taken back, and answers that are cut before they enter the next prompt.

References
----------
.. [1] L. Zheng et al., "SGLang: efficient execution of structured language model programs,"
   NeurIPS 2024, https://arxiv.org/abs/2312.07104 (prompts as a tree of shared beginnings)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.errors import Problem, SpecError
from clustersim.spec.workload import Prefixes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST_BLOCKS = 100_000_000


@dataclass(frozen=True)
class Conversations:
    """Requests of conversations, a conversation after the other.

    Attributes
    ----------
    conversation, turn : ndarray of int64 (n,)
        Of each request, from 0.
    input_tokens : ndarray of int64 (n,)
        Whole prompts.
    block_start : ndarray of int64 (n + 1,)
        Where the blocks of each request begin in `block`.
    block : ndarray of int64 (m,)
        Full leading blocks of prompt and answer that another request shares, numbered from 0.
    """

    conversation: Ints
    turn: Ints
    input_tokens: Ints
    block_start: Ints
    block: Ints


def conversations(
    prefixes: Prefixes,
    own_tokens: Ints,
    output_tokens: Ints,
    block_tokens: int,
    rng: np.random.Generator,
) -> Conversations:
    """Put requests together as turns of conversations.

    Parameters
    ----------
    prefixes : Prefixes
        What they share.
    own_tokens, output_tokens : ndarray of int64 (n,)
        What each request adds to its conversation, and its answer.
    block_tokens : int
        Tokens of a block: only full blocks are shared.
    rng : Generator
        Draws the group of each conversation.

    Returns
    -------
    Conversations

    Raises
    ------
    SpecError
        The blocks are too many to be listed.

    Notes
    -----
    Turns but the last list the blocks of prompt and answer: the next one begins with both. The last
    one lists what the turn before it left; a conversation of one turn, the shared beginning.
    """
    row = np.arange(own_tokens.size, dtype=np.int64)
    talk, turn = row // prefixes.turns, row % prefixes.turns
    said = _running(own_tokens + output_tokens, talk, turn) + prefixes.shared
    before = said - own_tokens - output_tokens
    group = rng.integers(0, prefixes.groups, int(talk[-1]) + 1)
    group = np.unique(group, return_inverse=True)[1].astype(np.int64)
    is_last = np.append(turn[1:] == 0, True)
    blocks = np.where(is_last, before, said) // block_tokens
    if blocks.sum() > MOST_BLOCKS:
        message = f"prompts share {int(blocks.sum()):,} blocks of {block_tokens} tokens in all"
        fix = f"at most {MOST_BLOCKS:,} fit: state fewer requests, turns or shared tokens"
        raise SpecError(Problem(message, fix, field="workload.prefixes"))
    start = np.append(0, np.cumsum(blocks))
    common = prefixes.shared // block_tokens
    own = np.zeros(group.size, dtype=np.int64)
    np.maximum.at(own, talk, blocks - common)
    own_base = (int(group.max()) + 1) * common + np.append(0, np.cumsum(own)[:-1])
    depth = np.arange(int(start[-1]), dtype=np.int64) - np.repeat(start[:-1], blocks)
    whose = np.repeat(talk, blocks)
    block = np.where(
        depth < common, group[whose] * common + depth, own_base[whose] + depth - common
    )
    return Conversations(talk, turn, before + own_tokens, start, block)


def _running(values: Ints, talk: Ints, turn: Ints) -> Ints:
    """Running sums within each conversation."""
    total = np.cumsum(values)
    first = np.flatnonzero(turn == 0)
    return total - (total - values)[first][talk]

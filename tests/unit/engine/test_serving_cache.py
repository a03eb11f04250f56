"""Prefix blocks of a replica: who finds them, which go first, and what a preempted request keeps.

Blocks have four tokens, as text and as cache.
"""

from __future__ import annotations

import numpy as np

from clustersim.engine.serving.replica import Replica
from tests.serving_cases import load_of, policy_of, replica_of

LATER = [0.0, 100.0, 200.0, 300.0, 400.0]


def played(prompts: list[int], blocks: list[list[int]], capacity: float = 100.0) -> Replica:
    """One request after the other, each alone."""
    n = len(prompts)
    load = load_of(LATER[:n], prompts, [1] * n, blocks=blocks)
    replica = replica_of(load, policy_of("vllm_v1", caching=1), capacity)
    replica.advance()
    return replica


def test_a_second_prompt_finds_the_blocks_of_the_first() -> None:
    replica = played([14, 14], [[0, 1, 2], [0, 1, 3]])
    assert replica.progress.hit_tokens.tolist() == [0, 8]


def test_one_token_is_always_left_to_compute() -> None:
    replica = played([8, 8], [[0, 1], [0, 1]])
    assert replica.progress.hit_tokens.tolist() == [0, 4]


def test_without_caching_nothing_is_found() -> None:
    load = load_of(LATER[:2], [14, 14], [1, 1], blocks=[[0, 1, 2], [0, 1, 2]])
    replica = replica_of(load, policy_of("vllm_v1", caching=0))
    replica.advance()
    assert replica.count("hit_tokens") == 0
    assert replica.ranks.free[0] == replica.capacity


def test_a_block_behind_a_missing_one_is_not_found() -> None:
    replica = played([14, 14], [[0, 1, 2], [9, 1, 2]])
    assert replica.progress.hit_tokens.tolist() == [0, 0]


def test_the_prefix_used_longest_ago_goes_first() -> None:
    # room for two prompts of three blocks and one more block; the third prompt needs four
    replica = played([13, 13, 14, 13], [[0, 1, 2], [3, 4, 5], [], [3, 4, 5]], capacity=7.0)
    assert replica.progress.hit_tokens.tolist() == [0, 0, 0, 12]
    replica = played([13, 13, 14, 13], [[0, 1, 2], [3, 4, 5], [], [0, 1, 2]], capacity=7.0)
    assert replica.progress.hit_tokens.tolist() == [0, 0, 0, 0]


def test_a_prefix_that_is_found_becomes_young_again() -> None:
    blocks = [[0, 1, 2], [3, 4, 5], [0, 1, 2], [], [0, 1, 2]]
    replica = played([13, 13, 13, 14, 13], blocks, capacity=7.0)
    assert replica.progress.hit_tokens.tolist() == [0, 0, 12, 0, 12]


def test_the_tail_of_a_prefix_goes_before_its_beginning() -> None:
    replica = played([13, 16, 13], [[0, 1, 2], [], [0, 1, 2]], capacity=6.0)
    assert replica.progress.hit_tokens.tolist() == [0, 0, 8]


def test_a_prefix_computed_twice_at_once_is_kept_once_with_all_behind_it() -> None:
    load = load_of(
        [0.0, 0.0, 100.0], [14, 14, 14], [1] * 3, blocks=[[0, 1, 2], [0, 3, 4], [0, 3, 4]]
    )
    replica = replica_of(load, policy_of("vllm_v1", caching=1))
    replica.advance()
    assert replica.progress.hit_tokens.tolist() == [0, 0, 12]
    assert replica.cache.idle[0] == 5
    assert replica.ranks.free[0] == replica.capacity - 5


def test_the_next_turn_finds_the_answer_too() -> None:
    load = load_of(
        [0.0, 0.0], [9, 25], [8, 1], blocks=[[0, 1, 2, 3], [0, 1, 2, 3]], after=[-1, 0], think_s=3.0
    )
    replica = replica_of(load, policy_of("vllm_v1", caching=1))
    replica.advance()
    assert replica.progress.queued_s.tolist() == [0.0, 11.0]
    assert replica.progress.hit_tokens.tolist() == [0, 16]


def computed(caching: int, others: int = 0) -> tuple[int, float]:
    """Preemptions, and tokens of prompts that were computed, of two requests in a small cache."""
    load = load_of([0.0, 0.0] + [3.0] * others, [16, 16] + [4] * others, [24, 24] + [1] * others)
    replica = replica_of(load, policy_of("vllm_v1", caching=caching), capacity=15.0)
    replica.advance()
    assert np.array_equal(replica.progress.made, load.output_tokens)
    return replica.count("preemptions"), replica.total("chunk_tokens")


def test_a_preempted_request_finds_its_own_blocks_unless_they_were_taken() -> None:
    times, without = computed(caching=0)
    assert times == 1
    again, found = computed(caching=1)
    assert again == 1
    # 13 tokens of the answer were made: 29 tokens again, of which 7 blocks were full; the other
    # request took some of them in the meantime
    assert without == 16 + 16 + 29
    assert 32 < found < without


def test_blocks_of_a_preempted_request_are_lost_where_everything_is_used() -> None:
    load = load_of([0.0, 0.0], [16, 16], [24, 24])
    replica = replica_of(load, policy_of("vllm_v1", caching=1), capacity=10.0)
    replica.advance()
    assert replica.count("preemptions") >= 1
    assert replica.total("chunk_tokens") > 32

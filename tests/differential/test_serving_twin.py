"""The compiled replica beside its plain twin: same steps, same times, same preemptions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.engine.serving.reference_step import Twin
from clustersim.errors import CapacityError
from tests.serving_cases import FLAGS, load_of, policy_of, replica_of, uneven_prices

names = st.sampled_from(sorted(FLAGS))


@st.composite
def loads(draw, most=14):
    """Few requests: open or closed, alone or in turns, with or without common beginnings."""
    n = draw(st.integers(1, most))
    longest = draw(st.sampled_from([8, 60]))
    prompts = [draw(st.integers(1, longest)) for _ in range(n)]
    answers = [draw(st.integers(1, 68 - longest)) for _ in range(n)]
    gaps_s = draw(st.sampled_from([[0.0], [0.0, 0.001], [0.0, 0.004, 0.03, 0.3]]))
    arrivals = np.cumsum([draw(st.sampled_from(gaps_s)) for _ in range(n)])
    closed = draw(st.integers(0, 4))
    after = np.full(n, -1)
    if draw(st.booleans()):
        turns = draw(st.integers(2, 4))
        after = np.where(np.arange(n) % turns > 0, np.arange(n) - 1, -1)
        for i in np.flatnonzero(after >= 0):
            prompts[i] += prompts[i - 1] + answers[i - 1]
            arrivals[i] = arrivals[i - 1]
    blocks = [[] for _ in range(n)]
    if draw(st.booleans()):
        for i in range(n):
            blocks[i] = _text(draw, i, (prompts[i] + answers[i]) // 4, blocks, int(after[i]))
    return load_of(
        np.zeros(n) if closed else arrivals,
        prompts,
        answers,
        blocks=blocks,
        after=after,
        think_s=draw(st.sampled_from([0.0, 0.01234567])),
        concurrency=closed,
    )


def _text(draw, i, count, blocks, after):
    """Blocks of one text: those of the turn before or of some other text, then its own."""
    if draw(st.integers(0, 4)) == 0:
        return []
    source = after if after >= 0 else draw(st.integers(0, i))
    common = blocks[source][: draw(st.integers(0, 12))] if source < i else []
    own = [1000 * (i + 1) + place for place in range(len(common), min(count, 15))]
    return common[:count] + own


def _numbered(load):
    """The same load with its blocks numbered from 0, as the replica wants them."""
    _, number = np.unique(load.prefix_block, return_inverse=True)
    return load._replace(prefix_block=number.astype(np.int64))


@st.composite
def policies(draw):
    """A scheduler's name and its numbers."""
    name = draw(names)
    changed = {
        "caching": draw(st.integers(0, 1)),
        "sequences": draw(st.integers(1, 8)),
        "graph_mixed": draw(st.integers(0, 1)),
        "asynchronous": draw(st.integers(0, 1)),
        "gap_s": draw(st.sampled_from([0.0, 0.4e-3])),
        "step_s": draw(st.sampled_from([0.0, 0.00203717])),
        "gap_s": draw(st.sampled_from([0.0, 0.00041771])),
        "sequence_s": draw(st.sampled_from([0.0, 0.00031313])),
        "launch_s": draw(st.sampled_from([0.0, 0.00302929])),
        "stages": draw(st.sampled_from([1, 1, 2])),
        "drift_s": draw(st.sampled_from([0.0, 0.01])),
        "sampled": draw(st.integers(0, 1)),
    }
    if "budget" not in FLAGS[name]:
        changed["budget"] = draw(st.sampled_from([5, 16, 64, 300]))
    if name in ("vllm_v0", "sglang", "tensorrt_llm"):
        changed["chunked"] = draw(st.integers(0, 1))
        if name == "vllm_v0":
            changed["mixed"] = changed["chunked"]
    if name == "sglang":
        changed["reserve_start"] = draw(st.sampled_from([0.7, 0.1]))
        changed["reserve_step"] = draw(st.sampled_from([0.001, 0.03]))
    if name != "static" and draw(st.integers(0, 3)) == 0:
        changed["drafted"] = draw(st.integers(1, 3))
        changed["accepted"] = 1.0 + draw(st.sampled_from([0.0, 0.3, 0.75, 1.0]))
    if draw(st.integers(0, 3)) == 0:
        changed |= {"window_tokens": 10, "window": 0.5, "state": draw(st.sampled_from([0.0, 1.5]))}
    return name, policy_of(name, **changed)


def _least_capacity(load, policy):
    """Units of the longest request, so that nearly every load runs and few fit together."""
    longest = int((load.input_tokens + load.output_tokens).max())
    return (policy.full + policy.window) * (longest // policy.block_tokens + 1) + policy.state


def _played(run):
    """Whether a run ended, or met a request that exceeds the cache."""
    try:
        run()
    except CapacityError:
        return False
    return True


@settings(deadline=None, max_examples=300)
@given(
    load=loads(),
    chosen=policies(),
    spare=st.sampled_from([0.0, 3.0, 10.0, 20.0, 1000.0]),
    ranks=st.sampled_from([1, 1, 1, 2, 3]),
)
def test_the_replica_is_its_plain_twin(load, chosen, spare, ranks):
    (name, policy), load = chosen, _numbered(load)
    capacity = _least_capacity(load, policy) + spare
    prices = uneven_prices(draws=3)
    replica = replica_of(load, policy, capacity, ranks, prices)
    twin = Twin(name, load, capacity, ranks, prices, policy)
    assert _played(replica.advance) == _played(twin.run)
    assert replica.count("steps") == twin.steps
    assert replica.count("finished") == twin.finished
    assert replica.count("preemptions") == twin.preemptions
    assert replica.count("hit_tokens") == sum(rank.hit_tokens for rank in twin.ranks)
    assert replica.now_s == pytest.approx(twin.now_s, rel=1e-9)
    assert replica.total("busy_s") == pytest.approx(twin.busy_s, rel=1e-9)
    for field in ("made", "preempted", "hit_tokens"):
        found = [getattr(request, field) for request in twin.requests]
        np.testing.assert_array_equal(getattr(replica.progress, field), found)
    for field in ("queued_s", "scheduled_s", "first_s", "last_s"):
        found = [getattr(request, field) for request in twin.requests]
        np.testing.assert_allclose(getattr(replica.progress, field), found, rtol=1e-9, atol=0.0)
    for rank, twin_rank in enumerate(twin.ranks):
        assert replica.ranks.free[rank] == pytest.approx(twin_rank.pool.free, abs=1e-6)
        assert replica.cache.idle[rank] == len(twin_rank.pool.idle)
        assert replica.ranks.reserve[rank] == pytest.approx(twin_rank.share, abs=1e-9)

"""The compiled replica beside its plain twin: same steps, same times, same preemptions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.engine.serving.reference_step import Twin
from clustersim.errors import CapacityError
from tests.serving_cases import (
    least_capacity,
    loads,
    numbered,
    policies,
    replica_of,
    uneven_prices,
)


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
    (name, policy), load = chosen, numbered(load)
    capacity = least_capacity(load, policy) + spare
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

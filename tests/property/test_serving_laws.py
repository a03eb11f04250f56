"""Laws of a serving replica: windows of steps, conservation, and what queueing theory knows.

Steps of constant length stand for a server whose rate does not depend on its load.
"""

import heapq
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.errors import CapacityError
from tests.serving_cases import (
    FLAGS,
    constant_prices,
    least_capacity,
    load_of,
    loads,
    numbered,
    policies,
    policy_of,
    replica_of,
    uneven_prices,
)

names = st.sampled_from(sorted(FLAGS))
spares = st.sampled_from([0.0, 3.0, 10.0, 1000.0])
rank_counts = st.sampled_from([1, 1, 2, 3])


def _play(replica, advance):
    """Run to the end; a request that exceeds the cache is an end too."""
    try:
        advance(replica)
    except CapacityError:
        return


def _at_once(replica):
    replica.advance()


def _step_by_step(replica):
    before = -1
    while replica.count("steps") > before:
        before = replica.count("steps")
        replica.advance(steps=1)


def _slice_by_slice(replica):
    until_s = 0.0
    while replica.count("finished") < replica.load.arrival_s.size:
        until_s += 0.0037
        replica.advance(until_s)
    replica.advance()


def _cases(load, chosen, spare):
    (_, policy), load = chosen, numbered(load)
    return load, policy, least_capacity(load, policy) + spare


@settings(deadline=None, max_examples=150)
@given(load=loads(), chosen=policies(), spare=spares, ranks=rank_counts)
@pytest.mark.parametrize("cut", [_step_by_step, _slice_by_slice])
def test_windows_of_any_length_agree_to_the_bit(cut, load, chosen, spare, ranks):
    load, policy, capacity = _cases(load, chosen, spare)
    whole = replica_of(load, policy, capacity, ranks, uneven_prices(draws=3))
    cut_up = replica_of(load, policy, capacity, ranks, uneven_prices(draws=3))
    _play(whole, _at_once)
    _play(cut_up, cut)
    for record in ("progress", "ranks", "cache", "tally"):
        one, other = getattr(whole, record), getattr(cut_up, record)
        for name, left, right in zip(one._fields, one, other, strict=True):
            np.testing.assert_array_equal(left, right, err_msg=f"{record}.{name}")


@settings(deadline=None, max_examples=150)
@given(load=loads(), chosen=policies(), spare=spares, ranks=rank_counts)
def test_a_cache_is_never_overdrawn_and_time_never_goes_back(load, chosen, spare, ranks):
    load, policy, capacity = _cases(load, chosen, spare)
    replica = replica_of(load, policy, capacity, ranks, uneven_prices())
    before, each = -1, policy.full * load.prefix_tokens / policy.block_tokens
    while replica.count("steps") > before:
        before, now_s = replica.count("steps"), replica.now_s
        _play(replica, lambda one: one.advance(steps=1))
        held = np.zeros(ranks)
        np.add.at(held, replica.progress.rank, replica.progress.held)
        shared = (replica.cache.refs >= 0).sum(axis=1)
        np.testing.assert_allclose(held + each * shared + replica.ranks.free, capacity, atol=1e-6)
        assert (replica.ranks.free >= -1e-6).all()
        assert (held >= -1e-6).all()
        assert replica.now_s >= now_s


@settings(deadline=None, max_examples=150)
@given(load=loads(), chosen=policies(), ranks=rank_counts)
def test_every_request_gets_exactly_its_tokens(load, chosen, ranks):
    load, policy, capacity = _cases(load, chosen, 20.0)
    replica = replica_of(load, policy, capacity, ranks, uneven_prices())
    replica.advance()
    progress, each = replica.progress, policy.full * load.prefix_tokens / policy.block_tokens
    n = load.arrival_s.size
    assert replica.count("arrived") == replica.count("finished") == n
    np.testing.assert_array_equal(progress.made, load.output_tokens)
    assert replica.tally.gaps.sum() == (load.output_tokens - 1).sum()
    np.testing.assert_allclose(replica.ranks.free + each * replica.cache.idle, capacity)
    assert (replica.cache.refs <= 0).all()
    assert (replica.ranks.open_tokens == 0).all()
    assert (progress.queued_s >= load.arrival_s).all()
    assert (progress.scheduled_s >= progress.queued_s).all()
    assert (progress.first_s > progress.scheduled_s).all()
    assert (progress.last_s >= progress.first_s).all()
    turns = load.after >= 0
    earliest_s = progress.last_s[load.after[turns]] + load.think_s[turns]
    np.testing.assert_allclose(progress.queued_s[turns], earliest_s, rtol=1e-12)


@settings(deadline=None, max_examples=100)
@given(load=loads(), chosen=policies(), share=st.floats(0.05, 0.95))
def test_nothing_is_dropped_at_a_time_limit(load, chosen, share):
    load, policy, capacity = _cases(load, chosen, 20.0)
    whole = replica_of(load, policy, capacity, 1, uneven_prices())
    whole.advance()
    cut = replica_of(load, policy, capacity, 1, uneven_prices())
    cut.advance(until_s=share * whole.now_s)
    running, waiting = int(cut.ranks.active.sum()), int(cut.ranks.waiting.sum())
    assert cut.count("arrived") == cut.count("finished") + running + waiting
    done = cut.progress.made >= load.output_tokens
    if not policy.batched:
        assert done.sum() == cut.count("finished")
    cut.advance()
    np.testing.assert_array_equal(cut.progress.last_s, whole.progress.last_s)


@settings(deadline=None, max_examples=150)
@given(
    name=names,
    prompts=st.lists(st.integers(1, 40), min_size=2, max_size=14),
    answers=st.lists(st.integers(1, 12), min_size=14, max_size=14),
)
def test_one_more_request_at_the_end_never_ends_a_run_earlier(name, prompts, answers):
    ends_s = []
    for count in (len(prompts) - 1, len(prompts)):
        load = load_of(np.zeros(count), prompts[:count], answers[:count])
        replica = replica_of(load, policy_of(name), 30.0)
        replica.advance()
        ends_s.append(replica.now_s)
    assert ends_s[1] >= ends_s[0]


@settings(deadline=None, max_examples=100)
@given(load=loads(), chosen=policies(), ranks=rank_counts)
def test_no_more_tokens_a_step_than_sequences_can_yield(load, chosen, ranks):
    load, policy, capacity = _cases(load, chosen, 1000.0)
    replica = replica_of(load, policy, capacity, ranks)
    replica.advance()
    most = ranks * policy.sequences * (policy.drafted + 1)
    assert load.output_tokens.sum() <= most * replica.count("steps")
    assert replica.now_s >= load.output_tokens.max() / (policy.drafted + 1)


def test_a_static_batch_waits_for_its_longest_answer():
    policy = policy_of("static", sequences=3)
    load = load_of([0.0] * 5, [4, 8, 2, 4, 4], [2, 9, 4, 3, 1])
    replica = replica_of(load, policy)
    replica.advance()
    np.testing.assert_array_equal(replica.progress.scheduled_s, [0, 0, 0, 9, 9])
    np.testing.assert_array_equal(replica.progress.last_s, [9, 9, 9, 12, 12])


# ------------------------------------------------------------------ queueing theory


def _poisson_s(rate, count, seed):
    return np.cumsum(np.random.default_rng(seed).exponential(1.0 / rate, count))


def test_little_the_mean_batch_is_rate_times_time_in_it():
    rng = np.random.default_rng(5)
    n = 3000
    load = load_of(
        _poisson_s(0.18, n, 4), rng.integers(1, 60, n), rng.geometric(1.0 / 20.0, n).clip(max=200)
    )
    replica = replica_of(load, policy_of("vllm_v1", sequences=16), 400.0)
    replica.advance()
    assert replica.count("preemptions") == 0
    rate = n / replica.now_s
    mean_s = (replica.progress.last_s - replica.progress.scheduled_s).mean()
    # an identity on a run that begins and ends empty
    assert replica.total("running_s") / replica.now_s == pytest.approx(rate * mean_s, rel=1e-9)


@pytest.mark.parametrize("load_share", [0.3, 0.6, 0.8])
def test_one_sequence_of_one_token_is_m_d_1(load_share):
    n = 40_000
    load = load_of(_poisson_s(load_share, n, 11), np.ones(n), np.ones(n))
    replica = replica_of(load, policy_of("vllm_v1", sequences=1))
    replica.advance()
    found_s = (replica.progress.scheduled_s - replica.progress.queued_s).mean()
    # Pollaczek and Khinchine, with a service of 1 s
    theory_s = load_share / (2.0 * (1.0 - load_share))
    assert found_s == pytest.approx(theory_s, abs=4.0 * _md1_error_s(load_share, n))


def _md1_error_s(rho, count):
    """Standard error of a mean wait of `count` customers that follow each other. [s]

    Of M/M/1, rho (2 + 5 rho - 4 rho^2 + rho^3) / (1 - rho)^4 / n is its square (Daley, "The serial
    correlation coefficients of waiting times in a stationary single server queue," J. Austral.
    Math. Soc. 8, 1968); it goes with the cube of the variability of arrivals and services, which
    in M/D/1 is half of that (Whitt, "Planning queueing simulations," Management Science 35, 1989).
    """
    mm1 = rho * (2.0 + 5.0 * rho - 4.0 * rho**2 + rho**3) / (1.0 - rho) ** 4
    return math.sqrt(mm1 / 8.0 / count)


def _first_come_first_served_s(arrival_s, service_s, servers):
    """Starts in a queue with so many servers: each customer takes the server free first."""
    free_s, starts_s = [0.0] * servers, []
    for arrived_s, needed_s in zip(arrival_s, service_s, strict=True):
        starts_s.append(max(arrived_s, heapq.heappop(free_s)))
        heapq.heappush(free_s, starts_s[-1] + needed_s)
    return np.array(starts_s)


def _erlang_c(servers, offered):
    """Probability that an arrival waits in M/M/c."""
    blocked = 1.0
    for k in range(1, servers + 1):
        blocked = offered * blocked / (k + offered * blocked)
    return blocked / (1.0 - offered / servers * (1.0 - blocked))


@pytest.mark.parametrize(("servers", "load_share"), [(2, 0.5), (4, 0.7), (8, 0.8)])
def test_sequences_of_geometric_length_are_m_m_c(servers, load_share):
    n, mean_tokens, step_s = 8_000, 25, 1.0
    service_s = mean_tokens * step_s
    answers = np.random.default_rng(3).geometric(1.0 / mean_tokens, n)
    arrivals_s = _poisson_s(load_share * servers / service_s, n, 7)
    load = load_of(arrivals_s, np.ones(n), answers)
    replica = replica_of(load, policy_of("vllm_v1", sequences=servers, budget=1024))
    replica.advance()
    scheduled_s = replica.progress.scheduled_s
    # sequences join at the next step: no start is earlier than without steps, none a step later
    late_s = scheduled_s - _first_come_first_served_s(arrivals_s, step_s * answers, servers)
    assert late_s.min() >= -1e-6
    assert late_s.max() <= step_s + 1e-6
    # a geometric length varies a little less than an exponential one: (1 + cv^2) / 2
    theory_s = _erlang_c(servers, load_share * servers) * service_s
    theory_s *= (2.0 - 1.0 / mean_tokens) / 2.0 / (servers * (1.0 - load_share))
    # who waits does so as in M/M/1 with a server `servers` times as fast: its error is above ours
    error_s = math.sqrt(8.0) * _md1_error_s(load_share, n) * service_s / servers
    wait_s = (scheduled_s - arrivals_s).mean()
    assert theory_s - 3.0 * error_s <= wait_s <= theory_s + step_s + 3.0 * error_s


def test_a_step_of_constant_length_serves_a_full_batch_at_its_rate():
    n, sequences, tokens = 400, 8, 10
    load = load_of(np.zeros(n), np.ones(n), np.full(n, tokens))
    prices = constant_prices(0.02)
    replica = replica_of(load, policy_of("vllm_v1", sequences=sequences), prices=prices)
    replica.advance()
    assert n * tokens / replica.now_s == pytest.approx(sequences / 0.02)
